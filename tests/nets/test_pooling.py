"""Max pooling against PyTorch's own, to the last bit, and by hand."""

import pytest
import torch
from torch import nn

from pipeline.nets import pooling
from pipeline.nets.pooling import MaxPool

LAST = torch.channels_last
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def asked(monkeypatch):
    """How often the kernel ran."""
    calls = []
    pooled = pooling._pooled
    monkeypatch.setattr(pooling, "_pooled", lambda *args: calls.append(1) or pooled(*args))
    return calls


def test_a_window_worked_by_hand(asked):
    """2 and 5 against 5 and 1: the 5 of the upper row comes first; and of 0, 0, 3, 3 the 3 on the left."""
    x = torch.tensor([[2.0, 5, 0, 0], [5, 1, 3, 3]]).reshape(1, 1, 2, 4).requires_grad_()
    y = MaxPool(2)(x)
    y.backward(torch.tensor([10.0, 7.0]).reshape(1, 1, 1, 2))
    assert asked
    assert y.flatten().tolist() == [5, 3]
    assert x.grad.reshape(2, 4).tolist() == [[0, 10, 0, 0], [0, 0, 7, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [2, 4, 1000])
@pytest.mark.parametrize(
    ("shape", "side"),
    [
        ((3, 12, 8, 8), 2),
        ((2, 1, 7, 9), 2),
        ((2, 33, 9, 6), 3),
        ((1, 5, 15, 31), 15),
        ((2, 4, 5, 5), 1),
        ((0, 3, 4, 4), 2),
    ],
)
def test_values_and_gradients_are_pytorchs(shape, side, levels, dtype, asked):
    """Spikes, where nearly all are equal; and what is left over at the edges."""
    generator = torch.Generator().manual_seed(levels)
    x = torch.randint(0, levels, shape, generator=generator).to(dtype).contiguous(memory_format=LAST)
    mine, theirs = x.clone(memory_format=LAST).requires_grad_(), x.clone(memory_format=LAST).requires_grad_()
    y, expected = MaxPool(side)(mine), nn.MaxPool2d(side)(theirs)
    g = torch.randn(y.shape, generator=generator, dtype=dtype)
    y.backward(g)
    expected.backward(g)
    assert torch.equal(y, expected)
    assert torch.equal(mine.grad, theirs.grad)
    assert torch.equal(MaxPool(side)(x), expected), "with nothing to remember"
    assert len(asked) == 2
    assert y.is_contiguous(memory_format=LAST)
    assert mine.grad.is_contiguous(memory_format=LAST)


def test_what_is_no_number_stays_none():
    x = torch.zeros(1, 2, 4, 4).contiguous(memory_format=LAST)
    for row, column in ((0, 0), (1, 3), (2, 1)):
        x[0, 0, row, column] = torch.nan
    assert torch.equal(MaxPool(2)(x).isnan(), nn.MaxPool2d(2)(x).isnan())


@pytest.mark.parametrize("why", ["layout", "type", "threads", "side"])
def test_what_the_kernel_does_not_take_is_left_to_pytorch(why, asked):
    x, side = torch.rand(2, 3, 16, 16).contiguous(memory_format=LAST), 16 if why == "side" else 2
    if why == "layout":
        x = x.contiguous()
    if why == "type":
        x = x.bfloat16()
    if why == "threads":
        torch.set_num_threads(5)
    assert torch.equal(MaxPool(side)(x), nn.MaxPool2d(side)(x))
    assert not asked


def test_a_window_that_does_not_fit_is_pytorchs_error():
    with pytest.raises(RuntimeError, match="too small"):
        MaxPool(4)(torch.rand(1, 2, 3, 3).contiguous(memory_format=LAST))
