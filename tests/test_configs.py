"""Every experiment composes, builds and searches paths that exist; wrong ones stop with the key and what is allowed."""

import re
from dataclasses import replace

import pytest
import yaml

from pipeline import config, job
from pipeline.config import ConfigError
from pipeline.export.program import Accumulator

EXPERIMENTS = config.members("experiment")
GROUPS = sorted(p.name for p in config.CONF.iterdir() if p.is_dir() and p.name != "experiment")


def composed(*overrides: str) -> config.Plain:
    return config.plain(config.compose_job(list(overrides)))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_builds_and_its_search_paths_exist(name):
    plain = composed(f"+experiment={name}")
    here = job.build(plain)
    assert here.name == name
    known = config.flatten({key: plain[key] for key in config.EXPERIMENT_KEYS})
    for path in here.study.axes.paths:
        assert path in known or any(k.startswith(path + ".") for k in known), path


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_net_switches_the_network(name):
    here = job.build(composed(f"+experiment={name}", "net=conv"))
    assert here.config["net"]["_target_"].endswith("Conv")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_says_source_expectation_time_and_command(name):
    head = (config.CONF / "experiment" / f"{name}.yaml").read_text().split("defaults:")[0]
    assert head.startswith("# @package _global_")
    for word in ("Source", "Expected", "Time", "Command"):
        assert word in head, f"{name}.yaml says no {word}"
    assert f"+experiment={name}" in head


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_names_a_target_or_is_a_mapping_of_them(group):
    for path in (config.CONF / group).glob("*.yaml"):
        node = yaml.safe_load(path.read_text())
        assert isinstance(node, dict), path


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["+experiment=quickstart", "study.trails=3"], r"study\.trails.*Did you mean 'trials'.*selectors"),
        (["+experiment=quickstart", "lerner.epochs=3"], r"'lerner'.*Did you mean 'learner'"),
        (["+experiment=quickstart", "net=feedfoward"], r"net/feedfoward|feedforward"),
        (["+experiment=quickstrat"], r"there is no experiment 'quickstrat'.*Did you mean 'quickstart'"),
        ([], r"choose \+experiment=NAME, one of: .*quickstart"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(overrides, said):
    with pytest.raises(ConfigError) as caught:
        composed(*overrides)
    assert re.search(said, str(caught.value), re.DOTALL), caught.value


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "compression.quantize_weights.bits=1",
            "compression.quantize_weights.bits must be in [2, 32], but got 1.",
        ),
        ("learner.learning_rate=0", "learner.learning_rate must be in (0, 10], but got 0."),
        ("study.trials=0", "study.trials must be >= 1, but got 0."),
        ("workers=0", "workers must be >= 1, but got 0."),
        ("name=../up", "name must be letters"),
        ("+net.hiden=3", "unknown key net.hiden. Did you mean 'hidden'?"),
        ("accumulator.bits=33", "accumulator.bits must be in [2, 32], but got 33."),
        ("accumulator.bits=16.5", "accumulator.bits must be a whole number, but got 16.5."),
        ("accumulator.overflow=trap", "accumulator.overflow must be in [saturate, wrap], but got 'trap'."),
        ("+accumulator.bit=8", "unknown key accumulator.bit. Did you mean 'bits'?"),
        ("accumulator=8", "accumulator must have the keys bits and overflow, but got 8."),
        ("+study.space.net.hidn={low: 1, high: 2}", "study.space.net.hidn"),
        (
            "study.warm_start=[{learner.epochs: 3}]",
            "study.warm_start[0] must give paths that study.space searches, but got 'learner.epochs'.",
        ),
        ("study.reference=[1.0, 0.0, 1.0]", "study.reference must be > 0 in every objective"),
        ("study.selectors.knee=5", "study.selectors.knee must be a selector"),
        ("+study.space.net.beta={low: 0.1, high: 3.0}", "net.beta must"),
    ],
)
def test_values_out_of_range_stop_with_their_key(override, said):
    with pytest.raises(ConfigError) as caught:
        job.build(composed("+experiment=quickstart", override))
    assert said in str(caught.value)


def test_the_seeds_of_the_finalists_are_seeds_as_well():
    job.build(composed("+experiment=quickstart", "seed=4294967295", "study.finalists=1"))
    with pytest.raises(ConfigError, match="seed must be <= 4294967294 with 2 finalists, but got 4294967295"):
        job.build(composed("+experiment=quickstart", "seed=4294967295", "study.finalists=2"))


def test_the_fingerprint_sees_what_decides_a_trial_and_nothing_else():
    one = composed("+experiment=quickstart")
    same = composed("+experiment=quickstart", "study.trials=99", "workers=1", "tracking=silent", "name=other")
    other = composed("+experiment=quickstart", "net.beta=0.7")
    assert config.fingerprint(one) == config.fingerprint(same)
    assert config.fingerprint(one) != config.fingerprint(other)


def test_difference_names_the_keys_that_may_not_change():
    one = composed("+experiment=quickstart")
    other = composed("+experiment=quickstart", "study.trials=99", "workers=1", "seed=3")
    changed = config.difference(one, other)
    assert "seed: 0 -> 3" in changed
    assert all(line.split(":")[0].endswith("seed") for line in changed)


def test_the_accumulator_belongs_to_a_study_and_studies_without_the_key_had_the_widest():
    one = composed("+experiment=quickstart")
    narrow = composed("+experiment=quickstart", "accumulator.bits=16", "accumulator.overflow=wrap")
    older = {key: value for key, value in one.items() if key != "accumulator"}
    assert job.build(one).accumulator == job.build(older).accumulator == Accumulator()
    assert job.build(narrow).accumulator == Accumulator(16, "wrap")
    assert config.difference(older, one) == []
    assert "accumulator.bits: 32 -> 16" in config.difference(older, narrow)
    assert config.fingerprint(one) == config.fingerprint(narrow), "it decides no trial's training or price"


def test_override_leaves_the_original_alone():
    one = composed("+experiment=quickstart")
    changed = config.override(one, {"net.hidden": 5})
    assert changed["net"]["hidden"] == 5
    assert one["net"]["hidden"] != 5


def test_what_repeats_a_key_follows_it_into_a_trial():
    """conf says net.timesteps: ${data.timesteps} and seed: ${seed}; a plain config no longer does."""
    one = composed("+experiment=gesture_simulated")
    changed = config.override(one, {"data.timesteps": 10, "seed": 3})
    assert changed["net"]["timesteps"] == 10
    assert changed["compression"]["quantize_weights"]["seed"] == 3
    assert changed["compression"]["quantize_neurons"]["seed"] == 3
    own = composed("+experiment=gesture_simulated", "compression.quantize_weights.seed=7")
    assert config.override(own, {"seed": 3})["compression"]["quantize_weights"]["seed"] == 7
    both = {"seed": 3, "compression.quantize_weights.seed": 5}
    assert config.override(one, both)["compression"]["quantize_weights"]["seed"] == 5
    assert (
        "timesteps" not in config.override(composed("+experiment=quickstart"), {"data.timesteps": 5})["net"]
    )


def test_every_key_that_repeats_a_part_of_a_trial_is_known_to_follow_it():
    """A new `${seed}` in conf that no trial's seed reaches would be wrong without a word."""
    seen = 0
    for path in sorted(config.CONF.rglob("*.yaml")):
        if path.parent.name == "experiment":
            continue
        for line in map(str.strip, path.read_text().splitlines()):
            found = re.match(r"(\w+): *\$\{([\w.]+)\}", line)
            if found and found[2].partition(".")[0] in config.EXPERIMENT_KEYS:
                seen += 1
                followers = config.FOLLOWERS.get(found[2], ())
                assert any(key.endswith(f".{found[1]}") for key in followers), f"{path}: {line}"
    assert seen >= 3


def test_a_searched_number_of_steps_reaches_the_network_that_has_weights_for_each():
    job.build(composed("+experiment=gesture_simulated", "+study.space.data.timesteps={choices: [10, 20]}"))
    for words in (["net.timesteps=5"], ["+study.space.net.timesteps={choices: [10, 20]}"]):
        with pytest.raises(
            ConfigError, match=r"net\.timesteps must be as many as data\.timesteps \(20\), but got"
        ):
            job.build(composed("+experiment=gesture_simulated", *words))


def test_a_config_from_before_a_key_existed_still_means_what_it_meant():
    """Studies go on after an update: no difference, the same results in the cache; another value is one."""
    now = composed("+experiment=quickstart")
    before = {key: value for key, value in now.items() if key != "counting"}
    assert config.difference(before, now) == []
    assert config.fingerprint(before) == config.fingerprint(now)
    assert config.build_experiment(before) == config.build_experiment(now)
    other = composed("+experiment=quickstart", "counting=training")
    assert config.difference(before, other) == [
        "counting.samples: None -> 256",
        "counting.split: validation -> train",
    ]
    assert config.fingerprint(other) != config.fingerprint(now)
    with pytest.raises(
        ConfigError, match=r"^counting\.split must be one of validation, train, but got 'test'"
    ):
        config.build_experiment(config.override(now, {"counting.split": "test"}))


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.startswith(("gesture", "nmnist"))])
def test_densities_of_the_event_studies_are_those_of_training_data(name):
    counting = config.build_experiment(composed(f"+experiment={name}")).counting
    assert (counting.split, counting.samples) == ("train", 256)


@pytest.mark.parametrize(
    ("group", "option"),
    [(group, name) for group in ("stopper", "sampler") for name in config.members(group)],
)
def test_every_stopper_and_sampler_builds_with_a_study(group, option):
    here = job.build(composed("+experiment=tinysnn_mnist", f"{group}={option}"))
    assert type(getattr(here, group)).__name__ in here.config[group]["_target_"]


def test_a_path_given_as_null_is_not_searched_by_the_ordered_sampler_either():
    given = ("+experiment=tinysnn_mnist", "sampler=ordered", "study.space={plan.scheme: null}")
    here = job.build(composed(*given))
    assert "plan.scheme" not in here.study.axes.paths
    assert set(here.sampler.space) == set(here.study.axes.paths)


def test_a_warm_start_may_name_a_path_that_is_not_searched_after_all_and_leave_others_to_the_sampler():
    given = ("study.space={plan.scheme: null}", "study.warm_start=[{plan.scheme: qat, net.hidden: 20}]")
    here = job.build(composed("+experiment=quickstart", *given))
    assert here.study.axes.restrict(here.study.warm_start[0]) == {"net.hidden": 20}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["study.objectives=[validation_error, energy_training_pj]"],
            "study.objectives asks for energy_training_pj",
        ),
        (["+study.constraints={dense_memory_bits: 5}"], "study.constraints asks for dense_memory_bits"),
        (
            ["+study.selectors.cheap={_target_: pipeline.study.select.Within, price: energy_training_pj}"],
            "study.selectors.cheap.price asks for energy_training_pj, which only net=stdp and plan=in_training",
        ),
    ],
)
def test_a_metric_that_this_network_lacks_is_refused_before_anything_is_trained(words, said):
    here = job.build(composed("+experiment=quickstart", *words))
    data = here.experiment({}).data.load(here.seed)
    with pytest.raises(ConfigError, match=said):
        job.check_measured(here, data)
    learns = job.build(composed("+experiment=fspinn_knobs"))
    job.check_measured(learns, replace(data, shape=(1, 28, 28)))
