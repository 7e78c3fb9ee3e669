"""How a proven network bears what a device and a sensor do to it; every number over several seeds.

    drop     an input event is lost, with a probability per event
    noise    an input event appears where there is none, with a probability per entry and step
    jitter   every input event comes one step early or late, with a probability per event
    flip     a stored bit of the weights is inverted, an attention's among them, with a probability per bit

A constant current has no events in time: an entry lost or lit is so at every step, and there is nothing to jitter.
All of it acts on integers and runs in the integer engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean, stdev

import numpy as np

from pipeline.export.integer import Engine
from pipeline.export.program import Attention, Fixed, NotExact, Pool, Program, Stage
from pipeline.export.stdp_integer import StdpEngine
from pipeline.types import DataError, require

Codes = np.ndarray
"""Input integers [B, T or 1, inputs]."""
_QUANTIZE = "compression.quantize_weights.bits"
_PIECE = 1 << 23
"""Input entries that are disturbed at once: their draws take 32 MiB."""


@dataclass(frozen=True)
class Stress:
    """What to try: probabilities, swept, and how many seeds each."""

    drop: Sequence[float] = (0.1, 0.3)
    noise: Sequence[float] = (0.01, 0.05)
    jitter: Sequence[float] = (0.5,)
    flip: Sequence[float] = (1e-4, 1e-3, 1e-2)
    seeds: int = 3

    def __post_init__(self) -> None:
        for name in ("drop", "noise", "jitter", "flip"):
            rates = getattr(self, name)
            require(all(0 <= rate <= 1 for rate in rates), name, "be probabilities in [0, 1]", rates)
        require(self.seeds >= 1, "seeds", "be at least 1", self.seeds)

    @property
    def runs(self) -> int:
        """Evaluations in all."""
        return self.seeds * sum(len(rates) for rates in (self.drop, self.noise, self.jitter, self.flip))


def _draws(codes: Codes, rng: np.random.Generator) -> np.ndarray:
    """One number in [0, 1) per entry."""
    return rng.random(codes.shape, np.float32)


def drop(rate: float, codes: Codes, rng: np.random.Generator) -> Codes:
    """Events lost."""
    return np.where(_draws(codes, rng) < rate, 0, codes).astype(codes.dtype)


def noise(rate: float, high: int, codes: Codes, rng: np.random.Generator) -> Codes:
    """Events of the largest code where there was none."""
    lit = (_draws(codes, rng) < rate) & (codes == 0)
    return np.where(lit, high, codes).astype(codes.dtype)


def jitter(rate: float, high: int, codes: Codes, rng: np.random.Generator) -> Codes:
    """Events moved by one step; those that meet are added up, held at `high`; none leaves the window."""
    moves = _draws(codes, rng) < rate
    later = _draws(codes, rng) < 0.5
    steps = codes.shape[1]
    out = np.where(moves, 0, codes).astype(np.int64)
    for shift in (-1, 1):
        moved = np.where(moves & (later == (shift > 0)), codes, 0).astype(np.int64)
        for t in range(steps):
            out[:, min(max(t + shift, 0), steps - 1)] += moved[:, t]
    return np.clip(out, -high, high).astype(codes.dtype)


def flip(program: Program, rate: float, rng: np.random.Generator) -> Program:
    """The program with bits of its stored weights inverted: of every synapse, pruned ones too, and every attention."""

    def pool(old: Pool) -> Pool:
        if not isinstance(old, Attention):
            return old
        time, channel = (_flipped(weight, rate, rng) for weight in (old.time, old.channel))
        return replace(old, time=time, channel=channel)

    def stage(old: Stage) -> Stage:
        pools = tuple(pool(each) for each in old.pools)
        weight = _flipped(old.synapses.weight, rate, rng)
        return replace(old, pools=pools, synapses=replace(old.synapses, weight=weight))

    return replace(program, stages=tuple(stage(each) for each in program.stages))


def _flipped(weight: Fixed, rate: float, rng: np.random.Generator) -> Fixed:
    bits = weight.bits
    mask = np.zeros(weight.codes.shape, np.int64)
    for bit in range(bits):
        mask |= (rng.random(mask.shape) < rate).astype(np.int64) << bit
    raw = (weight.codes & ((1 << bits) - 1)) ^ mask
    signed = weight.form != "unsigned"
    codes = np.where(raw >> (bits - 1), raw - (1 << bits), raw) if signed else raw
    return replace(weight, codes=codes)


def flipped(engine: Engine | StdpEngine, rate: float, rng: np.random.Generator) -> Engine | StdpEngine:
    """The engine with bits of its stored weights inverted.

    Raises:
        NotExact: with them, sums may leave what the engine holds.
    """
    try:
        if isinstance(engine, Engine):
            return Engine(flip(engine.program, rate, rng))
        weight = _flipped(engine.program.weight, rate, rng)
        return StdpEngine(replace(engine.program, weight=weight), engine.decode)
    except DataError as error:
        raise NotExact([f"with bits of its weights inverted, {error}: fewer for {_QUANTIZE}."]) from error


def robustness(
    engine: Engine | StdpEngine, codes: Codes, labels: np.ndarray, stress: Stress, seed: int
) -> dict[str, float]:
    """Accuracy under each stress: ``robust_drop_0.1`` (mean over seeds) and ``..._deviation``.

    Args:
        codes, labels: the test split as integers [B, T or 1, inputs] and its labels [B].
        seed: of the first draw; the others follow.
    """
    high = engine.program.input.high
    found: dict[str, float] = {}

    def under(name: str, rate: float, accuracy: Callable[[np.random.Generator], float]) -> None:
        # Neighbouring seeds and rates must not share draws.
        draws = [accuracy(np.random.default_rng((seed, i, round(rate * 1e9)))) for i in range(stress.seeds)]
        found[f"robust_{name}_{rate:g}"] = mean(draws)
        found[f"robust_{name}_{rate:g}_deviation"] = stdev(draws) if len(draws) > 1 else 0.0

    def disturbed(by: Callable[[Codes, np.random.Generator], Codes], rng: np.random.Generator) -> float:
        piece = max(1, _PIECE // max(1, codes[0].size))
        parts = [engine.labels(by(codes[at : at + piece], rng)) for at in range(0, len(codes), piece)]
        return float((np.concatenate(parts) == labels).mean())

    def with_flips(rate: float, rng: np.random.Generator) -> float:
        return float((flipped(engine, rate, rng).labels(codes) == labels).mean())

    for rate in stress.drop:
        under("drop", rate, partial(disturbed, partial(drop, rate)))
    for rate in stress.noise:
        under("noise", rate, partial(disturbed, partial(noise, rate, high)))
    for rate in stress.jitter if codes.shape[1] > 1 else ():
        under("jitter", rate, partial(disturbed, partial(jitter, rate, high)))
    for rate in stress.flip:
        under("flip", rate, partial(with_flips, rate))
    return found
