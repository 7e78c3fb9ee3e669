"""The integer engine against the torch network it proves: images per second, the same answers, interleaved in one run.

    python benchmarks/integer.py [--images 512] [--rounds 7] [--only NET]

Networks are trained for a moment on real images (MNIST where $PIPELINE_DATA or the download is there, else
scikit-learn's digits), so that they fire as usual, then compressed: 8-bit weights, 14-bit membranes. Both sides use
one thread and begin with the encoded float input; `coded` is the ratio for an engine that was handed the integers of
that input, as it is when a finalist is stressed many times on the same samples. Prints medians of processor time, the
median ratio within a round, and each layer's share of firing neurons per step. Writes outputs/benchmarks/integer.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.compress.plan import Plan, compress
from pipeline.compress.quantize import QuantizeNeurons, QuantizeWeights
from pipeline.compress.stack import grids
from pipeline.data.digits import Digits
from pipeline.data.encode import Direct, Rate
from pipeline.data.mnist import Mnist
from pipeline.export.codes import input_format
from pipeline.export.integer import Engine
from pipeline.export.lower import lower
from pipeline.learn.surrogate import Surrogate
from pipeline.nets.conv import Conv
from pipeline.nets.feedforward import FeedForward
from pipeline.types import Dataset

STEPS = 10
# name: (spec, encoding, wanted ratio)
NETS: dict[str, tuple[Any, Any, float]] = {
    "fc 128": (FeedForward(hidden=128), Direct(), 5.0),
    "fc 512": (FeedForward(hidden=512), Direct(), 5.0),
    "fc 128, rate input": (FeedForward(hidden=128), Rate(), 5.0),
    "conv 12-32": (Conv(), Direct(), 1.0),
    "conv 32-64": (Conv(channels=(32, 64), kernel=3), Direct(), 1.0),
}


def data_of(encoding: Any, images: int) -> Dataset:
    """Real images: a few to train on, `images` to time."""
    if os.environ.get("PIPELINE_DATA"):
        mnist = Mnist(
            timesteps=STEPS,
            encoding=encoding,
            root=os.environ["PIPELINE_DATA"],
            limit=1000,
            validation=images,
        )
        return mnist.load(0)
    return Digits(timesteps=STEPS, encoding=encoding, validation=images).load(0)


def prepared(spec: Any, data: Dataset) -> tuple[torch.nn.Module, Engine]:
    """A trained, compressed network and its integer twin."""
    net = spec.build(data.shape, data.classes, 0)
    learner = Surrogate(epochs=2, device="cpu")
    learner.fit(net, data, lambda step, metrics: None, 0)
    steps = {"weights": QuantizeWeights(bits=8), "neurons": QuantizeNeurons(beta=8, threshold=8, membrane=14)}
    samples = [next(iter(data.batches("train", 128, 0))).x]
    _, widths = compress(
        net, steps, Plan(), lambda e, p: learner.fit(net, data, lambda s, m: None, 0, 0), samples
    )
    net.eval()
    given = input_format([batch.x for batch in data.batches("validation", 256, 0)], data.shape)
    return net, Engine(lower(net, grids(net), widths, given, STEPS, data.classes))


def seconds(run: Any) -> float:
    """Processor seconds of this thread: what other processes do to the clock does not count."""
    began = time.thread_time()
    run()
    return time.thread_time() - began


def measure(name: str, images: int, rounds: int) -> dict[str, Any]:
    spec, encoding, wanted = NETS[name]
    data = data_of(encoding, images)
    net, engine = prepared(spec, data)
    x = next(iter(data.batches("validation", images, 0))).x
    with torch.no_grad():
        same = bool(torch.equal(net(x), engine.run(x)))
        codes = engine.codes(x)
        calls = (lambda: net(x), lambda: engine.answers(x), lambda: engine.labels(codes))
        times = [[seconds(call) for call in calls] for _ in range(rounds + 1)][1:]
    rates = {layer: float(np.mean(spikes)) for layer, spikes in engine.trace(engine.codes(x[:, :64])).items()}
    return {
        "net": name, "same_spikes": same, "wanted": wanted, "rates": rates,
        "torch_images_per_s": images / statistics.median(t for t, _, _ in times),
        "integer_images_per_s": images / statistics.median(i for _, i, _ in times),
        "ratio": statistics.median(t / i for t, i, _ in times),
        "ratio_from_codes": statistics.median(t / c for t, _, c in times),
        "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=NETS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(
        f"{'net':20}{'torch img/s':>13}{'integer img/s':>15}{'ratio':>8}{'coded':>8}{'goal':>6}  same  firing per step"
    )
    for name in [given.only] if given.only else NETS:
        row = measure(name, given.images, given.rounds)
        rows.append(row)
        rates = " ".join(f"{rate:.1%}" for rate in row["rates"].values())
        speeds = f"{row['torch_images_per_s']:>13,.0f}{row['integer_images_per_s']:>15,.0f}"
        ratios = f"{row['ratio']:>8.2f}{row['ratio_from_codes']:>8.2f}{row['wanted']:>6.1f}"
        print(f"{name:20}{speeds}{ratios}  {row['same_spikes']!s:5} {rates}")
        folder = Path("outputs/benchmarks")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "integer.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
