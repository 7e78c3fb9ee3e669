"""Claims H1 to H11 of the quantization x pruning study, on real N-MNIST, simulated gestures and DVS128 Gesture.

A cell is one (data, seed, method, bits, sparsity): the float model is trained once per data and seed, compressed and
fine-tuned (ptq: not) as the experiment says, priced with the activity measured, and tested once. Every finished cell
is written at once; a run that is cut off goes on where it was.

    python benchmarks/gesture_claims.py                     all cells of N-MNIST, then the records
    python benchmarks/gesture_claims.py --data gesture      the simulator (minutes per cell)
    python benchmarks/gesture_claims.py --data dvs_gesture  the recordings themselves, sizes as published: see below
    python benchmarks/gesture_claims.py --minutes 20        start no cell after 20 minutes
    python benchmarks/gesture_claims.py --only gesture/2    cells whose key starts so; several processes share the rest
    python benchmarks/gesture_claims.py --table             the records of what is there
    python benchmarks/gesture_claims.py --results FILE      cells to another file, and no records

DVS128 Gesture is where data.root or $PIPELINE_DATA says, else downloaded; without it the run ends with exit code 3. It
was not had when the committed cells were measured: what is measured on a substitute says so in its row. Computed, not
measured, on one GPU at 1 minute per epoch: 34 hours for what every claim needs of three seeds (100 epochs of each float
model, 50 of each of 35 cells), 160 more for all of the published table; resumable, in order of worth.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock, Timeout
from gesture_records import FULL, LEVELS, SEEDS, TERNARY, WIDTHS, Book, Cell, records
from rich.console import Console
from rich.table import Table

from pipeline import config, experiment
from pipeline.claims import Record, write
from pipeline.hardware.cost import cost
from pipeline.learn.decode import accuracy
from pipeline.pretrained import FLOAT_KEYS, Pretrained
from pipeline.types import DataError, Metrics, TrialEnded

NO_DATA = 3  # as pipeline.run
RESULTS = Path("docs/results/gesture_cells.json")
CLAIMS = Path("docs/results/gesture_claims.json")
FLOATS = Path("benchmarks/floats")
"""Float models are kept with the cells: another processor trains another network from the same seed."""
FLOAT_NEURONS = ["compression.quantize_weights.scale=auto"]
FLOAT_NEURONS += [f"compression.quantize_neurons.{name}=32" for name in ("beta", "threshold", "membrane")]
"""As published: the weights alone are quantized, on learned steps; the experiments do neurons, too."""
OVERRIDES = {
    "nmnist": ["+experiment=nmnist_pareto", *FLOAT_NEURONS, "plan.epochs=10"],  # 258 cells; "longer" has 40
    "gesture": [
        "+experiment=gesture_simulated",
        *FLOAT_NEURONS,
        "compression.fold_batch_norm.steps=free",
        "compression.table_attention.enabled=false",
    ],
    "dvs_gesture": [
        "+experiment=gesture_joint",  # counts on training data, 100 and 50 epochs, the network as published
        *FLOAT_NEURONS,
        "compression.fold_batch_norm.steps=free",
        "compression.table_attention.enabled=false",
    ],
}


LONGER = {"gesture": 16, "nmnist": 40}
"""Epochs of fine-tuning of the cells `longer`: four times the others'. The paper took 50, as the published sizes do."""


def cells(data: str) -> list[Cell]:
    """In order of worth: what every claim needs first, the rest of the table after.

    Seeds in turn where a cell takes seconds; where it takes minutes, all that the claims need of one seed before the
    next, and what only shows a curve (`once`) of seed 0.
    """

    def needed(s: int) -> list[Cell]:
        return [
            Cell(data, s, "float"),
            *(Cell(data, s, "ptq", b) for b in WIDTHS),
            *(Cell(data, s, "isolated", b) for b in (TERNARY, FULL)),
            *(Cell(data, s, "joint", FULL, p) for p in (0.8, 0.9)),
            Cell(data, s, "joint", TERNARY, 0.8),
            *(Cell(data, s, "cumulative", b, 0.8) for b in (FULL, TERNARY)),
        ]

    def steep(s: int) -> list[Cell]:
        return [
            Cell(data, s, "cumulative", FULL, 0.9),
            *(Cell(data, s, m, TERNARY, 0.9) for m in ("joint", "cumulative")),
        ]

    def once(s: int) -> list[Cell]:
        return [
            *(Cell(data, s, "isolated", b) for b in WIDTHS),
            *(Cell(data, s, "joint", FULL, p) for p in (0.925, 0.95)),
        ]

    def longer(s: int) -> list[Cell]:
        points = ((TERNARY, 0.0), (FULL, 0.0), (FULL, 0.9), (FULL, 0.8), (TERNARY, 0.8))
        return [Cell(data, s, "longer", bits, p) for bits, p in points]

    def rest(s: int) -> list[Cell]:
        return [Cell(data, s, m, b, p) for p in LEVELS for b in WIDTHS for m in ("joint", "cumulative")]

    if data == "nmnist":
        found = [
            cell
            for of in (needed, steep, longer, once)
            for turn in zip(*map(of, SEEDS), strict=True)
            for cell in turn
        ]
    else:
        found = [
            cell
            for s in SEEDS
            for of in (needed, *([once] if s == SEEDS[0] else []), steep)
            for cell in of(s)
        ]
        found += [cell for s in SEEDS if data in LONGER for cell in longer(s)]
    return list(dict.fromkeys(found + [cell for of in (once, rest) for s in SEEDS for cell in of(s)]))


def told(step: int, metrics: Metrics) -> None:
    """One line per epoch: some cells take minutes."""
    accuracy, loss = metrics["validation_accuracy"], metrics["loss"]
    print(
        f"\repoch {step}: validation {accuracy:.1%}, loss {loss:.3f}", end="   ", file=sys.stderr, flush=True
    )


def configured(cell: Cell) -> config.Plain:
    """The whole config of a cell."""
    plan = {
        "float": ["plan.scheme=ptq"],
        "ptq": ["plan.scheme=ptq"],
        "isolated": ["plan.scheme=isolated", "plan.order=quantize_first"],
        "joint": ["plan.scheme=joint"],
        "cumulative": ["plan.scheme=cumulative"],
        "longer": ["plan.scheme=joint", f"plan.epochs={LONGER.get(cell.data)}"],
    }[cell.method]
    composed = config.compose([*OVERRIDES[cell.data], *plan, "tracking=silent", f"seed={cell.seed}"])
    settings = {
        "compression.quantize_weights.bits": cell.bits,
        "compression.prune_weights.sparsity": cell.sparsity,
    }
    return config.override(config.plain(composed), settings)


def pretrained(plain: config.Plain) -> Pretrained:
    """Where the float model of a cell is, or will be."""
    return Pretrained(FLOATS, config.fingerprint(plain, FLOAT_KEYS))


def float_model(plain: config.Plain) -> str | None:
    """Which float model a network came from: the start of the file's sha256. None where its own training ended."""
    path = pretrained(plain).path
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.exists() else None


def run(cell: Cell) -> dict[str, Any]:
    """Train (or reuse) the float model, compress, test once."""
    plain = configured(cell)
    built = config.build_experiment(plain)
    begin = time.process_time()
    try:
        trained = experiment.evaluate(built, told, pretrained(plain))
    except TrialEnded as ended:
        # A network pruned to silence has no accuracy; it is kept by name and left out of the means.
        return {
            **asdict(cell),
            "float_model": float_model(plain),
            "ended": f"{ended.state}: {ended}",
            "cpu_s": round(time.process_time() - begin, 1),
        }
    data = built.data.load(cell.seed)
    right = accuracy(trained.net.eval(), trained.decode, data.batches("test", 32, seed=0))
    layers = cast(list[dict[str, Any]], trained.detail["layers"])
    machine = built.accelerator
    return {
        **asdict(cell),
        "float_model": float_model(plain),
        **{name: value for name, value in trained.metrics.items() if math.isfinite(value)},
        "test_accuracy": right,
        "test_samples": float(len(data.test)),
        "dram_share": cost(trained.loads, machine).share("dram"),
        "dense_energy_pj": cost(trained.loads, replace(machine, weight_encoding="dense")).energy_pj,
        "zeros": {layer["name"]: round(layer["sparsity"], 5) for layer in layers},
        "parts": {layer["name"]: layer["parts"] for layer in layers},
        "cpu_s": round(time.process_time() - begin, 1),
    }


def table(found: Sequence[Record]) -> Table:
    shown = Table("claim", "measured", "data", "seeds", "verdict")
    for record in found:
        shown.add_row(record.id, record.measured, record.data, str(len(record.seeds)), record.verdict)
    return shown


def whole(result: Mapping[str, Any] | None) -> bool:
    """Whether a cell has been run, and by a version that measured all that the claims read."""
    return result is not None and ("ended" in result or {"dense_energy_pj", "dram_share"} <= set(result))


@contextmanager
def claimed(cell: Cell) -> Iterator[bool]:
    """Whether no other process of this machine is at this cell; held until the end, and given up by the dead."""
    lock = FileLock(Path(tempfile.gettempdir()) / f"cell-{cell.key.replace('/', '-')}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=sorted(OVERRIDES), default="nmnist")
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--only", default="", help="cells whose key starts so, as gesture/2/joint")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.data != "dvs_gesture":
        torch.set_num_threads(1)  # minutes of one core are what these cells tell
    book, begin, console = Book(given.results), time.monotonic(), Console()
    todo = [] if given.table else [cell for cell in cells(given.data) if cell.key.startswith(given.only)]
    for cell in todo:
        if time.monotonic() - begin > 60 * given.minutes:
            break
        with claimed(cell) as mine:
            book.look()
            if not mine or whole(book.found.get(cell.key)):
                continue
            try:
                book.add(cell, run(cell))
            except DataError as error:
                print(error, file=sys.stderr)
                return NO_DATA
        result = book.found[cell.key]
        said = result.get("ended") or f"test {result['test_accuracy']:.1%}"
        console.print(f"{cell.key}: {said}, {result['cpu_s']} s")
    book.look()
    found = [record for data in OVERRIDES for record in records(book, data)]
    if given.results == RESULTS:
        write(CLAIMS, found)
    console.print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
