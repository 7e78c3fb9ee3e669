"""The loops on vector registers against numpy, at widths that fill the vectors and that do not."""

import numpy as np
import pytest
from numba import njit

from pipeline.nets.stdp_lanes import (
    LANES,
    LONG,
    SLOTS,
    above,
    advance,
    aligned,
    blocks,
    lower_and_sum,
    rows_of,
    sum_lanes,
    sum_rows,
)

F = np.float32


def wide(n):
    return -(-n // LANES) * LANES


@pytest.mark.parametrize("n", [1, 15, 16, 17, 40, 100, 144, 400, LONG + 16, LONG + 81])
def test_currents_are_the_sums_of_the_spiking_rows_one_step_later(n):
    rng, inputs, steps, samples = np.random.default_rng(n), 50, 12, 3
    w = rng.random((inputs, n)).astype(F)
    x = rng.random((samples, steps, inputs)) < 0.2
    x[1] = False
    starts = np.concatenate([[0], x.sum(2).ravel().cumsum()]).astype(np.int64)
    pixels = np.nonzero(x)[2].astype(np.int32)
    rows, out = rows_of(w, pixels, starts, steps), aligned(steps, wide(n))
    for s in range(samples):
        out[:] = 7
        sum_rows(w, pixels, starts, s * steps, steps, out, rows)
        np.testing.assert_allclose(out[1:, :n], x[s, :-1].astype(F) @ w, rtol=2e-6, atol=1e-6)
        assert (out[:, n:] == 7).all()


@njit
def step(v, current, place, theta, constants):
    decay, gain, push, lowest, bar, faded = constants
    risen = advance(v, current, place, theta, decay, gain, push, lowest, bar, faded)
    return risen, np.array([above(v, theta, j, bar, faded) for j in range(0, len(v), LANES)])


@pytest.mark.parametrize("raised", [(), (0,), (15, 16), (3, 31)])
def test_a_step_of_all_neurons_and_who_is_at_threshold(raised):
    rng, n = np.random.default_rng(3), 2 * LANES
    v, theta = rng.normal(0, 3, n).astype(F), rng.random(n).astype(F)
    currents = rng.random((2, n)).astype(F)
    currents[1, list(raised)] = 50
    constants = tuple(map(F, (0.9, 2.0, 0.5, -1.0, 13.0, 0.75)))
    plain = np.maximum(v * F(0.9) + (currents[1] * F(2) - F(0.5)), F(-1))
    risen, bits = step(v, currents, n, theta, constants)
    np.testing.assert_array_equal(v, plain)
    assert risen == bool(raised)
    fired = [j for j in range(n) if bits[j // LANES] >> (j % LANES) & 1]
    assert fired == list(raised) == list(np.flatnonzero(plain >= F(13) + theta * F(0.75)))


@njit
def lowered(columns, place, pixels, first, last, steps, lows, sums, at):
    lower_and_sum(columns, place, pixels, first, last, steps, lows, sums, at)


def test_eight_columns_are_depressed_and_summed_in_one_pass():
    rng, inputs = np.random.default_rng(5), 30
    columns = blocks(2, inputs)
    columns[:] = rng.random(columns.shape)
    steps, lows = rng.random((1, 2 * SLOTS)).astype(F), np.full((1, 2 * SLOTS), F(0))
    lows[0, SLOTS + 3] = -np.inf  # a neuron that fires in this step is clamped after potentiation
    sums, before = np.full((1, 2 * SLOTS), F(7)), columns.copy()
    pixels = np.array([9, 2, 29, 4, 11], np.int32)
    lowered(columns, SLOTS * inputs, pixels, 1, 4, steps, lows, sums, SLOTS)
    expected = np.maximum(before[1, [2, 29, 4]] - steps[0, SLOTS:], lows[0, SLOTS:])
    np.testing.assert_array_equal(columns[1, [2, 29, 4]], expected)
    np.testing.assert_allclose(sums[0, SLOTS:], expected.sum(0), rtol=1e-6)
    assert (sums[0, :SLOTS] == 7).all()
    columns[1, [2, 29, 4]] = before[1, [2, 29, 4]]
    np.testing.assert_array_equal(columns, before)


@njit
def totalled(columns, place, rows, keep, totals, at):
    sum_lanes(columns, place, rows, keep, totals, at)


def test_eight_columns_are_summed_in_double_precision():
    columns, totals = blocks(2, 784), np.full(2 * SLOTS, 7.0)
    columns[:] = np.random.default_rng(2).random(columns.shape)
    totalled(columns, SLOTS * 784, 784, F(0.99), totals, SLOTS)
    kept = columns[1] * F(0.99)
    np.testing.assert_allclose(totals[SLOTS:], kept.astype(np.float64).sum(0), rtol=1e-14)
    assert (totals[:SLOTS] == 7).all()


def test_memory_begins_on_a_cache_line():
    for size in (1, 17, 400):
        made = aligned(3, size)
        assert made.shape == (3, size)
        assert made.ctypes.data % 64 == 0
        assert (made == 0).all()
