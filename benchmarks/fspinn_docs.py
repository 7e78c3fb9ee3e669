"""The tables and pictures of docs/fspinn.md; measures nothing.

    python benchmarks/fspinn_docs.py --take outputs/fspinn_knobs_0 outputs/fspinn_knobs_1 ...   keep finished studies
    python benchmarks/fspinn_docs.py                                                           write the page

A study is named NAME_SEED. What is kept of it (parameters, metrics, its float model, its front on the test split) lies
in docs/results/fspinn_knobs_claims.json, with its record of claim F7; what the claims counted, in fspinn_claims.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from docs_block import lined, put
from fspinn_records import IMAGES, SEEDS, key, record, text
from matplotlib.figure import Figure
from tinysnn_records import spread

from pipeline import finalists
from pipeline.report.figures import DPI
from pipeline.report.files import write_whole
from pipeline.report.palette import LIGHT
from pipeline.select import open_study
from pipeline.study import results

COMMAND = "python benchmarks/fspinn_docs.py"
CLAIMS, KEPT = Path("docs/results/fspinn_claims.json"), Path("docs/results/fspinn_knobs_claims.json")
PAGE, PICTURE = Path("docs/fspinn.md"), Path("docs/fspinn.png")
METRICS = (
    "validation_accuracy", "test_accuracy", "energy_training_pj", "dense_energy_training_pj", "energy_pj",
    "memory_bits", "dense_memory_bits",
)  # fmt: skip
TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
KNOBS = {
    "data.timesteps": "steps", "learner.rule.window_ms": "window, ms", "learner.rule.eta_post": "eta_post",
    "learner.rule.adaptive_k": "adaptive k", "net.w_inh_mv": "w_inh, mV", "net.theta_plus_mv": "theta_plus, mV",
    "learner.epochs": "epochs", "learner.rule.eta_last": "eta_last", "learner.assignment": "labels",
}  # fmt: skip
POINTS = 1.0
STYLES = tuple(zip((LIGHT[f"c{i}"] for i in range(4)), "os^D", ("-", "--", "-.", ":"), strict=True))
"""(colour, marker, dashes): lines are told apart without colour, too."""
Kept = Mapping[str, Mapping[str, Any]]
"""Study's name -> data set, seed, float model's metrics, and its trials."""


def take(folder: Path) -> tuple[str, dict[str, Any]]:
    """What is kept of a finished study."""
    here, study = open_study(folder)
    reference = finalists.baseline(here, study)
    rows = finalists.known(here, study, results.rows(study, here.study))
    told = [
        {"params": dict(row.params), "front": row.on_front, "state": row.state,
         **{name: row.metrics[name] for name in METRICS if name in row.metrics}}
        for row in rows
    ]  # fmt: skip
    base = {} if reference is None else {n: reference.metrics[n] for n in METRICS if n in reference.metrics}
    config: Any = here.config
    return here.name, {
        "data": config["data"]["which"], "neurons": config["net"]["neurons"], "seed": here.seed, "float": base,
        "rows": told,
    }  # fmt: skip


def group(kept: Kept, name: str, which: str) -> list[Mapping[str, Any]]:
    """The studies of one experiment on one data set, a seed each."""
    return [s for at, s in sorted(kept.items()) if at.startswith(name) and s["data"] == which]


def writes(cells: Mapping[str, Any]) -> list[str]:
    """F3 and F7: what learning writes per image, and what it adds to the energy of showing that image."""
    lines = []
    for which in TITLES:
        for n in (400, 1600, 4900):
            for variant, title in (("baseline", "per event, float"), ("fspinn8", "per window, 8 bits")):
                found = [cells[k] for s in SEEDS if (k := key(which, n, variant, s, images=IMAGES)) in cells]
                if not found:
                    continue
                mean = {k: float(np.mean([c["training"][k] for c in found])) for k in found[0]["training"]}
                costs = {
                    k: float(np.mean([c[k] for c in found])) for k in ("training_pj", "training_dense_pj")
                }
                shown = [mean["synaptic_reads"], mean["pre_writes"], mean["post_writes"], mean["norm_writes"]]
                dense = mean["dense_pre_writes"] + mean["dense_post_writes"]
                lines.append(
                    [TITLES[which], f"{n:,}", title, *(f"{x:,.0f}" for x in (*shown, dense)),
                     *(f"{x / 1e6:.1f}" for x in costs.values())]
                )  # fmt: skip
    heads = (
        "data", "neurons", "updates", "weights read", "written at input spikes", "written at output spikes",
        "written by normalisation", "written in whole rows and columns", "training, µJ", "so counted, µJ",
    )  # fmt: skip
    return lined(heads, lines)


def curves(kept: Kept) -> dict[float, dict[float, list[float]]]:
    """theta_plus (mV) -> w_inh (mV) -> validation accuracies of the seeds (0 where a trial ended early)."""
    made: dict[float, dict[float, list[float]]] = {}
    for study in group(kept, "fspinn_inhibition", "mnist"):
        for row in study["rows"]:
            at = (float(row["params"][name]) for name in ("net.theta_plus_mv", "net.w_inh_mv"))
            theta, strength = at
            made.setdefault(theta, {}).setdefault(strength, []).append(row.get("validation_accuracy", 0.0))
    return {theta: dict(sorted(line.items())) for theta, line in sorted(made.items())}


def inhibition(kept: Kept) -> list[str]:
    """F5: a line per rise of the threshold, a column per strength."""
    found = curves(kept)
    strengths = sorted({w for line in found.values() for w in line})
    lines = [
        [f"{theta:g} mV", *(spread(line[w], 100) if w in line else "" for w in strengths)]
        for theta, line in found.items()
    ]
    seeds = min((len(v) for line in found.values() for v in line.values()), default=0)
    said = f"Validation accuracy in %, {seeds} seed{'s' if seeds != 1 else ''}:"
    return [said, "", *lined(("theta_plus", *(f"{w:g} mV" for w in strengths)), lines)]


def chosen(study: Mapping[str, Any], points: float) -> Mapping[str, Any] | None:
    """The member of the front whose training is cheapest within `points` of the float model on validation."""
    price, floor = "energy_training_pj", study["float"]["validation_accuracy"] - points / 100
    good = [row for row in study["rows"] if row["front"] and row["validation_accuracy"] >= floor]
    return min(good, key=lambda row: row[price], default=None)


def knobs(kept: Kept) -> list[str]:
    """F3, F7: per study, the float baseline and the cheapest training within a point of it."""
    lines = []
    for which, title in TITLES.items():
        for study in group(kept, "fspinn_knobs", which):
            for points in (POINTS, 0.0):
                lines.append([title, str(study["seed"]), str(len(study["rows"])), *_picked(study, points)])
    heads = (
        "data", "seed", "trials", "cheapest", "validation, float → chosen", "test", "training energy",
        "in whole rows and columns", "inference energy", "the chosen knobs",
    )  # fmt: skip
    return lined(heads, lines)


def _picked(study: Mapping[str, Any], points: float) -> list[str]:
    """What one rule chooses: accuracies beside float's, times less energy, and the knobs."""
    base, pick = study["float"], chosen(study, points)
    rule = f"within {points:g} point" if points else "as accurate as float"
    if pick is None:
        return [rule, "none", *[""] * 5]
    said = ", ".join(
        f"{words} {show(pick['params'][k])}" for k, words in KNOBS.items() if k in pick["params"]
    )
    return [
        rule,
        *(f"{100 * base[m]:.1f} → {100 * pick[m]:.1f} %" for m in METRICS[:2]),
        *(f"{base[m] / pick[m]:.1f}x" for m in METRICS[2:5]),
        said,
    ]


def records(kept: Kept) -> list[dict[str, object]]:
    """F7 of the cheapest training that a search over the open knobs finds within a point of float, seed by seed."""
    made = []
    for which in TITLES:
        pairs = {
            study["seed"]: (study["float"], pick)
            for study in group(kept, "fspinn_knobs", which)
            if (pick := chosen(study, POINTS)) is not None
        }
        if not pairs:
            continue
        training, inference = (
            {seed: base[price] / pick[price] for seed, (base, pick) in pairs.items()}
            for price in ("energy_training_pj", "energy_pj")
        )
        tests = [text([100 * pair[side]["test_accuracy"] for pair in pairs.values()]) for side in (0, 1)]
        said = f"training {text(list(training.values()))}x, inference {text(list(inference.values()))}x, by search"
        made.append(
            record(
                "F7",
                f"{which}, 55,000 + 10,000 images, n = 400, embedded_45nm, learning counts weights that change, "
                "presentation, window and rates searched",
                {seed: min(training[seed] / 3.5, inference[seed] / 1.8) for seed in pairs},
                said,
                note=f"cheapest within {POINTS:g} point of the float baseline on validation; test, float -> chosen: "
                f"{tests[0]} -> {tests[1]} %",
                command="python -m pipeline.run +experiment=fspinn_knobs",
            )
        )
    return made


def show(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def growth(kept: Kept, cells: Mapping[str, Any]) -> list[str]:
    """F9: the most accurate member of each study of 1,600 neurons beside the claims' network of 400."""
    lines = []
    for which, title in TITLES.items():
        for how in ("highest_mean", "likelihood"):
            found = [cells[k] for s in SEEDS if (k := key(which, 400, "fspinn8", s, images=IMAGES)) in cells]
            said = f"{title}, 400 neurons as in the claims, labels by {how.replace('_', ' ')}"
            lines.append([said, "", spread([c[f"validation_{how}"] for c in found], 100),
                          spread([c[f"test_{how}"] for c in found], 100), ""])  # fmt: skip
        for study in group(kept, "fspinn_growth", which):
            for how in ("highest_mean", "likelihood"):
                rows = [
                    r
                    for r in study["rows"]
                    if r["params"].get("learner.assignment") == how and "validation_accuracy" in r
                ]
                best = max(rows, key=lambda r: r["validation_accuracy"], default=None)
                if best is None:
                    continue
                test = f"{100 * best['test_accuracy']:.2f}" if "test_accuracy" in best else "not on the front"
                knob = ", ".join(
                    f"{words} {show(best['params'][k])}" for k, words in KNOBS.items()
                    if k in best["params"] and k != "learner.assignment"
                )  # fmt: skip
                many = f"best of {len(rows)} trials" if len(rows) > 1 else "one trial"
                said = f"{title}, {study['neurons']:,} neurons, {many} with labels by {how.replace('_', ' ')}"
                lines.append(
                    [said, str(study["seed"]), f"{100 * best['validation_accuracy']:.2f}", test, knob]
                )
    return lined(("network", "seed", "validation, %", "test, %", "knobs"), lines)


def draw(kept: Kept) -> Figure:
    """Left: accuracy over the inhibition's strength. Right: fronts of error and training energy, beside float."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (colour, marker, dashes), (theta, line) in zip(STYLES, curves(kept).items(), strict=False):
        means = [100 * float(np.mean(v)) for v in line.values()]
        left.plot(list(line), means, dashes, marker=marker, color=colour, label=f"theta_plus {theta:g} mV")
    left.set(xscale="log", xlabel="inhibition, mV (log)", ylabel="validation accuracy, %",
             title="MNIST, 400 neurons, 8 bits")  # fmt: skip
    strengths = sorted({w for line in curves(kept).values() for w in line})
    left.set_xticks(strengths, [f"{w:g}" for w in strengths])
    left.minorticks_off()
    left.legend(fontsize=8)
    for (colour, marker, dashes), (which, title) in zip(STYLES, TITLES.items(), strict=False):
        for i, study in enumerate(group(kept, "fspinn_knobs", which)):
            base = study["float"]
            front = sorted((r for r in study["rows"] if r["front"]), key=lambda r: r["energy_training_pj"])
            x = [base["energy_training_pj"] / r["energy_training_pj"] for r in front]
            y = [100 * (r["validation_accuracy"] - base["validation_accuracy"]) for r in front]
            right.plot(
                x, y, dashes, marker=marker, markersize=4, color=colour, label=title if i == 0 else None
            )
    right.axhline(-POINTS, color="grey", linestyle=":")
    right.axvline(3.5, color="grey", linestyle="--", label="published: 3.5 times less")
    right.set(xlabel="times less training energy than the float baseline", title="Fronts, a line per seed")
    right.set(ylabel="validation accuracy less float, points", ylim=(-5, None))
    right.legend(fontsize=8)
    return figure


def read() -> tuple[Kept, Mapping[str, Any]]:
    """(kept studies, cells of the claims)"""
    return json.loads(KEPT.read_text())["studies"], json.loads(CLAIMS.read_text())["cells"]


def page(body: str, kept: Kept, cells: Mapping[str, Any]) -> str:
    """`body` with every block as it follows from what was measured."""
    blocks: dict[str, Sequence[str]] = {
        "writes": writes(cells), "inhibition": inhibition(kept), "knobs": knobs(kept), "growth": growth(kept, cells),
    }  # fmt: skip
    for name, lines in blocks.items():
        body = put(body, name, COMMAND, lines)
    return body


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--take", type=Path, nargs="+", default=[], help="folders of finished studies to keep"
    )
    given = parser.parse_args()
    kept = json.loads(KEPT.read_text())["studies"] if KEPT.exists() else {}
    kept.update(take(folder) for folder in given.take)
    whole = {"records": records(kept), "studies": kept}
    write_whole(KEPT, json.dumps(whole, indent=1, sort_keys=True) + "\n")
    kept, cells = read()
    draw(kept).savefig(PICTURE, dpi=DPI, metadata={"Software": None})
    write_whole(PAGE, page(PAGE.read_text(), kept, cells))


if __name__ == "__main__":
    main()
