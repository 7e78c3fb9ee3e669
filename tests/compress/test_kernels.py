"""The fused pass against the plain arithmetic it must equal."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compress.at_once import masked, quantize_masked
from pipeline.compress.kernels import CODES
from pipeline.compress.rounding import ROUNDINGS, Noise, draw_key, fake_quantize, uniform

SHAPES = st.sampled_from([(5,), (3, 4), (4, 3, 3, 3), (6, 1, 5, 5), (2, 3, 4)])


@settings(max_examples=60, deadline=None)
@given(
    SHAPES, st.sampled_from(ROUNDINGS), st.booleans(), st.booleans(), st.integers(2, 9), st.integers(0, 50)
)
def test_equal_to_the_reference_values_and_gradients(
    shape, rounding, per_channel, pruned, bits, seed
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).requires_grad_()
    keep = torch.rand(shape, generator=generator) < 0.6 if pruned else None
    step = torch.rand([shape[0]] + [1] * (len(shape) - 1), generator=generator) / 4 + 0.01
    step = step if per_channel and len(shape) > 1 else step.flatten()[0]
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    push = torch.randn(shape, generator=generator)
    noise = uniform(x.detach(), draw_key(seed, 0)) if rounding == "stochastic" else None
    expected = fake_quantize(x, step, low, high, rounding, noise, exact=False)
    expected = expected if keep is None else expected * keep
    (wanted,) = torch.autograd.grad(expected, x, push)
    got = quantize_masked(x, step, low, high, CODES[rounding], draw_key(seed, 0), True, keep)
    (grad,) = torch.autograd.grad(got, x, push)
    assert torch.equal(got, expected)
    assert torch.equal(grad, wanted)


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (12, 1, 5, 5)])
def test_channels_last_stays_channels_last(shape) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    keep = (torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5).contiguous()
    x.requires_grad_()
    out = quantize_masked(x, torch.tensor(0.25), -8, 7, CODES["nearest"], 0, False, keep)
    assert out.stride() == masked(x, keep).stride() == x.stride()
    assert torch.equal(out, fake_quantize(x, torch.tensor(0.25), -8, 7) * keep)
    assert torch.equal(masked(x, keep), x * keep)
    push = torch.arange(out.numel(), dtype=torch.float32).reshape(shape)
    (grad,) = torch.autograd.grad(masked(x, keep), x, push)
    assert torch.equal(grad, push * keep)


def test_the_noise_is_uniform_and_two_draws_are_unrelated() -> None:
    like = torch.empty(200_000)
    noise = Noise(7)
    a, b = noise.fresh(like), noise.fresh(like)
    assert float(a.mean()) == pytest.approx(0.5, abs=0.004)
    assert float(a.var()) == pytest.approx(1 / 12, abs=0.002)
    assert float(a.min()) >= 0
    assert float(a.max()) < 1
    pairs = {"draws": (a, b), "neighbours": (a[1:], a[:-1]), "seeds": (a, Noise(8).fresh(like))}
    for name, pair in pairs.items():
        # The standard error of a correlation of 200,000 unrelated pairs is 0.0022.
        assert abs(float(torch.corrcoef(torch.stack(pair))[0, 1])) < 0.011, name
