"""What of a space an integer machine can repeat: said before the search, refused where the job demands a proof."""

import os
import random
import re
from pathlib import Path

import pytest
import torch

from pipeline import config, experiment, job, provable
from pipeline.config import ConfigError
from pipeline.data.digits import Digits
from pipeline.types import DataError, Inexact
from tests.data.conftest import gestures  # noqa: F401  (a fixture: recordings in the layout of DVS Gesture)

ROOT = os.environ.get("PIPELINE_DATA")

LONG = 1e9
FLOAT_NEURONS = [f"compression.quantize_neurons.{name}=32" for name in ("beta", "threshold", "membrane")]


def built(*words):
    return job.build(config.plain(config.compose_job(["+experiment=quickstart", *words])))


def test_a_space_of_fixed_point_is_said_to_be_proven():
    (line,) = provable.expectation(built(), LONG)
    assert line.startswith("proof: all 16 points drawn from the space have an exact integer form")


def test_what_is_in_the_way_is_said_with_the_setting_that_helps_and_each_layer_once():
    head, *lines = provable.expectation(built(*FLOAT_NEURONS), LONG)
    assert head == "proof: networks here have no exact integer form and cannot be proven:"
    assert sum("beta" in line for line in lines) == 1, "two layers, one reason"
    assert any("compression.quantize_neurons.membrane=16" in line for line in lines)


def test_a_space_that_is_exact_in_parts_counts_them(tmp_path):
    words = ["~study.space", "+study.space={compression.quantize_weights.bits: {choices: [4, 32]}}"]
    words += ["study.warm_start=[]", "study.baseline={}"]
    head, *lines = provable.expectation(built(*words), LONG)
    assert "of 16 points drawn from the space have no exact integer form" in head
    assert "compression.quantize_weights.bits=8" in "".join(lines)
    mixed = built(*words, "proof=required", f"out={tmp_path}")  # a real quickstart may lie in outputs
    assert "are refused" in provable.expectation(mixed, LONG)[0]
    float_weights = {"compression.quantize_weights.bits": 32}
    with pytest.raises(Inexact, match=r"fc1\.weight is float32"):
        mixed.evaluate(float_weights, lambda step, metrics: None, 0)
    assert not mixed.model_path(0).exists()


def test_a_job_that_demands_a_proof_and_cannot_have_one_stops_before_the_search():
    with pytest.raises(ConfigError, match=r"(?s)proof is required.*membrane=16"):
        provable.expectation(built(*FLOAT_NEURONS, "proof=required"), LONG)
    with pytest.raises(ConfigError, match="proof must be one of"):
        built("proof=maybe")


STDP = [
    "data=digits",
    "data/encoding=poisson",
    "data.timesteps=20",
    "net=stdp",
    "net.neurons=20",
    "learner=stdp",
]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan=in_training", "compression=fold_quantize_prune"], "plan.scheme must be ptq or qat to fold"),
        (
            [*STDP, "compression=quantize", "plan=qat"],
            "compression.quantize_weights.integer_bits must be a number to learn on quantized weights",
        ),
        (["learner=stdp"], "net must be an STDP network .net=stdp. for learner=stdp"),
        ([*STDP, "learner=surrogate"], "net must have weights that gradients move for learner=surrogate"),
        (["learner.device=cuda"], "learner.device must be auto or cpu where there is no GPU"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the last one needs a machine without a GPU")
def test_what_no_training_can_begin_with_is_refused_before_the_search(words, message):
    """Each of them was a traceback, or a study of which every trial failed, some after their float training."""
    here = job.build(config.plain(config.compose([*words, "name=impossible"])))

    def before_the_search():
        experiment.check(here.experiment({}))
        provable.expectation(here, LONG)

    with pytest.raises(ValueError, match=message):
        before_the_search()


def test_the_share_of_a_space_that_no_training_can_begin_with_is_said():
    words = ["+experiment=tinysnn_mnist", *STDP, "compression.quantize_weights.integer_bits=null"]
    here = job.build(config.plain(config.compose_job(words)))
    space, proof = provable.expectation(here, LONG)
    assert space.startswith("space: 7 of 16 points drawn from it end before any training: ")
    assert "integer_bits must be a number" in space
    assert proof.startswith("proof: all 9 points")


def test_points_whose_data_has_no_such_frames_are_said_and_do_not_end_the_search(monkeypatch):
    """A filter and a number of frames that leave some recording too few events: trials of it fail by name."""
    words = ["+experiment=quickstart", "+study.space.data.timesteps={choices: [4, 500]}"]
    here = job.build(config.plain(config.compose_job(words)))
    load = Digits.load

    def loaded(self, seed):
        if self.timesteps == 500:
            raise DataError("data.timesteps=500: too few events.")
        return load(self, seed)

    monkeypatch.setattr(Digits, "load", loaded)
    assert re.match(
        r"space: \d+ of 16 points .* end before any training: data", provable.expectation(here, LONG)[0]
    )


def test_an_stdp_network_has_no_narrow_register_and_it_is_said_before_the_search():
    words = [
        "+experiment=fspinn_mnist",
        "data=digits",
        "data/encoding=poisson",
        "data.timesteps=20",
        "net.neurons=20",
    ]
    here = job.build(config.plain(config.compose_job([*words, "accumulator.bits=16"])))
    head, *lines = provable.expectation(here, LONG)
    assert "have no exact integer form" in head
    assert any("adds in 32 bits" in line and "accumulator.bits=32" in line for line in lines)
    here = job.build(
        config.plain(config.compose_job([*words, "accumulator.overflow=wrap", "proof=required"]))
    )
    with pytest.raises(ConfigError, match="adds in 32 bits"):
        provable.expectation(here, LONG)


@pytest.mark.parametrize(
    "name", ["fspinn_mnist", "fspinn_fashion", "tinysnn_mnist", "tinysnn_fashion", "tinysnn_conv_mnist"]
)
def test_the_experiments_search_what_can_be_proven(name):
    conv = ["net.channels=[4, 4]", "net.kernel=3", "net.pool=1"]
    stdp = ["data/encoding=poisson", "data.timesteps=20", "net.neurons=20"]
    words = [f"+experiment={name}", "data=digits", *(conv if "conv" in name else stdp)]
    here = job.build(config.plain(config.compose_job(words)))
    (line,) = provable.expectation(here, LONG)
    assert "have an exact integer form" in line


def in_the_way(*words):
    """(alone pruned, what is in the way of an integer form) of points of the experiment's space."""
    here = job.build(config.plain(config.compose_job(list(words))))
    data, generator, found = here.experiment({}).data.load(0), random.Random(0), []
    while len(found) < 12 or not any(alone for alone, _ in found):
        params = provable.draw(here.study.axes.axes, generator)
        alone = (params["plan.scheme"], params.get("plan.order")) == ("isolated", "prune_first")
        found.append((alone, provable.reasons(here.experiment(params), data)))
    return found


def only_floats_are_in_the_way(found):
    """All but what is pruned and nothing else: its weights are float, as isolated says."""
    for alone, said in found:
        assert bool(said) == alone, said
        assert not alone or any("is float32 without a fixed-point grid" in reason for reason in said)


@pytest.mark.skipif(
    not ROOT or not Path(ROOT, "nmnist-small").is_dir(), reason="PIPELINE_DATA has no N-MNIST"
)
def test_the_study_of_event_recordings_searches_what_can_be_proven(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    only_floats_are_in_the_way(in_the_way("+experiment=nmnist_pareto"))


def test_the_study_of_simulated_gestures_searches_what_can_be_proven(gestures, tmp_path, monkeypatch):  # noqa: F811
    """Attention and folded normalisation, in all plans; other recordings of the same layout and size of frames."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = config.plain(config.compose_job(["+experiment=gesture_simulated"]))["data"]
    words = [f"data.{key}={data[key]}" for key in ("scale", "timesteps", "validation_users")]
    words += [f"data.framing.{key}={data['framing'][key]}" for key in ("size", "values", "slicing")]
    words = ["+experiment=gesture_simulated", "data=dvs_gesture", f"data.root={gestures}", *words]
    only_floats_are_in_the_way(in_the_way(*words))
    assert all(said for _, said in in_the_way(*words, "compression.table_attention.enabled=false"))
