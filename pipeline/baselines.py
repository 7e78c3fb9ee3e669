"""Is the spiking network worth it? A member of the front beside three others of its own size.

    python -m pipeline.baselines outputs/NAME [--member K]

* float SNN, as small: the same network without any compression, its layers narrowed until its memory is the member's
* random pruning: the same bits, sparsity and structure, but what goes is drawn, not chosen by magnitude
* quantized ANN: the same layers and weight bits, ReLUs of 8 bits in place of the neurons, one pass in place of T steps,
  its energy as multiply-accumulates on the same accelerator; it sees the mean of the input over time. Of an STDP
  network: one hidden layer of as many neurons, trained with labels on the images themselves

Each is a config of its own, trained, compressed and priced as a trial, with as many seeds as the members of the front
have (`study.finalists`): means, and intervals over seeds. A study does this for its knee where `study.compare` is true.
This command does it for any member, once; the report shows what it finds as rows when the study's own command, which
only reports then, is run again.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import cast

import optuna
from rich.console import Console

from pipeline import config, experiment, finalists, heap
from pipeline.config import ConfigError, Plain
from pipeline.exits import BAD_DATA, spoken
from pipeline.job import Job
from pipeline.pretrained import FLOAT_KEYS, Pretrained
from pipeline.report.files import write_whole
from pipeline.report.progress import counted
from pipeline.report.worth import worth_table
from pipeline.select import open_study
from pipeline.study import results, select
from pipeline.study.select import Pick
from pipeline.types import DataError, Row, TrialEnded

log = logging.getLogger(__name__)

WIDTHS = ("hidden", "channels", "neurons")
"""Fields of a network's config that say how wide it is."""
COLUMNS = ("validation_accuracy", "test_accuracy", "memory_bits", "energy_pj", "latency_us")
ANN_EPOCHS = 5
"""Of the network beside an unsupervised one, whose own epochs mean something else."""
_SEARCH_STEPS = 12
Line = dict[str, object]


def opponents(plain: Plain, memory_bits: float) -> dict[str, Plain]:
    """Name -> config of the baselines of a trial with this config and this memory."""
    found = {"float SNN, as small": narrowed(plain, memory_bits)}
    drawn = at_random(plain)
    if drawn is not None:
        found["random pruning"] = drawn
    found["quantized ANN"] = ann(plain)
    return found


def narrowed(plain: Plain, memory_bits: float) -> Plain:
    """The float config, its widths scaled down until its memory is at most `memory_bits` (or 1 everywhere)."""
    net = cast(Plain, plain["net"])
    widths = {name: net[name] for name in WIDTHS if net.get(name)}

    def at(share: float) -> Plain:
        changed = {name: _scaled(cast("int | Sequence[int]", width), share) for name, width in widths.items()}
        return {**plain, "net": {**net, **changed}, "compression": {}}

    low, high = 0.0, 1.0
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) / 2
        fits = experiment.size_bits(config.build_experiment(at(middle))) <= memory_bits
        low, high = (middle, high) if fits else (low, middle)
    return at(low)


def _scaled(width: int | Sequence[int], share: float) -> int | list[int]:
    return (
        max(1, round(width * share)) if isinstance(width, int) else [max(1, round(w * share)) for w in width]
    )


def at_random(plain: Plain) -> Plain | None:
    """The same with drawn masks; None where nothing is pruned."""
    steps, pruned = {}, False
    for name, step in cast(Mapping[str, Plain], plain["compression"]).items():
        if str(step["_target_"]).endswith(".PruneWeights"):
            pruned = pruned or float(cast(float, step["sparsity"])) > 0
            step = {**step, "_target_": "pipeline.compress.chance.PruneAtRandom", "seed": plain["seed"]}
        steps[name] = step
    return {**plain, "compression": steps} if pruned else None


def ann(plain: Plain) -> Plain:
    """The network of the same shape without spikes, its weights of the same bits."""
    net = cast(Plain, plain["net"])
    spec: Plain = {"_target_": "pipeline.nets.ann.AnnOf", "spec": net}
    if "neurons" not in net:
        return {**plain, "net": spec}
    spec["spec"] = {"_target_": "pipeline.nets.feedforward.FeedForward", "hidden": net["neurons"]}
    steps = cast(Mapping[str, Plain], plain["compression"])
    bits = next(
        (step["bits"] for step in steps.values() if "Weights" in str(step["_target_"]) and "bits" in step), 32
    )
    image = {"_target_": "pipeline.data.encode.Direct"}
    return {
        **plain,
        "data": {**cast(Plain, plain["data"]), "encoding": image, "timesteps": 1},
        "net": spec,
        "learner": {"_target_": "pipeline.learn.surrogate.Surrogate", "epochs": ANN_EPOCHS},
        "compression": {
            "quantize_weights": {"_target_": "pipeline.compress.quantize.QuantizeWeights", "bits": bits}
        },
        "plan": {"_target_": "pipeline.compress.plan.Plan"},
    }


@heap.held()
def line(name: str, plain: Plain, floats: Path) -> Line:
    """Both accuracies and the price of one config, trained as a trial; `ended` instead where training ended early.

    `floats`: the study's folder of float models, of which random pruning starts from the member's own of that seed.
    """
    built = config.build_experiment(plain)
    try:
        start = Pretrained(floats, config.fingerprint(plain, FLOAT_KEYS))
        trained = experiment.evaluate(built, lambda step, metrics: None, start)
    except TrialEnded as ended:
        return {"name": name, "ended": f"{ended.state}: {ended}"}
    data = built.data.load(built.seed)
    tested, _ = experiment.measured(trained.net, trained.decode, data, "test", trained.widths)
    metrics = {**trained.metrics, **tested}
    return {"name": name, **{column: metrics[column] for column in COLUMNS}}


def over_seeds(runs: Sequence[Line]) -> Line:
    """Means of one baseline's runs, with ``test_accuracy_interval`` and the like where several were finished.

    ``seeds`` says how many of the ``runs`` were; with none, the first tells how it ended.
    """
    good = [run for run in runs if "ended" not in run]
    if len(good) < 2:
        return {**(good or runs)[0], "seeds": len(good), "runs": len(runs)}
    found: Line = {"name": good[0]["name"], "seeds": len(good), "runs": len(runs)}
    for column in COLUMNS:
        values = [cast(float, run[column]) for run in good]
        found |= {column: mean(values), f"{column}_interval": finalists.interval(values)}
    return found


def of_member(row: Row) -> Line:
    """The member's own line: means and intervals where it was run over seeds."""
    found: Line = {"name": f"trial {row.number}", "seeds": int(row.metrics.get("finalist_seeds", 1))}
    for column in COLUMNS:
        if column in row.metrics:
            found[column] = row.metrics.get(f"{column}_mean", row.metrics[column])
        if f"{column}_interval" in row.metrics:
            found[f"{column}_interval"] = row.metrics[f"{column}_interval"]
    return found


def beside(
    job: Job,
    study: optuna.Study,
    row: Row,
    progress: Callable[[int, int], None],
    each: finalists.Each | None = None,
) -> list[Line]:
    """The member first, then its baselines over the finalists' seeds; done once and kept in the study's folder.

    `each` (a crew's) does the trainings side by side. A finished one is kept in the study and never done again.
    """
    path = job.folder / "baselines" / f"trial-{row.number:05d}.json"
    if path.exists():
        try:
            return cast(list[Line], json.loads(path.read_text(encoding="utf-8")))
        except json.JSONDecodeError:
            path.unlink()  # cut off while it was written
    names = tuple(opponents(job.params_config(row.params), row.metrics["memory_bits"]))
    pairs = [(name, job.seed + i) for name in names for i in range(max(job.study.finalists, 1))]

    def missing() -> list[tuple[str, int]]:
        stored = study.user_attrs
        return [(name, seed) for name, seed in pairs if _key(row, name, seed) not in stored]

    wanted = [(job.config, row.number, name, seed) for name, seed in missing()]
    if each is not None and len(wanted) > 1:
        each(train, wanted, lambda: progress(len(pairs) - len(missing()), len(pairs)))
    runs: dict[str, list[Line]] = {name: [] for name in names}
    for done, (name, seed) in enumerate(pairs):
        progress(done, len(pairs))
        runs[name].append(_run(job, study, row, name, seed))
    progress(len(pairs), len(pairs))
    found = [of_member(row), *map(over_seeds, runs.values())]
    write_whole(path, json.dumps(found, indent=1) + "\n")
    return found


def train(plain: Plain, number: int, name: str, seed: int) -> None:
    """One baseline of a member under one seed, in a process of its own; the result is in the study."""
    job, study = finalists.opened(plain)
    _run(job, study, results.row(study.get_trials(deepcopy=False)[number], job.study), name, seed)


def _key(row: Row, name: str, seed: int) -> str:
    return f"baseline:{row.number}:{name}:{seed}"


def _run(job: Job, study: optuna.Study, row: Row, name: str, seed: int) -> Line:
    key = _key(row, name, seed)
    stored = study.user_attrs.get(key)
    if stored is not None:
        return cast(Line, json.loads(stored))
    plain = job.params_config({**row.params, "seed": seed})
    found = line(name, opponents(plain, row.metrics["memory_bits"])[name], job.folder / "float")
    study.set_user_attr(key, json.dumps(found))
    return found


def known(folder: Path) -> list[Line]:
    """What was compared so far, the members in order."""
    found: list[Line] = []
    for path in sorted((folder / "baselines").glob("trial-*.json")):
        try:
            found += json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            log.warning("%s was cut off and is left out", path)
    return found


def at_knee(
    job: Job,
    study: optuna.Study,
    front: Sequence[Row],
    picks: Mapping[str, Pick],
    progress: Callable[[int, int], None],
    each: finalists.Each | None = None,
) -> None:
    """Train the baselines of the knee, or of the first pick there is."""
    chosen = [
        pick.number for pick in (picks.get("knee"), *picks.values()) if pick and pick.number is not None
    ]
    for row in front:
        if chosen and row.number == chosen[0]:
            beside(job, study, row, progress, each)


@spoken
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: compared; 3: no such study or member; 2, 5 and 130 as for `pipeline.run`."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.baselines", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("folder", type=Path, help="outputs/NAME of a finished study")
    parser.add_argument("--member", type=int, help="trial number; without it the knee of the front")
    parser.add_argument("--storage", help="database address, where the study is not in study.db")
    asked = parser.parse_args(arguments)
    try:
        job, study = open_study(asked.folder, asked.storage)
        rows = finalists.known(job, study, results.rows(study, job.study))
        front = [row for row in rows if row.on_front]
        number = asked.member
        if number is None:
            number = select.picks(front, None, job.selectors)["knee"].number
        row = next((row for row in rows if row.number == number and row.state == "complete"), None)
        if row is None:
            raise DataError(f"trial {number} is no finished trial of {job.name}.")
        with counted(f"baselines of trial {number}", Console(stderr=True)) as progress:
            found = beside(job, study, row, progress)
    except (DataError, ConfigError, KeyError) as error:
        print(f"baselines: {error}", file=sys.stderr)
        return BAD_DATA
    Console(width=160, soft_wrap=True).print(worth_table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
