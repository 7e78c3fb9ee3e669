"""``python -m pipeline.compare``: two studies of one question, written here without training."""

import json

import pytest
from optuna.trial import TrialState

from pipeline import config, job
from pipeline.compare import compare, main
from pipeline.study import database

FLOAT = {"validation_accuracy": 0.955, "validation_error": 0.045, "memory_bits": 100_000, "energy_pj": 1e9}


def write(out, name, members, sampler, baseline=FLOAT):
    plain = config.plain(
        config.compose(
            ["+experiment=quickstart", f"sampler={sampler}", f"out={out}", f"name={name}", "study.trials=9"]
        )
    )
    here = job.build(plain)
    study = database.create(database.connect(here.storage), name, here.study, plain)
    study.set_user_attr("baseline", json.dumps({"metrics": baseline, "detail": {}}))
    study._thread_local.in_optimize_loop = True
    for state, accuracy, memory in members:
        trial = study.ask()
        here.study.axes.suggest(trial)
        values = (1 - accuracy, float(memory), 5e8)
        metrics = dict(zip(("validation_error", "memory_bits", "energy_pj"), values, strict=True))
        record = {"state": state, "metrics": {**metrics, "validation_accuracy": accuracy}}
        if state.startswith("stopped"):
            record = {
                "state": state,
                "reason": "lif1 never fires" if accuracy else "same configuration as trial 3",
            }
        trial.set_user_attr("record", json.dumps(record))
        if state.startswith("stopped"):
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, values)
    return out / name


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = tmp_path_factory.mktemp("outputs")
    one = write(out, "one", [("complete", 0.95, 50_000), ("complete", 0.90, 10_000)], "random")
    # the second trial repeats the first, the third is within a point and smaller than anything in `one`
    two = write(
        out, "two", [("complete", 0.94, 60_000), ("cached", 0.94, 60_000), ("complete", 0.95, 25_000)], "tpe"
    )
    return one, two


def test_each_line_says_what_was_found_and_for_how_much(folders):
    one, two = compare(folders, points=1.0)
    assert [line.search for line in (one, two)] == ["Random", "Tpe"]
    assert [line.evaluations for line in (one, two)] == [2, 2]
    assert one.memory_times == pytest.approx(2.0)  # 95.0 % is within a point of 95.5 %, 90 % is not
    assert two.memory_times == pytest.approx(4.0)
    # Box: error 1, memory 200,000, energy 2e9; every trial needs a quarter of that energy.
    # one: 0.95 x 0.75 + (0.90 of the 0.2 of memory below it) = 0.7125 + 0.18; two: 0.95 x 0.875.
    assert one.hypervolume == pytest.approx((0.7125 + 0.90 * 0.20) * 0.75)
    assert two.hypervolume == pytest.approx(0.95 * 0.875 * 0.75)


def test_repeats_are_evaluations_neither_in_the_table_nor_on_the_axis(folders, tmp_path):
    """Nor those of an early end, which keep its state."""
    assert [point[0] for point in compare(folders, points=1.0)[1].history] == [1, 2]
    members = [("complete", 0.95, 50_000), ("cached", 0.95, 50_000), ("cached", 0.95, 50_000)]
    early = [("stopped:silent", 1, 0), ("stopped:silent", 0, 0), ("stopped:silent", 0, 0)]
    (line,) = compare([write(tmp_path, "repeats", [*members, *early], "random")], points=1.0)
    assert line.evaluations == line.history[-1][0] == 2


def test_table_figure_and_numbers(folders, tmp_path, capsys):
    assert main([*map(str, folders), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "one" in said
    assert "(4.0x)" in said
    assert (tmp_path / "compare.png").stat().st_size > 5_000
    assert [line["name"] for line in json.loads((tmp_path / "compare.json").read_text())] == ["one", "two"]


def test_what_cannot_be_compared_is_refused(folders, tmp_path, capsys):
    other = write(tmp_path, "other", [("complete", 0.9, 1000)], "random", {**FLOAT, "memory_bits": 7})
    assert main([str(folders[0]), str(other)]) == 3
    assert "starts from another float model" in capsys.readouterr().err
    assert main([str(folders[0]), str(write(tmp_path, "empty", [], "random"))]) == 3
    assert "has no finished trial" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 3
