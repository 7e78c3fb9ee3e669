"""Rows as words of bits: what is set, what changed, and sums that follow from the changes alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from pipeline.export import event_kernels, fire_kernel, marks
from pipeline.export.ready import _tiled


@njit
def marked(row, words):
    return marks.mark(row.ctypes.data, row.shape[0], row.itemsize, words)


@njit
def listed(now, before, less, places):
    """(places set, changes with `less`, the two counts)."""
    found = marks.list_ones(now, places[0])
    return found, marks.list_changes(now, before, less, places[1]), marks.count(now, before)


@njit
def put(word, gone, low, by_table, places):
    if by_table:
        marks.put_places_by_table(word, gone, low, 1000, places.ctypes.data)
    else:
        marks.put_places(word, gone, low, 1000, places.ctypes.data)


def words_of(row):
    words = np.full(-(-len(row) // 64), 7, np.uint64)
    assert marked(row, words) == 0
    return words


ROWS = st.integers(1, 40).flatmap(
    lambda n: st.lists(st.sampled_from([0, 0, 1]), min_size=8 * n, max_size=8 * n)
)


@settings(deadline=None)
@given(ROWS, st.sampled_from([np.uint8, np.float32]), st.randoms(use_true_random=False))
def test_bits_and_their_changes(values, kind, random):
    """Row 1 0 1 ... after 1 1 0 ...: place 2 came, place 1 went."""
    now, before = np.array(values, kind), np.array(random.sample(values, len(values)), kind)
    places = np.zeros((2, len(values) + marks.SLACK + 1), np.uint16)
    found, changed, counts = listed(words_of(now), words_of(before), 400, places)
    assert places[0, :found].tolist() == np.flatnonzero(now).tolist()
    come, gone = np.flatnonzero(now > before), np.flatnonzero(now < before)
    assert sorted(places[1, :changed].tolist()) == [*come.tolist(), *(gone + 400).tolist()]
    assert counts == (np.count_nonzero(now), len(come) + len(gone))


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 60_000))
def test_with_and_without_the_instruction_for_it(word, gone, low):
    each = [low + k + 1000 * (gone >> k & 1) for k in range(64) if word >> k & 1]
    for by_table in (True, False):
        places = np.zeros(64 + marks.SLACK, np.uint16)
        put(np.uint64(word), np.uint64(gone), low, by_table, places)
        assert sorted(places[: len(each)].tolist()) == sorted(each)


@pytest.mark.parametrize("inputs", [8, 64, 200])
@pytest.mark.parametrize("wrong", [2.0, -1.0, 0.5, float("nan")])
def test_what_is_neither_0_nor_1_is_seen_wherever_it_is(inputs, wrong):
    for at in range(inputs):
        row = np.zeros(inputs, np.float32)
        row[at] = wrong
        assert marked(row, np.zeros(-(-inputs // 64), np.uint64)) != 0


@pytest.mark.parametrize("lowest", [-127, -128], ids=["weights with negatives", "one has none"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("outputs", [10, 60, 300])
@pytest.mark.parametrize("persistent", [0.0, 0.97], ids=["every step another", "most as before"])
def test_sums_of_a_spike_train(lowest, kind, outputs, persistent):
    """Membranes that keep nothing (beta 0) and a high bar show each step's sum: x[t] @ w, within 16 bits."""
    rng = np.random.default_rng(outputs)
    samples, steps, inputs, bar = 3, 12, 200, 300
    x = (rng.random((samples, steps, inputs)) < 0.4).astype(kind)
    for t in range(1, steps):
        kept = rng.random((samples, inputs)) < persistent
        x[:, t] = np.where(kept, x[:, t - 1], x[:, t])
    w = rng.integers(lowest, 128, (inputs, outputs)).astype(np.int8)
    w[3, 4] = lowest
    packed = _tiled(w)
    assert (packed.shape[1] > 2 * inputs) == (lowest == -127)
    constants = np.zeros((6, 1), np.int32)
    constants[fire_kernel.BAR] = bar
    strides = np.array([x.strides[0], x.strides[1]], np.int64)
    spikes = np.zeros((samples, steps, outputs), np.uint8)
    one, none = np.ones(1, np.int32), np.zeros(1, np.int32)
    limits = (np.int32(v) for v in (0, 0, -(2**20), 2**20))
    of = x.ctypes.data, strides, False, x.itemsize, inputs, packed, one, none, constants
    assert event_kernels.run_binary(*of, *limits, spikes)
    sums = x.astype(np.int64) @ w.astype(np.int64)
    np.testing.assert_array_equal(spikes, sums > bar)
    assert 0.1 < spikes.mean() < 0.9
