"""Network configs: names, shapes, and messages for values out of range."""

import pytest
import torch

from pipeline.nets.conv import Conv
from pipeline.nets.feedforward import FeedForward


def names(net):
    return [name for name, _ in net.named_children()]


def test_feedforward_names_and_widths():
    net = FeedForward(hidden=[30, 20], group=3).build((1, 8, 8), 10, seed=0)
    assert names(net) == ["flatten", "fc1", "lif1", "fc2", "lif2", "fc3", "lif3"]
    assert [tuple(p.shape) for p in net.parameters()] == [(30, 64), (20, 30), (30, 20)]
    assert net(torch.rand(4, 2, 1, 8, 8)).shape == (4, 2, 30)


def test_feedforward_without_hidden_layers_and_with_dropout():
    assert names(FeedForward(hidden=[]).build((1, 8, 8), 10, seed=0)) == ["flatten", "fc1", "lif1"]
    net = FeedForward(hidden=16, dropout=0.5).build((1, 8, 8), 10, seed=0)
    assert names(net) == ["flatten", "fc1", "lif1", "dropout1", "fc2", "lif2"]


def test_conv_is_12c5_mp2_32c5_mp2_fc():
    net = Conv().build((1, 28, 28), 10, seed=0)
    assert names(net) == ["conv1", "lif1", "pool1", "conv2", "lif2", "pool2", "flatten", "fc1", "lif3"]
    assert [tuple(p.shape) for p in net.parameters()] == [(12, 1, 5, 5), (32, 12, 5, 5), (10, 32 * 4 * 4)]


@pytest.mark.parametrize(
    ("shape", "last"), [((2, 34, 34), 32 * 5 * 5), ((2, 32, 32), 32 * 5 * 5), ((1, 17, 40), 32 * 7)]
)
def test_conv_takes_any_input_size(shape, last):
    net = Conv().build(shape, 11, seed=0)
    assert net.fc1.in_features == last
    assert net(torch.rand(3, 2, *shape)).shape == (3, 2, 11)


def test_conv_of_decolle_size():
    """2 x 32 x 32, pools 2, 1, 2: 64 x 16 x 16, 128 x 16 x 16, 128 x 8 x 8 = 8192 inputs of the readout."""
    net = Conv(channels=(64, 128, 128), kernel=7, padding="same", pool=(2, 1, 2)).build(
        (2, 32, 32), 11, seed=0
    )
    assert names(net) == [
        "conv1",
        "lif1",
        "pool1",
        "conv2",
        "lif2",
        "conv3",
        "lif3",
        "pool3",
        "flatten",
        "fc1",
        "lif4",
    ]
    assert net.fc1.in_features == 8192


def test_conv_says_when_the_image_is_too_small():
    with pytest.raises(ValueError, match=r"^channels must leave a pixel of 8x8"):
        Conv().build((1, 8, 8), 10, seed=0)
    assert Conv(kernel=3, padding="same").build((1, 8, 8), 10, seed=0).fc1.in_features == 32 * 2 * 2


@pytest.mark.parametrize(
    ("spec", "field", "value"),
    [
        (FeedForward, "hidden", 0),
        (FeedForward, "hidden", [8, 0]),
        (FeedForward, "beta", 1.1),
        (FeedForward, "threshold", 0.0),
        (FeedForward, "reset", "hard"),
        (FeedForward, "spike_grad", "step"),
        (FeedForward, "slope", 0.0),
        (FeedForward, "dropout", 1.0),
        (FeedForward, "group", 0),
        (FeedForward, "init_gain", 0.0),
        (FeedForward, "chunk", -1),
        (Conv, "channels", []),
        (Conv, "padding", "half"),
        (Conv, "kernel", 0),
        (Conv, "pool", 0),
        (Conv, "pool", [2, 2, 2]),
        (Conv, "hidden", [0]),
    ],
)
def test_values_out_of_range_name_the_field(spec, field, value):
    with pytest.raises(ValueError, match=rf"^{field} must .*, but got "):
        spec(**{field: value})


def test_learned_constants_get_gradients():
    net = FeedForward(hidden=8, learn_beta=True, learn_threshold=True, init_gain=2.0).build(
        (1, 8, 8), 10, seed=0
    )
    net(torch.rand(4, 2, 1, 8, 8)).sum().backward()
    assert net.lif1.beta.grad.abs() > 0
    assert net.lif1.threshold.grad.abs() > 0
