"""A network as integers: what the engine runs, what the files hold and what the C code is printed from.

Every number is ``code * 2**-exponent`` with an integer code. One step of a neuron layer, u the membrane's code,
F the exponent of its working grid (all terms are shifted onto it, nothing is lost), m the membrane's exponent:

    due = u > bar                                       the reset of the last spike, with the reset delayed
    v = beta * u * 2^(F-b-m) + current * 2^(F-c) - due * threshold * 2^(F-t)     exact, on the working grid
    u = clamp((v + half) >> (F - m), low, high)         half = 2^(F-m-1) for nearest, 0 for truncation
    spike = u > bar                                     bar = floor(threshold * 2^m)

Shifts are arithmetic, so they round towards minus infinity, as `floor` does. ``reset = zero`` sets u to 0 where
due instead of subtracting; with the reset in the same step, it acts on u after the comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pipeline.types import require

Shape = tuple[int, int, int]
"""(C, H, W); a flat layer is (N, 1, 1)."""
Reset = Literal["subtract", "zero", "none"]
RESETS: tuple[Reset, ...] = ("subtract", "zero", "none")
Rounding = Literal["nearest", "truncation"]
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "truncation")
Form = Literal["signed", "unsigned", "float32", "shift"]
FORMS: tuple[Form, ...] = ("signed", "unsigned", "float32", "shift")
Overflow = Literal["saturate", "wrap"]
OVERFLOWS: tuple[Overflow, ...] = ("saturate", "wrap")
FLOAT32_INTEGERS = 24
"""float32 holds every integer up to 2^24, so sums below it are exact in any order."""


class NotExact(ValueError):
    """A network that no integer machine can repeat bit for bit; `reasons` lists everything that is in the way."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("this network cannot be run exactly in integers:\n  " + "\n  ".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True, eq=False)
class Fixed:
    """Numbers on a grid: ``codes * 2**-exponents``."""

    codes: np.ndarray
    """int64, any shape."""
    exponents: np.ndarray
    """int64 [1], or [C] with one per row (first axis) of `codes`."""
    bits: int
    """Stored bits per number."""
    form: Form = "signed"
    """How a number is stored: its code (in two's complement, or unsigned), its float32, or, for a decay
    1 - 2^-k, k alone."""

    @property
    def exponent(self) -> int:
        """The finest grid of all rows."""
        return int(self.exponents.max())

    @property
    def values(self) -> np.ndarray:
        """float64, exact."""
        shape = (-1,) + (1,) * (self.codes.ndim - 1) if len(self.exponents) > 1 else (1,) * self.codes.ndim
        return np.ldexp(self.codes.astype(np.float64), -self.exponents.reshape(shape).astype(np.int32))


def scalar(code: int, exponent: int, bits: int = 32) -> Fixed:
    """One number as a `Fixed` of shape [1]."""
    return Fixed(np.array([code], np.int64), np.array([exponent], np.int64), bits)


@dataclass(frozen=True)
class Accumulator:
    """The register that a neuron's synapses add into, in the order in which events come."""

    bits: int = 32
    overflow: Overflow = "saturate"

    def __post_init__(self) -> None:
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        require(whole and 2 <= self.bits <= 32, "bits", "be in [2, 32]", self.bits)
        require(self.overflow in OVERFLOWS, "overflow", f"be in [{', '.join(OVERFLOWS)}]", self.overflow)

    @property
    def high(self) -> int:
        return (1 << (self.bits - 1)) - 1

    def __str__(self) -> str:
        return f"{self.bits} bits, {self.overflow}"


@dataclass(frozen=True, eq=False)
class Synapses:
    """A fully connected layer (kernel 1 on a 1x1 map) or a convolution, batch norm folded in."""

    name: str
    kind: Literal["linear", "conv"]
    weight: Fixed
    """[out, in] or [out, in / groups, rows, columns]."""
    bias: Fixed | None
    """[out]."""
    in_shape: Shape
    out_shape: Shape
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Rows above, below, columns left, right."""
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Neurons:
    """A layer of leaky integrate-and-fire neurons behind synapses."""

    name: str
    beta: Fixed
    """Decay, shape [1] or [N] (C x H x W flat)."""
    threshold: Fixed
    bits: int
    """Of the membrane, two's complement."""
    exponent: int
    """Of the membrane's grid."""
    low: int
    high: int
    rounding: Rounding
    reset: Reset
    delay: bool
    """True: the reset acts one step later."""

    def working_exponent(self, current: int) -> int:
        """The finest grid of all terms of the update: nothing is lost by shifting onto it."""
        return max(self.beta.exponent + self.exponent, current, self.threshold.exponent, self.exponent)


@dataclass(frozen=True, eq=False)
class Pool:
    """Maximum or sum over windows (an average is a sum whose division is folded into the next exponent)."""

    name: str
    kind: Literal["max", "sum", "attention"]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    in_shape: Shape
    out_shape: Shape
    halvings: int = 0
    """log2 of the window, for an average."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Attention(Pool):
    """Temporal-channel attention over all time steps: every spike is weighted by a gate of its step and channel.

    n(t, c): spikes of the map. a = time * n along channels, b = channel * n along steps, each rounded to nearest on
    the operands' grid and held in [low, high]; gate = table[round(a b on the entries' grid), held at the ends].
    `halvings` is the gates' exponent; the mean over the map's 2^mean pixels is in the exponents of a and b.
    """

    time: Fixed
    """[T, T, taps]."""
    channel: Fixed
    """[C, C, taps]."""
    mean: int
    operand: tuple[int, int, int]
    """(exponent, low, high)."""
    entry_exponent: int
    first_entry: int
    table: np.ndarray
    """int64 gates, from the entry `first_entry` on."""


@dataclass(frozen=True)
class Input:
    """What the network is given: integers ``code * 2**-exponent`` in [0, high] (or [-high, high] if signed)."""

    shape: Shape
    exponent: int
    high: int
    signed: bool = False

    @property
    def low(self) -> int:
        return -self.high if self.signed else 0


@dataclass(frozen=True, eq=False)
class Stage:
    """Pools before the synapses, the synapses, their neurons; spikes come out."""

    pools: tuple[Pool, ...]
    synapses: Synapses
    neurons: Neurons
    accumulator: Accumulator = field(default_factory=Accumulator)


@dataclass(frozen=True, eq=False)
class Program:
    """The network: stages in a row, then pools (none, usually), then the class whose group fires most."""

    input: Input
    timesteps: int
    classes: int
    stages: tuple[Stage, ...]

    @property
    def outputs(self) -> int:
        return math.prod(self.stages[-1].synapses.out_shape)

    @property
    def layers(self) -> tuple[tuple[str, Shape], ...]:
        """Layers with spikes, and their maps."""
        return tuple((stage.neurons.name, stage.synapses.out_shape) for stage in self.stages)


@dataclass(frozen=True)
class Bounds:
    """What one stage can reach for any input at all; exact integers, worst case."""

    name: str
    accumulator: int
    """Largest magnitude of a sum of synapses, in steps of the current's grid."""
    accumulator_bits: int
    """Two's complement bits that can never overflow."""
    update: int
    """Largest magnitude inside the neuron's update, in steps of the working grid."""
    update_bits: int
    float_exact: bool
    """Every sum stays within 2^24 steps, so float32 computes the very same numbers, in any order."""


def signed_bits(magnitude: int) -> int:
    """Two's complement bits that hold -magnitude and magnitude."""
    return int(magnitude).bit_length() + 1


def input_exponents(program: Program) -> list[tuple[int, int]]:
    """For each stage: the exponent of its input, after its pools, and the largest magnitude of a code."""
    found = []
    exponent, high = program.input.exponent, program.input.high
    for stage in program.stages:
        for pool in stage.pools:
            if isinstance(pool, Attention):
                exponent, high = exponent + pool.halvings, high * int(pool.table.max())
            elif pool.kind == "sum":
                exponent, high = exponent + pool.halvings, high * math.prod(pool.kernel)
        found.append((exponent, high))
        exponent, high = 0, 1  # spikes
    return found


def current_exponent(stage: Stage, input_exponent: int) -> int:
    """Of the grid that all the stage's synaptic currents lie on, the bias too."""
    bias = stage.synapses.bias
    own = stage.synapses.weight.exponent + input_exponent
    return own if bias is None else max(own, bias.exponent)


def bounds(program: Program) -> tuple[Bounds, ...]:
    """Worst cases over all inputs in range, stage by stage."""
    return tuple(
        _bounds(stage, exponent, high, program.timesteps)
        for stage, (exponent, high) in zip(program.stages, input_exponents(program), strict=True)
    )


def _bounds(stage: Stage, input_exponent: int, input_high: int, timesteps: int) -> Bounds:
    synapses, neurons = stage.synapses, stage.neurons
    weight = synapses.weight
    # Python integers: a program read from a file may say anything, and must not overflow its own bounds.
    fan = [int(row) * input_high for row in np.abs(weight.codes).reshape(len(weight.codes), -1).sum(1)]
    sums = max(fan, default=0)
    current = current_exponent(stage, input_exponent)
    lifts = current - (np.broadcast_to(weight.exponents, len(fan)) + input_exponent)
    total = [f << int(s) for f, s in zip(fan, lifts, strict=True)]
    if synapses.bias is not None:
        shift = current - synapses.bias.exponent
        total = [a + (abs(int(b)) << shift) for a, b in zip(total, synapses.bias.codes, strict=True)]
    largest = max(total, default=0)
    working = neurons.working_exponent(current)
    leak = int(np.abs(neurons.beta.codes).max()) << (working - neurons.beta.exponent - neurons.exponent)
    bar = int(np.abs(neurons.threshold.codes).max()) << (working - neurons.threshold.exponent)
    state = max(-neurons.low, neurons.high)
    if neurons.bits >= 32:  # no format: the membrane is the sum of all steps
        state = min(state, timesteps * ((largest << (working - current)) + bar))
    half = (1 << (working - neurons.exponent)) >> 1
    update = leak * state + (largest << (working - current)) + bar + half
    gates = [attention_reach(pool) for pool in stage.pools if isinstance(pool, Attention)]
    exact = max([update, largest, *gates]) < 1 << FLOAT32_INTEGERS
    return Bounds(synapses.name, sums, signed_bits(sums), update, signed_bits(update), exact)


def attention_reach(attention: Attention) -> int:
    """The largest sum in its convolutions: every neuron of the map spikes."""
    return max(
        int(np.abs(weight.codes).reshape(len(weight.codes), -1).sum(1).max()) << attention.mean
        for weight in (attention.time, attention.channel)
    )


def widths(program: Program) -> Mapping[str, int]:
    """Stored bits by tensor name, as `pipeline.types.Widths` names them."""
    found: dict[str, int] = {}
    for stage in program.stages:
        found[f"{stage.synapses.name}.weight"] = stage.synapses.weight.bits
        if stage.synapses.bias is not None:
            found[f"{stage.synapses.name}.bias"] = stage.synapses.bias.bits
        found[f"{stage.neurons.name}.beta"] = stage.neurons.beta.bits
        found[f"{stage.neurons.name}.threshold"] = stage.neurons.threshold.bits
        found[f"{stage.neurons.name}.mem"] = stage.neurons.bits
    return found
