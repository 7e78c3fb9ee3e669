"""Claims T1 to T7 of tinySNN and Q-SpiNN (Putra and Shafique 2022, 2021) on MNIST and Fashion-MNIST.

A cell is one float network, or one question asked of it (roundings, significance, the ordered search, learning on
quantized weights). Every finished cell is written at once, so a run that is cut off goes on where it was; the records
are made from the cells that are there.

    python benchmarks/tinysnn_claims.py                 all cells, some hours on one free core, then the records
    python benchmarks/tinysnn_claims.py --minutes 20    start no cell after 20 minutes
    python benchmarks/tinysnn_claims.py --table         the records of what is there

STDP networks: FSpiNN's (direct inhibition, an update per 25 ms window), 55,000 training images, one epoch, labels from
5,000 of them, searched on the 5,000 validation images, the selected model tested once on the 10,000 test images with
labels from 10,000. Convolutional network: 12C5-MP2-32C5-MP2-FC of snnTorch neurons, 6 steps, 2 epochs on 15,000 images
(`conv`) or on all 55,000 (`conv_all`: the claims of memory and energy alone), searched on 5,000 validation images.
Searches allow POINTS below the widest formats on validation; the claims ask for 1 point on the test split. Our goal
beyond the papers is GOALS times less memory (weights and all neuron parameters) than fp32 within that point; the
convolutional network may learn two more epochs in the small formats for it (`beyond`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import optuna
import torch
from cell_book import Book, Cells
from fspinn_cells import FASHION_SCALE, RATE_HZ, SCALE
from safetensors.torch import load_file, save_file
from tinysnn_records import comparison, records
from torch import Tensor, nn

from pipeline.claims import BY_ID
from pipeline.compress.plan import Plan, compress
from pipeline.compress.quantize import NEURON_QUANTITIES, QuantizeNeurons, QuantizeWeights
from pipeline.config import compose, instantiate, plain
from pipeline.data.encode import Direct
from pipeline.data.mnist import Mnist, Which
from pipeline.data.poisson import Poisson
from pipeline.hardware.accelerator import Accelerator
from pipeline.hardware.cost import cost
from pipeline.hardware.load import measure
from pipeline.hardware.workload import load_from
from pipeline.learn.decode import RateDecode
from pipeline.learn.labels import LabelDecode, Responses, assign
from pipeline.learn.stdp import StdpRule
from pipeline.learn.surrogate import Surrogate
from pipeline.learn.unsupervised import Unsupervised
from pipeline.nets.conv import Conv
from pipeline.nets.stdp import Stdp, StdpNet
from pipeline.nets.stdp_counts import inference_load
from pipeline.study.ordered import Search, significance
from pipeline.study.samplers import Tpe
from pipeline.types import Dataset, Decode, Split

RESULTS = Path("docs/results/tinysnn_claims.json")
MODELS = Path("outputs/benchmarks/tinysnn")
SEEDS = (0, 1, 2)
POINTS = 0.5
STEPS = {"stdp": 250, "conv": 6, "conv_all": 6}
LABELS, TEST_LABELS = 5_000, 10_000
CONV_NEURONS = 12 * 24 * 24 + 32 * 8 * 8 + 10
CONV_IMAGES, CONV_EPOCHS = 20_000, 2
BEYOND: dict[str, tuple[tuple[int, int], ...]] = {
    "mnist": ((3, 4), (2, 4)), "fashion_mnist": ((4, 10), (4, 8), (3, 8), (3, 6), (2, 6)),
}  # fmt: skip
"""(bits of weights but the first layer's, of membranes), one after the other while validation stays within a point.
Clothes drive membranes further than digits do: the ordered search needs 10 to 14 bits for them instead of 6."""
FIRST_LAYER = 6
"""Bits of conv1 there: 300 of 15,020 weights, and the dearest to make coarse."""
RANGES: dict[str, dict[str, tuple[int, int]]] = {
    "stdp": {
        "weights": (2, 8), "membrane": (5, 16), "threshold": (2, 8), "theta": (3, 12), "beta": (3, 10),
        "inhibition": (2, 8), "reset": (2, 8),
    },
    "conv": {"weights": (2, 8), "membrane": (3, 16), "threshold": (2, 8), "beta": (2, 8)},
}  # fmt: skip
RANGES["conv_all"] = RANGES["conv"]
TRIALS = 60
"""Evaluations of the multi-objective search, to compare with the ordered one."""
ROUNDINGS = ("nearest", "stochastic", "truncation")
Family = Literal["stdp", "conv", "conv_all"]
Kind = Literal["float", "ordered", "beyond", "significance", "roundings", "in_training", "shadow", "pareto"]
Point = Mapping[str, object]


@dataclass(frozen=True)
class Cell:
    family: Family
    which: Which
    neurons: int
    seed: int
    kind: Kind

    @property
    def key(self) -> str:
        return "/".join(str(value) for value in asdict(self).values())

    @property
    def model(self) -> Path:
        return MODELS / f"{self.family}-{self.which}-{self.neurons}-{self.seed}.safetensors"


def cells() -> list[Cell]:
    """In order of worth: what many claims need comes first, on every network, then what few need."""
    conv, small, large = ("conv", CONV_NEURONS), ("stdp", 400), ("stdp", 1600)
    digits: Which = "mnist"
    clothes: Which = "fashion_mnist"
    networks: list[tuple[tuple[Family, int], Which]] = [
        (small, digits), (conv, digits), (small, clothes), (conv, clothes), (large, digits), (large, clothes)
    ]  # fmt: skip
    search: tuple[Kind, ...] = ("float", "ordered")
    rest: tuple[Kind, ...] = ("roundings", "significance", "in_training", "shadow")
    made: list[Cell] = []
    for (family, neurons), which in networks:
        made += [Cell(family, which, neurons, s, k) for s in SEEDS for k in search]
        if (family, neurons) != large:
            made += [Cell(family, which, neurons, 0, k) for k in rest[:2]]
            made += [Cell(family, which, neurons, 1, "roundings")]
        if family == "conv":
            made += [Cell(family, which, neurons, s, "beyond") for s in SEEDS]
        if (neurons, which) == (400, digits):
            made += [Cell(family, which, neurons, 0, k) for k in (*rest, "pareto")]
    for (family, neurons), which in networks:
        made += [Cell(family, which, neurons, s, k) for s in SEEDS for k in rest]
    made += [Cell(family, digits, neurons, s, "pareto") for family, neurons in (conv, small) for s in SEEDS]
    made += [
        Cell("conv_all", which, CONV_NEURONS, s, kind)
        for which in (digits, clothes) for s in SEEDS for kind in (*search, "beyond")
    ]  # fmt: skip
    return [cell for cell in dict.fromkeys(made) if not (cell.family == "conv" and cell.kind == "shadow")]


class Bench:
    """One float network with its data: trains or loads it, and prices compressed copies of it."""

    def __init__(self, cell: Cell, accelerator: Accelerator) -> None:
        self.cell, self.accelerator = cell, accelerator
        self.stdp = cell.family == "stdp"
        steps = STEPS[cell.family]
        encoding = Poisson(steps, max_rate_hz=RATE_HZ[cell.which]) if self.stdp else Direct(steps)
        limit, held_out = CONV_IMAGES if cell.family == "conv" else None, 5_000
        root = os.environ.get("PIPELINE_DATA")
        spec = Mnist(steps, encoding, which=cell.which, root=root, limit=limit, validation=held_out)
        self.data: Dataset = spec.load(cell.seed)
        self._asked: dict[str, dict[str, Any]] = {}

    @property
    def scale(self) -> tuple[float, float]:
        """(theta_plus_mv, eta_post), what FSpiNN's study found for this data and size."""
        return (SCALE if self.cell.which == "mnist" else FASHION_SCALE)[self.cell.neurons]

    def build(self) -> nn.Module:
        if not self.stdp:
            return Conv().build(self.data.shape, self.data.classes, self.cell.seed)
        theta_plus, _ = self.scale
        spec = Stdp(neurons=self.cell.neurons, theta_plus_mv=theta_plus, inhibition="direct")
        return spec.build(self.data.shape, self.data.classes, self.cell.seed)

    def learner(self, shadow: bool = False) -> Unsupervised | Surrogate:
        if not self.stdp:
            return Surrogate(epochs=CONV_EPOCHS)
        eta = self.scale[1]
        rule = StdpRule(eta_post=eta, presynaptic=False, window_ms=25.0, shadow=shadow)
        return Unsupervised(rule=rule, check_samples=500, label_samples=500)

    def train(self) -> None:
        net = self.build()
        self.learner().fit(net, self.data, lambda step, metrics: None, self.cell.seed)
        self.cell.model.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: v.contiguous().clone() for k, v in net.state_dict().items() if v.numel()}, self.cell.model
        )

    def trained(self) -> nn.Module:
        if not self.cell.model.exists():
            self.train()
        net = self.build()
        net.load_state_dict(load_file(self.cell.model), strict=False)
        return net.eval()

    def compressed(
        self, point: Point, scheme: str = "ptq", epochs: int = 1
    ) -> tuple[nn.Module, Mapping[str, int], float]:
        """The float network (or, in training, a fresh one) under `point`; seconds of training."""
        rounding = cast(Any, point.get("rounding", "nearest"))
        neurons = {name: point[name] for name in NEURON_QUANTITIES if name in point}
        steps = {
            "weights": QuantizeWeights(
                cast(Any, point.get("weights", 32)), rounding=rounding, seed=self.cell.seed,
                calibrate="percentile" if self.stdp else "mse",
                integer_bits=0 if self.stdp else None, signed=not self.stdp,
            ),
            "neurons": QuantizeNeurons(**cast(Any, neurons), calibrate="mse", seed=self.cell.seed),
        }  # fmt: skip
        begin = time.perf_counter()
        net = self.build() if scheme != "ptq" and self.stdp else self.trained()

        def refit(epochs: int | None, on_progress: Callable[[float], None]) -> Decode:
            del on_progress
            if epochs == 0:
                return RateDecode(self.data.classes)
            learner = self.learner(scheme == "shadow")
            return learner.fit(net, self.data, lambda step, metrics: None, self.cell.seed + 1, epochs)

        plan = Plan("ptq") if scheme == "ptq" else Plan("in_training" if self.stdp else "qat", epochs=epochs)
        samples = [] if self.stdp else [next(iter(self.data.batches("train", 256, self.cell.seed))).x]
        _, widths = compress(net, steps, plan, refit, samples)
        return net.eval(), widths, time.perf_counter() - begin

    def accuracy(self, net: nn.Module, split: str) -> float:
        part = self.data.split(cast(Any, split))
        if isinstance(net, StdpNet):
            labels = LABELS if split == "validation" else TEST_LABELS
            train = Split(self.data.train.x[:labels], self.data.train.y[:labels])
            responses = Responses(self.cell.neurons, self.data.classes)
            responses.add(self.counts(net, f"train{labels}", train), train.y)
            decode: LabelDecode = assign(responses, "highest_mean")
            return float((decode.of_counts(self.counts(net, split, part)) == part.y).double().mean())
        decode_rate = RateDecode(self.data.classes)
        right = 0
        with torch.no_grad():
            for x, y in self.data.batches(cast(Any, split), 500, 0):
                right += int((decode_rate(net(x)) == y).sum())
        return right / len(part)

    def counts(self, net: StdpNet, name: str, split: Split) -> Tensor:
        parts = []
        for start in range(0, len(split), 500):
            starts, pixels = events_of(self, name, start, split)
            parts.append(net.respond(starts, pixels, min(500, len(split) - start), STEPS["stdp"], 0))
        return torch.from_numpy(np.concatenate(parts))

    def ask(self, point: Point, scheme: str = "ptq") -> dict[str, Any]:
        """Validation accuracy, memory and energy per image at a point; remembered."""
        key = json.dumps([point, scheme], sort_keys=True)
        if key not in self._asked:
            net, widths, seconds = self.compressed(point, scheme)
            accuracy = self.accuracy(net, "validation")
            self._asked[key] = {
                "point": dict(point), "scheme": scheme, "validation": accuracy, "seconds": seconds,
                **self.priced(net, widths),
            }  # fmt: skip
        return self._asked[key]

    def priced(self, net: nn.Module, widths: Mapping[str, int]) -> dict[str, float]:
        """Dense bits of weights and neurons at their widths, and the hardware model's energy per image."""
        if isinstance(net, StdpNet):
            net.forget_inference()
            part = Split(self.data.validation.x[:500], self.data.validation.y[:500])
            self.counts(net, "validation", part)
            loads = inference_load(net, widths)
            price = cost(tuple(load_from(each) for each in loads), self.accelerator)
            weights = net.weight.numel() * widths.get("weight", 32)
            state = widths.get("membrane", 32) + int(net.spec.cell().refractory).bit_length()
            neurons = self.cell.neurons * (widths.get("theta", 32) + state)
            neurons += sum(widths.get(name, 32) for name in ("threshold", "reset", "inhibition", "beta"))
            return {"memory_bits": weights + neurons, "weight_bits": weights, "inference_pj": price.energy_pj}
        batches = self.data.batches("validation", 250, 0)
        loads_snn = measure(net, (batch for batch, _ in zip(batches, range(2), strict=False)), widths)
        price = cost(loads_snn, self.accelerator)
        weights = sum(load.synapses * load.weight_bits for load in loads_snn)
        neurons = sum(
            load.neurons * load.state_bits + load.parameters * load.parameter_bits for load in loads_snn
        )
        return {"memory_bits": weights + neurons, "weight_bits": weights, "inference_pj": price.energy_pj}


@lru_cache(maxsize=64)
def _events(encoder: Poisson, stream: int, images: bytes, n: int) -> Any:
    return encoder.events(torch.frombuffer(bytearray(images), dtype=torch.uint8).reshape(n, -1), stream)


def events_of(bench: Bench, name: str, start: int, split: Split) -> Any:
    """The spikes of 500 images; the same at every evaluation, so that points are compared on equal inputs."""
    x = split.x[start : start + 500]
    stream = start + ((1 if name.startswith("train") else 2) << 50)
    return _events(cast(Poisson, bench.data.encode), stream, x.numpy().tobytes(), len(x))


def run(cell: Cell, bench: Bench, done: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The answer to one cell."""
    ranges = RANGES[cell.family]
    if cell.kind == "float":
        begin = time.perf_counter()
        net = bench.trained()
        seconds = time.perf_counter() - begin
        base = {"validation": bench.accuracy(net, "validation"), "test": bench.accuracy(net, "test")}
        return {**base, **bench.priced(net, {}), "train_s": seconds}
    if cell.kind == "ordered":
        return ordered(cell, bench)
    if cell.kind == "pareto":
        return searched(cell, bench)
    if cell.kind == "roundings":
        asked = [
            bench.ask({"weights": bits, "rounding": rounding})
            for rounding in ROUNDINGS
            for bits in (8, 6, 5, 4, 3, 2)
        ]
        return {"points": asked}
    if cell.kind == "significance":
        grid = {
            name: sorted({*range(low, min(high, low + 5)), (low + high) // 2, high})
            for name, (low, high) in ranges.items()
        }
        table = significance(lambda point: bench.ask(point)["validation"], {}, grid)
        return {"lost": table}
    if cell.kind == "beyond":
        return beyond(bench, done[replace(cell, kind="ordered").key], done[replace(cell, kind="float").key])
    lowest = lowest_feasible(done, replace(cell, kind="roundings"), replace(cell, kind="float"))
    asked = []
    for rounding in ("nearest", "stochastic"):
        for scheme in ("shadow",) if cell.kind == "shadow" else ("ptq", "in_training"):
            point = {"weights": lowest, "rounding": rounding}
            net, _, seconds = bench.compressed(point, scheme)
            tested = {"validation": bench.accuracy(net, "validation"), "test": bench.accuracy(net, "test")}
            asked.append({"point": point, "scheme": scheme, "seconds": seconds, **tested})
    return {"bits": lowest, "points": asked}


def ordered(cell: Cell, bench: Bench) -> dict[str, Any]:
    """The ordered search, what it cost, and its model on the test split; training energy for STDP."""
    begin = time.perf_counter()
    bench._asked.clear()  # its evaluations are counted
    search = Search(RANGES[cell.family], {"rounding": ROUNDINGS}, POINTS)
    found = search.run(lambda point: bench.ask(point)["validation"])
    seconds, asked = time.perf_counter() - begin, list(bench._asked.values())
    net, widths, _ = bench.compressed(found.params)
    alone = {name: found.params[name] for name in ("weights", "rounding")}
    out = {
        "params": dict(found.params), "floor": found.floor, "broken": found.broken, "evaluations": len(asked),
        "seconds": seconds, "points": asked, "validation": found.accuracy, "test": bench.accuracy(net, "test"),
        "weights_only": bench.ask(alone), **bench.priced(net, widths),
    }  # fmt: skip
    if cell.family == "stdp":
        out["training_pj"] = training_energy(bench, {}), training_energy(bench, widths)
    return out


def beyond(bench: Bench, found: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Two more epochs in ever smaller formats, the other quantities as the ordered search left them."""
    begin, points, best = time.perf_counter(), [], None
    for weights, membrane in BEYOND[bench.cell.which]:
        point = dict(found["params"], membrane=membrane, rounding="nearest")
        point["weights"] = {"default": weights, "conv1": FIRST_LAYER}
        net, widths, _ = bench.compressed(point, "in_training", CONV_EPOCHS)
        asked = {
            "params": point,
            "validation": bench.accuracy(net, "validation"),
            **bench.priced(net, widths),
        }
        points.append(asked)
        if asked["validation"] < base["validation"] - 0.01:
            break
        best = {**asked, "test": bench.accuracy(net, "test")}
    return {"points": points, "best": best, "seconds": time.perf_counter() - begin}


def searched(cell: Cell, bench: Bench) -> dict[str, Any]:
    """The multi-objective search (TPE) over the same space with twice the evaluations of the ordered one."""
    begin = time.perf_counter()
    bench._asked.clear()  # its minutes are compared with the ordered search's
    study = optuna.create_study(directions=["minimize"] * 3, sampler=Tpe().build(cell.seed))
    points = []
    for _ in range(TRIALS):
        trial = study.ask()
        point: dict[str, object] = {
            name: trial.suggest_int(name, low, high) for name, (low, high) in RANGES[cell.family].items()
        }
        point["rounding"] = trial.suggest_categorical("rounding", ROUNDINGS)
        asked = bench.ask(point)
        points.append(asked)
        study.tell(trial, [1 - asked["validation"], asked["memory_bits"], asked["inference_pj"]])
    return {"evaluations": len(points), "seconds": time.perf_counter() - begin, "points": points}


def training_energy(bench: Bench, widths: Mapping[str, int]) -> float:
    """Energy per image while learning, on 500 images from the trained state, at these widths."""
    net = cast(StdpNet, bench.trained())
    learner = cast(Unsupervised, bench.learner())
    part = Split(bench.data.train.x[:500], bench.data.train.y[:500])
    starts, pixels = events_of(bench, "train-energy", 0, part)
    rule = learner.rule.per_step(1.0, 0)
    net.learn(starts, pixels, 500, STEPS["stdp"], bench.cell.seed, rule, False)
    loads = net.training_load(widths, dense=False)
    return cost(tuple(load_from(each) for each in loads), bench.accelerator).energy_pj


def lowest_feasible(done: Mapping[str, dict[str, Any]], roundings: Cell, base: Cell) -> int:
    """Fewest bits at which some rounding stays within 1 point of float, on validation."""
    floor = done[base.key]["validation"] - 0.01
    good = [p["point"]["weights"] for p in done[roundings.key]["points"] if p["validation"] >= floor]
    return int(min(good, default=8))


def told(cells: Cells) -> dict[str, object]:
    return {"records": records(cells), "comparison": comparison(cells)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no cell after this long")
    parser.add_argument("--only", default="", help="cells whose key starts so, as stdp/mnist/400")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    book = Book(given.results, told, [cell.key for cell in cells()])
    accelerator = cast(
        Accelerator, instantiate(plain(compose(["accelerator=embedded_45nm", "name=claims"]))["accelerator"])
    )
    begin = time.monotonic()
    bench: Bench | None = None
    todo = [cell for cell in cells() if cell.key not in book.cells and cell.key.startswith(given.only)]
    for cell in [] if given.table else todo:
        if time.monotonic() - begin > 60 * given.minutes:
            break
        book.look()
        if cell.key in book.cells:
            continue
        if bench is None or replace(bench.cell, kind=cell.kind) != cell:
            bench = Bench(cell, accelerator)
        started = time.monotonic()
        book.add(cell.key, run(cell, bench, book.cells))
        print(f"{cell.key}  {time.monotonic() - started:.0f} s", flush=True)
    book.save()
    for line in comparison(book.cells):
        print(line)
    for record in records(book.cells):
        claim = BY_ID[str(record["id"])]
        print(f"{record['id']}  {record['holds']!s:5}  {claim.statement}")
        print(f"           {record['measured']}  ({record['data']}, {len(cast(Any, record['seeds']))} seeds)")


if __name__ == "__main__":
    main()
