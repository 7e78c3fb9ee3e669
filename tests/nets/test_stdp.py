"""The STDP network: the compiled loop against the plain one, hand-worked steps, and what bad input gets."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.hardware.load import measure
from pipeline.hardware.workload import load_from
from pipeline.nets.stdp import Stdp
from pipeline.nets.stdp_columns import Rule
from pipeline.nets.stdp_counts import memory, per_sample
from pipeline.nets.stdp_kernel import events_of
from pipeline.types import Batch
from tests.nets import stdp_reference as reference

P, T = 30, 40
RULE = {
    "eta_pre": 1e-3, "eta_post": 2e-2, "mu": 0.0, "w_max": 1.0, "pre_decay": 0.95, "post_decay": 0.95,
    "additive": False, "window": 0, "k": 1.0, "spikes_per_k": 0.0, "norm": 8.0, "weight_decay": 0.0,
}  # fmt: skip
GRID = (2.0**-6, 0.0, 1.0, "nearest")


def network(neurons=12, seed=0, **changes):
    """A small net whose weights are strong enough to fire."""
    spec = Stdp(neurons=neurons, winner="highest", w_start=1.0, theta_plus_mv=0.3, w_inh_mv=9.0)
    return dataclasses.replace(spec, **changes).build((1, 5, 6), 10, seed)


def spikes(samples, seed=0, rate=0.15, steps=T):
    return (np.random.default_rng(seed).random((steps, samples, P)) < rate).astype(np.float32)


def learned(net, x, rule, **kwargs):
    """Present x [T, S, P] in order; returns spike counts."""
    starts, pixels, binary = events_of(x)
    assert binary
    return net.learn(starts, pixels, x.shape[1], len(x), 0, rule, **kwargs)


VARIANTS = {
    "baseline": ({}, {}),
    "direct": ({"inhibition": "direct"}, {}),
    "everyone may spike": ({"winner": "all"}, {}),
    "first wins": ({"winner": "first"}, {}),
    "floor, other steps": ({"lowest_mv": -70.0, "dt_ms": 0.5, "w_input_mv": 0.7}, {}),
    "no presynaptic updates": ({}, {"eta_pre": 0.0}),
    "weight dependence": ({}, {"mu": 1.0}),
    "other exponent": ({}, {"mu": 0.6}),
    "windows": ({"inhibition": "direct"}, {"eta_pre": 0.0, "window": 7}),
    "windows, presynaptic too": ({"inhibition": "direct"}, {"window": 7}),
    "adaptive k": ({"inhibition": "direct"}, {"eta_pre": 0.0, "window": 10, "spikes_per_k": 2.0}),
    "additive traces": ({}, {"additive": True}),
    "theta decays fast": ({"tau_theta_ms": 2.0, "theta_plus_mv": 3.0}, {}),
    "theta is gone at once": ({"tau_theta_ms": 1e-3}, {}),
    "weight decay, no norm": ({}, {"weight_decay": 0.01, "norm": 0.0}),
    "more columns than one block has": (
        {"neurons": 37, "winner": "all", "inhibition": "direct", "w_inh_mv": 0.2},
        {},
    ),
    "blocks in windows": (
        {"neurons": 37, "winner": "all", "w_inh_mv": 0.2},
        {"eta_pre": 0.0, "window": 7, "mu": 1.0},
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_compiled_loop_equals_the_plain_one(name):
    """Identical spikes on every step of several samples while learning; weights and theta within rounding."""
    of_net, of_rule = VARIANTS[name]
    net, rule, x = network(**of_net), RULE | of_rule, spikes(6)
    net.seen += 1  # the first sample of a run normalises every column; the plain form does not
    w, theta = net.weight.numpy().copy(), net.theta.numpy().copy()
    counts = learned(net, x, rule)
    for s in range(x.shape[1]):
        out = reference.present(x[:, s], w, theta, net.spec.cell(), Rule(**rule), learn=True)
        assert (out.sum(0) == counts[s]).all(), s
    assert counts.sum() > 20
    assert (counts > 0).sum(1).max() > (16 if net.spec.neurons > 16 else 0)
    np.testing.assert_allclose(net.weight.numpy(), w, atol=2e-6)
    np.testing.assert_allclose(net.theta.numpy(), theta, rtol=1e-5)


def test_inference_equals_the_plain_loop_step_by_step():
    for inhibition in ("layer", "direct"):
        net, x = network(inhibition=inhibition), spikes(5, seed=3)
        out = net(torch.from_numpy(x).reshape(T, 5, 1, 5, 6)).numpy()
        for s in range(5):
            plain = reference.present(
                x[:, s],
                net.weight.numpy().copy(),
                net.theta.numpy().copy(),
                net.spec.cell(),
                Rule(**RULE),
                learn=False,
            )
            np.testing.assert_array_equal(out[:, s], plain)
        assert out.sum() > 10


def test_threads_and_events_change_nothing():
    net, x = network(winner="random"), spikes(9)
    starts, pixels, _ = events_of(x)
    alone = net.respond(starts, pixels, 9, T, 5)
    torch.set_num_threads(3)
    try:
        shared = net.respond(starts, pixels, 9, T, 5)
    finally:
        torch.set_num_threads(1)
    np.testing.assert_array_equal(alone, shared)


def test_one_neuron_by_hand():
    """One pixel, weight 1, gain 6 mV, no leak to speak of: 6, 12, 18 >= 13 fires with the third spike's arrival
    (a step after it), resets to 0 and is deaf for 2 steps."""
    spec = Stdp(
        neurons=1, inhibition="direct", winner="all", tau_m_ms=1e12, rest_mv=-65, reset_mv=-65, threshold_mv=-52,
        refractory_ms=2, theta_plus_mv=0, w_input_mv=6,
    )  # fmt: skip
    net = spec.build((1, 1, 1), 2, 0)
    net.weight.fill_(1.0)
    out = net(torch.ones(9, 1, 1, 1, 1))[:, 0, 0]
    # arrivals at steps 1, 2, 3 -> fires at 3; steps 4, 5 are lost; arrivals at 6, 7, 8 -> fires at 8
    assert out.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 1]


def test_one_synapse_by_hand():
    """A spike of the pixel at step 0 brings the neuron to fire at step 1: x_pre = 0.5, so the weight grows by
    eta_post * 0.5 = 0.05; the pixel's spike at step 2 finds x_post = 0.5 and takes eta_pre * 0.5 = 0.01."""
    spec = Stdp(neurons=1, inhibition="direct", winner="all", w_input_mv=20, theta_plus_mv=0)
    net = spec.build((1, 1, 1), 2, 0)
    net.weight.fill_(0.7)
    rule = RULE | {"eta_pre": 0.02, "eta_post": 0.1, "pre_decay": 0.5, "post_decay": 0.5, "norm": 0.0}
    x = np.zeros((4, 1, 1), np.float32)
    x[0] = x[2] = 1
    counts = learned(net, x, rule)
    assert counts.tolist() == [[1]]
    assert float(net.weight) == pytest.approx(0.7 + 0.05 - 0.01, abs=1e-6)


@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize("rule", [{}, {"eta_pre": 0.0, "window": 7}])
def test_learning_on_quantized_weights_equals_the_plain_loop(shadow, rule):
    net, x, rule = network(inhibition="direct"), spikes(4), RULE | rule
    net.seen += 1
    net.numerics["weight"] = GRID
    raw, theta = net.weight.numpy().copy(), net.theta.numpy().copy()
    w = reference.quantize(raw, GRID)
    full = raw if shadow else None
    counts = learned(net, x, rule, shadow=shadow)
    for s in range(4):
        out = reference.present(
            x[:, s], w, theta, net.spec.cell(), Rule(**rule), learn=True, shadow=full, weight_grid=GRID
        )
        assert (out.sum(0) == counts[s]).all(), s
    np.testing.assert_allclose(net.weight.numpy(), full if shadow else w, atol=2e-6)


@given(
    rounding=st.sampled_from(["truncate", "nearest", "stochastic"]),
    bits=st.integers(2, 10),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_learned_stays_on_the_grid_and_in_range(rounding, bits, seed):
    net, eps = network(neurons=5, seed=seed, inhibition="direct"), 2.0 ** (1 - bits)
    net.numerics |= {
        "weight": (eps, -1.0, 1.0 - eps, rounding),
        "theta": (0.25, 0.0, 63.75, rounding),
        "membrane": (0.5, -64.0, 63.5, rounding),
    }
    learned(net, spikes(3, seed), RULE | {"eta_pre": 0.0, "window": 5})
    codes = net.weight.numpy() / eps
    assert (codes == np.round(codes)).all()
    assert net.weight.min() >= 0
    assert net.weight.max() <= 1 - eps
    assert (net.theta.numpy() / 0.25 == np.round(net.theta.numpy() / 0.25)).all()


def test_a_quantized_membrane_equals_the_plain_loop():
    net, x, grid = network(inhibition="direct"), spikes(4), (0.25, -32.0, 31.75, "truncate")
    net.numerics["membrane"] = grid
    out = net(torch.from_numpy(x).reshape(T, 4, 1, 5, 6)).numpy()
    for s in range(4):
        w, theta = net.weight.numpy().copy(), net.theta.numpy().copy()
        plain = reference.present(
            x[:, s], w, theta, net.spec.cell(), Rule(**RULE), learn=False, membrane_grid=grid
        )
        np.testing.assert_array_equal(out[:, s], plain)
    assert out.sum() > 0


def test_truncation_below_nine_bits_swallows_small_updates_and_a_shadow_keeps_them():
    """The published trap: with f = 7 an update of 0.005 is less than a step of 0.0078 and is truncated away."""

    def mean_after(shadow):
        net = network(inhibition="direct", neurons=4)
        net.numerics["weight"] = (2.0**-7, -1.0, 1 - 2.0**-7, "truncate")
        before = reference.quantize(net.weight.numpy(), (2.0**-7, -1.0, 1 - 2.0**-7, "truncate"))
        rule = RULE | {"eta_pre": 0.0, "eta_post": 5e-3, "norm": 0.0}
        for seed in range(3):
            learned(net, spikes(4, seed), rule, shadow=shadow)
        return float(net.weight.mean() - before.mean())

    assert mean_after(shadow=False) == 0.0
    assert mean_after(shadow=True) > 0.005


def test_counters_by_hand():
    """3 pixel spikes, one neuron that fires once: 3 rows of n weights read, one column of 2 pixels written."""
    spec = Stdp(
        neurons=2, inhibition="direct", winner="highest", w_input_mv=20, theta_plus_mv=0, refractory_ms=20
    )
    net = spec.build((1, 1, 3), 2, 0)
    net.weight[:] = torch.tensor([[0.7, 0.1], [0.7, 0.1], [0.0, 0.0]])
    x = np.zeros((5, 1, 3), np.float32)
    x[0, 0, 0] = x[0, 0, 1] = x[2, 0, 2] = 1  # 28 mV at step 1; the third pixel comes later
    rule = RULE | {"eta_pre": 0.0, "norm": 0.0}
    assert learned(net, x, rule).tolist() == [[1, 0]]
    done = per_sample(net.training_ops, 1)
    assert (done.input_spikes, done.spikes, done.synaptic_reads) == (3, 1, 6)
    assert (done.pre_writes, done.post_writes, done.dense_post_writes) == (0, 2, 3)
    assert (done.neuron_updates, done.inhibitory_updates, done.inhibitions) == (10, 0, 1)
    load = load_from(net.training_load({"weight": 8}, dense=False)[0])
    # Pixels 0 and 1 read two weights each that are not zero, pixel 2 reads two zeros.
    assert (load.mean.synops, load.mean.synops_event, load.mean.synops_dense) == (4, 6, 3 * 2 * 5)
    assert (load.mean.weight_updates, load.mean.trace_updates, load.traces) == (2, 3, 3)
    assert (load.nonzero, load.weight_bits) == (4, 8)


def test_load_counts_inference_for_the_hardware_model():
    net, x = network(), torch.from_numpy(spikes(6)).reshape(T, 6, 1, 5, 6)
    first, second = (
        load_from(report) for report in net.load([Batch(x, torch.zeros(6, dtype=torch.int64))], {})
    )
    assert first.mean.events_in == pytest.approx(float(x.sum()) / 6)
    assert first.mean.spikes_out == pytest.approx(float(net(x).sum()) / 6)
    assert (first.synapses, first.neurons, first.mean.updates) == (30 * 12, 12, 12 * T)
    loads = measure(net, [Batch(x, torch.zeros(6, dtype=torch.int64))], {}, observe=lambda batch, out: None)
    assert loads[0].mean == first.mean  # an observer's pass is the measurement: nothing is counted twice
    assert net.shown_samples == 6
    assert (second.neurons, second.mean.synops) == (12, pytest.approx(first.mean.spikes_out * 11, rel=0.2))


def test_the_worst_case_is_the_busiest_sample():
    net, x = network(), torch.from_numpy(spikes(5)).reshape(T, 5, 1, 5, 6)
    net.weight[torch.rand(net.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.4] = 0.0

    def loads(part):
        return [load_from(each) for each in net.load([Batch(part, torch.zeros(part.shape[1]))], {})]

    whole, alone = loads(x), [loads(x[:, s : s + 1]) for s in range(5)]
    for field in ("events_in", "spikes_out", "synops", "synops_event", "updates"):
        each = [getattr(one[0].mean, field) for one in alone]
        assert getattr(whole[0].worst, field) == max(each)
        assert getattr(whole[0].mean, field) == pytest.approx(np.mean(each))
    assert whole[0].worst.synops < whole[0].worst.synops_event
    pushes = [one[1].mean.synops for one in alone]
    assert whole[1].worst.synops >= max(pushes)  # a spike at the last step pushes nobody any more
    assert whole[1].worst.synops == whole[0].worst.spikes_out * 11


def test_memory_as_published_and_as_stored():
    """(784 * 4900 + 2 * 4900^2) * 32 bits over (784 * 4900 + 4900^2) * 8 bits = 7.45."""
    baseline = memory(784, 4900, True, 5, {})
    small = memory(784, 4900, False, 5, {"weight": 8})
    assert baseline.dense_bits / small.dense_bits == pytest.approx(7.45, abs=0.005)
    assert baseline.weight_bits / small.weight_bits == 4.0
    assert memory(784, 400, True, 5, {}).dense_bits / memory(
        784, 400, False, 5, {"weight": 8}
    ).dense_bits == (pytest.approx(5.35, abs=0.005))
    # 784 * 4900 weights at 32 bits; strength, threshold, decay and reset; theta 32; membrane 32 and 3 bits to count
    # 5 steps, twice
    assert baseline.stored_bits == 784 * 4900 * 32 + 4 * 32 + 4900 * (32 + 35 * 2)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.zeros(4, 2, 1, 4, 4), r"x must be \[T, B, 1, 5, 6\], but got \[4, 2, 1, 4, 4\]"),
        (torch.full((4, 2, 1, 5, 6), 0.5), "0 or 1"),
    ],
)
def test_input_of_another_form_is_an_error(x, said):
    with pytest.raises(ValueError, match=said):
        network()(x)


def test_black_images_and_empty_batches_give_silence():
    assert network()(torch.zeros(T, 3, 1, 5, 6)).sum() == 0
    assert network()(torch.zeros(T, 0, 1, 5, 6)).shape == (T, 0, 12)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"neurons": 0}, "neurons must be in"),
        ({"reset_mv": -50.0}, "reset_mv must be below threshold_mv, but got -50.0"),
        ({"inh_drive_mv": 1.0}, "inh_drive_mv must bring"),
        ({"winner": "none"}, "winner must be one of random, first, highest, all"),
        ({"tau_m_ms": 0.0}, "tau_m_ms must be above 0"),
    ],
)
def test_settings_out_of_range_say_the_rule(change, said):
    with pytest.raises(ValueError, match=said):
        Stdp(**change)


def test_receptive_fields_are_pictures_in_the_unit_range():
    net = network(neurons=5)
    fields = net.receptive_fields(3)
    assert fields.shape == (3, 5, 6)
    assert fields.max() == 1
    shown = net.weight[:, [0, 2, 4]]
    np.testing.assert_allclose(fields[1].ravel() * float(shown.max()), shown[:, 1], rtol=1e-6)
    assert net.receptive_fields(99).shape == (5, 5, 6)
