"""The STDP network in integers: inference of a quantized, directly inhibited network, bit for bit.

All numbers are ``code * 2**-exponent``, F the exponent of the working grid, m the membrane's. One step t of neuron
j, u its membrane's code, x(t-1) the pixels' spikes and s(t-1) the neurons' spikes of the step before:

    i = sum of w[p, j] over x(t-1) - w_inh * (spikes of other neurons in s(t-1))      0 while refractory
    v = decay * u + i                                              exact, on the working grid, not below `lowest`
    u = clamp((v + half) >> (F - m), low, high)
    j crosses if u >= bar[j]; all that cross are set to `reset` and rest; the winner among them spikes

which is `pipeline.nets.stdp_kernel.present` without learning, its draws of the winner (splitmix64) included. What
cannot be exact is refused: an inhibitory layer (its potentials decay by powers of a float), a membrane without a
format, stochastic rounding at run time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from pipeline.export.codes import Gridded, Grids, dyadic, exponents_of
from pipeline.export.kernels import add_linear
from pipeline.export.program import FLOAT32_INTEGERS, NotExact
from pipeline.export.proof import Proof, first_difference
from pipeline.types import Batch, Decode

RANDOM, FIRST, HIGHEST, ALL = 0, 1, 2, 3
"""Who spikes when several cross, as the network numbers it."""
_ADVICE = "compression.quantize_neurons."


@dataclass(frozen=True, eq=False)
class StdpProgram:
    """An STDP network as integers."""

    weight: np.ndarray
    """int16 [pixels, neurons]."""
    bars: np.ndarray
    """int64 [neurons]: threshold + theta, rounded up to the membrane's grid."""
    decay: int
    """On the grid that brings decay * u onto the working one."""
    lift: int
    """Bits from the weights' grid to the working one."""
    inhibition: int
    lowest: int
    """On the working grid; far below everything where there is no floor."""
    reset: int
    """On the membrane's grid."""
    down: int
    """Bits from the working grid to the membrane's."""
    nearest: bool
    low: int
    high: int
    refractory: int
    winner: int
    guaranteed: bool
    """The network's float32 sums are exact for every input."""


def is_stdp(net: nn.Module) -> bool:
    """Whether the net is an STDP network: one that keeps a spec, numerics and theta."""
    return all(hasattr(net, name) for name in ("spec", "numerics", "theta", "weight"))


def lower_stdp(net: nn.Module, grids: Grids) -> StdpProgram:
    """The integer form of a compressed STDP network.

    Raises:
        NotExact: with every reason, and the setting that removes it.
    """
    cell, reasons = net.spec.cell(), []  # type: ignore[operator, union-attr]
    if cell.layer:
        reasons.append("its inhibitory layer decays by powers of a float: use net.inhibition=direct.")
    weight = _weight(net, grids.get("weight"), reasons)
    form = net.numerics.get("membrane")  # type: ignore[operator, union-attr]
    if form is None or form[3] == "stochastic":
        why = "has no format" if form is None else "is rounded by random numbers at run time"
        reasons.append(f"membrane {why}: {_ADVICE}membrane=16 with rounding=nearest.")
    constants = {
        name: _constant(name, value, reasons)
        for name, value in (
            ("beta", cell.decay),
            ("inhibition", cell.w_inh),
            ("reset", cell.reset),
            ("gain", cell.gain),
        )
    }
    if math.frexp(cell.gain)[0] != 0.5:
        reasons.append(f"w_input_mv = {cell.gain:g} is no power of two.")
    if reasons or weight is None or form is None:
        raise NotExact(reasons)
    return _assemble(net, cell, weight, form, constants)


def _weight(net: nn.Module, grid: Gridded | None, reasons: list[str]) -> tuple[np.ndarray, int] | None:
    if grid is None:
        reasons.append("weight is float32 without a fixed-point grid: compression.quantize_weights.bits=8.")
        return None
    exponents = exponents_of(grid.step)
    if exponents is None or len(exponents) > 1:
        reasons.append("weight has a step that is no power of two, or several steps.")
        return None
    codes = np.ldexp(net.weight.detach().double().numpy(), int(exponents[0]))  # type: ignore[operator, union-attr]
    if not np.array_equal(codes, np.rint(codes)) or np.abs(codes).max(initial=0) >= 1 << 15:
        reasons.append("weight does not lie on its own grid, or needs more than 16 bits.")
        return None
    return codes.astype(np.int64), int(exponents[0])


def _constant(name: str, value: float, reasons: list[str]) -> tuple[int, int]:
    """(code, exponent) of a float32 with few enough bits."""
    fixed = dyadic(torch.tensor(value, dtype=torch.float32), 32)
    if fixed is None:
        reasons.append(f"{name} = {value:.6g} has more than 16 bits: {_ADVICE}{name}=8.")
        return 0, 0
    return int(fixed.codes), fixed.exponent


def _assemble(
    net: nn.Module, cell: Any, weight: tuple[np.ndarray, int], form: tuple[float, float, float, str],
    constants: dict[str, tuple[int, int]],
) -> StdpProgram:  # fmt: skip
    codes, own = weight
    own -= int(math.log2(cell.gain))
    step, low, high, rounding = form
    mem = exponents_of(torch.tensor(step, dtype=torch.float64))
    if mem is None:
        raise NotExact(["membrane has a step that is no power of two."])
    m = int(mem[0])
    (beta, b), (push, p), (reset, r) = constants["beta"], constants["inhibition"], constants["reset"]
    fine = max(b + m, own, p, m)
    reasons = []
    if r > m:
        reasons.append(f"reset is finer than the membrane's grid of 2^-{m}: {_ADVICE}reset or .membrane.")
    lowest = cell.lowest * 2.0**fine
    if math.isfinite(lowest) and lowest != round(lowest):
        reasons.append(f"lowest_mv is finer than the working grid of 2^-{fine}.")
    top = round(max(-low, high) / step)
    if beta * top >= 1 << FLOAT32_INTEGERS:
        reasons.append(f"decay times membrane needs more than 24 bits: fewer for {_ADVICE}beta or .membrane.")
    if reasons:
        raise NotExact(reasons)
    # float32, as the network adds them; the comparison v >= bar is one of codes once the bar is rounded up.
    bars = np.float32(cell.threshold) + net.theta.detach().numpy().astype(np.float32)  # type: ignore[operator, union-attr]
    if cell.winner == HIGHEST and (np.ldexp(bars.astype(np.float64), m) % 1).any():
        raise NotExact(
            [f"theta is finer than the membrane, and decides who is highest: {_ADVICE}theta or .membrane."]
        )
    most = len(codes[0]) if cell.winner == ALL else 1
    reach = (beta * top << (fine - b - m)) + (int(np.abs(codes).sum(0).max()) << (fine - own))
    reach += (most * push << (fine - p)) + (1 << (fine - m))
    return StdpProgram(
        weight=codes.astype(np.int16), bars=np.ceil(np.ldexp(bars.astype(np.float64), m)).astype(np.int64),
        decay=beta << (fine - b - m), lift=fine - own, inhibition=push << (fine - p),
        lowest=int(lowest) if math.isfinite(lowest) else -(1 << 62), reset=reset << (m - r), down=fine - m,
        nearest=rounding == "nearest", low=round(low / step), high=round(high / step), refractory=cell.refractory,
        winner=cell.winner, guaranteed=reach < 1 << FLOAT32_INTEGERS,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _next(rng):  # type: ignore[no-untyped-def]
    """53 random bits of splitmix64 (Steele et al. 2014); rng [1] uint64 is advanced."""
    rng[0] += np.uint64(0x9E3779B97F4A7C15)
    z = rng[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) >> np.uint64(11)


@njit(cache=True, nogil=True)
def _run(  # type: ignore[no-untyped-def]
    x, w, bars, decay, lift, push, lowest, reset, down, half, low, high, refractory, winner, raster
):
    """x [B, T, pixels] uint8 of 0 and 1 -> raster [B, T, n] uint8; sample b draws as number b of a batch."""
    samples, steps, n = raster.shape
    acc = np.zeros(n, np.int32)
    u = np.zeros(n, np.int64)
    free = np.zeros(n, np.int64)
    fired = np.zeros(n, np.int64)
    events = np.zeros(x.shape[2] + 1, np.int32)
    rng = np.zeros(1, np.uint64)
    for b in range(samples):
        rng[0] = np.uint64(b) * np.uint64(0x9E3779B97F4A7C15)
        rng[0] = _next(rng) << np.uint64(11)
        u[:] = 0
        free[:] = 0
        before = 0
        for t in range(steps):
            acc[:] = 0
            if t > 0:
                add_linear(x[b, t - 1], w, acc, events)
            count = 0
            for j in range(n):
                v = decay * u[j]
                if free[j] <= t:
                    mine = raster[b, t - 1, j] if t > 0 else 0
                    v += (np.int64(acc[j]) << lift) - push * (before - mine)
                v = (max(v, lowest) + half) >> down
                v = min(max(v, low), high)
                u[j] = v
                if v >= bars[j]:
                    fired[count] = j
                    count += 1
            before = 0
            if count == 0:
                continue
            chosen = 0
            if winner == RANDOM and count > 1:
                bits = _next(rng)  # floor(count * bits / 2^53), in halves that fit 64 bits
                upper, lower = bits >> np.uint64(26), bits & np.uint64((1 << 26) - 1)
                wide = np.uint64(count) * upper + ((np.uint64(count) * lower) >> np.uint64(26))
                chosen = int(wide >> np.uint64(27))
            elif winner == HIGHEST:
                for i in range(1, count):
                    if u[fired[i]] - bars[fired[i]] > u[fired[chosen]] - bars[fired[chosen]]:
                        chosen = i
            for i in range(count):
                j = fired[i]
                u[j] = reset
                free[j] = t + refractory + 1
                if winner == ALL or i == chosen:
                    raster[b, t, j] = 1
                    before += 1


def run_stdp(program: StdpProgram, x: Tensor) -> np.ndarray:
    """[T, B, ...] spikes of 0 and 1 -> [B, T, n] uint8 spikes, samples numbered as one batch.

    Raises:
        NotExact: an entry is neither 0 nor 1.
    """
    steps, samples = x.shape[:2]
    spikes = x.reshape(steps, samples, -1).to(torch.uint8)
    if not torch.equal(spikes.to(x.dtype), x.reshape(steps, samples, -1)) or int(spikes.max()) > 1:
        raise NotExact(["the input must hold spikes, 0 or 1 (data/encoding=poisson)."])
    codes = np.require(spikes.transpose(0, 1).numpy(), requirements=("C", "W"))
    raster = np.zeros((samples, steps, len(program.bars)), np.uint8)
    half = (1 << program.down) >> 1 if program.nearest else 0
    _run(
        codes, program.weight, program.bars, program.decay, program.lift, program.inhibition, program.lowest,
        program.reset, program.down, half, program.low, program.high, program.refractory, program.winner, raster,
    )  # fmt: skip
    return raster


def prove_stdp(net: nn.Module, program: StdpProgram, decode: Decode, batches: Iterable[Batch]) -> Proof:
    """Run both on every batch and compare all spikes; labels are read from the integer spikes by `decode`."""
    samples = spikes = compared = labels = right = 0
    difference = None
    for x, y in batches:
        with torch.no_grad():
            theirs = net(x)
        mine = run_stdp(program, x).swapaxes(0, 1)
        network = theirs.to(torch.uint8).numpy()
        if not np.array_equal(network, mine):
            difference = first_difference("neurons", network, mine, samples)
        said = decode(torch.from_numpy(mine.astype(np.float32)))
        spikes, compared = spikes + int(network.sum()), compared + network.size
        labels += int((said != decode(theirs)).sum())
        right, samples = right + int((said == y).sum()), samples + len(y)
        if difference is not None:
            break
    return Proof(samples, spikes, compared, labels, right / max(samples, 1), program.guaranteed, difference)
