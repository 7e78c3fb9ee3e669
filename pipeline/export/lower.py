"""From a compressed network to a `Program` of integers; everything that stands in the way is said at once.

The network is a row of named modules, [T, B, C, H, W] -> [T, B, N]: Linear, Conv2d, MaxPool2d, AvgPool2d, Flatten,
Dropout, Identity, attention and snnTorch's Leaky. What makes integers exact: weights, biases, decays and thresholds
on power-of-two steps, and a membrane that is rounded to a format of its own after every step (without one, decayed
membranes grow a longer fraction at each step, and no float32 network computes those exactly).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import snntorch
import torch
from torch import Tensor, nn

from pipeline.export.check import check
from pipeline.export.codes import Grids, dyadic, exponents_of, form_of
from pipeline.export.program import (
    RESETS,
    ROUNDINGS,
    Accumulator,
    Attention,
    Fixed,
    Input,
    Neurons,
    NotExact,
    Pool,
    Program,
    Rounding,
    Shape,
    Stage,
    Synapses,
    bounds,
)
from pipeline.types import FLOAT_BITS, DataError, Widths

_QUANTIZE = "compression.quantize_weights.bits"
GATE_BITS = 16
"""Of an attention's weights, with a sign."""


def layers_of(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that run, in order, with their names.

    Raises:
        NotExact: the network is no plain row of modules.
    """
    if not isinstance(net, nn.Sequential):
        raise NotExact(
            [f"{type(net).__name__} is no row of layers (nn.Sequential) and has no integer form here."]
        )
    names = cast(Sequence[str], getattr(net, "order", None) or list(net._modules))
    return [(name, net.get_submodule(name)) for name in names]


def lower(
    net: nn.Module,
    grids: Grids,
    widths: Widths,
    given: Input,
    timesteps: int,
    classes: int,
    accumulator: Accumulator | None = None,
) -> Program:
    """The integer form of a baked network.

    Args:
        grids: tensor name -> grid, for every quantized tensor (``fc1.weight``, ``lif1.beta``).
        widths: stored bits by tensor name; 32 where absent.

    Raises:
        NotExact: with every reason, and the setting that removes it.
    """
    found = _Lowering(grids, widths, given.shape, given.exponent, accumulator or Accumulator())
    for name, module in layers_of(net):
        found.take(name, module)
    if found.pending is not None:
        found.reasons.append(f"{found.pending.name} has no neurons behind it.")
    if found.pools:
        found.reasons.append(f"{found.pools[-1].name} comes after the last neurons.")
    if not found.stages and not found.reasons:
        found.reasons.append("there is no layer with neurons.")
    if found.reasons:
        raise NotExact(found.reasons)
    program = Program(given, timesteps, classes, tuple(found.stages))
    _refuse_overflow(program)
    try:
        return check(program)
    except DataError as error:  # what the engine refuses is no fault of the data
        raise NotExact([f"{error}."]) from error


@dataclass
class _Lowering:
    """Walks through the layers and keeps what waits for its neurons."""

    grids: Grids
    widths: Widths
    shape: Shape
    exponent: int
    """Of the grid of what comes in."""
    accumulator: Accumulator
    pools: list[Pool] = field(default_factory=list)
    pending: Synapses | None = None
    stages: list[Stage] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def take(self, name: str, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            self._synapses(name, module)
        elif isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
            self._pool(name, module)
        elif isinstance(module, snntorch.Leaky):
            self._neurons(name, module)
        elif all(hasattr(module, part) for part in ("time", "channel", "gate")):
            self._attention(name, module)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            self.reasons.append(
                f"{name} (batch normalisation) is float arithmetic: fold it into the layer before it first, "
                f"with the compression step fold_batch_norm."
            )
        elif (
            not isinstance(module, (nn.Flatten, nn.Identity, nn.Dropout))
            and type(module).__name__ != "Dropout"
        ):
            self.reasons.append(f"{name} ({type(module).__name__}) has no integer form here.")

    def _synapses(self, name: str, module: nn.Linear | nn.Conv2d) -> None:
        if self.pending is not None:
            self.reasons.append(f"{name} follows {self.pending.name} without neurons between them.")
        weight = self._tensor(f"{name}.weight", module.weight.detach(), f"{_QUANTIZE}=8")
        bias = None
        if module.bias is not None:
            bias = self._tensor(
                f"{name}.bias", module.bias.detach(), "compression.quantize_weights.bias_bits=16", loose=True
            )
        if isinstance(module, nn.Linear):
            if module.in_features != math.prod(self.shape):
                self.reasons.append(f"{name} takes {module.in_features} inputs, but {self.shape} comes.")
            out = (module.out_features, 1, 1)
            made = Synapses(name, "linear", weight, bias, self.shape, out)
        else:
            made = self._convolution(name, module, weight, bias)
        self.pending, self.shape = made, made.out_shape

    def _convolution(self, name: str, module: nn.Conv2d, weight: Fixed, bias: Fixed | None) -> Synapses:
        if module.padding_mode != "zeros":
            self.reasons.append(f"{name} pads with {module.padding_mode}, and only zeros are integers here.")
        kernel, dilation = cast(tuple[int, int], module.kernel_size), cast(tuple[int, int], module.dilation)
        if isinstance(module.padding, str):
            total = [
                d * (k - 1) if module.padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)
            ]
            pads = [(t // 2, t - t // 2) for t in total]
        else:
            pads = [(int(p), int(p)) for p in module.padding]
        stride = cast(tuple[int, int], module.stride)
        sides = [
            (size + sum(pad) - d * (k - 1) - 1) // s + 1
            for size, pad, d, k, s in zip(self.shape[1:], pads, dilation, kernel, stride, strict=True)
        ]
        return Synapses(
            name,
            "conv",
            weight,
            bias,
            self.shape,
            (module.out_channels, sides[0], sides[1]),
            stride,
            (*pads[0], *pads[1]),
            dilation,
            module.groups,
        )

    def _pool(self, name: str, module: nn.MaxPool2d | nn.AvgPool2d) -> None:
        if self.pending is not None:
            self.reasons.append(f"{name} pools currents: put the neurons of {self.pending.name} before it.")
        kernel, stride = _pair(module.kernel_size), _pair(module.stride)
        plain = module.padding in (0, (0, 0)) and not module.ceil_mode
        if not plain or getattr(module, "dilation", 1) not in (1, (1, 1)):
            self.reasons.append(f"{name}: only pools without padding, dilation and ceil_mode are exact here.")
        average = isinstance(module, nn.AvgPool2d)
        window = math.prod(kernel)
        if average and window & (window - 1):
            self.reasons.append(f"{name} divides by {window}, which is no power of two.")
        out = [(n - k) // s + 1 for n, k, s in zip(self.shape[1:], kernel, stride, strict=True)]
        shape = (self.shape[0], out[0], out[1])
        halvings = window.bit_length() - 1 if average else 0
        self.pools.append(
            Pool(name, "sum" if average else "max", kernel, stride, self.shape, shape, halvings)
        )
        self.shape, self.exponent = shape, self.exponent + halvings

    def _attention(self, name: str, module: nn.Module) -> None:
        if self.pending is not None or self.pools or not self.stages:
            self.reasons.append(f"{name} must directly follow neurons.")
            return
        gate = cast(Any, module).gate
        if not hasattr(gate, "table"):
            self.reasons.append(
                f"{name}: its sigmoid is a float function; use the compression step table_attention."
            )
            return
        pixels = math.prod(self.shape[1:])
        if pixels & (pixels - 1):
            self.reasons.append(f"{name}: its mean is over {pixels} pixels, which is no power of two.")
            return
        parts = {
            part: self._tensor(
                f"{name}.{part}.weight",
                cast(Any, module).get_submodule(part).weight.detach(),
                f"{_QUANTIZE}=8",
            )
            for part in ("time", "channel")
        }
        for part, weight in parts.items():
            most = GATE_BITS - (
                weight.form == "unsigned"
            )  # by its width: a flipped bit may set any code of it
            if weight.bits > most:
                held = f"{name}.{part}.weight has {weight.bits} bits, and the integer gates hold {most}"
                self.reasons.append(f"{held}: {_QUANTIZE}={most}.")
        if any(len(weight.exponents) > 1 for weight in parts.values()):
            self.reasons.append(
                f"{name}: its convolutions have a step per channel: use granularity=per_tensor."
            )
        operand = gate.operand
        self.pools.append(
            Attention(
                name, "attention", (1, 1), (1, 1), self.shape, self.shape, gate.gate_bits,
                **parts, mean=pixels.bit_length() - 1,
                operand=(operand.fraction_bits, operand.low, operand.high), entry_exponent=gate.entry_exponent,
                first_entry=gate.low, table=gate.table.numpy().astype(np.int64),
            )
        )  # fmt: skip
        self.exponent += gate.gate_bits

    def _neurons(self, name: str, module: snntorch.Leaky) -> None:
        if self.pending is None:
            self.reasons.append(f"{name} has no synapses before it.")
            return
        pools, self.pools, synapses, self.pending = tuple(self.pools), [], self.pending, None
        advice = "compression.quantize_neurons."
        beta = self._tensor(f"{name}.beta", module.beta.detach().clamp(0, 1), f"{advice}beta=8", loose=True)
        threshold = self._tensor(
            f"{name}.threshold", module.threshold.detach(), f"{advice}threshold=8", loose=True
        )
        reset = str(module.reset_mechanism)
        if reset not in RESETS or getattr(module, "inhibition", False):
            self.reasons.append(f"{name}: reset {reset!r} or inhibition has no integer form here.")
            return
        form = self._membrane(name, module, threshold, synapses)
        if form is None:
            return
        bits, exponent, low, high, rounding = form
        delay = bool(module.reset_delay)
        neurons = Neurons(
            name,
            _on_map(beta, synapses.out_shape),
            _on_map(threshold, synapses.out_shape),
            bits, exponent, low, high, rounding, reset, delay,
        )  # fmt: skip
        finer = 1 << max(threshold.exponent - exponent, 0)
        if not delay and reset == "subtract" and (threshold.codes % finer).any():
            self.reasons.append(
                f"{name}.threshold is finer than the membrane's grid, and a reset in the same step leaves it: "
                f"use net.reset_delay=true or more bits for the membrane."
            )
        self.stages.append(Stage(pools, synapses, neurons, self.accumulator))
        self.exponent = 0

    def _membrane(
        self, name: str, module: snntorch.Leaky, threshold: Fixed, synapses: Synapses
    ) -> tuple[int, int, int, int, Rounding] | None:
        """(bits, exponent, low, high, rounding), or None with a reason."""
        held = module.state_quant
        if not held:
            if set(module.beta.detach().clamp(0, 1).flatten().tolist()) <= {0.0, 1.0}:
                bias = synapses.bias.exponent if synapses.bias is not None else 0
                exponent = max(synapses.weight.exponent + self.exponent, bias, threshold.exponent)
                return FLOAT_BITS, exponent, -(1 << 31), (1 << 31) - 1, "truncation"
            self.reasons.append(
                f"{name}.mem has no format, and with a decay its fraction grows at every step: "
                f"compression.quantize_neurons.membrane=16."
            )
            return None
        if not all(hasattr(held, key) for key in ("bits", "step", "low", "high", "rounding")):
            self.reasons.append(
                f"{name}.state_quant is no fixed-point format (bits, step, low, high, rounding)."
            )
            return None
        if held.rounding not in ROUNDINGS:
            self.reasons.append(
                f"{name}.mem is rounded {held.rounding}, by random numbers that no machine shares: "
                f"compression.quantize_neurons.rounding=nearest."
            )
            return None
        exponents = exponents_of(torch.as_tensor(held.step))
        if exponents is None or len(exponents) > 1:
            self.reasons.append(f"{name}.mem has a step that is no power of two.")
            return None
        return int(held.bits), int(exponents[0]), int(held.low), int(held.high), cast(Rounding, held.rounding)

    def _tensor(self, name: str, value: Tensor, advice: str, loose: bool = False) -> Fixed:
        """Codes of a tensor; `loose` takes a tensor without a grid if its float values have few enough bits."""
        grid = self.grids.get(name)
        bits = self.widths.get(name, FLOAT_BITS)
        empty = Fixed(np.zeros(tuple(value.shape), np.int64), np.zeros(1, np.int64), bits)
        if grid is None:
            if loose and (fixed := dyadic(value, bits)) is not None:
                return fixed
            self.reasons.append(f"{name} is float32 without a fixed-point grid: {advice}.")
            return empty
        exponents = exponents_of(grid.step)
        if exponents is None:
            self.reasons.append(
                f"{name} has a step that is no power of two, so its sums are rounded floats: "
                f"compression.quantize_weights.scale=power_of_two (and compression.fold_batch_norm.steps=power_of_two)."
            )
            return empty
        step = grid.step.double().reshape(grid.step.shape if grid.step.dim() else ())
        codes = (value.double() / step).cpu().numpy()
        whole = np.rint(codes)
        if (
            not np.array_equal(codes, whole)
            or whole.min(initial=grid.low) < grid.low
            or whole.max(initial=grid.high) > grid.high
        ):
            self.reasons.append(f"{name} does not lie on its own grid.")
            return empty
        if len(exponents) > 1 and len(exponents) != value.shape[0]:
            self.reasons.append(f"{name} has {len(exponents)} steps for {value.shape[0]} channels.")
            return empty
        if not whole.any():  # zeros lie on every grid; a range that was fitted to them is as fine as can be
            exponents = np.zeros_like(exponents)
        return Fixed(whole.astype(np.int64), exponents, grid.bits, form_of(grid))


def _on_map(tensor: Fixed, shape: Shape) -> Fixed:
    """One number as [1]; numbers per neuron with three axes that broadcast to (C, H, W)."""
    codes = tensor.codes
    if codes.size == 1:
        return replace(tensor, codes=codes.reshape(1))
    wide = codes.reshape(-1, 1, 1) if codes.ndim == 1 and shape[1:] == (1, 1) else codes
    wide = wide.reshape((1,) * (3 - wide.ndim) + wide.shape)
    np.broadcast_shapes(wide.shape, shape)
    return replace(tensor, codes=wide)


def _pair(side: int | tuple[int, ...]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def _refuse_overflow(program: Program) -> None:
    """Products that float32 rounds would make the network itself inexact; wider ones would not fit int64."""
    reasons = []
    for stage, bound in zip(program.stages, bounds(program), strict=True):
        neurons = stage.neurons
        product = int(np.abs(neurons.beta.codes).max(initial=0)) * max(-neurons.low, neurons.high)
        if neurons.bits < FLOAT_BITS and product >= 1 << 24:
            reasons.append(
                f"{neurons.name}: decay times membrane needs {product.bit_length()} bits, float32 holds 24: "
                f"fewer bits for compression.quantize_neurons.beta or .membrane."
            )
        if bound.update_bits > 62:
            reasons.append(
                f"{neurons.name}: its update needs {bound.update_bits} bits, more than int64 holds."
            )
    if reasons:
        raise NotExact(reasons)
