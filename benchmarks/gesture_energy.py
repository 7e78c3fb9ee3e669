"""How much the energy of an N-MNIST network depends on the data that is counted.

    python benchmarks/gesture_energy.py [--seeds 3]

Counts what the float network of +experiment=nmnist_pareto does (trained once per seed, or that of
benchmarks/gesture_claims.py) over all training recordings, over as many as the experiment's config draws, and over the
validation recordings. Writes outputs/benchmarks/gesture_energy.json; docs/results/benchmarks holds the one shown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from gesture_claims import FLOATS, OVERRIDES, told

from pipeline import config, experiment
from pipeline.hardware.counting import Counting
from pipeline.pretrained import FLOAT_KEYS, Pretrained

OFF = {"compression.quantize_weights.bits": 32, "compression.prune_weights.sparsity": 0.0}


def measure(seed: int) -> dict[str, Any]:
    """Energies in pJ, mean and worst sample, and the share of each layer's inputs that are not 0, by data."""
    composed = config.compose([*OVERRIDES["nmnist"], "plan.scheme=ptq", "tracking=silent", f"seed={seed}"])
    plain = config.override(config.plain(composed), OFF)
    built = config.build_experiment(plain)
    drawn = config.build_experiment(config.plain(config.compose(["+experiment=nmnist_pareto"]))).counting
    trained = experiment.evaluate(built, told, Pretrained(FLOATS, config.fingerprint(plain, FLOAT_KEYS)))
    data, found = built.data.load(seed), {}
    for name, counting in {
        "training, all": Counting("train"),
        f"training, {drawn.samples} drawn": drawn,
        "validation": Counting("validation"),
    }.items():
        loads = experiment.counted(trained.net, trained.decode, data, trained.widths, counting)
        prices, _ = experiment.priced(loads, built.accelerator)
        found[name] = {
            "samples": len(counting.of(data).split(counting.split)),
            "energy_pj": prices["energy_pj"],
            "worst_energy_pj": prices["worst_energy_pj"],
            "density": {
                load.name: load.mean.events_in / (load.geometry.inputs * load.steps) for load in loads
            },
        }
    return {"seed": seed, "data": found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in range(given.seeds):
        rows.append(measure(seed))
        for name, row in rows[-1]["data"].items():
            dense = ", ".join(f"{layer} {share:.2%}" for layer, share in row["density"].items())
            print(
                f"\rseed {seed}, {name}: {row['energy_pj'] / 1e6:.2f} uJ, "
                f"worst {row['worst_energy_pj'] / 1e6:.2f}; {dense}"
            )
    out = Path("outputs/benchmarks/gesture_energy.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"densities": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
