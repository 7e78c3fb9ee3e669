"""TCJA-SNN as published: weights layer by layer, the neuron, the attention, all of T where it must be."""

import warnings
from dataclasses import replace

import pytest
import snntorch as snn
import torch
from torch import nn

from pipeline.nets.layered import Dropout
from pipeline.nets.neurons import Leaky
from pipeline.nets.scan import SpikeGradient
from pipeline.nets.tcja import Tcja, TemporalChannelAttention

SMALL = Tcja(timesteps=6, channels=8, hidden=16, group=2, dropout=0.0, init_gain=3.0)


def test_weights_layer_by_layer():
    """conv1 2 x 128 x 9; conv2 to 5 128 x 128 x 9; attention 20 x 20 x 4 + 128 x 128 x 4; 2048 x 512; 512 x 110."""
    net = Tcja().build((2, 128, 128), 11, seed=0)
    weights = {
        name: sum(p.numel() for p in layer.parameters())
        for name, layer in net.named_children()
        if not isinstance(layer, nn.BatchNorm2d) and list(layer.parameters())
    }
    assert weights == {
        "conv1": 2_304,
        "conv2": 147_456,
        "conv3": 147_456,
        "conv4": 147_456,
        "attention4": 67_136,
        "conv5": 147_456,
        "attention5": 67_136,
        "fc1": 1_048_576,
        "fc2": 56_320,
    }
    assert sum(weights.values()) == 1_831_296
    assert [name for name, _ in net.named_children()][:4] == ["conv1", "norm1", "lif1", "pool1"]
    assert [name for name, _ in net.named_children()][-7:] == [
        "flatten", "dropout1", "fc1", "lif6", "dropout2", "fc2", "lif7",
    ]  # fmt: skip


def test_spatial_sizes_and_outputs():
    """128 -> pools at 128, 64, 32, 16, 8 -> 4: 128 x 4 x 4 = 2048 inputs of the first dense layer."""
    net = Tcja(timesteps=2, channels=4).build((2, 128, 128), 11, seed=0)
    sizes = {}
    for name, layer in net.named_children():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda m, i, o, name=name: sizes.update({name: o.shape[-1]}))
    with torch.no_grad():
        assert net(torch.rand(2, 1, 2, 128, 128)).shape == (2, 1, 110)
    assert sizes == {"conv1": 128, "conv2": 64, "conv3": 32, "conv4": 16, "conv5": 8}
    assert net.fc1.in_features == 4 * 4 * 4


@pytest.mark.parametrize(("side", "pixels"), [(32, 1), (64, 4), (34, 1)])
def test_other_input_sizes(side, pixels):
    assert SMALL.build((2, side, side), 11, seed=0).fc1.in_features == 8 * pixels


def test_the_neuron_is_the_published_one():
    """u <- u + (x - u) / 2, fires at 1, hard reset, no gradient through it, arctan surrogate of slope 2."""
    x = torch.randn(12, 3, 7, generator=torch.Generator().manual_seed(0)) * 3
    theirs, ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    u, spikes = torch.zeros(3, 7), []
    for current in theirs:
        u = u + (current - u) / 2
        spike = SpikeGradient("atan", 2.0)(u - 1)
        u = u * (1 - spike.detach())
        spikes.append(spike)
    expected = torch.stack(spikes)
    found, _ = Tcja().neuron()(ours)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    assert 0.1 < expected.mean() < 0.6
    assert torch.equal(found, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_attention_worked_by_hand():
    """T = 2, C = 1, one tap: means 1 and 3; time weights [[1, 0], [1, 1]] give 1 and 4, channel weight 2 gives 2 and
    6; out = x sigmoid(1 x 2), x sigmoid(4 x 6).
    """
    layer = TemporalChannelAttention(2, 1, 1)
    with torch.no_grad():
        layer.time.weight.copy_(torch.tensor([[[1.0], [0.0]], [[1.0], [1.0]]]))
        layer.channel.weight.fill_(2.0)
    x = torch.tensor([[0.0, 2.0], [2.0, 4.0]]).view(2, 1, 1, 1, 2)
    gates = torch.sigmoid(torch.tensor([2.0, 24.0])).view(2, 1, 1, 1, 1)
    torch.testing.assert_close(layer(x), x * gates)


def test_attention_equals_padding_same():
    """Against PyTorch's own even-sized padding, one convolution along the channels, one along time."""
    torch.manual_seed(0)
    layer, x = TemporalChannelAttention(5, 6, 4), torch.rand(5, 2, 6, 3, 3)
    m = x.mean((3, 4)).transpose(0, 1)  # [B, T, C]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths")
        a = nn.functional.conv1d(m, layer.time.weight, padding="same")
        b = nn.functional.conv1d(m.transpose(1, 2), layer.channel.weight, padding="same").transpose(1, 2)
    gate = torch.sigmoid(a * b).transpose(0, 1)[..., None, None]
    torch.testing.assert_close(layer(x), x * gate)


@pytest.mark.parametrize("detach", [False, True])
def test_the_whole_network_equals_snntorchs_neurons_step_by_step(detach):
    """Every synaptic layer and every neuron at every step by itself; the attention sees all steps. snnTorch lets the
    gradient flow through a reset in the same step, so gradients are compared where ours does."""
    net = replace(SMALL, detach_reset=detach).build((2, 32, 32), 11, seed=0).train()
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0  # one forward in training sets the statistics
    x = torch.rand(6, 3, 2, 32, 32, generator=torch.Generator().manual_seed(0)) * 4
    net(x)
    net.eval()
    found, steps = net(x), x
    for layer in net:
        if isinstance(layer, Leaky):
            neuron = snn.Leaky(
                layer.beta, layer.threshold, layer.spike_grad, reset_mechanism="zero", reset_delay=False
            )
            membrane, spikes = torch.zeros_like(steps[0]), []
            for current in steps:
                spike, membrane = neuron(current, membrane)
                spikes.append(spike)
            steps = torch.stack(spikes)
        elif isinstance(layer, TemporalChannelAttention):
            steps = layer(steps)
        elif not isinstance(layer, Dropout):
            steps = torch.stack([layer(step) for step in steps])
    assert 0.01 < steps.mean() < 0.9
    assert (found != steps).float().mean() < 0.01  # sums in another order, at a threshold
    if not detach:
        weights = [net.conv1.weight, net.attention4.time.weight, net.fc2.weight]
        ours, theirs = (torch.autograd.grad(each.sum(), weights) for each in (found, steps))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2 * float(other.abs().max()))


def test_another_number_of_steps_is_refused():
    with pytest.raises(ValueError, match=r"^timesteps must be 6, as built, but got 5"):
        SMALL.build((2, 32, 32), 11, seed=0)(torch.rand(5, 1, 2, 32, 32))


@pytest.mark.parametrize("training", [True, False])
def test_chunks_change_nothing(training):
    x = torch.rand(6, 3, 2, 32, 32, generator=torch.Generator().manual_seed(0)) * 4
    results = []
    for chunk in (0, 1, 4):
        net = replace(SMALL, chunk=chunk).build((2, 32, 32), 11, seed=0)
        for layer in net:
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0  # one forward in training sets the statistics
        net(x)
        spikes = net.train(training)(x)
        spikes.sum().backward()
        results.append((spikes, net.conv1.weight.grad, net.attention4.time.weight.grad))
    assert results[0][0].sum() > 0
    for other in results[1:]:
        assert (results[0][0] != other[0]).float().mean() < 0.01  # sums in another order, at a threshold
        torch.testing.assert_close(results[0][1:], other[1:], rtol=1e-3, atol=1e-5)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state():
    state = torch.random.get_rng_state()
    first, second = (SMALL.build((2, 32, 32), 11, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(state, torch.random.get_rng_state())


def test_every_layer_learns():
    net = SMALL.build((2, 32, 32), 11, seed=0)
    net(torch.rand(6, 4, 2, 32, 32, generator=torch.Generator().manual_seed(0)) * 4).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())
    assert sum(isinstance(layer, Leaky) for layer in net) == 7


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timesteps", 0),
        ("channels", 0),
        ("channels", [4, 8]),  # five blocks
        ("channels", [4, 8, 8, 8, 0]),
        ("group", 0),
        ("kernel", 0),
        ("attention_blocks", -1),
        ("dropout", 1.0),
    ],
)
def test_values_out_of_range_name_the_field(field, value):
    with pytest.raises(ValueError, match=rf"^{field} must .*, but got "):
        Tcja(**{field: value})


def test_a_width_for_each_block():
    net = Tcja(channels=[3, 5, 7], plain_blocks=1, attention_blocks=2, hidden=9, group=2).build(
        (2, 32, 32), 11, 0
    )
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters() if p.dim() >= 2}
    assert shapes == {
        "conv1.weight": (3, 2, 3, 3),
        "conv2.weight": (5, 3, 3, 3),
        "attention2.time.weight": (20, 20, 4),
        "attention2.channel.weight": (5, 5, 4),
        "conv3.weight": (7, 5, 3, 3),
        "attention3.time.weight": (20, 20, 4),
        "attention3.channel.weight": (7, 7, 4),
        "fc1.weight": (9, 7 * 4 * 4),
        "fc2.weight": (22, 9),
    }
    assert net(torch.rand(20, 2, 2, 32, 32)).shape == (20, 2, 22)


def test_an_image_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match=r"^plain_blocks must leave a pixel of 16x16"):
        SMALL.build((2, 16, 16), 11, seed=0)
