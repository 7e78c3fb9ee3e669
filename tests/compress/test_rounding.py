from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compress.rounding import ROUNDINGS, FixedPoint, Noise, code_range, fake_quantize

FORMATS = st.builds(FixedPoint, st.integers(0, 6), st.integers(1, 10))
VALUES = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40).map(torch.tensor)


def test_hand_worked_q1_2() -> None:
    # Q1.2: 4 bits, step 1/4, range [-2, 1.75].
    fmt = FixedPoint(1, 2)
    assert (fmt.bits, fmt.step, fmt.low, fmt.high) == (4, 0.25, -8, 7)
    x = torch.tensor([0.30, 0.375, -0.30, -0.375, 1.9, -5.0])
    #  x / step         1.2    1.5    -1.2   -1.5   7.6  -20
    assert fmt(x, "truncation").tolist() == [0.25, 0.25, -0.5, -0.5, 1.75, -2.0]
    assert fmt(x, "nearest").tolist() == [0.25, 0.5, -0.25, -0.25, 1.75, -2.0]
    # Stochastic with u = 0.7 adds 0.7 and floors: 1.9 2.2 -0.5 -0.8 8.3 -19.3.
    assert fmt(x, "stochastic", torch.full_like(x, 0.7)).tolist() == [0.25, 0.5, -0.25, -0.25, 1.75, -2.0]


@given(FORMATS, VALUES, st.sampled_from(ROUNDINGS), st.integers(0, 9))
def test_on_the_grid_inside_the_range_and_within_a_step(fmt, x, rounding, seed) -> None:
    out = fmt(x, rounding, Noise(seed).fresh(x))
    codes = out / fmt.step
    assert torch.equal(codes, codes.round())
    assert bool(((codes >= fmt.low) & (codes <= fmt.high)).all())
    held = x.clamp(fmt.low * fmt.step, fmt.high * fmt.step)
    assert float((out - held).abs().max()) <= fmt.step * (0.5 if rounding == "nearest" else 1.0)


@given(FORMATS, VALUES, st.sampled_from(ROUNDINGS), st.integers(0, 9))
def test_a_second_pass_changes_nothing(fmt, x, rounding, seed) -> None:
    noise = Noise(seed)
    once = fmt(x, rounding, noise.fresh(x))
    assert torch.equal(fmt(once, rounding, noise.fresh(x)), once)


@given(st.floats(2**-10, 10, width=32), st.lists(st.integers(-127, 127), min_size=1, max_size=30))
def test_a_second_pass_changes_nothing_with_any_step(step, codes) -> None:
    on_grid = torch.tensor(codes) * torch.tensor(step)
    for rounding in ROUNDINGS:
        noise = Noise(3).fresh(on_grid).clamp(0.01, 0.99)
        out = fake_quantize(on_grid, torch.tensor(step), -128, 127, rounding, noise, exact=False)
        assert torch.equal(out, on_grid)


@settings(max_examples=25)
@given(st.floats(-7, 6.5), st.integers(0, 1000))
def test_stochastic_rounding_is_unbiased_and_truncation_is_not(value, seed) -> None:
    x = torch.full((20_000,), value)
    fmt = FixedPoint(3, 3)
    drawn = fmt(x, "stochastic", Noise(seed).fresh(x))
    # The standard error of the mean is at most step / 2 / sqrt(20000) = 4.4e-4; five of them.
    assert float(drawn.mean()) == pytest.approx(float(x[0]), abs=2.3e-3)
    assert float(fmt(x, "truncation").max()) <= float(x[0])


def test_gradient_passes_inside_and_stops_where_it_saturates() -> None:
    x = torch.tensor([-9.0, -0.3, 0.0, 0.9, 9.0], requires_grad=True)
    FixedPoint(1, 4)(x).mul(torch.arange(1.0, 6.0)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]


def test_noise_is_its_own_generator() -> None:
    like = torch.zeros(8)
    torch.manual_seed(0)
    before = torch.rand(3)
    torch.manual_seed(0)
    first, second = (n := Noise(5)).fresh(like), n.fresh(like)
    assert torch.equal(torch.rand(3), before), "the global generator moved"
    assert not torch.equal(first, second)
    assert torch.equal(Noise(5).fresh(like), first)
    assert not torch.equal(Noise(6).fresh(like), first)


@pytest.mark.parametrize(("i", "f"), [(-1, 4), (2, -1), (0, 0)])
def test_impossible_formats_are_refused(i, f) -> None:
    with pytest.raises(ValueError, match="_bits must"):
        FixedPoint(i, f)


@pytest.mark.parametrize(
    ("bits", "signed", "high"),
    [
        (2, True, 1),
        (8, True, 127),
        (8, False, 255),
        (25, True, 2**24 - 1),
        (26, True, 2**25 - 2),
        (32, True, 2**31 - 128),
    ],
)
def test_no_code_lies_beyond_what_float32_can_count(bits, signed, high):
    """float32 holds 2^24 - 1 and 2^25 - 2; 2^25 - 1 would become 2^25, one beyond 26 bits."""
    assert code_range(bits, signed)[1] == high == int(np.float32(high))
    step = torch.tensor(2.0 ** -(bits - signed))
    codes = fake_quantize(torch.tensor([1.0, -1.0, 0.3]), step, *code_range(bits, signed)) / step
    assert codes[0] == high
    assert codes[1] == code_range(bits, signed)[0]
