"""H1 to H11 as records of `pipeline.claims`, from the cells of benchmarks/gesture_claims.py; measures nothing."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from filelock import FileLock
from scipy.stats import kendalltau
from scipy.stats import t as student

from pipeline.claims import BY_ID, Record

SEEDS = (0, 1, 2)
TERNARY, FULL = 2, 8
WIDTHS, LEVELS = (2, 3, 4, 6, 8), (0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975)
SAYS = {
    "nmnist": "N-MNIST, 683 train, 196 test recordings, 12C5-32C5 (substitute)",
    "gesture": "simulated gestures, 1,100 train, 330 test recordings, 32x32, narrow TCJA (substitute)",
    "dvs_gesture": "DVS128 Gesture, tonic's 1,077 and 264 recordings, four training users validate, TCJA as published",
}
PUBLISHED = "dvs_gesture"
"""The recordings that the paper used; everything else says that it is not them."""
FEW = 5
"""Points below which an order of points says nothing."""
ABOUT_ACCURACY = ("H1", "H2", "H7", "H8")
"""Claims that one seed cannot decide: accuracies of two trainings differ by a point for no reason."""
STEEP, USABLE = 0.9, 90.0
"""H9 looks at the densities of 8 bit at this sparsity; H7 at accuracies above so many percent."""


@dataclass(frozen=True)
class Cell:
    """One trained and tested network."""

    data: str
    seed: int
    method: str
    """float | isolated | joint | cumulative | ptq | longer (joint, with more epochs)."""
    bits: int = 32
    sparsity: float = 0.0

    @property
    def key(self) -> str:
        return "/".join(str(value) for value in asdict(self).values())


class Book:
    """Finished cells on disk, and questions about them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, dict[str, Any]] = {}
        self.look()

    def look(self) -> None:
        """Read what is in the file now: other processes may have written."""
        self.found = json.loads(self.path.read_text()) if self.path.exists() else {}

    def add(self, cell: Cell, result: dict[str, Any]) -> None:
        """Keep a result; cells that another process has finished meanwhile are kept too."""
        with FileLock(Path(tempfile.gettempdir()) / f"{self.path.stem}.lock"):
            self.look()
            self.found[cell.key] = result
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self.found, indent=1, sort_keys=True) + "\n")
            os.replace(part, self.path)

    def of(self, data: str, seed: int | None = None) -> list[dict[str, Any]]:
        """Finished cells of one data set (and seed) that ended with a network."""
        return [
            result
            for result in self.found.values()
            if result["data"] == data and seed in (None, result["seed"]) and "ended" not in result
        ]

    def values(self, metric: Callable[[dict[str, Any]], float], *cell: Any) -> dict[int, float]:
        """seed -> metric, of the cell (data, method, bits, sparsity); cells that lack the metric are left out."""
        data, *rest = cell
        found = {}
        for seed in SEEDS:
            result = self.found.get(Cell(data, seed, *rest).key)
            if result is not None and "ended" not in result:
                try:
                    found[seed] = metric(result)
                except KeyError:
                    continue
        return found

    def accuracy(self, *cell: Any) -> dict[int, float]:
        """seed -> test accuracy in points."""
        return self.values(lambda result: 100 * float(result["test_accuracy"]), *cell)

    def energy(self, *cell: Any) -> dict[int, float]:
        """seed -> pJ per inference, mean over the recordings that activity is counted on."""
        return self.values(lambda result: float(result["energy_pj"]), *cell)


def spread(values: Sequence[float]) -> float:
    """Half width of Student's 95 % interval of the mean; NaN below two values."""
    if len(values) < 2:
        return math.nan
    return float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def paired(one: dict[int, float], other: dict[int, float]) -> dict[int, float]:
    """one - other, seed by seed."""
    return {seed: one[seed] - other[seed] for seed in SEEDS if seed in one and seed in other}


def ratios(one: dict[int, float], other: dict[int, float]) -> dict[int, float]:
    """one / other, seed by seed."""
    return {seed: one[seed] / other[seed] for seed in SEEDS if seed in one and seed in other}


@dataclass(frozen=True)
class Finding:
    """A claim's number, one per seed, and what to say about it."""

    claim: str
    values: dict[int, float]
    said: str
    extra: object = None
    pooled: bool = False
    """The number is one for all seeds together: no interval."""
    how: str = ""
    """What was done otherwise than for the other claims; stands with the data."""


LONGER = ", four times the epochs of fine-tuning"


def records(book: Book, data: str) -> list[Record]:
    """A record per claim whose cells are there."""
    findings = (
        flat_widths,
        flat_sparsity,
        longer,
        zeros,
        energies,
        encodings,
        pruned_ternary,
        orders,
        densities,
        dram,
        worst,
    )
    samples = {int(result["test_samples"]) for result in book.of(data)}
    made = []
    for found in (each for look in findings for each in look(book, data)):
        values = list(found.values.values())
        unsure = len(values) < 2 and found.claim in ABOUT_ACCURACY
        value, half = mean(values), math.nan if found.pooled else spread(values)
        made.append(
            Record(
                id=found.claim, measured=found.said, data=SAYS[data] + found.how, seeds=tuple(found.values),
                n=max(samples),
                holds=None if unsure else BY_ID[found.claim].judge(value), value=value,
                interval=(value - half, value + half) if math.isfinite(half) else None,
                command=f"python benchmarks/gesture_claims.py --data {data}", date=date.today().isoformat(),
                note="" if data == PUBLISHED else "not the published recordings", extra=found.extra,
            )
        )  # fmt: skip
    return made


def flat_widths(book: Book, data: str) -> list[Finding]:
    """H1: points lost from 8 bit to ternary."""
    by_width = {bits: book.accuracy(data, "isolated", bits) for bits in WIDTHS}
    lost = paired(by_width[FULL], by_width[TERNARY])
    if not lost:
        return []
    float_ = book.accuracy(data, "float")
    table = ", ".join(f"{bits} bit {mean(found.values()):.1f}" for bits, found in by_width.items() if found)
    return [
        Finding(
            "H1", lost, f"{mean(lost.values()):+.2f} points ({table}, float {mean(float_.values()):.1f} %)"
        )
    ]


def flat_sparsity(book: Book, data: str) -> list[Finding]:
    """H2: points lost by pruning at 8 bit."""
    full = book.accuracy(data, "isolated", FULL)
    drops = {p: paired(full, book.accuracy(data, "joint", FULL, p)) for p in (0.8, 0.9, 0.925, 0.95)}
    if not drops[0.8]:
        return []
    said = ", ".join(f"{-mean(drop.values()):+.1f} at {100 * p:g} %" for p, drop in drops.items() if drop)
    return [Finding("H2", drops[0.8], f"{said} sparsity")]


def longer(book: Book, data: str) -> list[Finding]:
    """H1 and H2 once more where fine-tuning took four times the epochs: still fewer than the paper's 50."""
    full, ternary = (book.accuracy(data, "longer", bits) for bits in (FULL, TERNARY))
    made = []
    if lost := paired(full, ternary):
        said = f"2 bit {mean(ternary.values()):.1f}, 8 bit {mean(full.values()):.1f} %"
        made.append(Finding("H1", lost, f"{mean(lost.values()):+.2f} points ({said})", how=LONGER))
    drops = {p: paired(full, book.accuracy(data, "longer", FULL, p)) for p in (0.8, 0.9)}
    if drops[0.8]:
        said = ", ".join(f"{-mean(drop.values()):+.1f} at {100 * p:g} %" for p, drop in drops.items() if drop)
        made.append(Finding("H2", drops[0.8], f"{said} sparsity", how=LONGER))
    return made


def zeros(book: Book, data: str) -> list[Finding]:
    """H3: zeros that ternary training makes."""
    share = book.values(lambda result: 100 * float(result["sparsity"]), data, "isolated", TERNARY)
    # `sparsity` of a result is the measured one; the setting stands in the key
    return (
        [Finding("H3", share, f"{mean(share.values()):.1f} % zeros after ternary training")] if share else []
    )


def energies(book: Book, data: str) -> list[Finding]:
    """H4 and H5: 8 bit, pruned and not, against ternary."""
    ternary = book.energy(data, "isolated", TERNARY)
    pruned = ratios(book.energy(data, "joint", FULL, 0.8), ternary)
    dense = ratios(book.energy(data, "isolated", FULL), ternary)
    return [
        Finding(claim, found, f"{mean(found.values()):.2f}x")
        for claim, found in (("H4", pruned), ("H5", dense))
        if found
    ]


def encodings(book: Book, data: str) -> list[Finding]:
    """H6: widths at which run-length weights lose (4 and more) or win (3 and less) against dense ones."""
    by_width = {
        bits: book.values(
            lambda r: float(r["energy_pj"]) / float(r["dense_energy_pj"]), data, "isolated", bits
        )
        for bits in WIDTHS
    }
    seeds = [seed for seed in SEEDS if all(seed in found for found in by_width.values())]
    if not seeds:
        return []
    right = {s: float(sum((by_width[b][s] > 1) == (b >= 4) for b in WIDTHS)) for s in seeds}
    table = ", ".join(f"{mean(by_width[bits][s] for s in seeds):.2f} at {bits}" for bits in WIDTHS)
    return [Finding("H6", right, f"{mean(right.values()):.1f} of 5 widths; sparse / dense {table} bit")]


def pruned_ternary(book: Book, data: str) -> list[Finding]:
    """H7: the most that pruning takes off a ternary network's energy while it stays usable; where any does.

    Once more where fine-tuning took four times the epochs: few epochs leave ternary weights below that accuracy.
    """
    made = []
    for whole, pruned, how in (("isolated", "joint", ""), ("longer", "longer", LONGER)):
        saved = {}
        for seed, energy in book.energy(data, whole, TERNARY).items():
            left = [
                book.energy(data, pruned, TERNARY, level)[seed]
                for level in LEVELS
                if book.accuracy(data, pruned, TERNARY, level).get(seed, 0.0) > USABLE
            ]
            if left:
                saved[seed] = 100 * (1 - min(left) / energy)
        if saved:
            made.append(Finding("H7", saved, f"{mean(saved.values()):.1f} %", how=how))
    return made


def orders(book: Book, data: str) -> list[Finding]:
    """H8: the largest difference of joint and cumulative, in units of its own noise; needs two seeds."""
    gaps = []
    for bits in (TERNARY, FULL):
        for level in (0.8, 0.9):
            gap = paired(
                book.accuracy(data, "joint", bits, level), book.accuracy(data, "cumulative", bits, level)
            )
            if len(gap) > 1:
                apart = mean(gap.values())
                gaps.append(
                    (abs(apart) / max(spread(list(gap.values())), 1e-9), apart, bits, level, tuple(gap))
                )
    if not gaps:
        return []
    worst_gap, points, bits, level, seeds = max(gaps)
    said = f"largest difference {points:+.2f} points ({bits} bit, {100 * level:g} %), {worst_gap:.2f} x its noise"
    return [Finding("H8", dict.fromkeys(seeds, worst_gap), said, pooled=True)]


def densities(book: Book, data: str) -> list[Finding]:
    """H9: the emptiest of Conv1, attention and Dense2 against the fullest of the rest, after global pruning."""
    by_seed, extra = {}, {}
    for seed, layers in book.values(lambda r: r["zeros"], data, "joint", FULL, STEEP).items():
        density = {name: 1 - share for name, share in layers.items()}  # type: ignore[attr-defined]
        kept = [d for name, d in density.items() if name in ("conv1", "fc2") or name.startswith("attention")]
        rest = [
            d for name, d in density.items() if name not in ("conv1", "fc2") and not name.startswith("att")
        ]
        if not any(name.startswith("attention") for name in density):
            return []  # the statement is about the TCJA network
        by_seed[seed] = min(kept) / max(max(rest), 1e-9)
        extra[seed] = density
    if not by_seed:
        return []
    table = {name: mean(found[name] for found in extra.values()) for name in next(iter(extra.values()))}
    said = ", ".join(f"{name} {100 * share:.0f}" for name, share in table.items())
    return [Finding("H9", by_seed, f"{mean(by_seed.values()):.2f}x; % left at 90 %: {said}", table)]


def dram(book: Book, data: str) -> list[Finding]:
    """H10: the DRAM's share of the energy, median over all compressed networks of a seed."""
    shares = {s: [100 * r["dram_share"] for r in book.of(data, s) if "dram_share" in r] for s in SEEDS}
    found = {seed: median(each) for seed, each in shares.items() if each}
    if not found:
        return []
    least = min(min(each) for each in shares.values() if each)
    return [Finding("H10", found, f"{mean(found.values()):.0f} % in the median, at least {least:.0f} %")]


def worst(book: Book, data: str) -> list[Finding]:
    """H11: Kendall's tau between mean and worst-case energy over the compressed networks of a seed."""
    found, factors, points = {}, [], 0
    for seed in SEEDS:
        cells = [cell for cell in book.of(data, seed) if cell["method"] != "float"]
        if len(cells) < FEW:
            continue
        means, worsts = ([float(cell[name]) for cell in cells] for name in ("energy_pj", "worst_energy_pj"))
        found[seed] = round(float(kendalltau(means, worsts)[0]), 9)  # the same order is 1, not nearly 1
        factors += [b / a for a, b in zip(means, worsts, strict=True)]
        points = max(points, len(cells))
    if not found:
        return []
    said = f"tau {mean(found.values()):.3f} over {points} networks, worst {median(factors):.3f}x the mean"
    return [Finding("H11", found, said)]
