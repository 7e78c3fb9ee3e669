"""What disturbances do, entry by entry and bit by bit, and that every number has its seed."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.export.integer import Engine
from pipeline.export.program import Fixed, NotExact
from pipeline.export.robustness import Stress, drop, flip, flipped, jitter, noise, robustness
from tests.export.small import FLAT, attending, flat, spikes


def rng(seed=0):
    return np.random.default_rng(seed)


def test_drop_and_noise_touch_the_share_they_say():
    """40,000 entries: the share's standard error is below 0.25 %."""
    codes = np.ones((10, 4, 1000), np.uint8)
    assert drop(0.3, codes, rng()).mean() == pytest.approx(0.7, abs=0.01)
    assert noise(0.05, 255, codes * 0, rng()).mean() == pytest.approx(0.05 * 255, abs=1.0)
    assert (noise(0.5, 255, codes, rng()) == 1).all(), "noise adds where there is nothing"


def test_jitter_moves_events_by_one_step_and_loses_none():
    codes = np.zeros((50, 9, 40), np.uint8)
    codes[:, 4] = 1
    moved = jitter(1.0, 255, codes, rng())
    assert moved.sum() == codes.sum()
    assert moved[:, 4].sum() == 0
    assert moved[:, 3].sum() + moved[:, 5].sum() == codes.sum()
    np.testing.assert_array_equal(jitter(0.0, 255, codes, rng()), codes)


def test_flips_stay_in_the_width_and_all_of_them_invert_every_code():
    """In two's complement, inverting every bit of w gives -1 - w."""
    program = flat().program()
    weight = program.stages[0].synapses.weight
    inverted = flip(program, 1.0, rng()).stages[0].synapses.weight.codes
    np.testing.assert_array_equal(inverted, -1 - weight.codes)
    some = flip(program, 0.2, rng()).stages[0].synapses.weight.codes
    assert some.min() >= -32
    assert some.max() <= 31
    flipped_bits = np.bitwise_count((some ^ weight.codes) & 63).sum()
    assert flipped_bits / (weight.codes.size * 6) == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("bits", [6, 16])
def test_flips_hit_an_attentions_weights_too(bits):
    """Every stored weight once: at rate 1 each is its complement; the 16-bit ones reach the lowest code there is."""
    program = attending({"bits": bits}).program()
    inverted = flip(program, 1.0, rng())
    gates = 0
    for old, new in zip(program.stages, inverted.stages, strict=True):
        np.testing.assert_array_equal(new.synapses.weight.codes, -1 - old.synapses.weight.codes)
        for before, after in zip(old.pools, new.pools, strict=True):
            if before.kind == "attention":
                gates += 1
                np.testing.assert_array_equal(after.time.codes, -1 - before.time.codes)
                np.testing.assert_array_equal(after.channel.codes, -1 - before.channel.codes)
    assert gates == 2
    some = flip(program, 0.3, rng())
    Engine(some)
    here, there = (each.stages[2].pools[0].channel.codes for each in (program, some))
    share = np.bitwise_count((here ^ there) & ((1 << bits) - 1)).sum() / (here.size * bits)
    assert share == pytest.approx(0.3, abs=0.08)


def test_flips_that_leave_the_engine_are_a_reason_and_no_error_of_the_data():
    """A decay with 40 fraction bits and a membrane with 8 lift sums by 48 - 8 bits, too far for 20 x 255 x -2^11.

    Weights of 0 lift nothing.
    """
    program = flat().program()
    first = program.stages[0]
    weight = Fixed(np.zeros_like(first.synapses.weight.codes), np.array([0]), 12)
    neurons = replace(first.neurons, beta=Fixed(np.array([1 << 31]), np.array([40]), 32), exponent=8)
    stage = replace(first, synapses=replace(first.synapses, weight=weight), neurons=neurons)
    engine = Engine(replace(program, stages=(stage, *program.stages[1:])))
    with pytest.raises(NotExact, match="bits of its weights inverted"):
        flipped(engine, 0.5, rng())


def test_every_stress_is_a_column_with_its_deviation_and_repeats_by_seed():
    model = flat(x=spikes(FLAT, batch=60))
    engine = Engine(model.program())
    codes = engine.codes(model.x)
    labels = engine.labels(codes)  # the undisturbed answers: accuracy 1
    stress = Stress(drop=(0.0, 0.9), noise=(0.0,), jitter=(0.0,), flip=(0.0, 0.5))
    found = robustness(engine, codes, labels, stress, seed=3)
    for name in ("drop_0", "noise_0", "jitter_0", "flip_0"):
        assert found[f"robust_{name}"] == 1.0
    assert found["robust_drop_0.9"] < 0.9
    assert found["robust_flip_0.5"] < 0.9
    assert found["robust_flip_0.5_deviation"] > 0
    assert found == robustness(engine, codes, labels, stress, seed=3)
    assert found != robustness(engine, codes, labels, stress, seed=4)


def test_a_constant_current_has_nothing_to_jitter():
    model = flat()
    engine = Engine(model.program())
    codes = engine.codes(model.x)
    found = robustness(engine, codes, engine.labels(codes), Stress(seeds=1), seed=0)
    assert not any("jitter" in name for name in found)
    with pytest.raises(ValueError, match="flip must be probabilities"):
        Stress(flip=(2.0,))
