"""Speed of the STDP network against BindsNET 0.3.4: same spikes, same initial weights, same constants, interleaved.

Prints images/s in training and inference, the ratios to BindsNET's batch 1 and batch 32, whether every image gets
the same spike counts, the share of the memory-bandwidth limit, the encoder's part, seconds per MNIST epoch, the
throughput of two trials beside one, and the compile time with an empty and a filled cache. Writes
outputs/benchmarks/stdp.json.

    make peers && PIPELINE_DATA=... python benchmarks/stdp.py [--neurons 400 1600 4900] [--rounds 3]

About 8 minutes on two free cores. Both sides run one thread and are timed in CPU seconds, so that a busy machine
changes the ratios less; the epoch and the two trials are timed by the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numba import njit

from pipeline.data.mnist import Mnist
from pipeline.data.poisson import Poisson, scatter
from pipeline.learn.stdp import StdpRule
from pipeline.nets.stdp import Stdp, StdpNet
from pipeline.nets.stdp_kernel import READS

STEPS, IMAGES, EPOCH = 250, 512, 60_000
OURS = {400: 512, 1600: 256, 4900: 128}
"""Images that our side shows per round."""
THEIRS = {400: 6, 1600: 4, 4900: 3}
OUT = Path("outputs/benchmarks/stdp.json")


class Peer:
    """BindsNET in its own environment, driven over a pipe."""

    def __init__(self, python: str) -> None:
        script = str(Path(__file__).with_name("stdp_peer.py"))
        self.process = subprocess.Popen(
            [python, "-W", "ignore", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("ANSWER "):
                return cast(dict[str, Any], json.loads(line.removeprefix("ANSWER ")))
        raise RuntimeError("BindsNET's process ended; run `make peers`, then benchmarks/stdp_peer.py by hand")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def peer(python: str) -> Iterator[Peer]:
    made = Peer(python)
    try:
        yield made
    finally:
        made.close()


def spikes() -> tuple[Any, Any, torch.Tensor]:
    """Event-coded spikes of IMAGES MNIST training images."""
    encoder = Poisson(STEPS)
    data = Mnist(STEPS, encoder, root=os.environ.get("PIPELINE_DATA")).load(0)
    starts, pixels = encoder.events(data.train.x[:IMAGES], 0)
    return starts, pixels, data.train.x


def slice_of(starts: Any, first: int, count: int) -> Any:
    return starts[first * STEPS : (first + count) * STEPS + 1]


class Ours:
    """Our network with BindsNET's constants, timed in CPU seconds, as the other side is."""

    def __init__(self, neurons: int, events: tuple[Any, Any], winner: str) -> None:
        self.net: StdpNet = Stdp(neurons=neurons, winner=winner).build((1, 28, 28), 10, 0)  # type: ignore[arg-type]
        self.starts, self.pixels = events
        self.rule = StdpRule().per_step(1.0, 0)
        self.seconds = {True: 0.0, False: 0.0}
        self.shown = {True: 0, False: 0}

    def show(self, first: int, count: int, learn: bool) -> Any:
        starts = slice_of(self.starts, first, count)
        begin = time.thread_time()
        if learn:
            counts = self.net.learn(starts, self.pixels, count, STEPS, 0, self.rule)
        else:
            counts = self.net.respond(starts, self.pixels, count, STEPS, 0)
        self.seconds[learn] += time.thread_time() - begin
        self.shown[learn] += count
        return counts

    def rate(self, learn: bool) -> float:
        return self.shown[learn] / self.seconds[learn]


def same_counts(
    neurons: int, events: tuple[Any, Any], python: str, folder: str, count: int
) -> tuple[int, int]:
    """(images with identical spike counts while learning, images), ties to the lowest index on both sides."""
    ours = Ours(neurons, events, "first")
    file = save(ours.net, events, folder, count)
    with peer(python) as theirs:
        theirs.ask(do="build", file=file, batch=1, ties="first")
        answers = theirs.ask(do="show", first=0, count=count, learn=True)["counts"]
    counts = ours.show(0, count, learn=True)
    same = [
        {str(j): int(row[j]) for j in np.flatnonzero(row)} == a
        for row, a in zip(counts, answers, strict=True)
    ]
    return sum(same), count


def save(net: StdpNet, events: tuple[Any, Any], folder: str, count: int) -> str:
    dense = np.zeros((STEPS, count, 784), np.float32)
    scatter(slice_of(events[0], 0, count), events[1], dense)
    file = str(Path(folder) / f"spikes-{net.spec.neurons}.npz")
    np.savez(file, w=net.weight.numpy(), spikes=dense.transpose(1, 0, 2).astype(bool))
    return file


def race(neurons: int, events: tuple[Any, Any], python: str, folder: str, rounds: int) -> dict[str, float]:
    """Training, inference, and both sides in turns; BindsNET's batch 1 and 32."""
    ours = Ours(neurons, events, "random")
    file = save(ours.net, events, folder, 64)
    ours.show(0, 2, learn=True)
    ours.show(0, 2, learn=False)
    ours.seconds, ours.shown = {True: 0.0, False: 0.0}, {True: 0, False: 0}
    seconds = {(b, learn): 0.0 for b in (1, 32) for learn in (True, False)}
    shown = dict.fromkeys(seconds, 0)
    with peer(python) as one, peer(python) as many:
        one.ask(do="build", file=file, batch=1, ties="random")
        many.ask(do="build", file=file, batch=32, ties="random")
        one.ask(do="show", first=0, count=1, learn=True)
        for number in range(rounds):
            for learn in (True, False):
                ours.show(0, OURS[neurons], learn)
                first = (number * THEIRS[neurons]) % 32
                answer = one.ask(do="show", first=first, count=THEIRS[neurons], learn=learn)
                seconds[1, learn] += answer["seconds"]
                shown[1, learn] += THEIRS[neurons]
                answer = many.ask(do="show", first=32 * (number % 2), count=32, learn=learn)
                seconds[32, learn] += answer["seconds"]
                shown[32, learn] += 32
    out: dict[str, float] = {}
    for learn, name in ((True, "training"), (False, "inference")):
        out[f"{name}_images_per_s"] = ours.rate(learn)
        for b in (1, 32):
            theirs = shown[b, learn] / seconds[b, learn]
            out[f"{name}_bindsnet_{b}_images_per_s"] = theirs
            out[f"{name}_ratio_to_batch_{b}"] = ours.rate(learn) / theirs
    return out


@njit(nogil=True, fastmath=True)
def stream(flat, times):  # type: ignore[no-untyped-def]
    """Sum of everything, read in storage order: the most bytes per second that a matrix this large can give."""
    total = np.float32(0.0)
    for i in range(times):
        for j in range(flat.shape[0]):
            total += flat[j]
        flat[i % flat.shape[0]] = np.float32(i)
    return total


def bandwidth(neurons: int) -> float:
    """Bytes per second of `stream`, which begins on a cache line as the weights do."""
    flat = torch.ones(784 * neurons).numpy()
    stream(flat, 1)
    times = max(3, int(2e9 / flat.nbytes))
    begin = time.thread_time()
    stream(flat, times)
    return times * flat.nbytes / (time.thread_time() - begin)


def limits(neurons: int, events: tuple[Any, Any]) -> dict[str, float]:
    """Share of the byte limit: the time that the added rows need at full bandwidth over the time taken."""
    out: dict[str, float] = {}
    for learn, name in ((True, "training"), (False, "inference")):
        best = 0.0
        for _ in range(3):
            ours = Ours(neurons, events, "random")
            ours.show(0, 64, learn)
            before = (ours.net.training_ops + ours.net.inference_ops)[READS]
            ours.seconds, ours.shown = {True: 0.0, False: 0.0}, {True: 0, False: 0}
            ours.show(64, 128, learn)
            rows_bytes = 4.0 * ((ours.net.training_ops + ours.net.inference_ops)[READS] - before)
            best = max(best, rows_bytes / bandwidth(neurons) / ours.seconds[learn])
        out[f"{name}_share_of_byte_limit"] = best
    return out


def epoch_s(neurons: int, x: torch.Tensor, images: int) -> dict[str, float]:
    """Seconds of an epoch of 60,000 images, encoder in its own thread, from `images` of them."""
    encoder, chunk = Poisson(STEPS), 250
    net = Stdp(neurons=neurons).build((1, 28, 28), 10, 0)
    rule = StdpRule().per_step(1.0, 0)
    encoding = 0.0

    def encode(start: int) -> Any:
        nonlocal encoding
        begin = time.perf_counter()
        events = encoder.events(x[start : start + chunk], start)
        encoding += time.perf_counter() - begin
        return events

    encode(0)
    encoding = 0.0
    begin = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(encode, 0)
        for start in range(0, images, chunk):
            events = ahead.result()
            ahead = pool.submit(encode, start + chunk)
            net.learn(*events, chunk, STEPS, 0, rule)
    seconds = time.perf_counter() - begin
    return {
        "epoch_s": seconds / images * EPOCH,
        "encoder_images_per_s": (images + chunk) / encoding,
        "learning_images_per_s": images / seconds,
    }


def two_trials(neurons: int, events: tuple[Any, Any]) -> float:
    """Images/s of two networks learning in two threads over that of one alone, by the clock; best of three."""
    count, best = OURS[neurons], 0.0
    for _ in range(3):
        nets = [Ours(neurons, events, "random") for _ in range(3)]
        begin = time.perf_counter()
        nets[0].show(0, count, learn=True)
        alone = time.perf_counter() - begin
        with ThreadPoolExecutor(2) as pool:
            begin = time.perf_counter()
            list(pool.map(lambda ours: ours.show(0, count, True), nets[1:]))
        best = max(best, 2 * alone / (time.perf_counter() - begin))
    return best


def compile_s() -> dict[str, float]:
    """Seconds of the first image with an empty cache and, in a second process, with the filled one."""
    code = (
        "import time, numpy as np\n"
        "from pipeline.nets.stdp import Stdp\nfrom pipeline.learn.stdp import StdpRule\n"
        "net = Stdp(neurons=10).build((1, 28, 28), 10, 0)\n"
        "starts = np.zeros(11, np.int64); pixels = np.zeros(0, np.int32)\n"
        "begin = time.perf_counter()\n"
        "net.learn(starts, pixels, 1, 10, 0, StdpRule().per_step(1.0, 0)); net.respond(starts, pixels, 1, 10, 0)\n"
        "print(time.perf_counter() - begin)\n"
    )
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        runs = [
            float(
                subprocess.run(
                    [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
                ).stdout
            )
            for _ in range(2)
        ]
    return {"compile_s": runs[0], "cached_s": runs[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--neurons", type=int, nargs="+", choices=list(OURS), default=list(OURS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default=".venv-peers/bin/python")
    given = parser.parse_args()
    torch.set_num_threads(1)
    starts, pixels, x = spikes()
    events = (starts, pixels)
    known = json.loads(OUT.read_text())["neurons"] if OUT.exists() else {}  # rows of other sizes stay
    out: dict[str, Any] = {"compile": compile_s(), "load_average": os.getloadavg()[0], "neurons": known}
    print(
        f"first image: {out['compile']['compile_s']:.1f} s compiling, {out['compile']['cached_s']:.2f} s from the cache"
    )
    with tempfile.TemporaryDirectory() as folder:
        for n in given.neurons:
            row: dict[str, Any] = {}
            if Path(given.peers).exists():
                row |= race(n, events, given.peers, folder, given.rounds)
                row["same_counts"] = same_counts(n, events, given.peers, folder, 20 if n < 4900 else 8)
            row |= limits(n, events) | epoch_s(n, x, {400: 10_000, 1600: 3000}.get(n, 1000))
            row["two_trials_over_one"] = two_trials(n, events)
            out["neurons"] = dict(
                sorted({**out["neurons"], str(n): row}.items(), key=lambda found: int(found[0]))
            )
            print(f"n = {n}")
            for name, value in row.items():
                print(f"    {name:36} {value if isinstance(value, tuple) else f'{value:,.2f}'}", flush=True)
            OUT.parent.mkdir(parents=True, exist_ok=True)
            OUT.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
