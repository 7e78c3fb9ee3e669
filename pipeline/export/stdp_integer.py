"""The integer engine for STDP networks: a `StdpProgram` run event by event, and held against its network."""

# ruff: noqa: ARG001  (an intrinsic names what its caller passes; the code is generated from values)

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.compiled import generated, njit, quick, random_bits
from pipeline.export.kernels import add_linear, to_codes
from pipeline.export.program import NotExact
from pipeline.export.proof import Proof, first_difference
from pipeline.export.stdp_program import (
    ALL,
    HIGHEST,
    LAYER,
    RANDOM,
    WINNERS,
    Constants,
    StdpProgram,
    check_stdp,
    constants,
    guaranteed,
    reach,
)
from pipeline.types import Batch, Decode


@quick
def _choose(rng, winner, fired, count, u, bars):  # type: ignore[no-untyped-def]
    """Place in `fired` of the one that spikes."""
    chosen = 0
    if winner == RANDOM and count > 1:
        bits = random_bits(rng)  # floor(count * bits / 2^53), in halves that fit 64 bits
        upper, lower = bits >> np.uint64(26), bits & np.uint64((1 << 26) - 1)
        wide = np.uint64(count) * upper + ((np.uint64(count) * lower) >> np.uint64(26))
        chosen = int(wide >> np.uint64(27))
    elif winner == HIGHEST:
        for i in range(1, count):
            if u[fired[i]] - bars[fired[i]] > u[fired[chosen]] - bars[fired[chosen]]:
                chosen = i
    return chosen


@generated
def _shifted(context, code, places):  # type: ignore[no-untyped-def]
    """code >> places in the type of `code`; numba's own shift takes all integers to 64 bits, and vectors with them."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.ashr(*args)

    return code(code, code), generate


@quick
def _update(acc, u, free, pushing, bars, t, before, decay, scale, push, lowest, down, half, low, high):  # type: ignore[no-untyped-def]
    """Membranes u [n] one step on, in place; whether one reached its bar. No branch, so that it runs in vectors.

    All but acc and pushing are of the type of u, in which no term overflows (`reach`).
    """
    number = u.dtype.type
    reached = False
    for j in range(u.shape[0]):
        awake = -number(free[j] <= t)  # all bits, or none while the neuron rests
        drive = number(number(acc[j]) * scale) - number(push * number(before - number(pushing[j])))
        v = number(number(decay * u[j]) + number(number(drive) & number(awake)))
        v = _shifted(number(max(v, lowest) + half), down)
        v = min(max(v, low), high)
        u[j] = v
        reached |= v >= bars[j]
    return reached


@njit(cache=True, nogil=True)
def _run(  # type: ignore[no-untyped-def]
    x, w, bars, decay, scale, push, lowest, reset, down, half, low, high, refractory, winner, inhibitory, raster,
):  # fmt: skip
    """x [B, T, pixels] uint8 of 0 and 1 -> raster [B, T, n] uint8, zeros before; sample b draws as number b of a batch.

    inhibitory: refractory steps of the inhibitory layer, -1 for direct inhibition. bars [n] and the numbers from decay
    to high are of the integer type that the update is computed in.
    """
    n, kind = raster.shape[2], bars.dtype
    neurons = np.zeros(n, np.int32), np.zeros(n, kind), np.zeros(n, kind), np.zeros(n, np.int64)
    lists = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    memory = neurons, lists, np.zeros(n, np.uint8), np.zeros(x.shape[2] + 1, np.int32), np.zeros(1, np.uint64)
    of = bars, decay, scale, push, lowest, reset, down, half, low, high, refractory, winner, inhibitory
    _samples(x, w, of, raster, memory)


@quick
def _samples(x, w, of, raster, memory):  # type: ignore[no-untyped-def]
    """`_run` with memory to work in."""
    bars, decay, scale, push, lowest, reset, down, half, low, high, refractory, winner, inhibitory = of
    number = bars.dtype.type
    (acc, u, free, awake), (fired, spoken, spoken_before, pushers), pushing, events, rng = memory
    samples, steps, n = raster.shape
    zero = np.int64(0)
    for b in range(samples):
        rng[0] = np.uint64(b) * np.uint64(0x9E3779B97F4A7C15)
        rng[0] = random_bits(rng) << np.uint64(11)
        u[:] = 0
        free[:] = 0
        awake[:] = 0  # from which step on an inhibitory neuron spikes again
        pushing[:] = 0
        before = said = said_before = zero
        for t in range(steps):
            acc[:] = 0
            if t > 0:
                add_linear(x[b, t - 1], w, acc, events)
            for i in range(said):
                spoken_before[i] = spoken[i]
            said_before, said = said, zero
            now, pushed = number(t), number(before)
            if _update(
                acc, u, free, pushing, bars, now, pushed, decay, scale, push, lowest, down, half, low, high
            ):
                count = 0
                for j in range(n):
                    if u[j] >= bars[j]:
                        fired[count] = j
                        count += 1
                chosen = _choose(rng, winner, fired, count, u, bars)
                for i in range(count):
                    j = fired[i]
                    u[j] = reset
                    free[j] = t + refractory + 1
                    if winner == ALL or i == chosen:
                        raster[b, t, j] = 1
                        spoken[said] = j
                        said += 1
            for i in range(before):
                pushing[pushers[i]] = 0
            before = zero
            if inhibitory < 0:
                for i in range(said):
                    pushers[before] = spoken[i]
                    before += 1
            else:
                for i in range(said_before):
                    j = spoken_before[i]
                    if awake[j] <= t:
                        awake[j] = t + inhibitory + 1
                        pushers[before] = j
                        before += 1
            for i in range(before):
                pushing[pushers[i]] = 1


def _fits(program: StdpProgram, made: Constants) -> bool:
    """Whether every number of the update fits 32 bits, with one to spare."""
    numbers = (reach(program), int(np.abs(made.bars).max(initial=0)), made.lowest, 1 << made.lift)
    return max(numbers) < 1 << 30 and program.timesteps + program.refractory < 1 << 30


class StdpEngine:
    """Runs a program; with `decode`, it names classes too."""

    def __init__(self, program: StdpProgram, decode: Decode | None = None) -> None:
        self.program, self.decode = check_stdp(program), decode
        codes = program.weight.codes
        held = np.int16 if codes.max(initial=0) < 1 << 15 else np.int32  # 16 bits without a sign
        self._weight = np.ascontiguousarray(codes.T.astype(held))
        made = constants(program)
        kind = np.int32 if _fits(program, made) else np.int64
        lowest = max(made.lowest, int(np.iinfo(kind).min))
        numbers = (made.decay, 1 << made.lift, made.push, lowest, made.reset, made.down, made.half)
        ends = (program.low, program.high)
        self._constants = made.bars.astype(kind), *(kind(number) for number in (*numbers, *ends))

    def codes(self, x: Tensor) -> np.ndarray:
        """[T, B, ...] spikes -> uint8 [B, T, pixels].

        Raises:
            NotExact: an entry is neither 0 nor 1.
        """
        maps = x.to(torch.float32).contiguous().reshape(*x.shape[:2], 1, -1).numpy()
        codes = np.empty((maps.shape[1], maps.shape[0], maps.shape[3]), np.uint8)
        if not to_codes(maps, np.float32(1.0), np.float32(0.0), np.float32(1.0), codes):
            raise NotExact(["the input must hold spikes, 0 or 1 (data/encoding=poisson)."])
        return codes

    def spikes(self, codes: np.ndarray) -> np.ndarray:
        """uint8 [B, T or 1, pixels] of 0 and 1 -> output spikes [B, T, n] uint8, samples numbered as one batch."""
        given = self.program
        x = np.broadcast_to(codes, (len(codes), given.timesteps, codes.shape[2]))
        raster = np.zeros((len(x), given.timesteps, given.neurons), np.uint8)
        resting = -1 if given.inhibitory is None else given.inhibitory
        after = given.refractory, WINNERS.index(given.winner), resting, raster
        _run(np.require(x, np.uint8, ("C", "W")), self._weight, *self._constants, *after)  # type: ignore[call-arg]
        return raster

    def run(self, x: Tensor) -> Tensor:
        """[T, B, ...] spikes -> [T, B, n] float32 output spikes."""
        return torch.from_numpy(self.spikes(self.codes(x)).swapaxes(0, 1).astype(np.float32))

    def trace(self, codes: np.ndarray) -> dict[str, np.ndarray]:
        """The layer and its spikes [B, T, n, 1, 1]."""
        return {LAYER: self.spikes(codes)[..., None, None]}

    def labels(self, codes: np.ndarray) -> np.ndarray:
        """Spikes [B, T or 1, pixels] -> int64 [B]: the class that the network's own decoding names."""
        if self.decode is None:
            raise ValueError("decode must be given to name classes, but got None.")
        return self.decode(torch.from_numpy(self.spikes(codes).swapaxes(0, 1).astype(np.float32))).numpy()


def prove_stdp(net: nn.Module, engine: StdpEngine, decode: Decode, batches: Iterable[Batch]) -> Proof:
    """Run both on every batch and compare all spikes; labels are read from the integer spikes by `decode`."""
    samples = spikes = compared = labels = right = 0
    difference = None
    for x, y in batches:
        with torch.no_grad():
            theirs = net(x)
        mine = engine.spikes(engine.codes(x)).swapaxes(0, 1)
        network: np.ndarray[Any, Any] = theirs.to(torch.uint8).numpy()
        if not np.array_equal(network, mine):
            difference = first_difference(LAYER, network, mine, samples)
        said = decode(torch.from_numpy(mine.astype(np.float32)))
        spikes, compared = spikes + int(network.sum()), compared + network.size
        labels += int((said != decode(theirs)).sum())
        right, samples = right + int((said == y).sum()), samples + len(y)
        if difference is not None:
            break
    return Proof(
        samples, spikes, compared, labels, right / max(samples, 1), guaranteed(engine.program), difference
    )
