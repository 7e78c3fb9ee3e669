"""snnTorch's neurons with the time loop inside: one call per chunk of K steps, state handed in and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import snntorch as snn
import torch
from torch import Tensor

from pipeline.nets.scan import Rule, SpikeGradient, fusable, lif_loop, lif_scan
from pipeline.types import require

RESETS = tuple(snn.SpikingNeuron.reset_dict)  # subtract, zero, none


class Leaky(snn.Leaky):
    """`snntorch.Leaky` for chunks: currents [K, B, ...] and the membrane [B, ...] -> spikes [K, B, ...], membrane.

    The numbers are those of K calls of snnTorch's own forward, values and gradients alike, in one fused scan
    (`pipeline.nets.scan`). It stays an `snn.Leaky`: `beta` (clamped to [0, 1]) and `threshold` are buffers (or
    parameters, when learned) and may be parametrized; they are scalars or per neuron (any shape that broadcasts
    to one sample). `state_quant`, a callable or False, sees the membrane at every step, as in snnTorch, and then
    the plain loop runs. State is explicit: no membrane is kept in the module between calls, and the module is not
    kept in `snn.SpikingNeuron.instances`.

    `reset_delay` is snnTorch's (True: the reset acts one step later). `detach_reset` stops the gradient through a
    same-step reset, which snnTorch lets flow and SpikingJelly's `detach_reset` stops; with a delayed reset there
    is none to stop.
    """

    def __init__(
        self,
        beta: float | Tensor,
        threshold: float | Tensor = 1.0,
        spike_grad: SpikeGradient | None = None,
        reset_mechanism: str = "subtract",
        reset_delay: bool = True,
        detach_reset: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
    ) -> None:
        spike_grad = spike_grad or SpikeGradient()
        super().__init__(
            torch.as_tensor(beta, dtype=torch.get_default_dtype()),
            torch.as_tensor(threshold, dtype=torch.get_default_dtype()),
            spike_grad,
            reset_mechanism=reset_mechanism,
            reset_delay=reset_delay,
            learn_beta=learn_beta,
            learn_threshold=learn_threshold,
        )
        self.rule = Rule(snn.SpikingNeuron.reset_dict[reset_mechanism], reset_delay, detach_reset, spike_grad)
        # snnTorch lists every neuron ever built, for good: a study of many networks would never free one.
        snn.SpikingNeuron.instances.remove(self)

    def forward(
        self, input_: Tensor, mem: Tensor | None = None, trace: bool = False
    ) -> tuple[Tensor, Tensor]:
        """[K, B, ...] currents and the membrane before the first step [B, ...] (None: zeros) -> spikes, membrane.

        The membrane is the one after the last step, [B, ...]; with `trace` those after every step, [K, B, ...].
        Raises ValueError for whole-number currents and for a membrane of another shape.
        """
        require(input_.is_floating_point(), "currents", "be floating-point numbers", input_.dtype)
        if mem is not None:
            shape = tuple(input_.shape[1:])
            require(
                tuple(mem.shape) == shape, "mem", f"be {shape}, as the currents of a step", tuple(mem.shape)
            )
        if mem is None:
            mem = torch.zeros_like(input_[0], dtype=torch.promote_types(input_.dtype, torch.float32))
        beta, threshold = self.beta, self.threshold
        if self.state_quant and not fusable(self.state_quant, input_):
            spikes, states = lif_loop(input_.to(mem.dtype), mem, beta, threshold, self.rule, self.state_quant)
            return spikes, states if trace else states[-1]
        return lif_scan(input_, mem, beta, threshold, self.rule, trace, self.state_quant or None)


@dataclass(frozen=True, kw_only=True)
class LeakyConstants:
    """The constants of every neuron layer of a network, as fields of its config.

    beta             decay of the membrane per step, in [0, 1]
    threshold        above it a neuron fires, > 0
    reset            subtract | zero | none
    reset_delay      True: the reset acts one step later (snnTorch's default); False: in the same step
    detach_reset     no gradient through a same-step reset
    spike_grad       surrogate derivative: atan | fast_sigmoid, with `slope` (snnTorch: 2 and 25)
    learn_beta, learn_threshold    train them, one number per layer
    """

    beta: float = 0.9
    threshold: float = 1.0
    reset: str = "subtract"
    reset_delay: bool = True
    detach_reset: bool = False
    spike_grad: Literal["atan", "fast_sigmoid"] = "atan"
    slope: float = 2.0
    learn_beta: bool = False
    learn_threshold: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.beta <= 1, "beta", "be in [0, 1]", self.beta)
        require(self.threshold > 0, "threshold", "be above 0", self.threshold)
        require(self.reset in RESETS, "reset", f"be one of {RESETS}", self.reset)
        self._gradient()

    def _gradient(self) -> SpikeGradient:
        return SpikeGradient(self.spike_grad, self.slope)

    def neuron(self) -> Leaky:
        """One neuron layer with these constants."""
        return Leaky(
            self.beta,
            self.threshold,
            self._gradient(),
            self.reset,
            self.reset_delay,
            self.detach_reset,
            self.learn_beta,
            self.learn_threshold,
        )
