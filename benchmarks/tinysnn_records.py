"""T1 to T7 as records of `pipeline.claims`, from the cells of benchmarks/tinysnn_claims.py; measures nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from pipeline.claims import BY_ID
from pipeline.study import pareto
from pipeline.study.select import Reward
from pipeline.types import Row

COMMAND = "python benchmarks/tinysnn_claims.py"
GOALS = {"mnist": 8, "fashion_mnist": 5}
"""Ours, beyond the papers: total memory this many times below fp32, within 1 point on the test split."""
MUS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
Cells = Mapping[str, Mapping[str, Any]]
BySeed = dict[int, Mapping[str, Any]]


def records(cells: Cells) -> list[dict[str, object]]:
    """Every claim on every network that has at least one finished seed."""
    made: list[dict[str, object]] = []
    groups = sorted({tuple(key.split("/")[:3]) for key in cells})
    for family, which, neurons in groups:

        def take(kind: str, group: tuple[str, ...] = (family, which, neurons)) -> BySeed:
            return {
                int(key.split("/")[3]): value
                for key, value in cells.items()
                if tuple(key.split("/")[:3]) == group and key.split("/")[4] == kind
            }

        images = "15,000 + 10,000 images" if family == "conv" else "55,000 + 10,000 images"
        network = f"STDP n = {neurons}" if family == "stdp" else "conv 12C5-32C5-FC"
        data = f"{which}, {images}, {network}"
        goal = GOALS[which]
        claims = (
            memory_of_neurons,
            roundings,
            partial(in_training, way="in_training", said=ON_GRID if family == "stdp" else ON_COPY),
            partial(in_training, way="shadow", said=ON_COPY),
            membrane,
            partial(quarter, goal=goal),
            rewards,
            energy,
        )
        for claim in claims:
            record = claim(take)
            if record is not None:
                where = record.pop("where", None)
                made.append(finished(record, f"{data}, learning {where}" if where else data))
    return made


Take = Callable[[str], BySeed]
ON_GRID, ON_COPY = "on the grid itself", "on a full-precision copy behind it"


def finished(record: dict[str, object], data: str) -> dict[str, object]:
    value = record.get("value")
    record.setdefault("holds", None if value is None else BY_ID[str(record["id"])].judge(float(value)))  # type: ignore[arg-type]
    return {**record, "data": data, "n": 10_000, "command": COMMAND, "date": date.today().isoformat()}


def interval(values: Sequence[float]) -> list[float] | None:
    """95 % interval of the mean (Student), None for one value."""
    if len(values) < 2:
        return None
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(student.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
    return [mean - half, mean + half]


def spread(values: Sequence[float], scale: float = 1.0) -> str:
    """``91.2 +- 0.3``"""
    ends = interval([scale * v for v in values])
    mean = f"{scale * float(np.mean(values)):.2f}"
    return mean if ends is None else f"{mean} ± {(ends[1] - ends[0]) / 2:.2f}"


class Searched(NamedTuple):
    """What one search found on one float network."""

    network: str
    name: str
    evaluations: int
    minutes: float
    times: float
    """Float memory over the smallest that reaches the floor."""
    hypervolume: float


def searches(cells: Cells) -> list[Searched]:
    """Ordered and multi-objective search, wherever both were run on one float network.

    The hypervolume is of (validation error, memory) under (twice the float error, the float memory), as a share of
    that box.
    """
    found = []
    for key, multi in cells.items():
        base = key.removesuffix("/pareto")
        if base == key or f"{base}/ordered" not in cells or f"{base}/float" not in cells:
            continue
        plain = cells[f"{base}/float"]
        box = [2 * (1 - plain["validation"]), plain["memory_bits"]]
        floor = cells[f"{base}/ordered"]["floor"]
        for name, cell in (("ordered", cells[f"{base}/ordered"]), ("multi-objective", multi)):
            costs = [[(1 - p["validation"]) / box[0], p["memory_bits"] / box[1]] for p in cell["points"]]
            good = [p["memory_bits"] for p in cell["points"] if p["validation"] >= floor]
            times = plain["memory_bits"] / min(good, default=math.inf)
            volume = pareto.hypervolume(costs, [1.0, 1.0])
            found.append(Searched(base, name, cell["evaluations"], cell["seconds"] / 60, times, volume))
    return found


def comparison(cells: Cells) -> list[str]:
    """The same in words."""
    return [
        f"{found.network} {found.name}: {found.evaluations} evaluations, {found.minutes:.1f} min, smallest over the "
        f"floor {found.times:.2f}x below float, hypervolume {found.hypervolume:.4f}"
        for found in searches(cells)
    ]


def memory_of_neurons(take: Take) -> dict[str, object] | None:
    """T1: all parameters against weights alone, both found at the same floor."""
    found = take("ordered")
    if not found:
        return None
    ratios = [cell["memory_bits"] / cell["weights_only"]["memory_bits"] for cell in found.values()]
    text = f"{spread(ratios)}x of the memory with quantized weights alone, at the same accuracy floor"
    return {
        "id": "T1",
        "measured": text,
        "value": float(np.mean(ratios)),
        "interval": interval(ratios),
        "seeds": sorted(found),
    }


def roundings(take: Take) -> dict[str, object] | None:
    """T2: range of the roundings' means over the spread between seeds (of all widths together), where it is largest."""
    found = take("roundings")
    if len(found) < 2:
        return None
    table: dict[tuple[int, str], list[float]] = {}
    for cell in found.values():
        for asked in cell["points"]:
            at = int(asked["point"]["weights"]), str(asked["point"]["rounding"])
            table.setdefault(at, []).append(float(asked["validation"]))
    noise = float(np.sqrt(np.mean([np.var(v, ddof=1) for v in table.values()])))
    best = (0.0, 0, "")
    better = {}
    for bits in sorted({b for b, _ in table}):
        values = {r: table[b, r] for b, r in table if b == bits}
        means = {r: float(np.mean(v)) for r, v in values.items()}
        ratio = (max(means.values()) - min(means.values())) / max(noise, 1e-9)
        better[bits] = max(means["nearest"], means["stochastic"]) >= means["truncation"]
        shown = ", ".join(f"{r} {100 * m:.1f}" for r, m in means.items())
        best = max(best, (ratio, bits, f"{shown} % (seeds vary by {100 * noise:.2f})"))
    ratio, bits, shown = best
    note = (
        "SR or RN is at least as good as TR at "
        + ", ".join(f"{b}" for b, ok in better.items() if ok)
        + " bits"
    )
    return {
        "id": "T2", "measured": f"at {bits} bits {shown}; {note}", "value": ratio, "seeds": sorted(found),
    }  # fmt: skip


def in_training(take: Take, way: str, said: str) -> dict[str, object] | None:
    """T3: the better rounding of each scheme at the lowest feasible width, in training less post-training.

    Two ways to learn on quantized weights are judged each for itself: on the grid itself (`in_training` of an STDP
    network), which is what learning on a device means, and on a full-precision copy behind it (`shadow`), which that
    device would have to store as well. Backpropagation always has the copy.
    """
    found = take("in_training")
    learned = {s: cell for s, cell in take(way).items() if s in found}
    if not learned:
        return None

    def best(cell: Mapping[str, Any], scheme: str) -> float:
        return 100 * float(max(p["test"] for p in cell["points"] if p["scheme"] == scheme))

    gains = [best(cell, way) - best(found[s], "ptq") for s, cell in sorted(learned.items())]
    bits = "/".join(str(found[s]["bits"]) for s in sorted(learned))
    return {
        "id": "T3", "measured": f"at {bits} bits, test split: {spread(gains)} pp {said}",
        "value": float(np.mean(gains)), "interval": interval(gains), "seeds": sorted(learned), "where": said,
    }  # fmt: skip


def membrane(take: Take) -> dict[str, object] | None:
    """T4: fewest bits within a point of float, one quantity at a time."""
    found = take("significance")
    if not found:
        return None

    def least(lost: Mapping[str, float]) -> int:
        ok = [int(b) for b, loss in lost.items() if loss <= 0.01]
        return min(ok, default=max(int(b) for b in lost) + 1)

    needs = {
        name: [least(cell["lost"][name]) for cell in found.values()]
        for name in next(iter(found.values()))["lost"]
    }
    more = [m - w for m, w in zip(needs["membrane"], needs["weights"], strict=True)]
    text = "bits within 1 point, alone: " + ", ".join(
        f"{n} {'/'.join(map(str, b))}" for n, b in needs.items()
    )
    return {
        "id": "T4",
        "measured": text,
        "value": float(np.mean(more)),
        "interval": interval(more),
        "seeds": sorted(found),
    }


def quarter(take: Take, goal: int) -> dict[str, object] | None:
    """T5: memory against fp32, and the accuracy lost on the test split; says whether `goal` times is reached too."""
    found, base, further = take("ordered"), take("float"), take("beyond")
    seeds = sorted(set(found) & set(base))
    if not seeds:
        return None
    first = shrunk([base[s] for s in seeds], [found[s] for s in seeds])
    formats = ", ".join(f"{name} {bits}" for name, bits in found[seeds[0]]["params"].items())
    tries, text = [first], f"{first.text} ({formats})"
    trained = [s for s in seeds if s in further and further[s]["best"]]
    if trained and len(trained) == len([s for s in seeds if s in further]):
        tries.append(shrunk([base[s] for s in trained], [further[s]["best"] for s in trained]))
        bits = further[trained[0]]["best"]["params"]
        text += f"; learning on in them {tries[-1].text} (weights {bits['weights']['default']}, "
        text += f"conv1 {bits['weights']['conv1']}, membrane {bits['membrane']})"
    goals = [each.times for each in tries if each.lost <= 1.0]
    reached = max(goals, default=0.0)
    text += f"; our goal, {goal}x within 1 point: " + ("reached" if reached >= goal else "not reached")
    if any(s not in further for s in seeds) and tries[1:]:
        text += f" ({len(trained)} of {len(seeds)} seeds)"
    record: dict[str, object] = {
        "id": "T5", "measured": text, "seeds": seeds, "extra": {"goal": goal, "within_a_point": reached}
    }  # fmt: skip
    if first.lost <= 1.0:
        return {**record, "value": float(np.mean(first.ratios)), "interval": interval(first.ratios)}
    return {**record, "holds": False}


class Shrunk(NamedTuple):
    """One way to make the networks smaller."""

    ratios: list[float]
    lost: float
    """Mean points on the test split."""
    times: float
    text: str


def shrunk(base: Sequence[Mapping[str, Any]], small: Sequence[Mapping[str, Any]]) -> Shrunk:
    """The memory of `small` over that of `base`, seed by seed, and what it costs."""
    ratios = [s["memory_bits"] / b["memory_bits"] for b, s in zip(base, small, strict=True)]
    lost = float(np.mean([100 * (b["test"] - s["test"]) for b, s in zip(base, small, strict=True)]))
    times = 1 / float(np.mean(ratios))
    ends = (spread([each["test"] for each in group], 100) for group in (base, small))
    return Shrunk(ratios, lost, times, f"{times:.1f}x smaller, test {' -> '.join(ends)} %")


def rewards(take: Take) -> dict[str, object] | None:
    """T6: are the picks on the front of accuracy and memory, and those at either end of mu the extremes?"""
    found = take("ordered")
    if not found:
        return None
    on_front, ends = [], []
    for cell in found.values():
        rows = [
            Row(
                i,
                "complete",
                metrics={"validation_accuracy": p["validation"], "memory_bits": p["memory_bits"]},
            )
            for i, p in enumerate(cell["points"])
        ]
        costs = [[1 - r.metrics["validation_accuracy"], r.metrics["memory_bits"]] for r in rows]
        front = {i for i, c in enumerate(costs) if not any(pareto.dominates(o, c) for o in costs)}
        picked = [Reward(mu).pick(rows, None).number for mu in MUS]
        on_front += [number in front for number in picked]
        top = max(r.metrics["validation_accuracy"] for r in rows)
        small = min(r.metrics["memory_bits"] for r in rows)
        first, last = (rows[int(n)] for n in (picked[0], picked[-1]) if n is not None)
        ends.append(first.metrics["validation_accuracy"] == top and last.metrics["memory_bits"] == small)
    share = float(np.mean(on_front))
    text = f"{sum(on_front)} of {len(on_front)} picks (mu {MUS[0]:g} to {MUS[-1]:g}) are on the front; "
    text += f"mu = 0 picks the most accurate and mu = {MUS[-1]:g} the smallest in {sum(ends)} of {len(ends)} searches"
    return {"id": "T6", "measured": text, "value": min(share, float(np.mean(ends))), "seeds": sorted(found)}


def energy(take: Take) -> dict[str, object] | None:
    """T7: the larger of the two ratios."""
    found, base = take("ordered"), take("float")
    seeds = sorted(set(found) & set(base))
    if not seeds:
        return None
    inference = [found[s]["inference_pj"] / base[s]["inference_pj"] for s in seeds]
    text = f"inference {spread(inference)}x"
    worst = inference
    if all("training_pj" in found[s] for s in seeds):
        training = [found[s]["training_pj"][1] / found[s]["training_pj"][0] for s in seeds]
        text += f", training {spread(training)}x of the float network's energy"
        worst = [max(a, b) for a, b in zip(inference, training, strict=True)]
    else:
        text += " of the float network's energy (backpropagation is not priced)"
    return {
        "id": "T7",
        "measured": text,
        "value": float(np.mean(worst)),
        "interval": interval(worst),
        "seeds": seeds,
    }
