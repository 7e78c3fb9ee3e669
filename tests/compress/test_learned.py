from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compress.at_once import together
from pipeline.compress.bake import bake, grids
from pipeline.compress.kernels import Job
from pipeline.compress.learned import Binary, DuQ, Lsq
from pipeline.compress.prune import PruneWeights
from pipeline.compress.quantize import QuantizeWeights
from pipeline.compress.quantizers import Uniform
from pipeline.compress.stack import stack_of
from tests.compress.nets import Spiking, frames


def test_duq_by_hand_two_bits_are_ternary() -> None:
    # n = 2: w_q = c * round(hardtanh(w / a)). With a = 0.5, c = 0.4: 0.2 / 0.5 = 0.4 -> 0; 0.3 -> 0.6 -> 1; 2 -> 1.
    quantizer = DuQ(2)
    with torch.no_grad():
        quantizer.a.fill_(0.5)
        quantizer.c.fill_(0.4)
    out = quantizer(torch.tensor([[0.2, 0.3, -0.3, 2.0, -2.0]])).detach()
    assert out.flatten().tolist() == pytest.approx([0.0, 0.4, -0.4, 0.4, -0.4])
    # 3 bits: n - 1 = 3 levels a side. 0.2 / 0.5 * 3 = 1.2 -> 1 -> 0.4 / 3.
    quantizer3 = DuQ(3)
    with torch.no_grad():
        quantizer3.a.fill_(0.5)
        quantizer3.c.fill_(0.4)
    assert float(quantizer3(torch.tensor([[0.2]])).detach()) == pytest.approx(0.4 / 3)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 8), st.booleans(), st.booleans())
def test_duq_has_two_to_the_bits_less_one_levels(bits, per_channel, power_of_two) -> None:
    x = torch.randn(6, 500, generator=torch.Generator().manual_seed(bits))
    quantizer = DuQ(bits, per_channel=per_channel, power_of_two=power_of_two)
    quantizer.fit(x, None)
    out = quantizer(x * 10).detach()
    codes = (out / quantizer.grid().step).round()
    assert torch.allclose(codes * quantizer.grid().step, out)
    assert len(codes.unique()) <= 2**bits - 1
    assert float(codes.max()) == -float(codes.min()) == 2 ** (bits - 1) - 1


def test_duq_starts_at_three_standard_deviations() -> None:
    x = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.05
    quantizer = DuQ(4)
    quantizer.fit(x, None)
    expected = abs(float(x.mean())) + 3 * float(x.std(correction=0))
    assert float(quantizer.a.detach()) == float(quantizer.c.detach()) == pytest.approx(expected, rel=1e-5)


def test_duq_starts_from_all_weights_so_that_the_survivors_of_pruning_are_neither_lost_nor_clipped() -> None:
    # 80 % of a bell pruned: beyond 1.2816 deviations a share of 0.2 is left. Ternary rounds down below 1.5 deviations:
    # 0.1336 of all survive, two of three. Started from the survivors alone (1.77 deviations of their own) it was 0.04.
    x = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    kept = x.abs() > 1.2816
    ternary, wide = DuQ(2), DuQ(8)
    for quantizer in (ternary, wide):
        quantizer.fit(x, kept)
    assert float((ternary(x, kept) != 0).sum() / kept.sum()) == pytest.approx(0.668, abs=0.03)
    clipped = wide(x, kept).abs() >= wide.a.item() * (1 - 1e-6)
    assert float(clipped.sum() / kept.sum()) < 0.03


@pytest.mark.parametrize("kind", [DuQ, Lsq])
def test_gradients_are_those_of_the_straight_through_formula(kind) -> None:
    """Against autograd through the plain formula with ``round(z) = z + stopgradient(round(z) - z)``."""
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), requires_grad=True)
    push = torch.randn(5, 7, generator=torch.Generator().manual_seed(2))
    quantizer = kind(3)
    quantizer.fit(x, None)
    parameters = list(quantizer.parameters())

    def through(z: torch.Tensor) -> torch.Tensor:
        return z + (torch.floor(z + 0.5) - z).detach()

    if kind is DuQ:
        a, c = parameters
        expected = c * through(torch.nn.functional.hardtanh(x / a) * 3) / 3
        share = 1.0
    else:
        (s,) = parameters
        expected = through((x / s).clamp(-4, 3)) * s
        share = 1 / math.sqrt(35 * 3)
    wanted = torch.autograd.grad(expected, [x, *parameters], push)
    got = torch.autograd.grad(quantizer(x), [x, *parameters], push)
    assert torch.allclose(quantizer(x), expected, atol=1e-6)
    assert torch.allclose(got[0], wanted[0], atol=1e-5)
    for mine, plain in zip(got[1:], wanted[1:], strict=True):
        assert torch.allclose(mine, plain * share, atol=1e-4)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([DuQ, Lsq]),
    st.sampled_from([(5,), (3, 4), (4, 3, 3, 3), (1, 700, 3, 3)]),
    st.integers(2, 9),
    st.sampled_from(["nearest", "truncation"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 50),
)
def test_the_kernel_is_the_plain_arithmetic_forward_and_backward(
    kind, shape, bits, rounding, per_channel, power_of_two, pruned, seed
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    if len(shape) == 4 and seed % 2:
        x = x.to(memory_format=torch.channels_last)
    kept = torch.rand(shape, generator=generator) < 0.6 if pruned else None
    push = torch.randn(shape, generator=generator)
    quantizer = kind(bits, rounding, per_channel, power_of_two)
    quantizer.fit(x, kept)
    with torch.no_grad():  # learning may carry a range anywhere: below zero, and to zero
        for parameter in quantizer.parameters():
            parameter.mul_(torch.tensor([1.0, 0.4, -0.7, 0.0][seed % 4]))
    x.requires_grad_()
    inputs = [x, *quantizer.parameters()]
    assert quantizer.job(x, kept) is not None
    got = quantizer(x, kept)
    gradients = torch.autograd.grad(got, inputs, push)
    quantizer.job = lambda *_: None  # the plain form
    expected = quantizer(x, kept)
    wanted = torch.autograd.grad(expected, inputs, push)
    assert torch.equal(got, expected)
    assert got.stride() == x.stride()
    assert torch.equal(gradients[0] != 0, wanted[0] != 0)
    torch.testing.assert_close(gradients[0], wanted[0], rtol=1e-6, atol=0.0)
    for mine, plain in zip(gradients[1:], wanted[1:], strict=True):
        size = float(push.abs().sum()) * 2 ** (bits - 1)
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-6 * size)


def test_all_weights_of_a_net_with_learned_ranges_go_through_one_node() -> None:
    """Masks, fixed point and learned ranges together; a weight whose outcome nobody uses has no gradient."""
    x, y, z = (
        torch.randn(4, 5, generator=torch.Generator().manual_seed(i), requires_grad=True) for i in range(3)
    )
    keep = torch.rand(4, 5, generator=torch.Generator().manual_seed(3)) < 0.5
    duq, uniform = DuQ(3), Uniform(4)
    duq.fit(x, keep)
    uniform.fit(y, None)
    made = together([x, y, z], [duq.job(x, keep), uniform.job(y), Job(keep=keep)])
    for one, alone in zip(made, (duq(x, keep), uniform(y), z * keep), strict=True):
        assert torch.equal(one, alone)
    (made[0].sum() + made[2].sum()).backward()
    assert duq.a.grad is not None
    assert duq.c.grad is not None
    assert y.grad is None
    assert torch.equal(z.grad, keep.float())


def test_learning_the_range_lowers_the_error() -> None:
    x = torch.randn(30, 30, generator=torch.Generator().manual_seed(3))
    for kind in (DuQ, Lsq):
        quantizer = kind(3)
        quantizer.fit(x, None)
        optimizer = torch.optim.Adam(quantizer.parameters(), 0.02)
        start = float((quantizer(x) - x).square().mean().detach())
        for _ in range(100):
            optimizer.zero_grad()
            loss = (quantizer(x) - x).square().sum()
            loss.backward()
            optimizer.step()
        assert float((quantizer(x) - x).square().mean().detach()) < start


def test_learned_ranges_are_parameters_of_the_net_and_leave_with_baking() -> None:
    net = Spiking()
    QuantizeWeights(2, "duq").attach(net)
    before = {name for name, _ in net.named_parameters()}
    assert sum(name.endswith((".a", ".c")) for name in before) == 4
    net(frames()).sum().backward()
    stack = stack_of(net.fc1, "weight")
    assert stack is not None
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in stack.quantizer.parameters())
    bake(net)
    assert {name for name, _ in net.named_parameters()} == {
        "fc1.weight",
        "fc1.bias",
        "fc2.weight",
        "fc2.bias",
    }
    assert len(net.fc1.weight.detach().unique()) == 3


@pytest.mark.parametrize("power_of_two", [True, False])
def test_binary_weights_are_exactly_on_their_grid_and_gradients_pass_up_to_one(power_of_two) -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) * 0.2
    quantizer = Binary(power_of_two=power_of_two)
    quantizer.fit(x, None)
    step = quantizer.grid().step
    for learning in (True, False):
        quantizer.train(learning)
        assert quantizer(x).unique().tolist() == [-float(step), float(step)]
    at = torch.tensor([[-1.5, -1.0, -0.25, 0.0, 1.0, 1.5]], requires_grad=True)
    (quantizer(at) * torch.arange(1.0, 7.0)).sum().backward()
    assert at.grad is not None
    assert at.grad.tolist() == [[0.0, 2.0, 3.0, 4.0, 5.0, 0.0]]


def test_binary_with_a_mask_has_two_values_and_zero() -> None:
    net = Spiking()
    QuantizeWeights(1, "binary").attach(net)
    PruneWeights(0.5, "layer").attach(net)
    bake(net)
    values = net.fc1.weight.detach().unique()
    assert len(values) == 3
    assert float(values[0]) == -float(values[2])
    assert float(values[1]) == 0.0
    assert grids(net)["fc1.weight"].bits == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"bits": 1, "scheme": "duq"},
            r"bits must be in \[2, 32\] with scheme=duq .*scheme=binary has 1 bit\), but got 1",
        ),
        ({"bits": 2, "scheme": "binary"}, r"bits must be 1 \(or 32, off\) with scheme=binary, but got 2"),
        ({"bits": 4, "scheme": "lsq", "integer_bits": 1}, "integer_bits must be null with scheme=lsq"),
        ({"bits": 4, "scheme": "duq", "signed": False}, "signed must be true without fixed_point"),
    ],
)
def test_bad_values_name_the_field(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizeWeights(**wrong)


def test_binary_channels_without_weights_take_the_largest_scale_and_zeros_that_are_kept_do_not() -> None:
    """Mean magnitudes 2 (of 1 and 3), none (pruned) and 0: the pruned channel takes 2, the kept zeros stay near 0."""
    x = torch.tensor([[1.0, -3.0], [4.0, 4.0], [0.0, 0.0]])
    kept = torch.tensor([[True, True], [False, False], [True, True]])
    quantizer = Binary(per_channel=True)
    quantizer.fit(x, kept)
    assert quantizer.scale.tolist() == pytest.approx([2.0, 2.0, 0.0], abs=1e-6)
    assert quantizer(x, kept).flatten().tolist() == pytest.approx([2.0, -2.0, 0.0, 0.0, 0.0, 0.0], abs=1e-6)
