"""Batch normalisation against PyTorch's own, and against numbers worked by hand."""

import pytest
import torch
from torch import nn

from pipeline.nets import normalisation
from pipeline.nets.normalisation import BatchNorm
from pipeline.nets.tcja import Tcja

LAST = torch.channels_last
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def asked(monkeypatch):
    """How often the kernels ran."""
    calls = []
    apply = normalisation._Normalise.apply
    monkeypatch.setattr(normalisation._Normalise, "apply", lambda *args: calls.append(1) or apply(*args))
    return calls


def both(channels, dtype=torch.float64, **options):
    ours, theirs = (
        BatchNorm(channels, dtype=dtype, **options),
        nn.BatchNorm2d(channels, dtype=dtype, **options),
    )
    for layer in (ours, theirs):
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return ours, theirs


def maps(*shape, dtype=torch.float64, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return x.contiguous(memory_format=LAST).requires_grad_()


def test_three_numbers_worked_by_hand(asked):
    """1, 2, 6 have mean 3 and biased variance (4 + 1 + 9) / 3 = 14/3; weight 2, bias 1.

    The running mean moves a tenth of the way from 0 to 3; the variance from 1 to the unbiased 14 / 2 = 7: 1.6.
    With g = (1, 0, 0) and r = 1 / sqrt(14/3): g_bias = 1, g_weight = r (1 - 3) = -2 r, and g_x is
    2 r (g - 1/3 - (x - 3) r^2 (-2) / 3) = 2 r (1 - 1/3 - 4/14, -1/3 - 2/14, -1/3 + 6/14) = 2 r (8, -10, 2) / 21.
    """
    layer = BatchNorm(1, eps=0.0, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(1.0)
    x = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64).reshape(1, 1, 1, 3).requires_grad_()
    y = layer(x)
    y[0, 0, 0, 0].backward()
    r = (3 / 14) ** 0.5
    assert asked
    assert y.flatten().tolist() == pytest.approx([1 - 4 * r, 1 - 2 * r, 1 + 6 * r])
    assert x.grad.flatten().tolist() == pytest.approx([16 * r / 21, -20 * r / 21, 4 * r / 21])
    assert layer.weight.grad.item() == pytest.approx(-2 * r)
    assert layer.bias.grad.item() == pytest.approx(1)
    assert layer.running_mean.item() == pytest.approx(0.3)
    assert layer.running_var.item() == pytest.approx(1.6)


@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None}]
)
@pytest.mark.parametrize("shape", [(3, 12, 5, 7), (2, 1, 4, 4), (5, 300, 2, 2), (1, 7, 1, 2), (4, 256, 3, 3)])
def test_values_gradients_and_statistics_are_pytorchs(shape, options, asked):
    """Rows of whole pixels and what is left of one, more channels than a row has room for, one channel."""
    ours, theirs = both(shape[1], **options)
    for turn in range(3):
        mine, yours = maps(*shape, seed=turn), maps(*shape, seed=turn)
        y, expected = ours(mine), theirs(yours)
        g = maps(*shape, seed=9 + turn).detach()
        y.backward(g)
        expected.backward(g)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(mine.grad, yours.grad)
    assert len(asked) == 3
    assert y.is_contiguous(memory_format=LAST)
    assert mine.grad.is_contiguous(memory_format=LAST)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs.get_parameter(name).grad, msg=name)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)


def test_gradients_are_those_of_differences():
    layer, _ = both(3)
    x = maps(2, 3, 2, 3)
    assert torch.autograd.gradcheck(
        lambda x, w, b: normalisation._Normalise.apply(x, w, b, 1e-5)[0], (x, layer.weight, layer.bias)
    )


def test_a_small_spread_far_from_zero_is_kept_in_single_precision():
    """1000 + (0, 0.01, 0.02): squares of float32 numbers hold seven digits, and the spread is in the eighth."""
    wanted = nn.BatchNorm2d(2, dtype=torch.float64, eps=1e-12).train()
    x = (1000 + 0.01 * torch.arange(12)).reshape(2, 2, 1, 3).contiguous(memory_format=LAST)
    y = BatchNorm(2, eps=1e-12).train()(x)
    torch.testing.assert_close(y, wanted(x.double()).float(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("why", "make"),
    [
        ("another layout", lambda: maps(2, 3, 4, 5, dtype=torch.float32).detach().contiguous()),
        ("half precision", lambda: maps(2, 3, 4, 5, dtype=torch.bfloat16).detach()),
        ("evaluation", lambda: maps(2, 3, 4, 5, dtype=torch.float32).detach()),
    ],
)
def test_what_the_kernels_do_not_know_is_left_to_pytorch(why, make, asked):
    ours, theirs = both(3, dtype=torch.float32)
    if why == "evaluation":
        ours.eval()
        theirs.eval()
    x = make()
    assert torch.equal(ours(x), theirs(x))
    assert not asked


def test_many_threads_are_left_to_pytorch(asked):
    ours, theirs = both(3, dtype=torch.float32)
    torch.set_num_threads(5)
    x = maps(2, 3, 4, 5, dtype=torch.float32)
    assert torch.equal(ours(x), theirs(x))
    assert not asked


def test_one_number_per_channel_is_refused_as_pytorch_refuses_it():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        BatchNorm(3)(torch.ones(1, 3, 1, 1))


def test_weights_that_learn_alone_and_maps_that_learn_alone():
    """The first layer's input needs no gradient; a frozen normalisation hands it on all the same."""
    ours, theirs = both(4)
    x = maps(2, 4, 3, 3).detach()
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    frozen = BatchNorm(4, dtype=torch.float64).requires_grad_(False)
    y = maps(2, 4, 3, 3)
    frozen(y).pow(3).sum().backward()
    assert y.grad is not None
    assert frozen.weight.grad is None


def test_the_network_of_the_study_trains_through_it(asked):
    net = (
        Tcja(timesteps=4, channels=4, hidden=8, plain_blocks=1, attention_blocks=1)
        .build((2, 8, 8), 3, 0)
        .train()
    )
    net(torch.ones(4, 2, 2, 8, 8)).sum().backward()
    assert len(asked) == 2, "once for each block, over all time steps"
    net.eval()
    net(torch.ones(4, 2, 2, 8, 8))
    assert len(asked) == 2


def test_gradients_in_single_precision_are_nearer_to_the_exact_ones_than_pytorchs():
    """65,536 numbers per channel: PyTorch sums them in float32. The bias's gradient is the sum itself."""
    ours, theirs = both(12, dtype=torch.float32)
    exact, _ = both(12)
    exact.load_state_dict({name: value.double() for name, value in ours.state_dict().items()})
    x = maps(64, 12, 32, 32, dtype=torch.float32).detach()
    g = maps(64, 12, 32, 32, dtype=torch.float32, seed=5).detach()
    for layer in (ours, theirs, exact):
        layer(x.to(layer.weight.dtype)).backward(g.to(layer.weight.dtype))
    wrong = [(layer.bias.grad.double() - exact.bias.grad).norm() for layer in (ours, theirs)]
    assert wrong[0] <= wrong[1]
    assert wrong[0] / exact.bias.grad.norm() < 1e-6
