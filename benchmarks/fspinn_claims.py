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
import json
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from filelock import FileLock
from fspinn_records import BITS, MORE_SEEDS, SEEDS, key, records
from safetensors.torch import save_file

from pipeline.config import compose, instantiate, plain
from pipeline.data.mnist import Mnist, Which
from pipeline.data.poisson import Poisson
from pipeline.hardware.accelerator import Accelerator
from pipeline.hardware.cost import cost
from pipeline.hardware.workload import load_from
from pipeline.learn.labels import Responses, assign
from pipeline.learn.stdp import StdpRule
from pipeline.learn.unsupervised import Unsupervised
from pipeline.nets.stdp import Stdp, StdpNet
from pipeline.nets.stdp_counts import inference_load, memory, per_sample
from pipeline.types import FLOAT_BITS, Dataset, Split, TrialEnded

RESULTS = Path("docs/results/fspinn_claims.json")
MODELS = Path("outputs/claims/fspinn")
STEPS = 250
LABELS = 10_000
MEMBRANE_BITS = 16
"""Of FSpiNN with 8-bit weights: the sum of many weights needs more bits than one."""
SCALE: dict[int, tuple[float, float]] = {
    100: (0.01, 0.003), 400: (0.05, 0.01), 900: (0.2, 0.015), 1600: (0.5, 0.02), 2500: (0.8, 0.03),
    3600: (1.1, 0.04), 4900: (1.5, 0.03),
}  # fmt: skip
"""Neurons -> (theta_plus_mv, eta_post), chosen on validation images: many neurons each see few images, and have to
adapt with bigger steps. 400 has BindsNET's constants."""
FASHION_SCALE = {**SCALE, 1600: (0.15, 0.01), 4900: (0.45, 0.015)}
"""Thresholds rise faster on bright pictures; 4900 is extrapolated."""
RATE_HZ: dict[str, float] = {"mnist": 128.0, "fashion_mnist": 64.0}
"""Of a white pixel. Clothes fill twice as much of the picture as digits: at 128 Hz the thresholds run away (53 %
instead of 73 % on validation images at n = 400)."""
SLOW = {"eta_post": 0.001}
"""Of claim F6: where single steps are small, k matters; with ten times the rate it only overshoots."""
WINDOW = {"presynaptic": False, "window_ms": 25.0}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "baseline": ({"inhibition": "layer"}, {}, 32),
    "direct": ({"inhibition": "direct"}, {}, 32),
    "fspinn": ({"inhibition": "direct"}, WINDOW, 32),
    "k_adaptive": (
        {"inhibition": "direct"},
        {**WINDOW, **SLOW, "adaptive_k": True, "spikes_per_k": 10.0},
        32,
    ),
    "k_one": ({"inhibition": "direct"}, {**WINDOW, **SLOW}, 32),
    "fspinn8": ({"inhibition": "direct"}, {**WINDOW, "shadow": False}, BITS),
}
INHIBITIONS_MV = (7.5, 15.0, 30.0, 60.0, 120.0, 170.0, 240.0, 480.0)
FEW_IMAGES = 10_000
"""Presented in claim F6, where a larger k is meant to make up for few samples."""


@dataclass(frozen=True)
class Cell:
    """One training run."""

    which: Which
    neurons: int
    variant: str
    seed: int
    w_inh_mv: float = 120.0
    images: int = 55_000

    @property
    def key(self) -> str:
        return key(**asdict(self))

    @property
    def scale(self) -> tuple[float, float]:
        return (SCALE if self.which == "mnist" else FASHION_SCALE)[self.neurons]

    def net(self) -> Stdp:
        changes, _, _ = VARIANTS[self.variant]
        theta_plus, _ = self.scale
        return replace(
            Stdp(neurons=self.neurons, theta_plus_mv=theta_plus, w_inh_mv=self.w_inh_mv), **changes
        )

    def rule(self) -> StdpRule:
        _, changes, _ = VARIANTS[self.variant]
        return replace(StdpRule(eta_post=self.scale[1]), **changes)


def cells() -> list[Cell]:
    """In order of worth: a run that is cut off has the cheap claims of every kind, then the large networks once,
    then more seeds of both, and the small networks and the seeds of the largest last."""
    mnist: Which = "mnist"
    fashion: Which = "fashion_mnist"
    both: tuple[Which, ...] = (mnist, fashion)
    priced = ("fspinn8", "baseline")
    made = [Cell(mnist, 400, v, s) for s in SEEDS for v in ("baseline", "direct", "fspinn", "fspinn8")]
    made += [Cell(mnist, 400, v, s, images=FEW_IMAGES) for s in SEEDS for v in ("k_one", "k_adaptive")]
    made += [Cell(fashion, 400, v, s) for s in SEEDS for v in ("baseline", "fspinn", "fspinn8")]
    made += [Cell(mnist, 400, "fspinn", 0, w_inh_mv=w) for w in INHIBITIONS_MV if w != 120.0]
    made += [Cell(w, n, v, 0) for n in (1600, 4900) for w in both for v in priced]
    made += [Cell(w, 1600, v, s) for s in SEEDS[1:] for w in both for v in priced]
    made += [
        Cell(mnist, 400, "fspinn", s, w_inh_mv=w) for s in SEEDS[1:] for w in INHIBITIONS_MV if w != 120.0
    ]
    made += [Cell(fashion, 400, "direct", s) for s in SEEDS]
    made += [Cell(mnist, 400, v, s, images=FEW_IMAGES) for s in MORE_SEEDS for v in ("k_one", "k_adaptive")]
    made += [Cell(mnist, 400, v, s) for s in MORE_SEEDS for v in ("direct", "fspinn")]
    made += [Cell(mnist, 100, v, s) for s in SEEDS for v in ("baseline", "fspinn", "fspinn8")]
    return made + [Cell(w, 4900, v, s) for s in SEEDS[1:] for w in both for v in priced]


def respond(net: StdpNet, data: Dataset, split: Split, stream: int) -> torch.Tensor:
    """Spike counts [S, n] of a split."""
    encoder = cast(Poisson, data.encode)
    parts = []
    for start in range(0, len(split), 500):
        x = split.x[start : start + 500]
        starts, pixels = encoder.events(x, stream + start)
        parts.append(net.respond(starts, pixels, len(x), STEPS, 0))
    return torch.from_numpy(np.concatenate(parts))


def run(cell: Cell, root: str | None, accelerator: Accelerator) -> dict[str, Any]:
    """Train, label, test and price one cell."""
    encoding = Poisson(STEPS, max_rate_hz=RATE_HZ[cell.which])
    data = Mnist(STEPS, encoding, which=cell.which, root=root, limit=cell.images).load(cell.seed)
    net = cell.net().build(data.shape, data.classes, cell.seed)
    bits = VARIANTS[cell.variant][2]
    if bits < 32:
        eps, coarse = 2.0**-bits, 2.0**-7
        net.numerics["weight"] = (
            eps,
            0.0,
            1.0 - eps,
            "stochastic",
        )  # weights are never negative: no sign bit
        net.numerics["membrane"] = (coarse, -256.0, 256.0 - coarse, "nearest")  # Q8.7
    seen: list[Mapping[str, float]] = []
    learner = Unsupervised(rule=cell.rule(), check_samples=500, label_samples=500)
    begin = time.perf_counter()
    try:
        learner.fit(net, data, lambda _, metrics: seen.append(metrics), cell.seed)
    except TrialEnded as ended:
        return {"ended": f"{ended.state}: {ended}"}
    train_s = time.perf_counter() - begin
    keep(net, cell)
    train = Split(data.train.x[:LABELS], data.train.y[:LABELS])
    responses = Responses(cell.neurons, data.classes)
    responses.add(respond(net, data, train, 1 << 50), train.y)
    out: dict[str, Any] = {"train_s": train_s, "images_per_s": seen[-1]["images_per_s"]}
    splits = {"test": data.test} if cell.w_inh_mv == 120.0 else {}
    for name, split in {**splits, **({"validation": data.validation} if cell.neurons <= 400 else {})}.items():
        if name == "test":
            net.forget_inference()
        counts = respond(net, data, split, 2 << 50)
        for how in ("highest_mean", "proportional", "likelihood"):
            answers = assign(responses, how).of_counts(counts)
            out[f"{name}_{how}"] = float((answers == split.y).double().mean())
    return out | priced(net, bits, accelerator)


def keep(net: StdpNet, cell: Cell) -> None:
    """The trained network, for a look at its receptive fields or another price."""
    path = MODELS / f"{cell.key.replace('/', '-')}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    counters = {"ops": torch.from_numpy(net.training_ops), "pixels": torch.from_numpy(net.training_pixels)}
    save_file({**net.state_dict(), **counters}, path)


def priced(net: StdpNet, bits: int, accelerator: Accelerator) -> dict[str, Any]:
    """Operations per image, memory both ways, and energy per image in inference and in training."""
    widths = {"weight": bits, "membrane": MEMBRANE_BITS} if bits < FLOAT_BITS else {}
    weights_only = {"weight": bits} if bits < FLOAT_BITS else {}
    layer = net.spec.inhibition == "layer"
    held = memory(len(net.weight), net.spec.neurons, layer, net.spec.cell().refractory, widths)

    def energy_pj(load: Sequence[Mapping[str, object]]) -> float:
        return cost(tuple(load_from(x) for x in load), accelerator).energy_pj

    return {
        **{name: float(bits) for name, bits in held._asdict().items()},
        "inference_weights_only_pj": energy_pj(inference_load(net, weights_only)),
        "training_weights_only_pj": energy_pj(net.training_load(weights_only, dense=False)),
        "inference_pj": energy_pj(inference_load(net, widths)),
        "training_pj": energy_pj(net.training_load(widths, dense=False)),
        "training_dense_pj": energy_pj(net.training_load(widths, dense=True)),
        "inference": per_sample(net.inference_ops, net.shown_samples)._asdict(),
        "training": per_sample(net.training_ops, net.trained_samples)._asdict(),
    }


class Book:
    """The cells that are done, in one file that is rewritten whole after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells: dict[str, dict[str, Any]] = json.loads(path.read_text())["cells"] if path.exists() else {}

    def add(self, key: str, result: dict[str, Any]) -> None:
        """Keep a result; cells that another process has finished meanwhile are kept too."""
        with FileLock(Path(tempfile.gettempdir()) / f"{self.path.stem}.lock"):
            self.cells = {**Book(self.path).cells, key: result}
            self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        found = {"records": records(self.cells, INHIBITIONS_MV, FEW_IMAGES), "cells": self.cells}
        part.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(self.path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=4900, help="largest number of neurons to run")
    parser.add_argument("--least", type=int, default=0, help="smallest number of neurons to run")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no cell after this long")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    book = Book(given.results)
    accelerator = cast(
        Accelerator, instantiate(plain(compose(["accelerator=embedded_45nm", "name=claims"]))["accelerator"])
    )
    begin = time.monotonic()
    todo = [] if given.table else [c for c in cells() if given.least <= c.neurons <= given.most]
    for cell in todo:
        if cell.key in Book(given.results).cells:
            continue
        if time.monotonic() - begin > 60 * given.minutes:
            break
        book.add(cell.key, run(cell, os.environ.get("PIPELINE_DATA"), accelerator))
        print(
            cell.key, {k: v for k, v in book.cells[cell.key].items() if not isinstance(v, dict)}, flush=True
        )
    book = Book(given.results)
    book.save()
    for line in records(book.cells, INHIBITIONS_MV, FEW_IMAGES):
        holds = {True: "holds", False: "does not", None: "undecided"}[cast(bool | None, line["holds"])]
        print(f"{line['id']}  {holds:10} {line['data']}: {line['measured']}")


if __name__ == "__main__":
    main()
