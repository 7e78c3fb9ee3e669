"""Stored bits against an encoder that really writes the tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.hardware.encoding import FORMATS, EncodingName, index_bits, padding, store
from pipeline.hardware.load import zero_runs
from pipeline.hardware.workload import Runs


def runs_of(weights: np.ndarray) -> Runs:
    return zero_runs(torch.from_numpy(weights.astype(np.float32)))


def run_length_entries(weights: np.ndarray, run_bits: int) -> list[tuple[int, int]]:
    """(zeros before, value) pairs, written one after another; a run that is too long takes a stored zero."""
    entries, run = [], 0
    last = max(np.flatnonzero(weights.reshape(-1)), default=-1)
    for value in weights.reshape(-1)[: last + 1]:
        if value == 0:
            run += 1
            if run == 2**run_bits:
                entries.append((run - 1, 0))
                run = 0
        else:
            entries.append((run, int(value)))
            run = 0
    return entries


tensors = st.builds(
    lambda rows, columns, density, seed: (
        (np.random.default_rng(seed).random((rows, columns)) < density)
        * np.random.default_rng(seed).integers(1, 4, (rows, columns))
    ),
    st.integers(1, 12),
    st.integers(1, 60),
    st.floats(0, 1),
    st.integers(0, 10**6),
)


@settings(max_examples=80, deadline=None)
@given(tensors, st.integers(1, 8), st.integers(1, 6))
def test_run_lengths_are_what_an_encoder_writes(weights: np.ndarray, bits: int, run_bits: int) -> None:
    entries = run_length_entries(weights, run_bits)
    nonzero = int((weights != 0).sum())
    found = store("rle", weights.size, nonzero, len(weights), bits, run_bits, runs_of(weights))
    assert found.entries == len(entries)
    assert found.bits == len(entries) * (bits + run_bits)
    decoded = [0] * weights.size
    place = 0
    for run, value in entries:
        decoded[place + run] = value
        place += run + 1
    assert decoded == weights.reshape(-1).tolist()


@settings(max_examples=80, deadline=None)
@given(tensors, st.integers(1, 8))
def test_the_other_formats_are_what_must_be_written(weights: np.ndarray, bits: int) -> None:
    rows, columns = weights.shape
    nonzero = int((weights != 0).sum())
    place, per_row = index_bits(columns), index_bits(columns + 1)
    expected = {
        "dense": (weights.size * bits, 0),
        "bitmask": (nonzero * bits, weights.size),
        "cp": (nonzero * bits, nonzero * place + rows * per_row),
        "uop": (nonzero * bits, nonzero * place + (rows + 1) * index_bits(nonzero + 1)),
    }
    for name, (values, metadata) in expected.items():
        found = store(name, weights.size, nonzero, rows, bits)  # type: ignore[arg-type]
        assert (found.value_bits, found.metadata_bits) == (values, metadata)
        assert found.beside_bits + found.apart_bits == pytest.approx(metadata)
    every = [store(name, weights.size, nonzero, rows, bits).bits for name in FORMATS]
    assert store("smallest", weights.size, nonzero, rows, bits).bits == min(every)


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("run_bits", [2, 4, 6])
def test_independent_zeros_need_the_padding_that_is_expected(density: float, run_bits: int) -> None:
    weights = np.random.default_rng(0).random(400_000) < density
    exact = padding(weights.sum(), weights.size, run_bits, runs_of(weights))
    expected = padding(weights.sum(), weights.size, run_bits, ())
    assert expected == pytest.approx(exact, rel=0.06, abs=60)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.integers(1, 5000),
    st.integers(1, 40),
    st.integers(1, 15),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_fewer_values_and_fewer_bits_never_take_more(
    name: EncodingName, size: int, rows: int, bits: int, a: float, b: float
) -> None:
    few, many = sorted((int(a * size), int(b * size)))
    assert store(name, size, few, rows, bits, 4).bits <= store(name, size, many, rows, bits, 4).bits + 1e-6
    assert store(name, size, many, rows, bits, 4).bits <= store(name, size, many, rows, bits + 1, 4).bits


def test_the_best_run_field_is_the_smallest_of_all() -> None:
    sizes = [store("rle", 10_000, 300.0, 10, 4, width).bits for width in range(1, 17)]
    assert store("rle", 10_000, 300.0, 10, 4).bits == min(sizes)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="encoding must be one of dense, bitmask, rle"):
        store("zip", 10, 5, 1, 8)  # type: ignore[arg-type]
