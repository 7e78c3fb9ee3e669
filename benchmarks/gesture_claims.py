"""Claims H1, H2, H3, H5, H8 of the quantization x pruning study, on real N-MNIST and on simulated gestures.

A cell is one (data, seed, method, bits, sparsity): the float model is trained once per data and seed, compressed and
fine-tuned as the experiment says, and tested once. Every finished cell is written at once; a run that is cut off goes
on where it was.

    python benchmarks/gesture_claims.py                     all cells of N-MNIST, then the records
    python benchmarks/gesture_claims.py --data gesture      the simulator (minutes per cell)
    python benchmarks/gesture_claims.py --minutes 20        start no cell after 20 minutes
    python benchmarks/gesture_claims.py --table             the records of what is there

The published data set (DVS128 Gesture) is not used here: what is measured on a substitute says so in its row.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any, cast

import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from pipeline import config, experiment
from pipeline.claims import BY_ID, Record, write
from pipeline.pretrained import FLOAT_KEYS, Pretrained
from pipeline.types import TrialEnded

RESULTS = Path("docs/results/gesture_cells.json")
CLAIMS = Path("docs/results/gesture_claims.json")
FLOATS = Path("outputs/benchmarks/gesture/float")
SEEDS = (0, 1, 2)
OVERRIDES = {
    "nmnist": ["+experiment=nmnist_pareto"],
    "gesture": [
        "+experiment=gesture_joint", "data=synthetic_gesture", "net=tcja_small", "data.simulation.lightings=2",
        "learner.epochs=30", "plan.epochs=10",
    ],
}  # fmt: skip
SAYS = {
    "nmnist": "N-MNIST, 683 train, 196 test recordings, 12C5-32C5 (substitute)",
    "gesture": "simulated gestures, 32x32, narrow TCJA (substitute)",
}
TERNARY, FULL = 2, 8
WIDTHS, LEVELS = (2, 3, 4, 6, 8), (0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975)


@dataclass(frozen=True)
class Cell:
    data: str
    seed: int
    method: str
    """float | isolated | joint | cumulative."""
    bits: int = 32
    sparsity: float = 0.0

    @property
    def key(self) -> str:
        return "/".join(str(value) for value in asdict(self).values())


def cells(data: str) -> list[Cell]:
    """In order of worth: every claim for three seeds first, the rest of the table after."""
    first = [Cell(data, s, "float") for s in SEEDS]
    first += [Cell(data, s, "isolated", b) for b in (TERNARY, FULL) for s in SEEDS]
    first += [Cell(data, s, "joint", FULL, p) for p in (0.8, 0.9, 0.925, 0.95) for s in SEEDS]
    first += [Cell(data, s, "cumulative", FULL, p) for p in (0.8, 0.9) for s in SEEDS]
    first += [
        Cell(data, s, m, TERNARY, p) for p in (0.8, 0.9) for m in ("joint", "cumulative") for s in SEEDS
    ]
    rest = [Cell(data, s, "isolated", b) for b in WIDTHS for s in SEEDS]
    rest += [
        Cell(data, s, m, b, p) for p in LEVELS for b in WIDTHS for m in ("joint", "cumulative") for s in SEEDS
    ]
    return list(dict.fromkeys(first + rest))


def run(cell: Cell) -> dict[str, Any]:
    """Train (or reuse) the float model, compress, test once."""
    plan = {
        "float": ["plan.scheme=ptq"],
        "isolated": ["plan.scheme=qat", "plan.mode=isolated", "plan.order=quantize_first"],
        "joint": ["plan.scheme=qat", "plan.mode=joint"],
        "cumulative": ["plan.scheme=qat", "plan.mode=cumulative"],
    }[cell.method]
    composed = config.compose([*OVERRIDES[cell.data], *plan, "tracking=silent", f"seed={cell.seed}"])
    plain = config.override(
        config.plain(composed),
        {
            "compression.quantize_weights.bits": cell.bits,
            "compression.prune_weights.sparsity": cell.sparsity,
        },
    )
    built = config.build_experiment(plain)
    begin = time.process_time()
    key = config.fingerprint(plain, FLOAT_KEYS)
    try:
        trained = experiment.evaluate(built, lambda step, metrics: None, Pretrained(FLOATS, key))
    except TrialEnded as ended:
        # A network pruned to silence has no accuracy; it is kept by name and left out of the means.
        return {
            **asdict(cell),
            "ended": f"{ended.state}: {ended}",
            "cpu_s": round(time.process_time() - begin, 1),
        }
    data = built.data.load(cell.seed)
    tested, _ = experiment.measured(trained.net, trained.decode, data, "test", trained.widths)
    layers = cast(list[dict[str, Any]], trained.detail["layers"])
    return {
        **asdict(cell),
        **{k: v for k, v in {**trained.metrics, **tested}.items() if math.isfinite(v)},
        "zeros": {layer["name"]: round(layer["sparsity"], 5) for layer in layers},
        "cpu_s": round(time.process_time() - begin, 1),
    }


class Book:
    """Finished cells on disk, and questions about them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, cell: Cell, result: dict[str, Any]) -> None:
        self.found[cell.key] = result
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=1, sort_keys=True) + "\n")
        os.replace(part, self.path)

    def values(self, metric: Callable[[dict[str, Any]], float], *cell: Any) -> dict[int, float]:
        """seed -> metric, of the cell (data, method, bits, sparsity)."""
        data, *rest = cell
        found = {s: self.found.get(Cell(data, s, *rest).key) for s in SEEDS}
        return {
            s: metric(result) for s, result in found.items() if result is not None and "ended" not in result
        }

    def accuracy(self, *cell: Any) -> dict[int, float]:
        """seed -> test accuracy in points."""
        return self.values(lambda result: 100 * float(result["test_accuracy"]), *cell)


def spread(values: Sequence[float]) -> float:
    """Half width of Student's 95 % interval of the mean; NaN below two values."""
    if len(values) < 2:
        return math.nan
    return float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def paired(one: dict[int, float], other: dict[int, float]) -> list[float]:
    """one - other, seed by seed."""
    return [one[seed] - other[seed] for seed in SEEDS if seed in one and seed in other]


def records(book: Book, data: str) -> list[Record]:
    """A record per claim whose cells are there."""
    made: list[Record] = []

    def record(claim: str, value: float, measured: str, seeds: Sequence[int], half: float = math.nan) -> None:
        interval = (value - half, value + half) if math.isfinite(half) else None
        first = book.found[next(key for key in book.found if key.startswith(data))]
        made.append(
            Record(
                id=claim, measured=measured, data=SAYS[data], seeds=tuple(seeds), n=int(first["test_samples"]),
                holds=BY_ID[claim].judge(value), value=value, interval=interval,
                command=f"python benchmarks/gesture_claims.py --data {data}", date=date.today().isoformat(),
                note="not the published recordings",
            )
        )  # fmt: skip

    float_, ternary = book.accuracy(data, "float"), book.accuracy(data, "isolated", TERNARY)
    full = book.accuracy(data, "isolated", FULL)
    lost = paired(full, ternary)
    if lost:
        note = f"8 bit {mean(full.values()):.1f} %, ternary {mean(ternary.values()):.1f} %"
        record("H1", mean(lost), f"{mean(lost):+.2f} points ({note}, float {mean(float_.values()):.1f} %)",
               list(ternary), spread(lost))  # fmt: skip
    at80 = book.accuracy(data, "joint", FULL, 0.8)
    if paired(full, at80):
        drops = {p: paired(full, book.accuracy(data, "joint", FULL, p)) for p in (0.8, 0.9, 0.925, 0.95)}
        said = ", ".join(f"{-mean(d):+.1f} at {100 * p:g} %" for p, d in drops.items() if d)
        record("H2", mean(drops[0.8]), f"{said} sparsity", list(at80), spread(drops[0.8]))
    zeros = book.values(lambda result: 100 * float(result["sparsity"]), data, "isolated", TERNARY)
    if zeros:
        record("H3", mean(zeros.values()), f"{mean(zeros.values()):.1f} % zeros after ternary training",
               list(zeros), spread(list(zeros.values())))  # fmt: skip
    energy = [book.values(lambda r: float(r["energy_pj"]), data, "isolated", b) for b in (FULL, TERNARY)]
    both = [seed for seed in energy[0] if seed in energy[1]]
    if both:
        ratios = [energy[0][seed] / energy[1][seed] for seed in both]
        record("H5", mean(ratios), f"{mean(ratios):.2f}x", both, spread(ratios))
    _orders(book, data, record)
    return made


def _orders(book: Book, data: str, record: Callable[..., None]) -> None:
    """H8: the largest difference of joint and cumulative, in units of its own noise."""
    gaps = []
    for bits in (TERNARY, FULL):
        for level in (0.8, 0.9):
            gap = paired(
                book.accuracy(data, "joint", bits, level), book.accuracy(data, "cumulative", bits, level)
            )
            if len(gap) > 1:
                gaps.append((abs(mean(gap)) / max(spread(gap), 1e-9), mean(gap), bits, level))
    if gaps:
        worst = max(gaps)
        where = f"{worst[2]} bit, {100 * worst[3]:g} %"
        said = f"largest difference {worst[1]:+.2f} points ({where}), {worst[0]:.2f} x its noise"
        record("H8", worst[0], said, list(SEEDS))


def table(found: Sequence[Record]) -> Table:
    shown = Table("claim", "measured", "data", "seeds", "verdict")
    for record in found:
        shown.add_row(record.id, record.measured, record.data, str(len(record.seeds)), record.verdict)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=sorted(OVERRIDES), default="nmnist")
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    book, begin, console = Book(RESULTS), time.monotonic(), Console()
    for cell in [] if given.table else cells(given.data):
        if cell.key in book.found:
            continue
        if time.monotonic() - begin > 60 * given.minutes:
            break
        book.add(cell, run(cell))
        result = book.found[cell.key]
        said = result.get("ended") or f"test {result['test_accuracy']:.1%}"
        console.print(f"{cell.key}: {said}, {result['cpu_s']} s")
    found = [
        r for data in OVERRIDES if any(k.startswith(data) for k in book.found) for r in records(book, data)
    ]
    write(CLAIMS, found)
    console.print(table(found))


if __name__ == "__main__":
    main()
