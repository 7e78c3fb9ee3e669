"""One training step (forward, loss, backward, Adam) of the same net in three ways, interleaved in one run.

    python benchmarks/bptt.py [--rounds 30] [--threads 1] [--only NET]

* this project: chunks of time steps, layer by layer, one fused LIF scan per neuron layer
* snnTorch: its own `Leaky` in the usual loop over time, the same weights and the same layers (batch normalisation
  sees one step at a time there; attention needs all of T, and the loop ends before it and starts anew after it)
* SpikingJelly: multi-step layers and `LIFNode` (torch backend), the same weights; from the environment of
  `make peers`, left out where that is missing

Time is processor time, so that other work on the machine counts as little as it can (loading: see there).
Prints median milliseconds, ratios (median over rounds of the ratio within a round), what fake-quantizers (fixed point,
learned ranges) and masks add, the share of a step that the bare matrix products would need at the measured speed of a
large matrix product, how much faster than snnTorch a step of nothing but these products would be (on spike trains this
project multiplies nothing in the first layer and may pass that limit), and the share of data loading.
Writes outputs/benchmarks/bptt.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import snntorch as snn
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline import heap
from pipeline.compress.prune import PruneWeights
from pipeline.compress.quantize import QuantizeWeights
from pipeline.data.augment import Augment
from pipeline.data.digits import Digits
from pipeline.data.encode import Direct, Frames
from pipeline.nets.conv import Conv
from pipeline.nets.feedforward import FeedForward
from pipeline.nets.neurons import Leaky
from pipeline.nets.tcja import Tcja, TemporalChannelAttention
from pipeline.types import Dataset, Split

# name: (spec, input [T, B, C, H, W], classes, wanted against snnTorch or None)
NETS: dict[str, tuple[Any, tuple[int, ...], int, float | None]] = {
    "784-256-10 image": (FeedForward(hidden=256), (25, 128, 1, 28, 28), 10, 3.0),
    "784-256-10 spikes": (FeedForward(hidden=256), (25, 128, 1, 28, 28), 10, 3.0),
    "small conv": (Conv(), (16, 16, 2, 32, 32), 11, 1.8),
    "five conv": (
        Conv(channels=(32, 32, 32, 32, 32), kernel=3, padding="same", hidden=(128,)),
        (16, 16, 2, 32, 32),
        11,
        1.4,
    ),
    # as experiment gesture_simulated has it
    "TCJA, batch norm": (
        Tcja(
            channels=(12, 24, 48), hidden=96, plain_blocks=1, attention_blocks=2,
            beta=0.75, threshold=1.0, slope=2.0, dropout=0.0,
        ),
        (20, 16, 2, 32, 32),
        11,
        None,
    ),
}  # fmt: skip
QUANTIZERS = {"compressed": QuantizeWeights(4), "learned": QuantizeWeights(4, scheme="duq")}
"""Each behind a mask of half of the weights: fixed point, and the learned ranges that the gesture study uses."""
Step = Callable[[], float]


def trainer(
    forward: Callable[[Tensor], Tensor], parameters: Sequence[Tensor], x: Tensor, classes: int
) -> Step:
    """A closure that does one training step and says how long it took, in seconds."""
    optimizer = torch.optim.Adam(parameters, 1e-4, fused=True)
    y = torch.arange(x.shape[1]) % classes

    def step() -> float:
        begin = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(forward(x).sum(0), y).backward()
        optimizer.step()
        return time.process_time() - begin

    return step


def snntorch_way(net: nn.Module) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    layers = [
        snn.Leaky(layer.beta, layer.threshold) if isinstance(layer, Leaky) else layer
        for layer in net.children()
    ]

    def loop(x: Tensor, layers: Sequence[nn.Module]) -> Tensor:
        membranes: dict[int, Tensor] = {}
        outputs = []
        for current in x:
            for at, layer in enumerate(layers):
                if isinstance(layer, snn.Leaky):
                    before = membranes[at] if at in membranes else torch.zeros_like(current)
                    current, membranes[at] = layer(current, before)
                else:
                    current = layer(current)
            outputs.append(current)
        return torch.stack(outputs)

    whole = [at for at, layer in enumerate(layers) if isinstance(layer, TemporalChannelAttention)]

    def forward(x: Tensor) -> Tensor:
        for begin, end in pairwise([-1, *whole, len(layers)]):
            x = loop(layers[begin](x) if begin >= 0 else x, layers[begin + 1 : end])
        return x

    return forward, list(net.parameters())


def spikingjelly_way(net: nn.Module) -> tuple[Callable[[Tensor], Tensor], list[Tensor]] | None:
    """Decay 1 - 1/tau, input not decayed, soft reset; it resets in the same step, one sooner than snnTorch."""
    try:
        from spikingjelly.activation_based import functional as jelly
        from spikingjelly.activation_based import layer as wrap
        from spikingjelly.activation_based import neuron, surrogate
    except ImportError:
        return None
    layers: list[nn.Module] = []
    for layer in net.children():
        if isinstance(layer, Leaky):
            layers.append(
                neuron.LIFNode(
                    tau=1 / (1 - float(layer.beta)), decay_input=False, v_reset=None, detach_reset=True,
                    surrogate_function=surrogate.ATan(), step_mode="m",
                )
            )  # fmt: skip
        elif isinstance(layer, TemporalChannelAttention):
            layers.append(layer)
        else:
            layers.append(wrap.SeqToANNContainer(layer))
    whole = nn.Sequential(*layers)

    def forward(x: Tensor) -> Tensor:
        jelly.reset_net(whole)
        return whole(x)

    return forward, list(net.parameters())


def products(net: nn.Module, x: Tensor) -> float:
    """Floating point operations of one step in matrix products: forward, weight gradient, input gradient.

    A constant image passes the first layer once.
    """
    total = 0.0
    first = True

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total, first
        fan_in = layer.weight[0].numel()  # type: ignore[union-attr]
        times = len(x) if first and x.stride(0) == 0 else 1
        total += 2 * fan_in * output.numel() * (2 if first else 3) / times
        first = False

    hooks = [
        each.register_forward_hook(count)
        for each in net.modules()
        if isinstance(each, (nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        net.eval()(x)
    net.train()
    for hook in hooks:
        hook.remove()
    return total


def gemm_speed(side: int = 1536, rounds: int = 5) -> float:
    """Floating point operations per second of a square float32 matrix product, the best of some."""
    a, b = torch.rand(side, side), torch.rand(side, side)
    best = float("inf")
    for _ in range(rounds):
        begin = time.process_time()
        a @ b
        best = min(best, time.process_time() - begin)
    return 2 * side**3 / best


def loading_shares(rounds: int) -> dict[str, float]:
    """Choosing, copying and encoding a batch, as a share of all of a training step: images, and stored event frames."""
    generator = torch.Generator().manual_seed(0)
    frames = (torch.rand(48, 16, 2, 32, 32, generator=generator) < 0.2).to(torch.uint8)
    split = Split(frames, torch.arange(48) % 11)
    events = Dataset("frames", 11, (2, 32, 32), 16, split, split, split, Frames(16), "none")
    augment = Augment(shift=2, rotate=10, drop=0.1)
    cases = {
        "digits, 64-64-10, T 8, batch 64": (
            Digits(timesteps=8, encoding=Direct()).load(0),
            FeedForward(hidden=64),
            64,
        ),
        "event frames 2x32x32, small conv, T 16, batch 16": (events, Conv(), 16),
        "the same, rotated, shifted and thinned": (replace(events, augment=augment), Conv(), 16),
    }
    return {name: loading_share(data, spec, size, rounds) for name, (data, spec, size) in cases.items()}


def loading_share(data: Dataset, spec: Any, size: int, rounds: int) -> float:
    """Of the time of an epoch; the median over epochs, the first of which only warms up.

    By the wall clock: asking for the processor time takes as long as loading a batch of digits.
    """
    net = spec.build(data.shape, data.classes, 0).train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    shares = []
    for turn in range(rounds + 1):
        load, learn = 0.0, 0.0
        begin = time.perf_counter()
        for x, y in data.batches("train", size, seed=turn, shuffle=True):
            loaded = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(net(x).sum(0), y).backward()
            optimizer.step()
            done = time.perf_counter()
            load, learn = load + loaded - begin, learn + done - loaded
            begin = done
        shares.append(load / (load + learn))
    return statistics.median(shares[1:])


def compare(name: str, rounds: int, speed: float) -> dict[str, Any]:
    spec, shape, classes, wanted = NETS[name]
    generator = torch.Generator().manual_seed(0)
    if (
        "image" in name
    ):  # the same current at every step, as snnTorch's tutorials and this project's images have it
        x = torch.rand(shape[1:], generator=generator).expand(shape)
    else:
        x = (torch.rand(shape, generator=generator) < 0.2).float()

    def build() -> nn.Module:
        return spec.build(shape[2:], classes, 0).train()

    nets = {key: build() for key in ("ours", "snntorch", "spikingjelly", *QUANTIZERS)}
    for key, quantizer in QUANTIZERS.items():
        PruneWeights(0.5).attach(nets[key])
        quantizer.attach(nets[key])
    steps = {
        key: trainer(nets[key], list(nets[key].parameters()), x, classes) for key in ("ours", *QUANTIZERS)
    }
    steps["snntorch"] = trainer(*snntorch_way(nets["snntorch"]), x, classes)
    jelly = spikingjelly_way(nets["spikingjelly"])
    if jelly is not None:
        steps["spikingjelly"] = trainer(*jelly, x, classes)
    times: dict[str, list[float]] = {key: [] for key in steps}
    with heap.held():  # as the project's trainings run; the other two have the same of it
        for turn in range(rounds + 3):
            for key, step in steps.items():
                spent = step()
                if turn >= 3:
                    times[key].append(spent)
    ratio = {
        key: statistics.median(a / b for a, b in zip(spans, times["ours"], strict=True))
        for key, spans in times.items()
    }
    median = {key: statistics.median(spans) for key, spans in times.items()}
    bare = products(build(), x) / speed
    return {
        "net": name,
        "ms": {key: 1e3 * value for key, value in median.items()},
        "faster_than": {key: ratio[key] for key in ("snntorch", "spikingjelly") if key in ratio},
        "wanted_snntorch": wanted,
        "compression_adds": ratio["compressed"] - 1,
        "learned_adds": ratio["learned"] - 1,
        "gemm_limit_share": bare / median["ours"],
        "attainable_snntorch": median["snntorch"] / bare,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=list(NETS))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    sys.path += [str(path) for path in Path(".venv-peers").glob("lib/python*/site-packages")]
    speed = gemm_speed()
    print(f"matrix product {speed / 1e9:.0f} Gflop/s, {chosen.threads} thread(s), {chosen.rounds} rounds")
    print(
        f"{'net':18} {'ours ms':>9} {'snnTorch':>9} {'S.Jelly':>9} {'+mask+4bit':>10} {'learned':>8} "
        f"{'GEMM share':>10} {'at most':>9}"
    )
    rows = []
    for name in [chosen.only] if chosen.only else NETS:
        row = compare(name, chosen.rounds, speed)
        rows.append(row)
        faster = row["faster_than"]
        cells = " ".join(
            f"{faster[key]:8.2f}x" if key in faster else f"{'-':>9}" for key in ("snntorch", "spikingjelly")
        )
        print(f"{name:18} {row['ms']['ours']:9.1f} {cells}", end=" ")
        print(
            f"{row['compression_adds']:+10.1%} {row['learned_adds']:+8.1%} {row['gemm_limit_share']:10.0%} "
            f"{row['attainable_snntorch']:8.1f}x"
        )
        write(speed, rows, {})
    shares = loading_shares(max(7, chosen.rounds // 4))
    for name, share in shares.items():
        print(f"data loading: {share:.1%} of a step ({name})")
    write(speed, rows, shares)


def write(speed: float, rows: list[dict[str, Any]], shares: dict[str, float]) -> None:
    """What there is so far: whoever stops a long run keeps the nets that were done."""
    out = Path("outputs/benchmarks/bptt.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"gemm_gflops": speed / 1e9, "nets": rows, "loading_share": shares}, indent=1))


if __name__ == "__main__":
    main()
