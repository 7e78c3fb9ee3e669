import shlex
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pipeline import config, job, overview
from pipeline.types import Dataset, Row, Split


def test_the_command_of_a_row_composes_to_the_same_trial_and_nothing_more():
    given = ["+experiment=quickstart", "study.trials=60", "name=mine"]
    here = job.build(config.plain(config.compose_job(given)))
    params = {
        "net.hidden": 20,
        "compression.quantize_weights.bits": 3,
        "plan.scheme": "qat",
        "plan.epochs": 2,
    }
    text = overview.reproduce(given) + " " + " ".join(f"{k}={v}" for k, v in params.items())
    words = shlex.split(text)
    assert words[:3] == ["python", "-m", "pipeline.run"]
    again = job.build(config.plain(config.compose_job(words[3:])))
    assert again.study.trials == 1
    assert again.study.axes.size() == 1
    assert again.fingerprint({}) == here.fingerprint(params)


def test_sizes_and_time_are_said_before_a_study_starts():
    given = ["+experiment=quickstart"]
    here = job.build(config.plain(config.compose_job(given)))
    data = here.experiment({}).data.load(here.seed)
    size, model, time = overview.expectation(here, data, given)
    assert size == (
        "data: digits, 1,079 train, 359 validation, 359 test samples, 8 steps of 1 x 8 x 8, 0.1 MB in memory"
    )
    # 128 hidden neurons: 64 * 128 + 128 * 10 weights of 32 bits, and membranes, constants and the input map beside them
    assert model.startswith("float model: 9,472 weights, 37.6 KiB")
    assert time == "time: about 1 minute for 40 trials on two cores"
    changed = overview.expectation(here, data, [*given, "net.beta=0.8"])[2]
    assert changed == f"{time} (as the file stands, without your changes)"
    assert len(overview.expectation(here, data, ["name=mine"])) == 2


def told(*words, rows=()):
    given = ["+experiment=quickstart", *words]
    here = job.build(config.plain(config.compose_job(given)))
    return overview.expectation(here, here.experiment({}).data.load(here.seed), given, rows)[-1]


def test_the_headers_time_is_scaled_by_what_the_command_changes():
    # a minute for 40 trials: 400 take ten; half of the epochs, half of that
    assert told("study.trials=400") == (
        "time: about 10 minutes, by study.trials 400 of 40, from 'about 1 minute for 40 trials on two cores'"
    )
    epochs = config.plain(config.compose_job(["+experiment=quickstart"]))["learner"]["epochs"]
    both = told("study.trials=400", f"learner.epochs={2 * epochs}", "net.beta=0.8")
    assert both.startswith(
        f"time: about 20 minutes, by study.trials 400 of 40, learner.epochs {2 * epochs} of {epochs}"
    )
    assert both.endswith("your other changes not counted")
    assert told("study.trials=10", "name=few").startswith("time: about 15 seconds, by study.trials 10 of 40")


def test_a_resumed_study_tells_the_time_from_its_own_trials():
    rows = [Row(n, "complete", {}, {}, duration_s=20.0) for n in range(9)]
    rows.append(Row(9, "cached", {}, {}, duration_s=0.0))
    # 180 s for 10 trials: 18 s each, 30 left on two workers
    assert told(rows=rows) == (
        "time: about 4 minutes for the 30 trials left, at 18 s each as so far; then the front's seeds"
    )
    assert told(rows=rows[:2]) == "time: about 1 minute for 40 trials on two cores"


def test_images_count_as_well_even_where_the_file_takes_all(real_data):
    given = ["+experiment=mnist", "data.limit=5500", "study.trials=20"]
    here = job.build(config.plain(config.compose_job(given)))
    time = overview.expectation(here, here.experiment({}).data.load(here.seed), given)[-1]
    full = len(here.experiment({"data.limit": None}).data.load(here.seed).train)
    minutes = 10 * 5500 / full * 20 / 40
    assert time.startswith(
        f"time: about {round(60 * minutes)} seconds, by study.trials 20 of 40, data.limit 5500 of {full}"
    )


def test_the_reports_line_on_the_data_counts_what_was_left_out():
    split = Split(torch.zeros(3, 1, 1, 1, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    whole = Dataset("three", 1, (1, 1, 1), 1, split, split, split, encode=None, digest="abc")
    line = "three: 3 train, 3 validation, 3 test samples, sha256 abc"
    assert overview._described(whole) == line
    part = replace(whole, skipped={"is cut off": 1, "missing users": 2})
    assert overview._described(part) == f"{line}; left out by data.skip_bad: 1 is cut off, 2 missing users"


def test_every_experiment_says_how_long_it_takes():
    for name in config.members("experiment"):
        assert config.header(name, "Time"), name


@pytest.mark.parametrize(
    ("experiment", "data", "papers", "alike"),
    [
        ("fspinn_mnist", "mnist", "mnist_diehl_cook_2015", True),
        ("fspinn_fashion", "fashion_mnist", "", True),
        ("tinysnn_conv_mnist", "mnist", "", True),
        ("gesture_joint", "dvs_gesture", "dvs_gesture_schaefer_2023", True),
        ("gesture_simulated", "synthetic_gesture", "dvs_gesture_schaefer_2023", False),
        ("nmnist_pareto", "dvs_gesture", "dvs_gesture_schaefer_2023", False),  # the data, another network
    ],
)
def test_published_costs_stand_only_beside_studies_of_the_same_data_and_network(
    experiment, data, papers, alike
):
    here = job.build(config.plain(config.compose_job([f"+experiment={experiment}"])))
    assert overview._papers(here, SimpleNamespace(name=data)) == papers
    assert overview._alike(here, SimpleNamespace(name=data)) == alike


def test_a_member_that_searched_a_key_of_data_is_shown_its_own(tmp_path, monkeypatch):
    given = ["+experiment=quickstart", f"out={tmp_path}", "data.timesteps=8"]
    here = job.build(config.plain(config.compose_job(given)))
    data = here.experiment({}).data.load(here.seed)
    monkeypatch.setattr(overview.finalists, "reload", lambda *_: SimpleNamespace(net=None, decode=None))
    monkeypatch.setattr(overview, "portrait", lambda net, decode, shown: {"steps": shown.timesteps})
    rows = [
        Row(number, "complete", {"data.timesteps": steps} if steps else {}, on_front=True)
        for number, steps in enumerate((0, 5, 8))
    ]
    wrong = here.folder / "portraits" / "trial-00001.json"  # as drawn before, on the data of the config
    wrong.parent.mkdir(parents=True)
    wrong.write_text('{"steps": 8}')
    for _ in range(2):  # drawn, and read again
        found = overview.with_portraits(here, data, rows)
        assert [row.detail["steps"] for row in found] == [8, 5, 8]
