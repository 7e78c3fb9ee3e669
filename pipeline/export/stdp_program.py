"""An STDP network as integers: what the engine runs, what the files hold and what the C code is printed from.

All numbers are ``code * 2**-exponent``, F the exponent of the working grid, m the membrane's. One step t of neuron
j, u its membrane's code above rest, x(t-1) the pixels' spikes and i(t-1) the inhibiting neurons of the step before:

    i = gain * sum of w[j, p] over x(t-1) - w_inh * (neurons other than j in i(t-1))      0 while refractory
    v = decay * u + i                                              exact, on the working grid, not below `lowest`
    u = clamp((v + half) >> (F - m), low, high)
    j crosses if u >= bar[j] = ceil((threshold + theta[j]) * 2^m); all that cross are set to `reset` and rest; the
    winner among them spikes

which is `pipeline.nets.stdp_kernel.present` without learning, its draws of the winner (splitmix64) included. Direct
inhibition: i(t) are the neurons that spike at t. Through a layer: an inhibitory neuron spikes one step after its
excitatory one unless it rests itself. Its potential is a float in the network, and need not be known here, because
one drive is enough: `one_drive_fires` holds that, whatever it decayed to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from pipeline.export.check import (
    EXPONENTS,
    MOST_SPIKES,
    MOST_STEPS,
    MOST_WEIGHTS,
    claim,
    fixed,
    map_shape,
)
from pipeline.export.program import FLOAT32_INTEGERS, ROUNDINGS, Fixed, Input, Rounding, Shape

Winner = Literal["random", "first", "highest", "all"]
WINNERS: tuple[Winner, ...] = ("random", "first", "highest", "all")
"""Who spikes when several cross; the place in this row is the network's and the kernels' number."""
RANDOM, FIRST, HIGHEST, ALL = range(4)
LAYER = "neurons"
"""The name of the only layer that is compared."""
CONSTANTS = ("threshold", "beta", "reset")
"""One number each for all neurons, stored behind the weights and theta."""


@dataclass(frozen=True, eq=False)
class StdpProgram:
    """An STDP network as integers; potentials are above rest, times in steps."""

    shape: Shape
    """Of the input, (C, H, W)."""
    timesteps: int
    weight: Fixed
    """[neurons, pixels]."""
    gain: int
    """log2 of the mV that a weight of 1 brings."""
    theta: Fixed
    """[neurons]."""
    threshold: Fixed
    beta: Fixed
    """Decay per step."""
    reset: Fixed
    inhibition: Fixed
    bits: int
    """Of the membrane, two's complement."""
    exponent: int
    low: int
    high: int
    rounding: Rounding
    lowest: tuple[int, int] | None
    """(code, exponent) of the membrane's floor."""
    refractory: int
    winner: Winner
    inhibitory: int | None
    """Refractory steps of the inhibitory layer; None: neurons inhibit each other directly."""

    @property
    def neurons(self) -> int:
        return len(self.weight.codes)

    @property
    def outputs(self) -> int:
        return self.neurons

    @property
    def input(self) -> Input:
        return Input(self.shape, 0, 1)

    @property
    def layers(self) -> tuple[tuple[str, Shape], ...]:
        """Layers with spikes, and their maps."""
        return ((LAYER, (self.neurons, 1, 1)),)

    @property
    def fine(self) -> int:
        """Exponent of the working grid: every term of the update lies on it."""
        current = self.weight.exponent - self.gain
        return max(self.beta.exponent + self.exponent, current, self.inhibition.exponent, self.exponent)


class Constants(NamedTuple):
    """The program's numbers as the kernels take them."""

    bars: np.ndarray
    """int64 [neurons], on the membrane's grid."""
    decay: int
    lift: int
    """Bits from the weights' grid to the working one."""
    push: int
    lowest: int
    """Far below everything where there is no floor."""
    reset: int
    """On the membrane's grid."""
    down: int
    """Bits from the working grid to the membrane's."""
    half: int


def constants(program: StdpProgram) -> Constants:
    """Of a program that was checked."""
    fine, m = program.fine, program.exponent
    down = fine - m
    floor = -(1 << 62)
    if program.lowest is not None:
        floor = program.lowest[0] << (fine - program.lowest[1])
    return Constants(
        np.array(_bars(program), np.int64),
        _code(program.beta) << (fine - program.beta.exponent - m),
        fine - (program.weight.exponent - program.gain),
        _code(program.inhibition) << (fine - program.inhibition.exponent),
        floor, _code(program.reset) << (m - program.reset.exponent), down,
        (1 << down) >> 1 if program.rounding == "nearest" else 0,
    )  # fmt: skip


def _code(number: Fixed) -> int:
    return int(number.codes.reshape(-1)[0])


def _bars(program: StdpProgram) -> list[int]:
    """threshold + theta rounded up to the membrane's grid; Python integers."""
    threshold, theta, m = program.threshold, program.theta, program.exponent
    fine = max(threshold.exponent, theta.exponent, m)
    base, shift = _code(threshold) << (fine - threshold.exponent), fine - theta.exponent
    return [-(-(base + (int(code) << shift)) >> (fine - m)) for code in theta.codes]


def finer_bars(program: StdpProgram) -> bool:
    """Whether some threshold + theta lies between two membrane codes."""
    m = program.exponent
    fine = max(program.threshold.exponent, program.theta.exponent, m)
    base = _code(program.threshold) << (fine - program.threshold.exponent)
    step, shift = 1 << (fine - m), fine - program.theta.exponent
    return any((base + (int(code) << shift)) % step for code in program.theta.codes)


def reach(program: StdpProgram) -> int:
    """The largest magnitude inside the update for any input, in steps of the working grid."""
    fine, m, beta, push = program.fine, program.exponent, program.beta, program.inhibition
    drive = max(int(row) for row in np.abs(program.weight.codes).sum(1))
    most = program.neurons if program.winner == "all" else 1
    return (
        (abs(_code(beta)) * max(-program.low, program.high) << (fine - beta.exponent - m))
        + (drive << (fine - program.weight.exponent + program.gain))
        + (most * abs(_code(push)) << (fine - push.exponent))
        + (1 << (fine - m))
    )


def guaranteed(program: StdpProgram) -> bool:
    """Whether the network's float32 sums are exact for every input."""
    return reach(program) < 1 << FLOAT32_INTEGERS


def stdp_work(program: StdpProgram) -> int:
    """Synaptic operations of one sample if every pixel spikes at every step."""
    return program.timesteps * program.neurons * (math.prod(program.shape) + 1)


def check_stdp(program: StdpProgram) -> StdpProgram:
    """The same program, if the engine can run it.

    Raises:
        DataError: says what is wrong with it.
    """
    steps = program.timesteps
    claim(1 <= steps <= MOST_STEPS, f"timesteps must be in [1, {MOST_STEPS}], but got {steps}")
    map_shape("input", program.shape)
    codes = program.weight.codes
    claim(
        codes.ndim == 2 and codes.shape[1] == math.prod(program.shape) and 1 <= codes.size <= MOST_WEIGHTS,
        f"weight has shape {codes.shape} for pixels {program.shape}",
    )
    claim(max(codes.shape) * steps <= MOST_SPIKES, "its maps over all time steps are too large")
    inside = codes.min(initial=0) >= -(1 << 15) and codes.max(initial=0) < 1 << 16
    claim(inside, "weight has a code beyond 16 bits")
    claim(int(np.abs(codes).sum(1).max()) < 1 << 31, "weight: a neuron's sum leaves 32 bits")
    fixed("weight", program.weight, {1})
    claim(program.theta.codes.shape == (program.neurons,), f"theta must have {program.neurons} values")
    for name in ("theta", *CONSTANTS, "inhibition"):
        number: Fixed = getattr(program, name)
        fixed(name, number, {1})
        claim(name == "theta" or number.codes.shape == (1,), f"{name} must be one number")
    claim(-16 <= program.gain <= 16, f"gain must be in [-16, 16], but is {program.gain}")
    _check_membrane(program)
    claim(program.winner in WINNERS, f"winner {program.winner!r}")
    claim(not (program.winner == "highest" and finer_bars(program)), "theta is finer than the membrane")
    for name, rest in (("refractory", program.refractory), ("inhibitory", program.inhibitory or 0)):
        claim(0 <= rest <= 1 << 16, f"{name} must be in [0, 65536] steps, but is {rest}")
    return program


def _check_membrane(program: StdpProgram) -> None:
    low, high = EXPONENTS
    claim(2 <= program.bits <= 32, f"the membrane must have 2 to 32 bits, but has {program.bits}")
    claim(low <= program.exponent <= high, f"the membrane has the exponent {program.exponent}")
    ends = (-(1 << (program.bits - 1)), (1 << (program.bits - 1)) - 1)
    ok = ends[0] <= program.low <= 0 <= program.high <= ends[1]
    claim(ok, f"the membrane's codes: [{program.low}, {program.high}]")
    claim(program.rounding in ROUNDINGS, f"rounding {program.rounding!r}")
    one = 1 << max(program.beta.exponent, 0)
    claim(0 <= _code(program.beta) <= one, "beta must be in [0, 1]")
    claim(program.reset.exponent <= program.exponent, "reset is finer than the membrane's grid")
    reset = _code(program.reset) << (program.exponent - program.reset.exponent)
    claim(program.low <= reset <= program.high, "reset lies beyond the membrane")
    if program.lowest is not None:
        code, exponent = program.lowest
        ok = abs(code) < 1 << 31 and low <= exponent <= program.fine
        claim(
            ok and abs(code) << (program.fine - exponent) < 1 << 62, "lowest is no code of the working grid"
        )
    claim(program.fine - program.exponent <= 61, "the working grid is too fine")
    claim(reach(program) < 1 << 61, "the update leaves 62 bits")
    claim(max(abs(bar) for bar in _bars(program)) < 1 << 61, "threshold and theta leave 62 bits")


def one_drive_fires(drive: float, threshold: float, reset: float) -> bool:
    """Whether an inhibitory neuron that does not rest spikes at every drive, as float32 adds them.

    Its potential above rest starts at 0, is set to `reset` when it spikes and decays towards 0, so it is never below
    min(0, reset), and float addition keeps that order.
    """
    least = np.float32(min(0.0, reset)) + np.float32(drive)
    return bool(float(least) >= threshold)
