"""What event data costs and how hard it is: framing against tonic, loading against training, linear readouts.

    PIPELINE_DATA=... python benchmarks/events.py [--gestures N] [--train EPOCHS] [--seeds N]

Prints tables and writes outputs/benchmarks/events.json, part by part; docs/results/benchmarks holds the one shown.
Ratios come from one interleaved run. `--gestures` adds the simulated gestures to part 4, under N lightings of all 29
users (2: 638 recordings, 5: 1,595; minutes). `--train` adds part 5: a small convolutional network of snnTorch neurons,
so many epochs on the same recordings, tested once on people it never saw, `--seeds` times.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import snntorch
import snntorch.surrogate
import tonic
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier

from pipeline.data.augment import Augment
from pipeline.data.compare import real_clips
from pipeline.data.dvs import LIGHTS
from pipeline.data.events import Nmnist
from pipeline.data.framing import Framing
from pipeline.data.recordings import EVENT
from pipeline.data.synthetic import Simulation, SyntheticGesture
from pipeline.report.files import write_whole
from pipeline.types import Dataset, Split

ROUNDS = 5
RESULTS = Path("outputs/benchmarks/events.json")


def seconds_of(calls: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each call, taken in turns so that all see the same machine."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: float(np.median(times)) for name, times in taken.items()}


def structured(columns: np.ndarray) -> np.ndarray:
    events = np.empty(len(columns), EVENT)
    events["x"], events["y"], events["p"] = columns[:, 0], columns[:, 1], columns[:, 2]
    events["t"] = columns[:, 3].astype(np.int64) * 1000
    return events


def framing(events: np.ndarray) -> dict[str, Any]:
    """Events per second of framing and denoising, ours and tonic's, equal results required."""
    events = events[: len(events) // 20 * 20]
    count, time_, denoise = Framing(), Framing(slicing="time"), Framing(denoise_ms=10)
    theirs = tonic.transforms.ToFrame((128, 128, 2), n_event_bins=20)
    theirs_time = tonic.transforms.ToFrame((128, 128, 2), n_time_bins=20)
    assert np.array_equal(count.frames(events, 128, 20)[0], theirs(events))
    few = events[:20_000]  # tonic's loop takes a second for 100,000 events
    assert np.array_equal(denoise.kept(few, 128), tonic.transforms.Denoise(10_000)(few))
    taken = seconds_of(
        {
            "count": lambda: count.frames(events, 128, 20), "count, tonic": lambda: theirs(events),
            "time": lambda: time_.frames(events, 128, 20), "time, tonic": lambda: theirs_time(events),
            "denoise": lambda: denoise.kept(few, 128), "denoise, tonic": lambda: tonic.transforms.Denoise(10_000)(few),
        }
    )  # fmt: skip
    rows = {}
    for name, size in (("count", len(events)), ("time", len(events)), ("denoise", len(few))):
        ours, other = taken[name], taken[f"{name}, tonic"]
        rows[name] = {"events_per_s": size / ours, "tonic_events_per_s": size / other, "ratio": other / ours}
    return rows


def loading(root: str) -> dict[str, Any]:
    """N-MNIST: building the cache, opening it, and a batch beside a training step of a small conv network."""
    augment = Augment(shift=2, rotate=10, drop=0.1)
    spec = Nmnist(16, Framing(), root=root, augment=augment)
    from pipeline.data import events as event_data

    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, {"XDG_CACHE_HOME": cache}):
        start = time.perf_counter()
        data = spec.load(0)
        build = time.perf_counter() - start
        facts = event_data._stored.__wrapped__(dataclasses.replace(spec, augment=None), 0).facts
        event_data._stored.cache_clear()

        def reopen() -> None:
            event_data._stored.cache_clear()
            spec.load(0)

        opened = seconds_of({"open": reopen})["open"]
        step = training_step(data)
        batch = seconds_of(
            {"plain": lambda: epoch(data, False), "augmented": lambda: epoch(data, True), "step": step}, 3
        )
    batches = -(-len(data.train) // 16)
    per_step = batch["step"]
    return {
        "recordings": facts["shape"][0], "events": facts["events"], "build_s": build,
        "events_per_s": facts["events"] / facts["seconds"], "megabytes": float(np.prod(facts["shape"]) / 1e6),
        "open_s": opened, "batch_ms": 1000 * batch["plain"] / batches,
        "augmented_batch_ms": 1000 * batch["augmented"] / batches, "step_ms": 1000 * per_step,
        "share_of_step": batch["plain"] / batches / per_step,
        "augmented_share_of_step": batch["augmented"] / batches / per_step,
    }  # fmt: skip


def epoch(data: Dataset, shuffle: bool) -> None:
    for _ in data.batches("train", 16, seed=0, shuffle=shuffle):
        pass


def training_step(data: Dataset) -> Callable[[], None]:
    """Forward and backward of 12C5-MP2-32C5-MP2-FC on a batch of 16, without neurons: the least a step can cost."""
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 12, 5), torch.nn.MaxPool2d(2), torch.nn.ReLU(), torch.nn.Conv2d(12, 32, 5),
        torch.nn.MaxPool2d(2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(10),
    )  # fmt: skip
    x = next(data.batches("train", 16, seed=0)).x.flatten(0, 1)
    net(x)

    def step() -> None:
        net.zero_grad()
        net(x).sum().backward()

    return step


def linear_readout(data: Dataset) -> dict[str, float]:
    """Test accuracy of the best of ridge and logistic readouts of summed frames.

    Chosen on validation, then trained on training and validation recordings together, as part 5's network is.
    """
    models: list[Any] = [RidgeClassifier(alpha=alpha) for alpha in (1e1, 1e2, 1e3, 1e4)]
    models += [LogisticRegression(C=c, max_iter=60, tol=1e-3) for c in (1e-3, 1e-2, 1e-1)]
    best: dict[str, float] = {"validation": 0.0}
    labels = torch.cat([data.train.y, data.validation.y])
    for pool in (1, 2, 4):
        for shape in (lambda v: v, np.sqrt, np.log1p):
            train, validation, test = (
                summed(split, pool, shape) for split in (data.train, data.validation, data.test)
            )
            mean, scale = train.mean(0), train.std()
            train, validation, test = ((part - mean) / scale for part in (train, validation, test))
            together = np.concatenate([train, validation])
            for model in models:
                warnings.simplefilter("ignore", ConvergenceWarning)  # stopped early it is a readout, too
                found = float(model.fit(train, data.train.y).score(validation, data.validation.y))
                if found > best["validation"]:
                    reached = float(model.fit(together, labels).score(test, data.test.y))
                    best = {"validation": found, "test": reached, "recordings": float(len(labels))}
    return best


def summed(split: Split, pool: int, shape: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """[N, 2 * (H / pool)^2] events per pixel over the whole recording, neighbours added up."""
    x = split.x.sum(dim=1, dtype=torch.float32)
    x = torch.nn.functional.avg_pool2d(x, pool) * pool * pool
    return np.asarray(shape(x.flatten(1).numpy()))


class Small(torch.nn.Module):
    """3 x {conv 3x3, batch norm, Leaky, max pool 2}, fc 96, Leaky, fc: [T, B, 2, 32, 32] -> means [B, classes]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (2, 12, 24, 48)
        self.convs = torch.nn.ModuleList(
            torch.nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in pairwise(widths)
        )
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(width) for width in widths[1:])
        self.spikes = torch.nn.ModuleList(leaky(0.7) for _ in widths[1:])
        self.hidden, self.hidden_spikes = torch.nn.Linear(48 * 16, 96), leaky(0.9)
        self.out = torch.nn.Linear(96, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, batch = x.shape[:2]
        x = x.sqrt().flatten(0, 1)  # evens out counts, whose spread grows with their size
        for conv, norm, neuron in zip(self.convs, self.norms, self.spikes, strict=True):
            current = norm(conv(x.contiguous(memory_format=torch.channels_last)))
            fired = over_time(neuron, current.view(steps, batch, *current.shape[1:]))
            x = torch.nn.functional.max_pool2d(fired.flatten(0, 1), 2)
        x = torch.nn.functional.dropout(x.flatten(1), 0.3, self.training)
        fired = over_time(self.hidden_spikes, self.hidden(x).view(steps, batch, -1))
        return self.out(fired).mean(0)


def leaky(beta: float) -> snntorch.Leaky:
    gradient = snntorch.surrogate.atan(alpha=2.0)
    return snntorch.Leaky(beta=beta, spike_grad=gradient, reset_mechanism="zero", reset_delay=False)


def over_time(neuron: snntorch.Leaky, currents: torch.Tensor) -> torch.Tensor:
    membrane, fired = torch.zeros_like(currents[0]), []
    for current in currents:
        spikes, membrane = neuron(current, membrane)
        fired.append(spikes)
    return torch.stack(fired)


def spiking(data: Dataset, epochs: int, seed: int) -> dict[str, float]:
    """Test accuracy of `Small` after a fixed number of epochs on all 23 training users; nothing is chosen on it."""
    torch.manual_seed(seed)
    together = Split(
        torch.cat([data.train.x, data.validation.x]), torch.cat([data.train.y, data.validation.y])
    )
    data = dataclasses.replace(data, train=together)
    net = Small(data.classes)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    steps = epochs * -(-len(data.train) // 16)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    start = time.perf_counter()
    for number in range(epochs):
        total = 0.0
        for batch in data.batches("train", 16, seed=seed * epochs + number, shuffle=True):
            loss = torch.nn.functional.cross_entropy(net(batch.x), batch.y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch.y)
        print(
            f"   seed {seed}, epoch {number + 1} of {epochs}: loss {total / len(data.train):.3f}", flush=True
        )
    seconds = time.perf_counter() - start
    net.eval()
    with torch.no_grad():
        right = sum(int((net(b.x).argmax(1) == b.y).sum()) for b in data.batches("test", 32, seed=0))
    return {"test": right / len(data.test), "train_s": seconds}


def keep(result: dict[str, Any]) -> None:
    """Write what there is so far: the last part takes minutes."""
    write_whole(RESULTS, json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gestures", type=int, default=0, help="lightings of simulated gestures for part 4")
    parser.add_argument("--train", type=int, default=0, help="epochs of the spiking network in part 5")
    parser.add_argument("--seeds", type=int, default=1, help="how often part 5 trains it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    root = os.environ.get("PIPELINE_DATA")
    if not root:
        raise SystemExit("PIPELINE_DATA must name the folder with nmnist-small and dvs-gesture-clips")
    result: dict[str, Any] = {}
    clip = structured(real_clips(Path(root))[4])
    result["framing"] = framing(clip)
    keep(result)
    print(f"1. One real clip of {len(clip):,} events to 20 frames of 128x128 (tonic's results are equal)")
    for name, row in result["framing"].items():
        ours, theirs = row["events_per_s"] / 1e6, row["tonic_events_per_s"] / 1e6
        print(f"   {name:8} {ours:7.1f} M events/s   tonic {theirs:6.2f}   {row['ratio']:6.1f}x")
    simulation = Simulation()
    simulation.recording(1, LIGHTS[0], 4)
    taken = seconds_of({"simulate": lambda: simulation.recording(1, LIGHTS[0], 4)}, 3)["simulate"]
    result["simulation"] = {"seconds_per_recording": taken, "times_real": simulation.seconds / taken}
    print(f"2. Simulated recording of {simulation.seconds} s: {taken:.2f} s")
    result["nmnist"] = row = loading(root)
    keep(result)
    speed, size = row["events_per_s"] / 1e6, row["megabytes"]
    print(
        f"3. N-MNIST, {row['recordings']} recordings: built in {row['build_s']:.2f} s "
        f"({speed:.1f} M events/s, {size:.0f} MB),"
    )
    print(
        f"   opened in {row['open_s']:.2f} s; a step without neurons, batch 16: {row['step_ms']:.0f} ms, loading it:"
    )
    print(f"   plain     {row['batch_ms']:.1f} ms, {row['share_of_step']:.1%} of the step")
    print(f"   augmented {row['augmented_batch_ms']:.1f} ms, {row['augmented_share_of_step']:.1%}")
    result["linear"] = {"nmnist": linear_readout(Nmnist(16, Framing(), root=root).load(0))}
    if given.gestures:
        augment = Augment(
            flip=0.5, flip_labels=(0, 2, 1, 6, 5, 4, 3, 7, 8, 9, 10), shift=3, rotate=8, drop=0.2
        )
        spec = SyntheticGesture(
            20, Framing(size=32), augment=augment, scale=0.25, simulation=Simulation(lightings=given.gestures)
        )
        result["linear"]["synthetic_gesture"] = linear_readout(spec.load(0))
    keep(result)
    print("4. Linear readout of summed frames, test accuracy (settings chosen on validation)")
    for name, accuracy in result["linear"].items():
        print(f"   {name:18} {accuracy['test']:.1%}")
    if given.gestures and given.train:
        data = spec.load(0)
        together = len(data.train) + len(data.validation)
        print(f"5. Small spiking network, {together} recordings, {given.train} epochs")
        result["spiking"] = {"epochs": given.train, "recordings": together, "test": [], "train_s": []}
        for seed in range(given.seeds):
            for name, value in spiking(data, given.train, seed).items():
                result["spiking"][name].append(value)
            keep(result)
            tests, seconds = result["spiking"]["test"], result["spiking"]["train_s"]
            print(f"   synthetic_gesture, seed {seed}: {tests[-1]:.1%} in {seconds[-1]:.0f} s")


if __name__ == "__main__":
    main()
