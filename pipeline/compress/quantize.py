"""The two quantization steps of a compression config: weights, and neuron parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn

from pipeline.compress.calibrate import CALIBRATIONS, Calibrate
from pipeline.compress.learned import Binary, DuQ, Lsq
from pipeline.compress.quantizers import Uniform
from pipeline.compress.rounding import ROUNDINGS, FixedPoint, Rounding
from pipeline.compress.snn_neurons import attach_neurons, neurons, quantities, watch
from pipeline.compress.stack import Quantizer, full_name, ledger, original, seed_of, stack_on, synapses
from pipeline.compress.stdp_neurons import CONSTANTS, STATES, is_stdp, quantize_stdp
from pipeline.types import FLOAT_BITS, require

Granularity = Literal["per_tensor", "per_channel"]
Scale = Literal["auto", "power_of_two", "free"]
Scheme = Literal["fixed_point", "symmetric", "duq", "lsq", "binary"]
LEARNED = ("duq", "lsq", "binary")
Decay = Literal["fixed_point", "shift"]
NEURON_QUANTITIES = (
    "membrane", "current", "threshold", "beta", "alpha", "reset", "inhibition", "theta", "trace",
)  # fmt: skip
_REST = "default"
EXPONENT_BITS = 8
"""Stored bits of one power-of-two step: a signed shift."""


@dataclass(frozen=True)
class QuantizeWeights:
    """Weights (and biases) of every synaptic layer on a fixed-point grid.

    Args:
        bits: stored bits per weight in [2, 32], 32 is off; or one number per layer name, with `default` for
            the layers not named (32 without it). Sign bit included: bits = 1 + i + f.
        scheme: fixed_point (two's complement Qi.f, power-of-two step); symmetric (as many levels below zero as
            above); duq and lsq (learned range; duq has 2^bits - 1 levels, so 2 bits are ternary); binary (bits 1).
        rounding: truncation, nearest or stochastic.
        granularity: one step per tensor or per output channel (STDP networks: per tensor).
        scale: power_of_two, free, or auto: free for duq, lsq and binary, power_of_two for the others.
        calibrate: range by max, percentile (of magnitudes) or mse (least squared error); duq and lsq start by their
            own rules.
        signed: false drops the sign bit, for weights that are never negative (STDP): twice the levels.
        integer_bits: None lets calibration choose i per tensor (it may be negative: all weights below 1/2);
            a number fixes the format Qi.f with f = bits - 1 - i (bits - i where unsigned), and a range that does
            not fit is an error, unless calibrate=percentile lets it saturate.
        bias_bits: stored bits per bias; biases are few and are added at every step, so they stay wide.
        seed: of stochastic rounding.
    """

    bits: int | Mapping[str, int] = 8
    scheme: Scheme = "fixed_point"
    rounding: Rounding = "nearest"
    granularity: Granularity = "per_tensor"
    scale: Scale = "auto"
    calibrate: Calibrate = "max"
    percentile: float = 99.9
    signed: bool = True
    integer_bits: int | None = None
    bias_bits: int = 16
    seed: int = 0
    family: ClassVar[Literal["prune", "quantize"]] = "quantize"

    def __post_init__(self) -> None:
        for bits in self.bits.values() if isinstance(self.bits, Mapping) else [self.bits]:
            self._check_bits(bits)
            if self.integer_bits is not None and bits < FLOAT_BITS:
                most = bits - int(self.signed)
                rule = f"be in [0, {most}] with {bits} bits, so that no fraction bit lies beyond the width"
                require(0 <= self.integer_bits <= most, "integer_bits", rule, self.integer_bits)
        require(self.scheme in get_args(Scheme), "scheme", f"be one of {get_args(Scheme)}", self.scheme)
        require(self.rounding in ROUNDINGS, "rounding", f"be one of {ROUNDINGS}", self.rounding)
        options = get_args(Granularity)
        require(self.granularity in options, "granularity", f"be one of {options}", self.granularity)
        require(self.scale in get_args(Scale), "scale", f"be one of {get_args(Scale)}", self.scale)
        fits = self.scale != "free" or self.scheme != "fixed_point"
        require(fits, "scale", "be power_of_two with scheme=fixed_point", self.scale)
        fits = self.scheme not in LEARNED or self.integer_bits is None
        require(fits, "integer_bits", f"be null with scheme={self.scheme}", self.integer_bits)
        require(
            self.signed or self.scheme == "fixed_point", "signed", "be true without fixed_point", self.signed
        )
        require(self.calibrate in CALIBRATIONS, "calibrate", f"be one of {CALIBRATIONS}", self.calibrate)
        require(50 < self.percentile <= 100, "percentile", "be in (50, 100]", self.percentile)
        require(2 <= self.bias_bits <= FLOAT_BITS, "bias_bits", "be in [2, 32]", self.bias_bits)

    def _check_bits(self, bits: int) -> None:
        if self.scheme == "binary":
            require(bits in (1, FLOAT_BITS), "bits", "be 1 (or 32, off) with scheme=binary", bits)
        elif self.scheme == "duq":
            rule = (
                "be in [2, 32] with scheme=duq (1 bit would leave 2^(bits - 1) - 1 = 0 levels beside zero; "
            )
            require(2 <= bits <= FLOAT_BITS, "bits", rule + "scheme=binary has 1 bit)", bits)
        else:
            require(2 <= bits <= FLOAT_BITS, "bits", "be in [2, 32]", bits)

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
        """Bits by tensor; with one step per channel also those of a step (a single one is folded into constants).

        A shift that folding will multiply by a float is a float.
        """
        found = {full_name(name, tensor): bits for name, tensor, _, bits in self._targets(net)}
        if self.granularity == "per_channel":
            bits = FLOAT_BITS if self._free else EXPONENT_BITS
            steps = [
                full_name(name, "step") for name, tensor, _, _ in self._targets(net) if tensor == "weight"
            ]
            found |= {step: max(bits, ledger(net).steps.get(step, 0)) for step in steps}
        return found

    def check(self, net: nn.Module) -> None:
        """Raise ValueError where the config names a layer that the net lacks, or wants steps that it cannot have."""
        # Its weights are [inputs, neurons]: a step per row is one per pixel, and each neuron sums over all pixels.
        rule = "be per_tensor for an STDP network"
        fits = self.granularity == "per_tensor" or not self.active or not is_stdp(net)
        require(fits, "granularity", rule, self.granularity)
        if isinstance(self.bits, Mapping):
            known = [name for name, _ in synapses(net)]
            for name in self.bits:
                require(
                    name == _REST or name in known, "bits", f"name layers among {known} or {_REST!r}", name
                )

    def check_learning(self, net: nn.Module) -> None:
        """Raise ValueError where `net` cannot learn on such weights: an STDP network has one grid, fixed beforehand."""
        if self.active and is_stdp(net):
            rule = "to learn on quantized weights of an STDP network (plan.scheme=ptq follows them)"
            require(self.integer_bits is not None, "integer_bits", f"be a number {rule}", self.integer_bits)
            require(
                self.granularity == "per_tensor", "granularity", f"be per_tensor {rule}", self.granularity
            )

    @property
    def _free(self) -> bool:
        return self.scale == "free" or (self.scale == "auto" and self.scheme in LEARNED)

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

    def _quantizer(self, name: str, bits: int, bias: bool) -> Quantizer:
        seed, per_channel = seed_of(self.seed, name), self.granularity == "per_channel"
        if bias:  # wide: nearest is exact enough there, and max never clips it
            return Uniform(bits, seed=seed)
        free = self._free
        if self.scheme == "binary":
            return Binary(per_channel, not free, seed)
        if self.scheme in LEARNED:
            return (DuQ if self.scheme == "duq" else Lsq)(bits, self.rounding, per_channel, not free, seed)
        fixed = None
        if self.integer_bits is not None:
            fixed = FixedPoint(self.integer_bits, bits - int(self.signed) - self.integer_bits, self.signed)
        return Uniform(
            bits,
            self.rounding,
            symmetric=self.scheme == "symmetric",
            signed=self.signed,
            per_channel=per_channel,
            power_of_two=not free,
            calibrate=self.calibrate,
            percentile=self.percentile,
            format=fixed,
            seed=seed,
        )


@dataclass(frozen=True)
class QuantizeNeurons:
    """Neuron parameters and states, each with a width of its own (32 is off), sign bit included.

    snnTorch neurons: membrane (and the synaptic `current` of `Synaptic`) after every time step through
    `state_quant`; threshold, beta, alpha (the current's decay) as parametrized constants.
    STDP networks: membrane, theta and trace step by step in the kernel; threshold, beta, reset and inhibition
    as constants. A field that a net does not have is ignored.

    Args:
        decay: fixed_point (Q0.f) or shift: 1 - 2^-k, of which k is stored; for beta and alpha.
        rounding: of what changes at every step; constants are rounded to nearest.
        calibrate: membrane range by max, percentile or mse over calibration batches of the training split.
        headroom: membrane range in multiples of the layer's largest threshold when no batch was shown; None: 4, and 8
            for an STDP network that has yet to learn, whose thresholds will rise.
        seed: of stochastic rounding.
    """

    membrane: int = FLOAT_BITS
    current: int = FLOAT_BITS
    threshold: int = FLOAT_BITS
    beta: int = FLOAT_BITS
    alpha: int = FLOAT_BITS
    reset: int = FLOAT_BITS
    inhibition: int = FLOAT_BITS
    theta: int = FLOAT_BITS
    trace: int = FLOAT_BITS
    decay: Decay = "fixed_point"
    rounding: Rounding = "nearest"
    calibrate: Calibrate = "max"
    percentile: float = 99.9
    headroom: float | None = None
    seed: int = 0
    family: ClassVar[Literal["prune", "quantize"]] = "quantize"

    def __post_init__(self) -> None:
        for field, bits in self.bits.items():
            require(2 <= bits <= FLOAT_BITS, field, "be in [2, 32]", bits)
        require(self.decay in get_args(Decay), "decay", f"be one of {get_args(Decay)}", self.decay)
        require(self.rounding in ROUNDINGS, "rounding", f"be one of {ROUNDINGS}", self.rounding)
        require(self.calibrate in CALIBRATIONS, "calibrate", f"be one of {CALIBRATIONS}", self.calibrate)
        require(50 < self.percentile <= 100, "percentile", "be in (50, 100]", self.percentile)
        given = self.headroom is None or self.headroom > 0
        require(given, "headroom", "be above 0, or null for the default", self.headroom)

    @property
    def bits(self) -> dict[str, int]:
        """Quantity -> stored bits."""
        return {field: getattr(self, field) for field in NEURON_QUANTITIES}

    @property
    def active(self) -> bool:
        return min(self.bits.values()) < FLOAT_BITS

    def attach(self, net: nn.Module) -> None:
        if not self.active:
            return
        if is_stdp(net):
            quantize_stdp(net, self.bits, self.rounding, self.headroom, self.decay == "shift")
        else:
            attach_neurons(net, self, None)

    def observe(self, net: nn.Module, samples: Sequence[Tensor]) -> None:
        """Calibrate the states of snnTorch neurons on input batches [T, B, C, H, W] of the training split."""
        if min(self.membrane, self.current) < FLOAT_BITS and samples and not is_stdp(net):
            attach_neurons(net, self, watch(net, samples))

    def advance(self, net: nn.Module, progress: float) -> None:
        """Nothing to do."""

    def widths(self, net: nn.Module) -> dict[str, int]:
        if is_stdp(net):
            found = {name: self.bits[name] for name in (*STATES, *CONSTANTS, "beta")}
        else:
            found = {
                full_name(name, stored): self.bits[field]
                for name, neuron in neurons(net)
                for field, stored in quantities(neuron).items()
            }
        return {name: bits for name, bits in found.items() if bits < FLOAT_BITS}

    def check(self, net: nn.Module) -> None:
        """Any net will do."""
