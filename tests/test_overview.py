import shlex
from types import SimpleNamespace

import pytest

from pipeline import config, job, overview


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
    changed = overview.expectation(here, data, [*given, "study.trials=400"])[2]
    assert changed.endswith("(as the file stands, without your changes)")
    assert len(overview.expectation(here, data, ["name=mine"])) == 2


def test_every_experiment_says_how_long_it_takes():
    for name in config.members("experiment"):
        assert config.header(name, "Time"), name


@pytest.mark.parametrize(
    ("experiment", "data", "papers"),
    [
        ("fspinn_mnist", "mnist", "mnist_diehl_cook_2015"),
        ("fspinn_fashion", "fashion_mnist", ""),
        ("tinysnn_conv_mnist", "mnist", ""),
        ("gesture_joint", "dvs_gesture", "dvs_gesture_schaefer_2023"),
    ],
)
def test_published_points_stand_beside_studies_of_the_same_data_and_network(experiment, data, papers):
    here = job.build(config.plain(config.compose_job([f"+experiment={experiment}"])))
    assert overview._papers(here, SimpleNamespace(name=data)) == papers
