"""Learning without labels on real digits, labels by hand, resuming, and the ways it ends."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pipeline.data.poisson import Poisson
from pipeline.learn.labels import LabelDecode, Responses, assign
from pipeline.learn.stdp import StdpRule
from pipeline.learn.unsupervised import Unsupervised
from pipeline.nets.stdp import Stdp
from pipeline.types import PART, DataError, Dataset, Saturated, Silent, Span, Split

RULE = StdpRule(presynaptic=False, window_ms=20.0, norm=16.0, eta_post=0.03)
SPEC = Stdp(
    neurons=60, inhibition="direct", winner="highest", w_input_mv=4.0, theta_plus_mv=1.5, w_inh_mv=120.0
)
LEARNER = Unsupervised(epochs=2, rule=RULE, check_samples=200, chunk=100)


def ignore(_step, _metrics):
    """A report nobody reads."""


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    x = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    y = torch.from_numpy(bunch.target.astype(np.int64))
    splits = [Split(x[a:b], y[a:b]) for a, b in ((0, 1200), (1200, 1500), (1500, 1797))]
    return Dataset(
        "digits", 10, (1, 8, 8), 100, *splits, encode=Poisson(100, max_rate_hz=200.0), digest="digits"
    )


@pytest.fixture(scope="module")
def trained(digits):
    net = SPEC.build(digits.shape, digits.classes, 0)
    seen = []
    decode = LEARNER.fit(net, digits, lambda step, metrics: seen.append((step, metrics)), seed=0)
    return net, decode, seen


def test_a_long_pass_is_reported_on_its_way(trained):
    """1,200 images: after 1,000 of each epoch, with the error on images that had not been labelled yet."""
    *_, seen = trained
    parts = [(step, m["images"], round(m[PART], 3)) for step, m in seen if PART in m]
    assert parts == [(1, 1000.0, 0.833), (2, 2200.0, 0.833)]
    assert [m["images"] for _, m in seen] == [1000.0, 1200.0, 2200.0, 2400.0]
    for _, m in seen:
        assert 0.0 <= m["running_error"] < 0.9


def test_a_report_may_end_a_pass_on_its_way(digits):
    def enough(step, metrics):
        raise Silent("seen enough")

    net = SPEC.build(digits.shape, digits.classes, 0)
    with pytest.raises(Silent, match="seen enough"):
        LEARNER.fit(net, digits, enough, seed=0)


def test_learning_beats_the_untrained_network_by_far(digits, trained):
    """Chance is 10 %; the accuracy is of images and spikes that learning and labelling never saw."""
    net, decode, seen = trained
    fresh = SPEC.build(digits.shape, digits.classes, 0)
    blind = LEARNER.fit(fresh, digits, ignore, seed=0, epochs=0)

    def accuracy(net, decode):
        (x, y), *_ = digits.batches("test", 300, seed=7)
        return float((decode(net(x)) == y).double().mean())

    assert accuracy(net, decode) > 0.75
    assert accuracy(net, decode) > accuracy(fresh, blind) + 0.1
    (step, metrics), *rest = [report for report in seen if PART not in report[1]]
    assert (step, len(rest)) == (1, 1)
    assert metrics["validation_accuracy"] > 0.7
    assert metrics["train_accuracy"] > 0.5
    assert metrics["images_per_s"] > 0


def test_the_same_seed_gives_the_same_network_and_another_another(digits, trained):
    again, other = (SPEC.build(digits.shape, 10, 0) for _ in range(2))
    LEARNER.fit(again, digits, ignore, seed=0)
    LEARNER.fit(other, digits, ignore, seed=1)
    assert torch.equal(again.weight, trained[0].weight)
    assert not torch.equal(other.weight, again.weight)


def test_rates_fall_in_a_line_over_all_presentations(digits):
    """1.0 at the first image and 0.2 after the last: halfway 0.6, whatever the number of epochs."""
    rule = StdpRule(eta_post=0.01, eta_pre=0.001, eta_last=0.2)
    assert rule.per_step(1.0, 0)["eta_post"] == 0.01
    assert rule.per_step(1.0, 1, 0.5)["eta_post"] == pytest.approx(0.006)
    assert rule.per_step(1.0, 1, 1.0)["eta_pre"] == pytest.approx(0.0002)
    net = Stdp(neurons=20).build(digits.shape, digits.classes, 0)
    used, learn = [], net.learn

    def watched(starts, pixels, samples, steps, seed, rule, shadow):
        used.append(rule["eta_post"])
        return learn(starts, pixels, samples, steps, seed, rule, shadow)

    net.learn = watched
    few = dataclasses.replace(digits, train=Split(digits.train.x[:200], digits.train.y[:200]))
    Unsupervised(epochs=2, rule=rule, chunk=100).fit(net, few, ignore, 0)
    assert used == pytest.approx([0.01, 0.008, 0.006, 0.004])


def test_columns_sum_to_the_norm_after_learning(trained):
    torch.testing.assert_close(trained[0].weight.sum(0), torch.full((60,), 16.0), rtol=1e-4, atol=0)


def test_labels_come_from_training_images_alone(digits):
    """Changing every label outside of the training split changes nothing of the decoding."""
    net = SPEC.build(digits.shape, 10, 0)
    spoiled = dataclasses.replace(
        digits,
        validation=Split(digits.validation.x, digits.validation.y * 0),
        test=Split(digits.test.x, digits.test.y * 0),
    )
    one = LEARNER.fit(net, digits, ignore, seed=0, epochs=0)
    two = LEARNER.fit(net, spoiled, ignore, seed=0, epochs=0)
    assert torch.equal(one.votes, two.votes)


def test_assignments_by_hand():
    """Neuron 0 answers class 0 with 4 and class 1 with 1 spikes, neurons 1 and 2 answer class 1; neuron 3 is dead."""
    responses = Responses(4, 2)
    responses.add(torch.tensor([[4, 0, 1, 0], [1, 2, 1, 0], [1, 4, 1, 0]]), torch.tensor([0, 1, 1]))
    torch.testing.assert_close(
        responses.means().float(), torch.tensor([[4.0, 1.0], [0.0, 3.0], [1.0, 1.0], [0.0, 0.0]])
    )
    # Neuron 2 is undecided and stands for the first of its best classes: class 0 has members {0, 2}, class 1 {1}.
    highest = assign(responses, "highest_mean")
    torch.testing.assert_close(
        highest.votes.float(), torch.tensor([[0.5, 0.0], [0.0, 1.0], [0.5, 0.0], [0.0, 0.0]])
    )
    share = assign(responses, "proportional")
    torch.testing.assert_close(
        share.votes.float(), torch.tensor([[0.4, 0.0], [0.0, 1.0], [0.25, 0.0], [0.0, 0.0]])
    )
    counts = torch.tensor([[3, 1, 0, 0], [0, 3, 0, 0], [0, 0, 0, 0]])
    # The silent sample gets the most frequent class of the training samples, 1.
    assert highest.of_counts(counts).tolist() == [0, 1, 1]
    # Neuron 1 never answered class 0: one spike of it outweighs three of neuron 0, which class 1 excites as well.
    # 3 log 4.025 + log 0.025 - 5 < 3 log 1.025 + log 3.025 - 5
    assert assign(responses, "likelihood").of_counts(counts).tolist() == [1, 1, 1]


def test_likelihood_is_the_poisson_log_likelihood():
    """log p(counts | c) = sum_j counts_j log m_jc - m_jc + const, with the smoothed means."""
    responses = Responses(3, 2)
    responses.add(torch.tensor([[4, 2, 1], [1, 3, 5]]), torch.tensor([0, 1]))
    decode, means = assign(responses, "likelihood"), responses.means()
    means = means + 0.02 * means.mean()
    counts = torch.tensor([2.0, 0.0, 3.0], dtype=torch.float64)
    score = counts @ decode.votes + decode.bias
    by_hand = torch.distributions.Poisson(means).log_prob(counts[:, None]).sum(0)
    assert float(score[0] - score[1]) == pytest.approx(float(by_hand[0] - by_hand[1]))


def test_a_class_without_training_samples_is_never_answered():
    responses = Responses(3, 3)
    responses.add(torch.tensor([[4, 0, 1], [1, 2, 1]]), torch.tensor([0, 2]))
    counts = torch.randint(0, 4, (50, 3), generator=torch.Generator().manual_seed(0))
    for how in ("highest_mean", "proportional", "likelihood"):
        assert 1 not in assign(responses, how).of_counts(counts).tolist()


def test_a_decoding_survives_its_tensors(trained):
    decode = trained[1]
    twin = LabelDecode.from_tensors(decode.tensors())
    counts = torch.randint(0, 5, (20, 60))
    assert torch.equal(decode.of_counts(counts), twin.of_counts(counts))


class Interrupted(Exception):
    pass


def test_a_run_cut_off_and_resumed_equals_one_that_was_not(digits, tmp_path):
    def stop(_step, _metrics):
        raise Interrupted

    short = dataclasses.replace(digits, train=Split(digits.train.x[:300], digits.train.y[:300]))
    learner = dataclasses.replace(LEARNER, epochs=2, checkpoint=str(tmp_path), save_chunks=1)
    cut, whole = (SPEC.build(digits.shape, 10, 0) for _ in range(2))
    with pytest.raises(Interrupted):
        learner.fit(cut, short, stop, seed=3)
    resumed = SPEC.build(digits.shape, 10, 0)
    steps = []
    learner.fit(resumed, short, lambda step, _: steps.append(step), seed=3)
    dataclasses.replace(learner, checkpoint=None).fit(whole, short, ignore, seed=3)
    assert steps == [2]
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.theta, whole.theta)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"{file.name} cannot be read .*; delete it to start over"):
        learner.fit(SPEC.build(digits.shape, 10, 0), short, ignore, seed=3)


@pytest.mark.parametrize(
    ("seed", "spec", "learner", "span"),
    [
        (4, {}, {}, None),
        (3, {"theta_plus_mv": 0.2}, {}, None),
        (3, {"tau_m_ms": 90.0}, {}, None),
        (3, {}, {"rule": StdpRule(eta_post=0.02)}, None),
        (3, {}, {"min_spikes": 2}, None),
        (3, {}, {"epochs": 2}, None),
        (3, {}, {}, Span(1, 2)),
    ],
)
def test_runs_that_differ_share_a_folder_and_never_a_network(digits, tmp_path, seed, spec, learner, span):
    """The first run's file was taken for any run of its seed and rule, or refused: trials of a study met there."""
    short = dataclasses.replace(digits, train=Split(digits.train.x[:200], digits.train.y[:200]))
    kept = dataclasses.replace(LEARNER, epochs=1, checkpoint=str(tmp_path))
    kept.fit(SPEC.build(digits.shape, 10, 0), short, ignore, seed=3)
    changed, steps = dataclasses.replace(SPEC, **spec), []
    nets = [changed.build(digits.shape, 10, 0) for _ in range(3)]
    mine = dataclasses.replace(kept, **learner)
    mine.fit(nets[0], short, lambda step, _: steps.append(step), seed, None, span)
    dataclasses.replace(mine, checkpoint=None).fit(nets[1], short, ignore, seed, None, span)
    assert steps == list(range(1, mine.epochs + 1))
    assert torch.equal(nets[0].weight, nets[1].weight)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    mine.fit(nets[2], short, lambda step, _: steps.append(step), seed, None, span)
    assert len(steps) == mine.epochs, "its own file is found again"
    assert torch.equal(nets[2].weight, nets[1].weight)


def test_dim_images_are_shown_again_brighter(digits):
    dim = dataclasses.replace(digits, train=Split(digits.train.x[:60] // 2, digits.train.y[:60]))

    def spikes(min_spikes):
        net = SPEC.build(digits.shape, 10, 0)
        dataclasses.replace(LEARNER, min_spikes=min_spikes, rounds=3, boost=2.0, epochs=1).fit(
            net, dim, ignore, 0
        )
        return net.trained_samples

    assert spikes(0) == 60
    assert spikes(30) > 60


@pytest.mark.parametrize(
    ("spec", "data_change", "ending"),
    [
        (dataclasses.replace(SPEC, w_input_mv=0.01), {}, Silent),
        (dataclasses.replace(SPEC, theta_start_mv=1e4), {}, Silent),
        (
            dataclasses.replace(SPEC, winner="all", w_inh_mv=0.0, w_input_mv=500.0, theta_plus_mv=0.0),
            {},
            Saturated,
        ),
        (SPEC, {"black": True}, Silent),
    ],
)
def test_a_network_that_is_silent_or_full_ends_with_that_name(digits, spec, data_change, ending):
    data = digits
    if data_change:
        data = dataclasses.replace(digits, train=Split(digits.train.x * 0, digits.train.y))
    with pytest.raises(ending):
        LEARNER.fit(spec.build(digits.shape, 10, 0), data, ignore, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"w_inh_mv": 1e38},
        {"w_inh_mv": 1e38, "winner": "all", "inhibition": "direct"},
        {"w_inh_mv": 0.0},
        {"theta_plus_mv": 1e38},
        {"tau_theta_ms": 1e-3},
    ],
)
def test_inhibition_and_thresholds_beyond_all_bounds_learn_or_end_with_a_name(digits, change):
    net = dataclasses.replace(SPEC, **change).build(digits.shape, 10, 0)
    try:
        votes = dataclasses.replace(LEARNER, epochs=1).fit(net, digits, ignore, 0).votes
    except (Silent, Saturated):
        return
    assert torch.isfinite(votes).all()
    assert torch.isfinite(net.weight).all()


def test_what_does_not_fit_together_is_an_error(digits):
    net = SPEC.build(digits.shape, 10, 0)
    with pytest.raises(ValueError, match="data/encoding=poisson"):
        LEARNER.fit(net, dataclasses.replace(digits, encode=lambda x, g: x), ignore, 0)
    with pytest.raises(ValueError, match="net=stdp"):
        LEARNER.fit(torch.nn.Linear(2, 2), digits, ignore, 0)
    with pytest.raises(ValueError, match="training images"):
        LEARNER.fit(
            net, dataclasses.replace(digits, train=Split(digits.train.x[:0], digits.train.y[:0])), ignore, 0
        )
    with pytest.raises(ValueError, match="images have 64 pixels, but the network takes 784"):
        LEARNER.fit(SPEC.build((1, 28, 28), 10, 0), digits, ignore, 0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: StdpRule(eta_post=-1.0), "eta_post must be at least 0, but got -1.0"),
        (lambda: StdpRule(spikes_per_k=0.0), "spikes_per_k must be above 0"),
        (lambda: StdpRule(weight_decay=1.0), r"weight_decay must be in \[0, 1\)"),
        (
            lambda: Unsupervised(assignment="oracle"),
            "assignment must be one of highest_mean, proportional, likelihood",
        ),
        (lambda: Unsupervised(chunk=0), "chunk must be in"),
    ],
)
def test_settings_out_of_range_say_the_rule(make, said):
    with pytest.raises(ValueError, match=said):
        make()
