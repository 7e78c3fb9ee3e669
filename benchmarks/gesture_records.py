"""H1 to H11 as records of `pipeline.claims`, from the cells of benchmarks/gesture_claims.py; measures nothing."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import combinations
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
PUBLISHED_LOSS = {0.8: 0.0, 0.9: 2.08, 0.925: 3.13}
"""Sparsity -> points that the paper's joint networks of 8 bit lose to the unpruned one: H2 up to its cliff."""
EDGE, BELOW, PUBLISHED_FALL = 0.925, 0.95, 12.84
"""H2's cliff: the paper's networks lose so many points more at `BELOW` than at `EDGE`."""
TELLING = 1.0
"""H11: networks whose mean energies are less than so many percent apart are one network to who chooses."""
LOUD = 5.0
"""H8: noise of so many points hides differences that matter; within it nothing is shown to agree."""
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
    unsure: bool = False
    """The number bounds what the claim is about, or differs too little to matter: no verdict from it."""


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
        unsure = found.unsure or (len(values) < 2 and found.claim in ABOUT_ACCURACY)
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
    """H2, both halves in points off the published, of which the worse counts: what pruning at 8 bit loses beyond the
    paper up to 92.5 %, at the level where it is worst; and what the fall from there to 95 % lacks of the paper's.

    A network that is flat beyond 92.5 % has no cliff there, and one that has fallen before has it elsewhere. A seed
    that is silent at 95 % has no accuracy to fall to: the first half alone is its number.
    """
    full, pruned = book.accuracy(data, "isolated", FULL), ("joint", FULL)
    return _beyond(full, {p: book.accuracy(data, *pruned, p) for p in (*PUBLISHED_LOSS, BELOW)}, "")


def _beyond(full: dict[int, float], pruned: dict[float, dict[int, float]], how: str) -> list[Finding]:
    drops = {p: drop for p, found in pruned.items() if (drop := paired(full, found))}
    if 0.8 not in drops:
        return []
    seeds = set.intersection(*(set(drops[p]) for p in PUBLISHED_LOSS if p in drops))
    falls = paired(pruned.get(EDGE, {}), pruned.get(BELOW, {}))
    worst = {}
    for seed in sorted(seeds):
        beyond = [drops[p][seed] - loss for p, loss in PUBLISHED_LOSS.items() if p in drops]
        worst[seed] = max(beyond + ([PUBLISHED_FALL - falls[seed]] if seed in falls else []))
    if not worst:
        return []

    def of(seeds: dict[int, float]) -> str:
        """A silent network has no accuracy: the mean is then of the other seeds."""
        return f" ({len(seeds)} of {len(full)} seeds)" if len(seeds) < len(full) else ""

    levels = [f"{-mean(drop.values()):+.1f} at {100 * p:g} %{of(drop)}" for p, drop in drops.items()]
    said = ", ".join(levels) + " sparsity"
    if falls:
        last = f"{100 * EDGE:g} to {100 * BELOW:g} %{of(falls)}"
        said += f"; {-mean(falls.values()):+.1f} from {last}, published {-PUBLISHED_FALL:+.1f}"
    # A level that is missing can still refute what the others leave standing.
    whole = PUBLISHED_LOSS.keys() <= drops.keys() and seeds & falls.keys()
    open_ = not whole and BY_ID["H2"].judge(mean(worst.values()))
    return [Finding("H2", worst, said, how=how, unsure=open_)]


def longer(book: Book, data: str) -> list[Finding]:
    """H1 and H2 once more where fine-tuning took four times the epochs: still fewer than the paper's 50."""
    full, ternary = (book.accuracy(data, "longer", bits) for bits in (FULL, TERNARY))
    made = []
    if lost := paired(full, ternary):
        said = f"2 bit {mean(ternary.values()):.1f}, 8 bit {mean(full.values()):.1f} %"
        made.append(Finding("H1", lost, f"{mean(lost.values()):+.2f} points ({said})", how=LONGER))
    return made + _beyond(full, {p: book.accuracy(data, "longer", FULL, p) for p in (0.8, 0.9)}, LONGER)


BOTH = (("isolated", "joint", ""), ("longer", "longer", LONGER))
"""How networks whose weights are quantized alone, and pruned ones, were tuned; and what is said of it."""


def zeros(book: Book, data: str) -> list[Finding]:
    """H3: zeros that ternary training makes; with more epochs fewer are left."""
    made = []
    for whole, _, how in BOTH:
        # `sparsity` of a result is the measured one; the setting stands in the key
        share = book.values(lambda result: 100 * float(result["sparsity"]), data, whole, TERNARY)
        if share:
            said = f"{mean(share.values()):.1f} % zeros after ternary training"
            made.append(Finding("H3", share, said, how=how))
    return made


def energies(book: Book, data: str) -> list[Finding]:
    """H4 and H5: 8 bit, pruned and not, against ternary."""
    made = []
    for whole, with_masks, how in BOTH:
        ternary = book.energy(data, whole, TERNARY)
        pruned = ratios(book.energy(data, with_masks, FULL, 0.8), ternary)
        dense = ratios(book.energy(data, whole, FULL), ternary)
        made += [
            Finding(claim, found, f"{mean(found.values()):.2f}x", how=how)
            for claim, found in (("H4", pruned), ("H5", dense))
            if found
        ]
    return made


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

    One level of zeros bounds that from below only.
    """
    made = []
    for whole, pruned, how in BOTH:
        saved, tried = {}, set()
        for seed, energy in book.energy(data, whole, TERNARY).items():
            there = [p for p in LEVELS if seed in book.accuracy(data, pruned, TERNARY, p)]
            usable = [p for p in there if book.accuracy(data, pruned, TERNARY, p)[seed] > USABLE]
            tried |= set(there)
            if usable:
                least = min(book.energy(data, pruned, TERNARY, p)[seed] for p in usable)
                saved[seed] = 100 * (1 - least / energy)
        if saved:
            said = f"{mean(saved.values()):.1f} %"
            alone = len(tried) == 1
            if alone:
                said += f" at {100 * min(tried):g} %, the one level tried"
            bound = alone and BY_ID["H7"].judge(mean(saved.values()))
            made.append(Finding("H7", saved, said, how=how, unsure=bound))
    return made


def orders(book: Book, data: str) -> list[Finding]:
    """H8: the largest difference of joint and cumulative up to 90 % zeros, in units of its noise; needs two seeds.

    The noise of a difference is what the largest of so many stays below in 95 of 100 cases where there is none
    (Bonferroni), from the spread over seeds of all widths at its level, which is at least one recording. Only networks
    of one float model are compared.
    """
    gaps: dict[float, dict[int, list[float]]] = {}
    for level in (p for p in LEVELS if p <= STEEP):
        for bits in WIDTHS:
            places = [(data, method, bits, level) for method in ("joint", "cumulative")]
            ours, theirs = (book.values(lambda r: r.get("float_model"), *place) for place in places)
            gap = paired(*(book.accuracy(*place) for place in places))
            same = [points for seed, points in gap.items() if ours[seed] == theirs[seed]]
            if len(same) > 1:
                gaps.setdefault(level, {})[bits] = same
    count = sum(map(len, gaps.values()))
    samples = max((float(result["test_samples"]) for result in book.of(data)), default=1.0)
    found = []
    for level, by_width in gaps.items():
        free = sum(len(gap) - 1 for gap in by_width.values())
        pooled = math.sqrt(sum((len(gap) - 1) * stdev(gap) ** 2 for gap in by_width.values()) / free)
        for bits, gap in by_width.items():
            chance = float(student.ppf(1 - 0.025 / count, free))
            noise = chance * max(pooled, 100 / samples) / math.sqrt(len(gap))
            found.append((abs(mean(gap)) / noise, mean(gap), bits, level, noise))
    if not found:
        return []
    ratio, points, bits, level, noise = max(found)
    said = (
        f"of {count} differences the largest beside its noise: {points:+.2f} points ({bits} bit, {100 * level:g} %), "
        f"{ratio:.2f} times that"
    )
    seeds = [s for s in SEEDS if any(c["method"] == "cumulative" for c in book.of(data, s))]
    return [Finding("H8", dict.fromkeys(seeds, ratio), said, pooled=True, unsure=ratio <= 1 and noise > LOUD)]


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
    shares = {
        s: [100 * r["dram_share"] for r in book.of(data, s) if "dram_share" in r and r["method"] != "float"]
        for s in SEEDS
    }
    found = {seed: median(each) for seed, each in shares.items() if each}
    if not found:
        return []
    least = min(min(each) for each in shares.values() if each)
    return [Finding("H10", found, f"{mean(found.values()):.0f} % in the median, at least {least:.0f} %")]


def worst(book: Book, data: str) -> list[Finding]:
    """H11: Kendall's tau between mean and worst-case energy over the compressed networks of a seed.

    Networks that change places and cost nearly the same say nothing: then there is no verdict.
    """
    found, factors, points, swapped, pairs, apart = {}, [], set(), 0, 0, 0.0
    for seed in SEEDS:
        cells = [cell for cell in book.of(data, seed) if cell["method"] != "float"]
        if len(cells) < FEW:
            continue
        means, worsts = ([float(cell[name]) for cell in cells] for name in ("energy_pj", "worst_energy_pj"))
        found[seed] = round(float(kendalltau(means, worsts)[0]), 9)  # the same order is 1, not nearly 1
        factors += [b / a for a, b in zip(means, worsts, strict=True)]
        points.add(len(cells))
        for (a, at_worst), (b, other) in combinations(zip(means, worsts, strict=True), 2):
            pairs += 1
            if (a - b) * (at_worst - other) < 0:
                swapped += 1
                apart = max(apart, 100 * (max(a, b) / min(a, b) - 1))
    if not found:
        return []
    networks = f"{min(points)} to {max(points)}" if len(points) > 1 else max(points)
    said = (
        f"tau {mean(found.values()):.3f} over {networks} networks, worst {median(factors):.3f}x the mean; "
        f"{swapped} of {pairs} pairs change places"
    )
    if swapped:
        said += f", at most {apart:.1f} % apart in the mean"
    return [Finding("H11", found, said, unsure=0 < apart < TELLING)]
