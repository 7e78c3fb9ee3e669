"""Claims F1 to F9 of FSpiNN (Putra and Shafique 2020, arXiv 2007.08860) on MNIST and Fashion-MNIST, whole data sets.

A cell is one training run: data set, number of neurons, variant, seed. Cells are trained on 55,000 of the 60,000
official training images, labels come from 10,000 of those, accuracies from the 10,000 official test images (claim F5,
which chooses a value, from the 5,000 validation images). Every finished cell is written at once, so a run that is cut
off goes on where it was; the table is made from the cells that are there, and says how many.

    python benchmarks/fspinn_claims.py                 all cells, about 2 hours on one free core, then the table
    python benchmarks/fspinn_claims.py --most 400      networks of up to 400 neurons: about 20 minutes
    python benchmarks/fspinn_claims.py --table         the table of what is there
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path
from typing import cast

from cell_book import Book, Cells
from fspinn_cells import FEW_IMAGES, INHIBITIONS_MV, Cell, run
from fspinn_records import MORE_SEEDS, SEEDS, SLOWER, records
from fspinn_shrink import Shrink, shrink

from pipeline.claims import read
from pipeline.config import compose, instantiate, plain
from pipeline.data.mnist import Which
from pipeline.hardware.accelerator import Accelerator

RESULTS = Path("docs/results/fspinn_claims.json")


def cells() -> list[Cell | Shrink]:
    """In order of worth: a run that is cut off has the cheap claims of every kind, then the large networks once,
    then more seeds of both, and the small networks and the seeds of the largest last."""
    mnist: Which = "mnist"
    fashion: Which = "fashion_mnist"
    both: tuple[Which, ...] = (mnist, fashion)
    priced = ("fspinn8", "baseline")
    made: list[Cell | Shrink] = [
        Cell(mnist, 400, v, s) for s in SEEDS for v in ("baseline", "direct", "fspinn", "fspinn8")
    ]
    made += [Cell(mnist, 400, v, s, images=FEW_IMAGES) for s in SEEDS for v in ("k_one", "k_adaptive")]
    made += [Cell(fashion, 400, v, s) for s in SEEDS for v in ("baseline", "fspinn", "fspinn8")]
    made += [Cell(mnist, 400, "fspinn", 0, w_inh_mv=w) for w in INHIBITIONS_MV if w != 120.0]
    made += [Cell(w, n, v, 0) for n in (1600, 4900) for w in both for v in priced]
    made += [Shrink(w, n, 0) for n in (4900, 1600) for w in both]
    made += [Cell(w, 1600, v, s) for s in SEEDS[1:] for w in both for v in priced]
    made += [
        Cell(mnist, 400, "fspinn", s, w_inh_mv=w) for s in SEEDS[1:] for w in INHIBITIONS_MV if w != 120.0
    ]
    made += [Cell(fashion, 400, v, s) for s in SEEDS for v in ("direct", *SLOWER)]
    made += [Cell(mnist, 400, v, s, images=FEW_IMAGES) for s in MORE_SEEDS for v in ("k_one", "k_adaptive")]
    made += [Cell(mnist, 400, v, s) for s in MORE_SEEDS for v in ("direct", "fspinn")]
    made += [Cell(mnist, 100, v, s) for s in SEEDS for v in ("baseline", "fspinn", "fspinn8")]
    made += [Cell(w, 4900, v, s) for s in SEEDS[1:] for w in both for v in priced]
    return made + [Shrink(w, 4900, s) for s in SEEDS[1:] for w in both]


def told(cells: Cells) -> dict[str, object]:
    return {"records": records(cells, INHIBITIONS_MV, FEW_IMAGES)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=4900, help="largest number of neurons to run")
    parser.add_argument("--least", type=int, default=0, help="smallest number of neurons to run")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no cell after this long")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    book = Book(given.results, told)
    accelerator = cast(
        Accelerator, instantiate(plain(compose(["accelerator=embedded_45nm", "name=claims"]))["accelerator"])
    )
    begin = time.monotonic()
    todo = [] if given.table else [c for c in cells() if given.least <= c.neurons <= given.most]
    for cell in todo:
        book.look()
        found = book.cells.get(cell.key)
        if found is not None and cell.current(found):
            continue
        if time.monotonic() - begin > 60 * given.minutes:
            break
        root = os.environ.get("PIPELINE_DATA")
        made = shrink(cell, root, accelerator) if isinstance(cell, Shrink) else run(cell, root, accelerator)
        book.add(cell.key, made)
        print(
            cell.key, {k: v for k, v in book.cells[cell.key].items() if not isinstance(v, dict)}, flush=True
        )
    book.look()
    book.save()
    for line in read(given.results):
        print(f"{line.id}  {line.verdict:10} {line.data}: {line.measured}")


if __name__ == "__main__":
    main()
