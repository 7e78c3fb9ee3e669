"""The neurons' update on vector registers against the equations in numpy, and the vote."""

import numpy as np
import pytest

from pipeline.export.fire_kernel import (
    BAR,
    BETA,
    LANES,
    STEP_SUBTRACTED,
    STEP_ZEROED,
    SUBTRACTED,
    ZEROED,
    align,
    fire,
    neurons_of,
    padded,
)
from pipeline.export.kernels import vote


def plain(current, u, k, half, down, low, high):
    """(u, spikes) after one step; k [6, n or 1]."""
    due = u > k[BAR]
    kept = np.where(due & (k[ZEROED] != 0), 0, u)
    v = (k[BETA] * kept + current - np.where(due, k[SUBTRACTED], 0) + half) >> down
    v = np.clip(v, low, high)
    fired = v > k[BAR]
    v = v - np.where(fired, k[STEP_SUBTRACTED], 0) + np.where(due, k[STEP_SUBTRACTED], 0)
    return np.where(fired & (k[STEP_ZEROED] != 0), 0, v), fired


@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("n", [1, 10, 16, 37, 128])
@pytest.mark.parametrize("shared", [True, False])
def test_twenty_steps_of_all_neurons(kind, n, shared):
    rng = np.random.default_rng(n)
    constants = np.zeros((6, 1 if shared else n), kind)
    constants[BETA], constants[BAR] = rng.integers(8, 16, constants.shape[1]), rng.integers(40, 60)
    resets = rng.integers(0, 2, constants.shape[1])  # delayed: subtract or zero
    constants[SUBTRACTED], constants[ZEROED] = 16 * 50 * resets, resets - 1
    wide = constants if shared else np.pad(constants, ((0, 0), (0, padded(n) - n)))
    half, down, low, high = kind(8), kind(4), kind(-100), kind(90)
    u, current = neurons_of(n, constants)
    expected, spikes, fired = np.zeros(n, np.int64), np.zeros(n, np.uint8), 0
    for _ in range(20):
        current[:n] = rng.integers(-300, 600, n)
        fire(current, u, spikes, wide, half, down, low, high)
        expected, said = plain(current[:n], expected, constants.astype(np.int64), 8, 4, -100, 90)
        np.testing.assert_array_equal(spikes, said)
        np.testing.assert_array_equal(u[:n], expected)
        fired += int(said.sum())
    assert 0 < fired < 20 * n
    assert len(u) % LANES == 0


def test_a_reset_in_the_same_step():
    """Threshold 50: a membrane of 70 spikes and keeps 20; one of 50 does not spike."""
    constants = np.zeros((6, 1), np.int32)
    constants[BETA], constants[BAR], constants[STEP_SUBTRACTED] = 1, 50, 50
    u, current = neurons_of(2, constants)
    spikes = np.zeros(2, np.uint8)
    current[:2] = 70, 50
    fire(current, u, spikes, constants, *map(np.int32, (0, 0, -128, 127)))
    assert spikes.tolist() == [1, 0]
    assert u[:2].tolist() == [20, 50]


def test_sums_become_currents_and_stay():
    acc, current = np.array([3, -2, 0], np.int16), np.zeros(16, np.int32)
    align(acc, np.array([4, 2, 8], np.int32), np.array([1, 0, -5], np.int32), current)
    assert current[:3].tolist() == [13, -4, -5]
    assert acc.tolist() == [3, -2, 0]


def test_the_class_that_fires_most_and_the_lower_one_if_equal():
    """Two steps, two neurons per class: sums (1 + 1, 2 + 1, 3) -> class 1 and 2 equal, 1 is said; all silent -> 0."""
    spikes = np.array([[[1, 0, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0]], np.zeros((2, 6))], np.uint8)
    labels = np.empty(2, np.int64)
    vote(spikes, 3, labels)
    assert labels.tolist() == [1, 0]


@pytest.mark.parametrize("n", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("shared", [True, False])
def test_nothing_is_written_beyond_the_last_neuron(n, shared):
    """All fire (bar 1, current 5); what lies behind them stays 9."""
    constants = np.zeros((6, 1 if shared else padded(n)), np.int32)
    constants[BAR] = 1
    u, current = neurons_of(n, constants)
    current[:n] = 5
    memory = np.full(n + 40, 9, np.uint8)
    fire(current, u, memory[:n], constants, *map(np.int32, (0, 0, -128, 127)))
    assert memory.tolist() == [1] * n + [9] * 40
