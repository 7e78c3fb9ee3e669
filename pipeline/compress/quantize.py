"""The two quantization steps of a compression config: weights, and neuron parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import snntorch
import torch
from torch import Tensor, nn

from pipeline.compress.calibrate import CALIBRATIONS, Calibrate, fit_step
from pipeline.compress.quantizers import Membrane, Uniform, Watch
from pipeline.compress.rounding import ROUNDINGS, FixedPoint, Rounding
from pipeline.compress.stack import full_name, ledger, original, seed_of, stack_on, synapses
from pipeline.types import FLOAT_BITS, require

Granularity = Literal["per_tensor", "per_channel"]
Scale = Literal["power_of_two", "free"]
Scheme = Literal["fixed_point", "symmetric"]
_REST = "default"


@dataclass(frozen=True)
class QuantizeWeights:
    """Weights (and biases) of every synaptic layer on a fixed-point grid.

    Args:
        bits: stored bits per weight in [2, 32], 32 is off; or one number per layer name, with `default` for
            the layers not named (32 without it). Sign bit included: bits = 1 + i + f.
        scheme: fixed_point (two's complement Qi.f, power-of-two step) or symmetric (as many levels below zero
            as above, step by `scale`).
        rounding: truncation, nearest or stochastic.
        granularity: one step per tensor or per output channel.
        calibrate: range by max, percentile (of magnitudes) or mse (least squared error).
        integer_bits: None lets calibration choose i per tensor (it may be negative: all weights below 1/2);
            a number fixes the format Qi.f with f = bits - 1 - i, and a range that does not fit is an error.
        bias_bits: stored bits per bias; biases are few and are added at every step, so they stay wide.
        seed: of stochastic rounding.
    """

    bits: int | Mapping[str, int] = 8
    scheme: Scheme = "fixed_point"
    rounding: Rounding = "nearest"
    granularity: Granularity = "per_tensor"
    scale: Scale = "power_of_two"
    calibrate: Calibrate = "max"
    percentile: float = 99.9
    integer_bits: int | None = None
    bias_bits: int = 16
    seed: int = 0
    family: ClassVar[Literal["prune", "quantize"]] = "quantize"

    def __post_init__(self) -> None:
        for bits in self.bits.values() if isinstance(self.bits, Mapping) else [self.bits]:
            require(2 <= bits <= FLOAT_BITS, "bits", "be in [2, 32]", bits)
            if self.integer_bits is not None and bits < FLOAT_BITS:
                rule = f"be in [0, bits - 1] = [0, {bits - 1}], so that fraction bits stay within the width"
                require(0 <= self.integer_bits <= bits - 1, "integer_bits", rule, self.integer_bits)
        require(self.scheme in get_args(Scheme), "scheme", f"be one of {get_args(Scheme)}", self.scheme)
        require(self.rounding in ROUNDINGS, "rounding", f"be one of {ROUNDINGS}", self.rounding)
        options = get_args(Granularity)
        require(self.granularity in options, "granularity", f"be one of {options}", self.granularity)
        require(self.scale in get_args(Scale), "scale", f"be one of {get_args(Scale)}", self.scale)
        fits = self.scale == "power_of_two" or self.scheme != "fixed_point"
        require(fits, "scale", "be power_of_two with scheme=fixed_point", self.scale)
        require(self.calibrate in CALIBRATIONS, "calibrate", f"be one of {CALIBRATIONS}", self.calibrate)
        require(50 < self.percentile <= 100, "percentile", "be in (50, 100]", self.percentile)
        require(2 <= self.bias_bits <= FLOAT_BITS, "bias_bits", "be in [2, 32]", self.bias_bits)

    @property
    def active(self) -> bool:
        bits = self.bits.values() if isinstance(self.bits, Mapping) else [self.bits]
        return any(b < FLOAT_BITS for b in bits)

    def attach(self, net: nn.Module) -> None:
        for name, tensor, module, bits in self._targets(net):
            quantizer = self._quantizer(full_name(name, tensor), bits, tensor == "bias")
            stack = stack_on(net, module, tensor)
            quantizer.train(module.training)
            quantizer.fit(original(module, tensor), stack.kept)
            stack.quantizer = quantizer

    def advance(self, net: nn.Module, progress: float) -> None:
        """Nothing to do: the step follows the weights at every training forward."""

    def widths(self, net: nn.Module) -> dict[str, int]:
        return {full_name(name, tensor): bits for name, tensor, _, bits in self._targets(net)}

    def check(self, net: nn.Module) -> None:
        """Raise ValueError where the config names a layer that the net lacks."""
        if isinstance(self.bits, Mapping):
            known = [name for name, _ in synapses(net)]
            for name in self.bits:
                require(
                    name == _REST or name in known, "bits", f"name layers among {known} or {_REST!r}", name
                )

    def _targets(self, net: nn.Module) -> Iterator[tuple[str, str, nn.Module, int]]:
        self.check(net)
        for name, module in synapses(net):
            bits = (
                self.bits.get(name, self.bits.get(_REST, FLOAT_BITS))
                if isinstance(self.bits, Mapping)
                else self.bits
            )
            if bits >= FLOAT_BITS:
                continue
            yield name, "weight", module, bits
            if self.bias_bits < FLOAT_BITS and isinstance(getattr(module, "bias", None), Tensor):
                yield name, "bias", module, self.bias_bits

    def _quantizer(self, name: str, bits: int, bias: bool) -> Uniform:
        fixed = None
        if self.integer_bits is not None and not bias:
            fixed = FixedPoint(self.integer_bits, bits - 1 - self.integer_bits)
        return Uniform(
            bits,
            # A bias is wide; nearest is exact enough there, and max never clips it.
            rounding="nearest" if bias else self.rounding,
            symmetric=self.scheme == "symmetric",
            per_channel=self.granularity == "per_channel" and not bias,
            power_of_two=bias or self.scale == "power_of_two",
            calibrate="max" if bias else self.calibrate,
            percentile=self.percentile,
            format=fixed,
            seed=seed_of(self.seed, name),
        )


@dataclass(frozen=True)
class QuantizeNeurons:
    """Neuron parameters and the membrane of every snnTorch neuron, each with a width of its own (32 is off).

    Args:
        beta, threshold: stored bits of the decay and the threshold.
        membrane: bits of the membrane potential, saturated and rounded after every time step.
        rounding: of the membrane; parameters are constants and are rounded to nearest.
        calibrate: membrane range by max, percentile or mse over calibration batches of the training split.
        headroom: membrane range in multiples of the layer's largest threshold when no batch was shown.
        seed: of stochastic rounding.
    """

    beta: int = FLOAT_BITS
    threshold: int = FLOAT_BITS
    membrane: int = FLOAT_BITS
    rounding: Rounding = "nearest"
    calibrate: Calibrate = "max"
    percentile: float = 99.9
    headroom: float = 4.0
    seed: int = 0
    family: ClassVar[Literal["prune", "quantize"]] = "quantize"

    def __post_init__(self) -> None:
        for field in ("beta", "threshold", "membrane"):
            bits = getattr(self, field)
            require(2 <= bits <= FLOAT_BITS, field, "be in [2, 32]", bits)
        require(self.rounding in ROUNDINGS, "rounding", f"be one of {ROUNDINGS}", self.rounding)
        require(self.calibrate in CALIBRATIONS, "calibrate", f"be one of {CALIBRATIONS}", self.calibrate)
        require(50 < self.percentile <= 100, "percentile", "be in (50, 100]", self.percentile)
        require(self.headroom > 0, "headroom", "be above 0", self.headroom)

    @property
    def active(self) -> bool:
        return min(self.beta, self.threshold, self.membrane) < FLOAT_BITS

    def attach(self, net: nn.Module) -> None:
        for name, neuron in neurons(net):
            for tensor, bits in (("beta", self.beta), ("threshold", self.threshold)):
                if bits < FLOAT_BITS and isinstance(getattr(neuron, tensor, None), Tensor):
                    quantizer = Uniform(bits, seed=seed_of(self.seed, full_name(name, tensor)))
                    quantizer.train(neuron.training)
                    quantizer.fit(original(neuron, tensor), None)
                    stack_on(net, neuron, tensor).quantizer = quantizer
            if self.membrane < FLOAT_BITS:
                reach = self.headroom * float(torch.as_tensor(neuron.threshold).abs().max())
                self._hold(net, name, neuron, torch.tensor([reach]))

    def observe(self, net: nn.Module, samples: list[Tensor]) -> None:
        """Calibrate the membranes on input batches [T, B, C, H, W] of the training split."""
        if self.membrane >= FLOAT_BITS or not samples:
            return
        watched = {name: (neuron, Watch()) for name, neuron in neurons(net)}
        for neuron, watch in watched.values():
            neuron.state_quant = watch
        training = net.training
        net.eval()
        with torch.no_grad():
            for x in samples:
                net(x)
        net.train(training)
        for name, (neuron, watch) in watched.items():
            self._hold(net, name, neuron, watch.values())

    def advance(self, net: nn.Module, progress: float) -> None:
        """Nothing to do."""

    def widths(self, net: nn.Module) -> dict[str, int]:
        out = {}
        for name, neuron in neurons(net):
            for tensor, bits in (("beta", self.beta), ("threshold", self.threshold)):
                if isinstance(getattr(neuron, tensor, None), Tensor):
                    out[full_name(name, tensor)] = bits
            out[full_name(name, "mem")] = self.membrane
        return {name: bits for name, bits in out.items() if bits < FLOAT_BITS}

    def check(self, net: nn.Module) -> None:
        """Any net will do; one without snnTorch neurons is left as it is."""

    def _hold(self, net: nn.Module, name: str, neuron: nn.Module, values: Tensor) -> None:
        high = (1 << (self.membrane - 1)) - 1
        step = float(fit_step(values, -high - 1, high, self.calibrate, self.percentile))
        held = Membrane(self.membrane, step, self.rounding, seed_of(self.seed, full_name(name, "mem")))
        held.train(neuron.training)
        neuron.state_quant = held
        ledger(net).rewinds[full_name(name, "mem")] = held.rewind


def neurons(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of every snnTorch neuron."""
    for name, module in list(net.named_modules()):
        if isinstance(module, snntorch.SpikingNeuron):
            yield name, module
