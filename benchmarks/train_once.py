"""A post-training trial on a stored float model against the same trial with its own training, interleaved.

    python benchmarks/train_once.py                      digits, a minute
    python benchmarks/train_once.py mnist data.limit=10000 learner.epochs=5
    python benchmarks/train_once.py tinysnn_mnist data.limit=10000

Prints seconds per trial of both and their ratio; writes outputs/benchmarks/train_once.json.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from pipeline import config, experiment
from pipeline.pretrained import FLOAT_KEYS, Pretrained
from pipeline.types import TrialEnded

BITS = (8, 6, 4, 3, 2)


def main() -> None:
    torch.set_num_threads(1)
    name, *overrides = sys.argv[1:] or ["quickstart"]
    plain = config.plain(config.compose_job([f"+experiment={name}", "plan=ptq", *overrides]))
    times: dict[str, list[float]] = {"trains": [], "stored": []}
    ends: dict[str, list[float | str]] = {"trains": [], "stored": []}
    with tempfile.TemporaryDirectory() as folder:
        cache = Pretrained(Path(folder), config.fingerprint(plain, FLOAT_KEYS))
        point = config.build_experiment(plain)
        experiment.evaluate(point, lambda step, metrics: None, cache)  # fills the store, compiles kernels
        for bits in BITS:
            point = config.build_experiment(
                config.override(plain, {"compression.quantize_weights.bits": bits})
            )
            for kind, pretrain in (("trains", experiment.fit_always), ("stored", cache)):
                begin = time.perf_counter()
                try:  # few bits may silence a network that is not trained further: also an end that costs its time
                    trained = experiment.evaluate(point, lambda step, metrics: None, pretrain)
                    ends[kind].append(trained.metrics["validation_accuracy"])
                except TrialEnded as end:
                    ends[kind].append(type(end).__name__)
                times[kind].append(time.perf_counter() - begin)
    ratios = [a / b for a, b in zip(times["trains"], times["stored"], strict=True)]
    result = {
        "experiment": name, "overrides": overrides, "trains_s": statistics.median(times["trains"]),
        "stored_s": statistics.median(times["stored"]), "ratio": statistics.median(ratios),
        "same_accuracy": ends["trains"] == ends["stored"], "ends": ends["stored"],
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    out = Path("outputs/benchmarks/train_once.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
