"""The integer engine against the network it proves: samples per second, the same answers, interleaved in one run.

    python benchmarks/integer.py [--images 512] [--rounds 7] [--only NET]

Networks are trained for a moment on real images and event recordings ($PIPELINE_DATA or the download, else
scikit-learn's digits and simulated gestures), so that they fire as usual, then compressed: 8-bit weights, 14-bit
membranes. Both sides use one thread and begin with the encoded float input; `handed` is the ratio for an engine that
was handed the integers of that input, as it is when a finalist is stressed many times on the same samples, and for an
STDP network that was handed the list of events, as an evaluation shows it. Prints medians of processor time, the median
ratio within a round, and each layer's share of firing neurons per step. Writes outputs/benchmarks/integer.json, where
rows of networks that were not measured now stay.
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
from integer_nets import CASES

from pipeline import heap

OUT = Path("outputs/benchmarks/integer.json")


def seconds(run: Any) -> float:
    """Processor seconds of this thread: what other processes do to the clock does not count."""
    began = time.thread_time()
    run()
    return time.thread_time() - began


def measure(name: str, images: int, rounds: int) -> dict[str, Any]:
    case = CASES[name]
    made = case.make(images)
    engine, x = made.engine, made.x
    with torch.no_grad(), heap.held():  # as trials run: the network gets its maps from pages that it has
        same = bool(torch.equal(made.network(x), engine.run(x)))
        times = [{what: seconds(call) for what, call in made.calls.items()} for _ in range(rounds + 1)][1:]
    rates = {layer: float(np.mean(spikes)) for layer, spikes in engine.trace(engine.codes(x[:, :64])).items()}
    samples = x.shape[1]
    return {
        "net": name, "same_spikes": same, "wanted": case.wanted, "rates": rates,
        "torch_images_per_s": samples / statistics.median(t["network"] for t in times),
        "integer_images_per_s": samples / statistics.median(t["integer"] for t in times),
        "ratio": statistics.median(t["network"] / t["integer"] for t in times),
        "ratio_from_codes": statistics.median(t["handed_network"] / t["handed_integer"] for t in times),
        "load": os.getloadavg()[0],
    }  # fmt: skip


def merged(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows on record with this one new, in the order of the networks."""
    known = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else []
    rows = {each["net"]: each for each in [*known, row]}
    return [rows[name] for name in CASES if name in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=CASES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'net':24}{'torch img/s':>13}{'integer img/s':>15}{'ratio':>8}{'handed':>8}{'goal':>6}  same  firing per step"
    )
    for name in [given.only] if given.only else CASES:
        row = measure(name, given.images, given.rounds)
        rates = " ".join(f"{rate:.2%}" for rate in row["rates"].values())
        speeds = f"{row['torch_images_per_s']:>13,.0f}{row['integer_images_per_s']:>15,.0f}"
        ratios = f"{row['ratio']:>8.2f}{row['ratio_from_codes']:>8.2f}{row['wanted']:>6.1f}"
        print(f"{name:24}{speeds}{ratios}  {row['same_spikes']!s:5} {rates}", flush=True)
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text(json.dumps(merged(row), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
