"""What masks and fake-quantizers add to a training step: the same net, with and without, interleaved.

    python benchmarks/fake_quant.py

Prints the median CPU time of a step of both and their ratio; writes outputs/benchmarks/fake_quant.json.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from pipeline.compress.prune import PruneWeights
from pipeline.compress.quantize import QuantizeNeurons, QuantizeWeights
from pipeline.nets.conv import Conv
from pipeline.nets.feedforward import FeedForward

ROUNDS = 60
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "digits 64-128-10, T 8, batch 64": (
        lambda: FeedForward(hidden=128).build((1, 8, 8), 10, 0),
        (8, 64, 1, 8, 8),
    ),
    "mnist 784-256-10, T 10, batch 64": (
        lambda: FeedForward(hidden=256).build((1, 28, 28), 10, 0),
        (10, 64, 1, 28, 28),
    ),
    "mnist conv, T 8, batch 32": (lambda: Conv().build((1, 28, 28), 10, 0), (8, 32, 1, 28, 28)),
}
STEPS = {
    "mask + nearest": [PruneWeights(0.5), QuantizeWeights(4)],
    "mask + stochastic": [PruneWeights(0.5), QuantizeWeights(4, rounding="stochastic")],
    "mask + nearest + neuron parameters": [
        PruneWeights(0.5),
        QuantizeWeights(4),
        QuantizeNeurons(threshold=8, beta=8),
    ],
    "mask + nearest + membrane": [
        PruneWeights(0.5),
        QuantizeWeights(4),
        QuantizeNeurons(8, threshold=8, beta=8),
    ],
}


def stepper(net: nn.Module, x: torch.Tensor) -> Callable[[], float]:
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    y = torch.arange(x.shape[1]) % 10

    def step() -> float:
        begin = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(net(x).sum(0), y).backward()
        optimizer.step()
        return time.process_time() - begin

    return step


def main() -> None:
    torch.set_num_threads(1)
    results = []
    for label, (build, shape) in NETS.items():
        x = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.2).float()
        steppers = {"float": stepper(build().train(), x)}
        for name, steps in STEPS.items():
            net = build().train()
            for compression in steps:
                compression.attach(net)
            steppers[name] = stepper(net, x)
        times: dict[str, list[float]] = {name: [] for name in steppers}
        for turn in range(ROUNDS + 5):
            for name, step in steppers.items():
                spent = step()
                if turn >= 5:
                    times[name].append(spent)
        base = statistics.median(times["float"])
        for name, spans in times.items():
            ratio = statistics.median(a / b for a, b in zip(spans, times["float"], strict=True))
            median = statistics.median(spans)
            results.append(
                {"net": label, "steps": name, "ms": median * 1e3, "ratio": ratio, "float_ms": base * 1e3}
            )
            print(f"{label:34} {name:36} {median * 1e3:8.2f} ms   {100 * (ratio - 1):+6.1f} %")
    out = Path("outputs/benchmarks/fake_quant.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
