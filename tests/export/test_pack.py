"""Bit streams: what comes back, and that every length is the one that the cost model claims."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.export.pack import (
    ENCODINGS,
    Writer,
    best_run_bits,
    decode,
    encode,
    from_bits,
    index_bits,
    to_bits,
)
from pipeline.hardware.encoding import index_bits as claimed_index_bits
from pipeline.hardware.encoding import store
from pipeline.hardware.load import zero_runs
from pipeline.types import DataError


@st.composite
def tensors(draw):
    """(codes, rows, width): any sparsity, full and empty ones too."""
    width = draw(st.sampled_from([2, 3, 8, 13, 32]))
    rows, row = draw(st.integers(1, 6)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    codes = rng.integers(-(1 << (width - 1)), 1 << (width - 1), rows * row)
    codes[rng.random(rows * row) < draw(st.sampled_from([0.0, 0.5, 0.95, 1.0]))] = 0
    return codes, rows, width


@given(tensors(), st.sampled_from(ENCODINGS), st.integers(1, 6))
def test_every_encoding_comes_back_and_is_as_long_as_claimed(tensor, encoding, run_bits):
    import torch

    codes, rows, width = tensor
    bits, entries = encode(encoding, codes, rows, width, run_bits)
    np.testing.assert_array_equal(decode(encoding, bits, len(codes), rows, width, entries, run_bits), codes)
    runs = zero_runs(torch.from_numpy(codes))
    claim = store(encoding, len(codes), float(np.count_nonzero(codes)), rows, width, run_bits, runs)
    assert len(bits) == claim.bits
    free = store("rle", len(codes), float(np.count_nonzero(codes)), rows, width, None, runs)
    assert len(encode("rle", codes, rows, width, best_run_bits(codes, width))[0]) == free.bits


def test_a_run_by_hand():
    """Two bits say 0 to 3 zeros: 0 0 0 0 0 7 is (3 zeros, 0), (1 zero, 7); zeros at the end are not stored."""
    bits, entries = encode("rle", np.array([0, 0, 0, 0, 0, 7, 0]), 1, 4, run_bits=2)
    assert entries == 2
    lowest_first = "111000001110"  # runs 3, 1; values 0, 7
    assert "".join(map(str, bits)) == lowest_first
    assert decode("rle", bits, 7, 1, 4, 2, 2).tolist() == [0, 0, 0, 0, 0, 7, 0]


def test_bits_have_no_gaps():
    """Three codes of 3 bits: -1, 2, -4 are 111, 010, 001 from the lowest bit, so 0b00010111 and 0b1."""
    writer = Writer()
    assert writer.put(to_bits(np.array([-1, 2]), 3)) == (0, 6)
    assert writer.put(to_bits(np.array([-4]), 3)) == (6, 3)
    assert writer.bytes() == bytes([0b00010111, 0b1])
    assert from_bits(to_bits(np.array([-(2**31), 2**31 - 1]), 32), 32, signed=True).tolist() == [
        -(2**31),
        2**31 - 1,
    ]


@pytest.mark.parametrize("things", [0, 1, 2, 3, 4, 5, 784, 1024, 1025])
def test_index_widths_are_the_cost_models(things):
    assert index_bits(things) == claimed_index_bits(things)


@given(st.binary(max_size=40), st.sampled_from(ENCODINGS), st.integers(0, 300), st.integers(0, 20), st.data())
def test_any_stream_is_a_tensor_or_a_clear_error(stream, encoding, size, entries, data):
    bits = np.unpackbits(np.frombuffer(stream, np.uint8), bitorder="little")
    rows, width, run = (
        data.draw(st.integers(0, 9)),
        data.draw(st.integers(1, 32)),
        data.draw(st.integers(0, 16)),
    )
    try:
        out = decode(encoding, bits, size, rows, width, entries, run)
    except DataError:
        return
    assert len(out) == size
