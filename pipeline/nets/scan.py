"""The fused LIF scan: K time steps of one neuron layer in one pass, equal to snnTorch's own loop.

One step of `snntorch.Leaky` (snnTorch 1.0, `_neurons/leaky.py`), with u the membrane, x the current, b the
decay clamped to [0, 1], h the threshold, H(z) = 1 if z > 0 else 0:

    r = H(u - h)                                             the reset that is still due (never has a gradient)
    v = b u + x - r h   | b (1 - r) u + x   | b u + x        subtract | zero | none
    s = H(v - h)                                             the spike; its gradient is the surrogate's
    u = v                                                    with the reset delayed by one step
    u = v - (s - r) h   | v - (s - r) v     | v              with the reset in the same step

The time loop is inside a kernel, so a layer costs one call and one pass over memory for K steps, and the
backward pass keeps one tensor (v) instead of the dozen that autograd keeps per step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import snntorch.surrogate
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.nets.lif_kernels import (
    EXACT,
    NEAREST,
    NONE,
    STOCHASTIC,
    SUBTRACT,
    TRUNCATION,
    ZERO,
    TensorGrid,
    backward_kernel,
    backward_tensors,
    forward_kernel,
    forward_tensors,
)
from pipeline.types import require

GRIDS = {"nearest": NEAREST, "truncation": TRUNCATION, "stochastic": STOCHASTIC}


@dataclass(frozen=True)
class SpikeGradient:
    """The surrogate derivative of the spike; called, it is snnTorch's own function of the same name.

    ``atan``          (slope / 2) / (1 + (pi / 2 slope z)^2)   Fang et al. 2021; snnTorch's default, slope 2
    ``fast_sigmoid``  1 / (1 + slope |z|)^2                     Zenke & Ganguli 2018; snnTorch's slope is 25
    A class and not a closure, so that a network can be copied and pickled.
    """

    kind: Literal["atan", "fast_sigmoid"] = "atan"
    slope: float = 2.0

    def __post_init__(self) -> None:
        require(self.kind in ("atan", "fast_sigmoid"), "spike_grad", "be atan or fast_sigmoid", self.kind)
        require(self.slope > 0, "slope", "be above 0", self.slope)

    def __call__(self, z: Tensor) -> Tensor:
        surrogate = snntorch.surrogate.ATan if self.kind == "atan" else snntorch.surrogate.FastSigmoid
        return surrogate.apply(z, self.slope)

    def derivative(self, z: Tensor) -> Tensor:
        if self.kind == "atan":
            return self.slope / 2 / (1 + (math.pi / 2 * self.slope * z) ** 2)
        return 1 / (self.slope * z.abs() + 1) ** 2


@dataclass(frozen=True)
class Rule:
    """What does not change from step to step. `detach_reset`: no gradient through a same-step reset."""

    reset: int = SUBTRACT
    delay: bool = True
    detach_reset: bool = False
    spike_grad: SpikeGradient = SpikeGradient()


def lif_loop(
    x: Tensor,
    u: Tensor,
    beta: Tensor,
    threshold: Tensor,
    rule: Rule,
    quant: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The plain loop, step by step through autograd: ([K, ...] current, [...] state) -> spikes, states [K, ...].

    The reference of the fused scan, and what runs when `quant` (snnTorch's `state_quant`) must see every
    membrane. Like snnTorch, `quant` is applied to the new membrane and again before the comparison.
    """
    decay = beta.clamp(0, 1)
    spikes, states = [], []
    for current in x.unbind(0):
        due = (u - threshold > 0).to(x.dtype)
        u = (1 - due) * u if rule.reset == ZERO else u
        v = decay * u + current
        v = v - due * threshold if rule.reset == SUBTRACT else v
        v = quant(v) if quant is not None else v
        seen = quant(v) if quant is not None else v
        spike = rule.spike_grad(seen - threshold).to(v.dtype)  # snnTorch answers in float32
        u = v
        if not rule.delay and rule.reset != NONE:
            extra = (spike.detach() if rule.detach_reset else spike) - due
            u = v - extra * (threshold if rule.reset == SUBTRACT else v)
        spikes.append(spike)
        states.append(u)
    return torch.stack(spikes), torch.stack(states)


class Gridded(Protocol):
    """A fixed-point format of the membrane that the fused scan can apply: values {low, ..., high} * step."""

    rounding: str
    low: int
    high: int
    step: Tensor

    def keys(self, steps: int) -> np.ndarray:
        """uint32 [K]: what stochastic rounding draws from in each of the coming steps."""
        ...


def fusable(quant: object, x: Tensor) -> bool:
    """Whether the fused scan can do what the callable `quant` does: a fixed-point format, drawn from on a CPU only."""
    rounding = getattr(quant, "rounding", "")
    return x.dtype != torch.float64 and rounding in GRIDS and (_compiled(x) or rounding != "stochastic")


def lif_scan(
    x: Tensor,
    u: Tensor,
    beta: Tensor,
    threshold: Tensor,
    rule: Rule,
    trace: bool = False,
    quant: Gridded | None = None,
) -> tuple[Tensor, Tensor]:
    """The fused scan: ([K, B, ...] current, [B, ...] state) -> ([K, B, ...] spikes, states).

    With `quant` (see `fusable`) every new membrane is put on its grid, as `lif_loop` does.
    The states are all of them, [K, B, ...], with `trace`, else the last one, [B, ...]. `beta` and `threshold` are
    scalars or anything that broadcasts to one sample [...]. float32 or float64; half types run in float32.
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    if x.numel() == 0:  # no sample, or no step
        return torch.zeros_like(x), torch.zeros_like(x) if trace else u
    grid, form, keys = EXACT, np.zeros(3, np.float32), np.zeros(0, np.uint32)
    if quant is not None:
        grid, form = GRIDS[quant.rounding], np.array([quant.step.item(), quant.low, quant.high], np.float32)
        keys = quant.keys(len(x)) if grid == STOCHASTIC else keys
    fixed = rule, trace, grid, form, keys
    spikes, states = _Scan.apply(x, u, beta.clamp(0, 1), threshold, *fixed)  # type: ignore[no-untyped-call]
    return spikes, states


class _Scan(torch.autograd.Function):
    """Values by one kernel, gradients by one kernel; keeps v, the start state and the two parameters."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        u: Tensor,
        beta: Tensor,
        threshold: Tensor,
        rule: Rule,
        trace: bool,
        grid: int,
        form: np.ndarray,
        keys: np.ndarray,
    ) -> tuple[Tensor, Tensor]:
        x, last = _dense(x)
        u = _like(u, last)
        keep = any(ctx.needs_input_grad[:4])
        spikes = torch.empty_like(x)
        v = torch.empty_like(x) if keep else x[:0]
        states = torch.empty_like(x if trace else u)
        rows = states if trace else states[None]
        if _compiled(x):
            flat = [_flat(each, last) for each in (x, u[None], spikes, v, rows)]
            b, h = _parameters(beta, threshold, x, last)
            kernel = forward_kernel(rule.reset, rule.delay, len(b) > 1, keep, grid)
            kernel(*flat, b, h, form.astype(b.dtype), keys)
        else:
            forward_tensors(
                rule.reset, rule.delay, _tensor_grid(grid, form), x, u, beta, threshold, spikes, v, rows
            )
        if keep:
            ctx.save_for_backward(v, u, beta, threshold)
            ctx.rule, ctx.last, ctx.grid, ctx.form, ctx.keys = rule, last, grid, form, keys
        ctx.set_materialize_grads(False)  # after the last chunk nobody asks for the membrane
        return spikes, states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        v, u, beta, threshold = ctx.saved_tensors
        last, rule = ctx.last, ctx.rule
        g_spikes, g_states = _gradients(grads, v, last)
        params = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        g_x, g_u = torch.empty_like(v), torch.empty_like(u)
        g_b, g_h = (torch.zeros_like(u) if params else u[:0] for _ in range(2))
        surrogate = rule.spike_grad
        if _compiled(v):
            b, h = _parameters(beta, threshold, v, last)
            into = [_flat(each, last) for each in (v, u[None], g_spikes, g_states, g_x)]
            ends = [_flat(each[None], last)[0] for each in (g_u, g_b, g_h)]
            # Where there is nothing to detach from, both ways are one kernel.
            detach = rule.detach_reset and not rule.delay and rule.reset != NONE
            fixed = (
                rule.reset,
                rule.delay,
                detach,
                len(b) > 1,
                params,
                surrogate.kind == "atan",
                surrogate.slope,
            )
            backward_kernel(*fixed, ctx.grid)(*into, b, h, *ends, ctx.form.astype(b.dtype), ctx.keys)
        else:
            kind = (
                rule.reset,
                rule.delay,
                rule.detach_reset,
                surrogate.derivative,
                _tensor_grid(ctx.grid, ctx.form),
            )
            out = g_x, g_u, g_b, g_h
            backward_tensors(*kind, v, u, beta, threshold, (g_spikes, g_states), out)
        return (
            g_x,
            g_u,
            g_b.sum_to_size(beta.shape) if ctx.needs_input_grad[2] else None,
            g_h.sum_to_size(threshold.shape) if ctx.needs_input_grad[3] else None,
            *(None,) * 5,
        )


# --- memory: the kernels see [K, membranes] in the order in which the tensor lies -------------------------------


def _compiled(x: Tensor) -> bool:
    """Whether the numba kernels can reach x; anywhere else, plain tensor operations run."""
    return x.device.type == "cpu"


def _tensor_grid(grid: int, form: np.ndarray) -> TensorGrid:
    return TensorGrid(grid, *(float(number) for number in form))


def _dense(x: Tensor) -> tuple[Tensor, bool]:
    """x, dense, and whether it lies channels-last ([K, B, C, H, W] stored as K, B, H, W, C)."""
    if x.is_contiguous():
        return x, False
    if x.dim() == 5 and x.permute(0, 1, 3, 4, 2).is_contiguous():
        return x, True
    return x.contiguous(), False


def _like(x: Tensor, last: bool) -> Tensor:
    """x in the layout the scan runs in; a copy only when it lies otherwise."""
    if not last:
        return x.contiguous()
    *lead, c, h, w = range(x.dim())
    back = (*lead, x.dim() - 1, x.dim() - 3, x.dim() - 2)
    return x.permute(*lead, h, w, c).contiguous().permute(back)


def _gradients(grads: tuple[Tensor | None, ...], v: Tensor, last: bool) -> tuple[Tensor, Tensor]:
    """Of the spikes, [K, B, ...], and of the states: [K, B, ...], [1, B, ...] or, where none came, [0, B, ...]."""
    g_spikes, g_states = grads
    g_spikes = torch.zeros_like(v) if g_spikes is None else _like(g_spikes, last)
    if g_states is None:
        return g_spikes, v[:0]
    return g_spikes, _like(g_states if g_states.dim() == v.dim() else g_states[None], last)


def _flat(x: Tensor, last: bool) -> np.ndarray:
    """[K, B, ...] -> numpy [K, membranes] on the same memory."""
    x = x.detach()
    return (x.permute(0, 1, 3, 4, 2) if last else x).reshape(x.shape[0], -1 if x.numel() else 0).numpy()


def _parameters(beta: Tensor, threshold: Tensor, x: Tensor, last: bool) -> tuple[np.ndarray, np.ndarray]:
    """Both as one number each, or both as one vector over the neurons of a sample, in memory order."""
    both = [each.detach().to(x.dtype) for each in (beta, threshold)]
    if beta.numel() == 1 and threshold.numel() == 1:
        b, h = (each.reshape(1).numpy() for each in both)
        return b, h
    wide = [each.expand(x.shape[2:]) for each in both]
    b, h = ((each.permute(1, 2, 0) if last else each).reshape(-1).numpy() for each in wide)
    return b, h
