"""Rows as a study leaves them, made from a seed: for the tests of this folder, and to look at the pages by
hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from pipeline.report.context import Context
from pipeline.types import Row

OBJECTIVES = ("validation_error", "memory_bits", "energy_pj")
CONTEXT = Context(
    experiment="quickstart",
    command="python -m pipeline.run +experiment=quickstart",
    reproduce="python -m pipeline.run +experiment=quickstart study=single",
    tracking_uri="sqlite:///outputs/mlflow.db",
    data="digits: 1,078 train, 359 validation, 360 test samples",
    validation_samples=359,
    test_samples=360,
    reference=(1.0, 4e6, 4e6),
)


def _layers(
    bits: int, sparsity: float, energy_pj: float, rng: np.random.Generator
) -> list[dict[str, object]]:
    shares = rng.dirichlet([6, 3, 1])
    layers: list[dict[str, object]] = []
    for name, share in zip(("conv1", "fc1", "fc2"), shares, strict=True):
        split = rng.dirichlet([7, 3, 2, 1]) * energy_pj * share
        parts = dict(zip(("dram", "global_buffer", "arithmetic", "metadata"), split.tolist(), strict=True))
        zeros = float(np.clip(sparsity + rng.normal(0, 0.1), 0, 1)) if sparsity else 0.0
        kept = {"weights": 4e3 * share * bits, "state": 2e3 * share, "indices": 1e3 * zeros}
        kept = {"weights": 4e3 * share * bits, "state": 2e3 * share, "indices": 1e3 * zeros}
        layers.append(
            {"name": name, "bits": bits, "sparsity": zeros, "energy_pj": sum(parts.values()), "parts": parts}
            | {"memory": kept, "memory_bits": sum(kept.values())}
        )
    return layers


def _front(points: list[tuple[float, ...]]) -> list[bool]:
    def beaten(one: tuple[float, ...]) -> bool:
        return any(all(o <= s for o, s in zip(other, one, strict=True)) and other != one for other in points)

    return [not beaten(point) for point in points]


def study(trials: int = 40, seed: int = 0) -> list[Row]:
    """`trials` rows with a trade-off of accuracy against bits, zeros and width; about a quarter ended
    early."""
    rng = np.random.default_rng(seed)
    made: list[Row] = []
    for number in range(trials):
        bits, hidden = int(rng.integers(2, 9)), int(rng.choice([32, 64, 128, 256]))
        zeros = float(rng.choice([0.0, 0.5, 0.8, 0.9, 0.95]))
        params = {
            "net.hidden": hidden,
            "net.beta": float(rng.uniform(0.5, 0.99)),
            "learner.learning_rate": float(10 ** rng.uniform(-4, -2)),
            "compression.quantize_weights.bits": bits,
            "compression.quantize_weights.rounding": str(rng.choice(["nearest", "truncate", "stochastic"])),
            "compression.prune_weights.sparsity": zeros,
            "plan.scheme": str(rng.choice(["ptq", "qat"])),
        }
        loss = 0.3 * 2.0 ** (2 - bits) + 0.25 * zeros**8 + 2 / hidden + abs(rng.normal(0, 0.02))
        error = float(min(0.9, 0.02 + loss))
        history = tuple(
            (
                epoch,
                {"validation_accuracy": 1 - error - 0.6 * math.exp(-epoch), "loss": 2 * math.exp(-epoch / 3)},
            )
            for epoch in range(8)
        )
        end = str(rng.choice(["complete", "complete", "complete", "complete", "early"]))
        if end == "early":
            why = str(rng.choice(["stopped:dominated", "stopped:silent", "failed:nan", "running"]))
            made.append(
                Row(
                    number,
                    why,
                    params,
                    {"loss": math.nan},
                    history[:3],
                    reason=f"ended: {why}",
                    duration_s=1.2,
                )
            )
            continue
        memory = float(hidden * 74 * bits * (1 - zeros) + hidden * 64)
        energy = float(hidden * 900 * (0.2 + bits / 8) * (1.1 - zeros) * rng.uniform(0.8, 1.2))
        metrics = {
            "validation_error": error,
            "validation_accuracy": 1 - error,
            "memory_bits": memory,
            "energy_pj": energy,
            "latency_us": energy / 900,
            "sparsity": zeros,
            "firing_rate": float(rng.uniform(0.02, 0.2)),
        }
        detail = {"layers": _layers(bits, zeros, energy, rng)}
        made.append(
            Row(number, "complete", params, metrics, history, detail, duration_s=float(rng.uniform(1, 4)))
        )
    finished = [row for row in made if row.state == "complete"]
    kept = _front([tuple(row.metrics[name] for name in OBJECTIVES) for row in finished])
    chosen = {row.number for row, keep in zip(finished, kept, strict=True) if keep}
    return [_on_front(row, rng) if row.number in chosen else row for row in made]


def _on_front(row: Row, rng: np.random.Generator) -> Row:
    test = row.metrics["validation_accuracy"] - float(abs(rng.normal(0, 0.01)))
    metrics = {**row.metrics, "test_accuracy": test}
    counts = rng.integers(0, 3, (10, 10)) + 33 * np.eye(10, dtype=int)
    spikes = {
        layer: [[int(t), int(n)] for t, n in np.argwhere(rng.random((25, neurons)) < 0.08)]
        for layer, neurons in (("lif1", 64), ("lif2", 10))
    }
    grid = np.linspace(-2, 2, 8)
    blobs = [np.exp(-((grid[:, None] - y) ** 2) - (grid - x) ** 2) for x, y in rng.uniform(-2, 2, (30, 2))]
    detail = {
        **row.detail,
        "confusion": counts.tolist(),
        "rasters": [
            {"layer": name, "steps": 25, "neurons": 64 if name == "lif1" else 10, "spikes": found, "label": 3}
            for name, found in spikes.items()
        ],
        "receptive_fields": [{"layer": "fc1", "fields": [blob.tolist() for blob in blobs]}],
    }
    return replace(row, metrics=metrics, detail=detail, on_front=True)


def full_context(rows: list[Row]) -> Context:
    """`CONTEXT` with everything that a study may pass in."""
    numbers = range(1, len(rows) + 1)
    params = list(rows[0].params)
    baseline = {"validation_error": 0.03, "validation_accuracy": 0.97, "memory_bits": 6e5, "energy_pj": 9e5}
    return replace(
        CONTEXT,
        hypervolume=tuple((n, 2.5 * n, 1 - 0.8 * math.exp(-n / 12)) for n in numbers),
        importance={name: {p: 0.6 / 2**i for i, p in enumerate(params)} for name in OBJECTIVES},
        sensitivity={
            layer: {f"{bits} bit": 0.08 * share / 2 ** (bits - 2) for bits in (2, 3, 4, 6, 8)}
            for layer, share in (("conv1", 1.0), ("fc1", 0.4), ("fc2", 0.7))
        },
        claims=(
            {
                "id": "T5",
                "published": "≤ ¼ of fp32 memory",
                "measured": "0.11",
                "data": "MNIST",
                "holds": "holds",
            },
        ),
        baseline=Row(-1, "complete", {"compression.quantize_weights.bits": 32}, baseline),
    )


def picks(rows: list[Row]) -> dict[str, int]:
    """The most accurate and the smallest member: stands in for the study's selectors."""
    members = [row for row in rows if row.on_front]
    middle = min(members, key=lambda row: row.metrics["validation_error"] + row.metrics["memory_bits"] / 2e5)
    return {
        "knee": middle.number,
        "cheapest within 1 point": min(members, key=lambda row: row.metrics["energy_pj"]).number,
    }
