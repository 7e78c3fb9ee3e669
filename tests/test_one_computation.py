"""Trials that are one computation under several names: one fingerprint, one training, the same network bit for bit."""

import math
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
import torch

from pipeline import config, experiment, finalists, job, reprice
from pipeline.report.detail import sparsity, weight_bits
from pipeline.study import database, results
from pipeline.study.search import Worker
from pipeline.tracker import title
from pipeline.types import Row
from tests.export.small import Normalised

BITS, SPARSITY = "compression.quantize_weights.bits", "compression.prune_weights.sparsity"
MEMBRANE = "compression.quantize_neurons.membrane"
MASKS = {"plan.scheme": "isolated", "plan.order": "prune_first"}
CODES = {"plan.scheme": "isolated", "plan.order": "quantize_first"}
JOINT, CUMULATIVE, AFTER = ({"plan.scheme": scheme} for scheme in ("joint", "cumulative", "ptq"))
NEURONS_OFF = {f"compression.quantize_neurons.{name}": 32 for name in ("membrane", "threshold", "beta")}
SMALL = ["+experiment=quickstart", "learner.epochs=2", "net.hidden=16", "data.timesteps=4", "plan.epochs=2"]
WRITTEN = {
    "data": {
        "_target_": "pipeline.data.digits.Digits",
        "timesteps": 4,
        "encoding": {"_target_": "pipeline.data.encode.Direct"},
    },
    "net": {"_target_": "pipeline.nets.feedforward.FeedForward", "hidden": 16},
    "learner": {"_target_": "pipeline.learn.surrogate.Surrogate", "epochs": 2},
    "compression": {
        "quantize_weights": {"_target_": "pipeline.compress.quantize.QuantizeWeights", "bits": 4},
        "quantize_neurons": {"_target_": "pipeline.compress.quantize.QuantizeNeurons", "membrane": 32},
        "prune_weights": {"_target_": "pipeline.compress.prune.PruneWeights", "sparsity": 0.5},
    },
    "plan": {"_target_": "pipeline.compress.plan.Plan", "scheme": "ptq", "order": "prune_first", "epochs": 2},
    "accelerator": {
        "_target_": "pipeline.hardware.accelerator.Accelerator",
        "name": "one",
        "node_nm": 45,
        "clock_mhz": 100,
        "processing": "event",
        "arithmetic": {"_target_": "pipeline.hardware.accelerator.Arithmetic"},
        "buffer": {
            "_target_": "pipeline.hardware.accelerator.Memory",
            "word_bits": 64,
            "read_pj": 20.0,
            "write_pj": 20.0,
            "capacity_kib": 32,
        },
    },
    "seed": 0,
}
"""Written out, so that no digest below follows a change of conf/."""


def composed(*words: str) -> config.Plain:
    return config.plain(config.compose([*words, "tracking=silent"]))


def fingerprint(plain, params):
    return config.fingerprint(config.computed(config.override(plain, params)))


SAME = [
    ({**MASKS, BITS: 2, SPARSITY: 0.8}, {**MASKS, BITS: 8, SPARSITY: 0.8, MEMBRANE: 8}),
    ({**CODES, BITS: 4, SPARSITY: 0.5}, {**CODES, BITS: 4, SPARSITY: 0.9}),
    ({**CODES, BITS: 4, SPARSITY: 0.5}, {**JOINT, BITS: 4, SPARSITY: 0.0}),
    (
        {**JOINT, BITS: 4, SPARSITY: 0.0},
        {**CUMULATIVE, BITS: 4, SPARSITY: 0.0, "plan.order": "quantize_first"},
    ),
    ({**JOINT, BITS: 4, SPARSITY: 0.0}, {**CUMULATIVE, BITS: 4, SPARSITY: 0.0}),
    ({**MASKS, BITS: 4, SPARSITY: 0.5}, {**NEURONS_OFF, **CUMULATIVE, BITS: 32, SPARSITY: 0.5}),
    ({**AFTER, BITS: 4, SPARSITY: 0.0}, {**AFTER, BITS: 4, SPARSITY: 0.0, "plan.order": "quantize_first"}),
    ({**MASKS, BITS: 4, SPARSITY: 0.0}, {**NEURONS_OFF, **AFTER, BITS: 32, SPARSITY: 0.0}),
]
APART = [
    ({**JOINT, BITS: 4, SPARSITY: 0.5}, {**CUMULATIVE, BITS: 4, SPARSITY: 0.5}),
    ({**JOINT, BITS: 4, SPARSITY: 0.5}, {**JOINT, BITS: 4, SPARSITY: 0.5, "plan.order": "quantize_first"}),
    ({**MASKS, BITS: 4, SPARSITY: 0.5}, {**MASKS, BITS: 4, SPARSITY: 0.6}),
    ({**MASKS, BITS: 4, SPARSITY: 0.5}, {**MASKS, BITS: 4, SPARSITY: 0.5, "plan.epochs": 3}),
    ({**CODES, BITS: 4, SPARSITY: 0.5}, {**CODES, BITS: 4, SPARSITY: 0.5, MEMBRANE: 8}),
    ({**CODES, BITS: 4, SPARSITY: 0.5}, {**AFTER, BITS: 4, SPARSITY: 0.0}),
    # The neurons are quantized still: a family that acts, and masks and neurons together are another network.
    ({**MASKS, BITS: 32, SPARSITY: 0.5}, {**JOINT, BITS: 32, SPARSITY: 0.5}),
    ({**JOINT, BITS: 32, SPARSITY: 0.5}, {**CUMULATIVE, BITS: 32, SPARSITY: 0.5}),
]


def test_names_of_one_computation_share_a_fingerprint_and_others_do_not():
    plain = composed(*SMALL)
    for one, other in SAME:
        assert fingerprint(plain, one) == fingerprint(plain, other), (one, other)
    for one, other in APART:
        assert fingerprint(plain, one) != fingerprint(plain, other), (one, other)
    seeds = [fingerprint(plain, {**MASKS, "seed": seed}) for seed in (0, 1)]
    assert seeds[0] != seeds[1]


PLAN = WRITTEN["plan"]
MASKS_ALONE = {"prune_weights": WRITTEN["compression"]["prune_weights"]}


@pytest.mark.parametrize(
    ("changes", "digest"),
    [
        ({}, "82ebf1466da5e498ddfc0aec7a37c25d51c1c5dc2951ad44e1913bb409acc4cc"),
        (
            {"plan": {**PLAN, "scheme": "joint"}},
            "99bb25df1a533e17dd5f9b71432f82037dbf199645311ff44766af3338859b4e",
        ),
        (
            {"plan": {**PLAN, "scheme": "cumulative", "order": "quantize_first"}},
            "ec925511b0d63a92dac107e8e52a7551b47e44a0916752b33eebd8eb0e1883b4",
        ),
        (
            {"plan": {**PLAN, "scheme": "isolated"}, "compression": MASKS_ALONE},
            "4521a477ea12feacd1d9048db136e8d587b6a5acecee02e113a7723531213cd0",
        ),
        ({"compression": {}}, "40300811fa33fa7e9d219bef5fb8caab0bbeebf982684355f7dedc1ad192d7e4"),
    ],
)
def test_what_leaves_nothing_out_has_the_fingerprint_that_it_always_had(changes, digest):
    """Earlier studies go on with the results that they have."""
    plain = {**WRITTEN, **changes}
    config.build_experiment(plain)
    assert config.fingerprint(config.computed(plain)) == digest


def test_a_config_that_cannot_be_built_keeps_its_own_fingerprint():
    plain = config.override(WRITTEN, {BITS: 1})
    assert config.computed(plain) == plain
    folded = composed("+experiment=quickstart", "plan=in_training", "compression=fold_quantize_prune")
    assert config.computed(folded) == folded


@pytest.mark.parametrize(
    ("name", "points", "computations"),
    [
        # After training 40, masks alone 8 (of sparsity 0: the float model), quantizers alone 5, which are also the five
        # of joint and cumulative without a mask, and 35 each of joint and cumulative with one.
        ("nmnist_pareto", 200, 40 + 8 + 5 + 35 + 35),
        ("gesture_pareto", 200, 40 + 8 + 5 + 35 + 35),
        ("gesture_simulated", 200, 40 + 8 + 5 + 35 + 35),
    ],
)
def test_a_space_has_as_many_fingerprints_as_computations(name, points, computations):
    plain = composed(f"+experiment={name}")
    here = job.build(plain)
    found = [here.fingerprint(params) for params in here.study.axes.points(1000)]
    assert (len(found), len(set(found))) == (points, computations)


def trained(plain, params, net=None):
    built = config.build_experiment(config.override(plain, params))
    found = experiment.evaluate(replace(built, net=net or built.net), lambda *_: None)
    return found.metrics, found.detail, found.widths, found.loads, found.net.state_dict()


def assert_the_same(one, other):
    assert one[:-1] == other[:-1]
    assert one[-1].keys() == other[-1].keys()
    assert all(torch.equal(one[-1][name], other[-1][name]) for name in one[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), SAME)
def test_names_of_one_computation_train_the_same_network_bit_for_bit(one, other):
    plain = composed(*SMALL)
    assert_the_same(trained(plain, one), trained(plain, other))


@pytest.mark.slow
def test_folding_before_the_only_family_is_the_same_whatever_the_order_says():
    """What prepares a network comes first, in a stage of its own or not."""
    plain = composed(*SMALL, "compression=fold_quantize_prune", "compression.fold_batch_norm.when=after")
    one, other = (
        {**CODES, BITS: 4, SPARSITY: 0.5, MEMBRANE: 12},
        {**JOINT, BITS: 4, SPARSITY: 0.0, MEMBRANE: 12},
    )
    assert fingerprint(plain, one) == fingerprint(plain, other)
    assert_the_same(trained(plain, one, Normalised()), trained(plain, other, Normalised()))
    cut = {
        **other,
        **CUMULATIVE,
    }  # without masks there is nothing to be first with: half of the epochs had folding alone
    assert fingerprint(plain, cut) == fingerprint(plain, other)
    assert_the_same(trained(plain, cut, Normalised()), trained(plain, other, Normalised()))


def test_cumulative_with_folding_and_no_masks_at_all_is_not_taken_for_what_it_was():
    """A study begun when half of its epochs had folding alone must not go on with those results."""
    plain = composed(*SMALL, "compression=fold_quantize_prune", "~compression.prune_weights")
    cut = {**CUMULATIVE, BITS: 4}
    assert fingerprint(plain, cut) != config.fingerprint(config.override(plain, cut))
    alone = composed(*SMALL, "~compression.prune_weights")  # nothing folded: one training then as now
    assert fingerprint(alone, cut) == config.fingerprint(config.override(alone, cut))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """All six points of a small space, two of which are one computation."""
    out = tmp_path_factory.mktemp("outputs")
    axes = f"{BITS}: {{choices: [2, 8]}}, {SPARSITY}: {{choices: [0.5]}}"
    axes += ", plan.scheme: {choices: [isolated, joint]}"
    axes += ", plan.order: {choices: [prune_first, quantize_first], when: {plan.scheme: isolated}}"
    words = ["~study.space", f"+study.space={{{axes}}}", "study.trials=20", "study.warm_start=[]"]
    words += ["sampler=grid", "study.baseline={}", f"out={out}"]
    here = job.build(composed(*SMALL, *words))
    made = database.create(database.connect(here.storage), here.name, here.study, here.config)
    made.sampler = here.sampler.build(0)
    calls = Counter()

    def evaluate(params, report, number):
        calls[here.fingerprint(params)] += 1
        return here.evaluate(params, report, number)

    Worker(here.study, made, evaluate, here.fingerprint, here.stopper, None, here.bound, here.folder).run()
    return here, made, results.rows(made, here.study), calls


def test_the_second_name_of_a_computation_is_cached(study):
    here, _, rows, calls = study
    assert Counter(row.state for row in rows) == {"complete": 5, "cached": 1}
    assert set(calls.values()) == {1}
    named = defaultdict(list)
    for row in rows:
        named[here.fingerprint(row.params)].append(row)
    first, again = next(same for same in named.values() if len(same) > 1)
    assert (first.state, again.state) == ("complete", "cached")
    assert again.metrics == first.metrics
    assert again.reason == f"same configuration as trial {first.number}"
    assert first.params[BITS] != again.params[BITS], "what was suggested stays on record"
    assert {title(first), title(again)} == {
        f"#{first.number} 50% isolated",
        f"#{again.number} 50% isolated cached",
    }


def test_a_space_is_used_up_by_its_points_not_by_its_computations(study):
    here, made, rows, _ = study
    assert len(rows) == 6
    assert results.early_end(made, here.study) == "the space is exhausted, all 6 points were tried"


def test_finalists_and_prices_of_another_machine_know_whose_network_a_cached_trial_has(study):
    here, _, rows, _ = study
    loads = reprice.loads_of(here, rows)
    assert set(loads) == {row.number for row in rows}
    cached = next(row for row in rows if row.state == "cached")
    twin = next(row for row in rows if row.state == "complete" and row.metrics == cached.metrics)
    assert loads[cached.number] == loads[twin.number]
    assert not cached.on_front
    # A model belongs to the config that made it, word by word: those of earlier studies are found, too.
    assert finalists.reload(here, twin) is not None
    saved = here.model_path(twin.number)
    assert config.fingerprint(here.params_config(twin.params)) in saved.read_bytes().decode("latin-1")


def test_the_bound_is_that_of_the_network_whatever_it_is_called():
    plain = composed(*SMALL)
    one, other = ({**MASKS, BITS: bits, SPARSITY: 0.5} for bits in (2, 8))
    floors = [
        experiment.bound(config.build_experiment(config.override(plain, params))) for params in (one, other)
    ]
    assert floors[0] == floors[1]
    metrics = trained(plain, one)[0]
    assert all(floors[0][name] <= metrics[name] for name in floors[0])


def test_a_title_says_what_the_network_is():
    def named(params, **more):
        return title(Row(7, more.pop("state", "complete"), {BITS: 2, SPARSITY: 0.8, **params}, **more))

    assert named(MASKS) == "#7 80% isolated"
    assert named(CODES) == "#7 2-bit isolated"
    assert named(JOINT) == "#7 2-bit 80% joint"
    assert (
        named({"plan.scheme": "qat", "plan.mode": "isolated", "plan.order": "prune_first"})
        == "#7 80% isolated"
    )
    assert named(MASKS, state="stopped:bound") == "#7 80% isolated stopped:bound"
    # The order was not searched: the layers show which family acted.
    layers = {bits: {"layers": [{"name": "fc1", "bits": bits}]} for bits in (2, 32)}
    assert named({"plan.scheme": "isolated"}, detail=layers[32]) == "#7 80% isolated"
    assert named({"plan.scheme": "isolated"}, detail=layers[2]) == "#7 2-bit isolated"


def test_a_trial_that_ended_early_is_not_given_the_width_that_it_would_never_have_had():
    """Without layers the columns say what was asked for, of the family that acts."""
    masks, codes = (Row(7, "stopped:silent", {BITS: 2, SPARSITY: 0.8, **plan}) for plan in (MASKS, CODES))
    assert (weight_bits(masks), sparsity(masks)) == ("32", 0.8)
    assert weight_bits(codes) == "2"
    assert math.isnan(sparsity(codes))
