"""What counting and pricing cost: `measure` as a share of an evaluation pass, and networks priced per second.

    python benchmarks/cost.py        writes outputs/benchmarks/cost.json, about a minute on one core

The same network runs the same batches with and without the meter, in turns in one process of one thread; a row is the
median of the ratios of neighbouring runs. Times are of the processor, so that a busy machine does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from pipeline.hardware.accelerator import Accelerator
from pipeline.hardware.cost import cost
from pipeline.hardware.load import measure
from pipeline.hardware.workload import LayerLoad
from pipeline.nets.conv import Conv
from pipeline.nets.feedforward import FeedForward
from pipeline.types import Batch

sys.path.insert(0, str(Path(__file__).parent))
from hardware_claims import machines, tcja_loads

OUT = Path("outputs/benchmarks/cost.json")


def networks() -> dict[str, tuple[nn.Module, list[Batch]]]:
    """Name -> network and input: constant currents, spikes, and event frames."""
    torch.manual_seed(0)

    def batches(
        steps: int, size: int, shape: tuple[int, int, int], density: float, count: int = 2
    ) -> list[Batch]:
        return [
            Batch((torch.rand(steps, size, *shape) < density).float(), torch.zeros(size))
            for _ in range(count)
        ]

    image = torch.rand(256, 1, 28, 28).mul(255).round().div(255)
    return {
        "fully connected 784-400-10, images": (
            FeedForward(hidden=(400,)).build((1, 28, 28), 10, 0),
            [Batch(image.expand(16, -1, -1, -1, -1), torch.zeros(256))] * 4,
        ),
        "fully connected 784-400-10, spikes": (
            FeedForward(hidden=(400,)).build((1, 28, 28), 10, 0),
            batches(16, 256, (1, 28, 28), 0.1, 4),
        ),
        "convolutional 28x28, spikes": (
            Conv().build((1, 28, 28), 10, 0),
            batches(16, 256, (1, 28, 28), 0.1, 2),
        ),
        "convolutional 64-128-128, events 34x34": (
            Conv(channels=(64, 128, 128), kernel=3, padding="same").build((2, 34, 34), 10, 0),
            batches(16, 16, (2, 34, 34), 0.04, 6),
        ),
    }


def timed(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def share(net: nn.Module, batches: list[Batch], rounds: int) -> tuple[float, float]:
    """(plain pass in ms, time that the meter adds as a share of it), medians over interleaved rounds."""

    def plain() -> None:
        with torch.no_grad():
            for batch in batches:
                net(batch.x)

    net.eval()
    plain()
    measure(net, batches, {})
    times, ratios = [], []
    for _ in range(rounds):
        without = timed(plain)
        with_meter = timed(lambda: measure(net, batches, {}))
        times.append(without)
        ratios.append(with_meter / without - 1)
    return statistics.median(times) * 1e3, statistics.median(ratios)


def priced(loads: tuple[LayerLoad, ...], machine: Accelerator, rounds: int = 20) -> float:
    """Milliseconds to price a network, mean and worst case, with nothing kept from the call before."""
    from pipeline.hardware import encoding, frame

    def once() -> float:
        encoding.store.cache_clear()
        frame.tile.cache_clear()
        return timed(lambda: cost(loads, machine))

    return statistics.median(once() for _ in range(rounds)) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, dict[str, float]] = {"measure_share": {}, "price_ms": {}, "networks_per_s": {}}
    print(f"{'network':<42} {'pass, ms':>10} {'measure adds':>14}")
    for name, (net, batches) in networks().items():
        pass_ms, added = share(net, batches, args.rounds)
        record["measure_share"][name] = added
        print(f"{name:<42} {pass_ms:10.1f} {added:13.1%}")
    print(f"\n{'machine (TCJA network, 11 layers)':<42} {'price, ms':>10} {'networks per s':>14}")
    loads = tcja_loads(4, 0.8)
    for name, machine in machines().items():
        ms = priced(loads, machine)
        record["price_ms"][name], record["networks_per_s"][name] = ms, 1e3 / ms
        print(f"{name:<42} {ms:10.2f} {1e3 / ms:14.0f}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
