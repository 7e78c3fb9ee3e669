from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from pipeline.compress.bake import bake, sparsity
from pipeline.compress.fold import FoldBatchNorm
from pipeline.compress.prune import PruneWeights, keep_largest, lamp
from pipeline.compress.quantize import QuantizeWeights
from pipeline.compress.stack import original
from pipeline.nets.stdp import Stdp
from pipeline.nets.tcja import Tcja
from tests.compress.nets import Spiking, frames


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.data())
def test_exactly_that_many_of_the_smallest_go(ranks, data) -> None:
    rank = torch.tensor(ranks, dtype=torch.float32)
    drop = data.draw(st.integers(0, len(ranks) - 1))
    keep = keep_largest(rank, drop)
    assert int((~keep).sum()) == drop
    if 0 < drop < len(ranks):
        assert float(rank[~keep].max()) <= float(rank[keep].min())


@pytest.mark.parametrize("columns", [7, 64, 100, 400])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_equal_weights_go_from_every_row_and_column_alike(columns, share) -> None:
    # Two bits leave three magnitudes: by position, half of 784 rows would lose everything and half nothing.
    keep = keep_largest(torch.ones(784 * columns), round(share * 784 * columns)).reshape(784, columns)
    gone = (~keep).double()
    assert float((gone.mean(0) - share).abs().max()) < 0.15
    if columns >= 64:
        assert float((gone.mean(1) - share).abs().max()) < 0.15


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 0.98), st.sampled_from(["global", "layer"]))
def test_the_sparsity_is_the_one_asked_for(share, scope) -> None:
    net = Spiking()
    PruneWeights(share, scope).attach(net)
    bake(net)
    zeros = [int((w == 0).sum()) for w in (net.fc1.weight, net.fc2.weight)]
    sizes = [net.fc1.weight.numel(), net.fc2.weight.numel()]
    if scope == "layer":
        assert zeros == [round(share * n) for n in sizes]
    assert sum(zeros) == pytest.approx(share * sum(sizes), abs=1.0)
    assert sparsity(net) == pytest.approx(sum(zeros) / sum(sizes))


def test_hand_worked_global_against_layer() -> None:
    # Magnitudes 1..4 in fc1 and 5..8 in fc2: globally half of them are all of fc1.
    net = torch.nn.Sequential(torch.nn.Linear(4, 1, bias=False), torch.nn.Linear(4, 1, bias=False))
    values = torch.tensor([[1.0, -2.0, 3.0, -4.0]])

    def fill() -> None:
        with torch.no_grad():
            net[0].weight.copy_(values)
            net[1].weight.copy_(values + 4 * values.sign())

    fill()
    PruneWeights(0.5, "global").attach(net)
    assert net[0].weight.tolist() == [[0, 0, 0, 0]]
    assert net[1].weight.tolist() == [[5, -6, 7, -8]]
    bake(net)
    fill()
    PruneWeights(0.5, "layer").attach(net)
    assert net[0].weight.tolist() == [[0, 0, 3, -4]]
    assert net[1].weight.tolist() == [[0, 0, 7, -8]]


def test_lamp_by_hand() -> None:
    # squares 1, 4, 9: 1 / 14, 4 / 13, 9 / 9; equals share a score, zero scores nothing.
    assert lamp(torch.tensor([[-2.0, 1.0, 3.0]])).tolist() == [pytest.approx([4 / 13, 1 / 14, 1.0])]
    assert lamp(torch.tensor([1.0, 1.0, 0.0])).tolist() == [0.5, 0.5, 0.0]
    assert lamp(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


@given(scale=st.floats(1e-3, 1e3), share=st.floats(0.1, 0.9), seed=st.integers(0, 99))
def test_lamp_does_not_see_a_layers_scale_and_empties_none(scale, share, seed) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(12, 10, bias=False), nn.Linear(10, 7, bias=False))
    masks = []
    for factor in (1.0, scale):
        with torch.no_grad():
            net[0].weight.mul_(factor)
        PruneWeights(share, score="lamp").attach(net)
        masks.append([(layer.weight != 0).clone() for layer in net])
        bake_back(net)
    assert all(torch.equal(*pair) for pair in zip(*masks, strict=True))
    assert all(bool(mask.any()) for mask in masks[0])
    assert sum(int((~mask).sum()) for mask in masks[0]) == round(share * 190)


def bake_back(net: nn.Module) -> None:
    """The weights as they were before the mask."""
    for layer in net:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def test_the_cubic_schedule() -> None:
    # s(p) = 0.8 (1 - (1 - p/0.5)^3): at p = 0.25 it is 0.8 * (1 - 1/8) = 0.7.
    step = PruneWeights(0.8, schedule="gradual", begin=0.0, end=0.5)
    assert [step.at(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.0, 0.7, 0.8, 0.8])


def test_what_was_pruned_stays_pruned() -> None:
    net = Spiking()
    step = PruneWeights(0.8, schedule="gradual")
    step.attach(net)
    assert int((net.fc1.weight == 0).sum()) == 0
    gone = torch.zeros_like(net.fc1.weight, dtype=torch.bool)
    for progress in (0.2, 0.4, 0.6, 1.0):
        step.advance(net, progress)
        now = net.fc1.weight == 0
        assert bool(now[gone].all())
        gone = now
        with torch.no_grad():  # pruned originals that grow back do not return
            original(net.fc1, "weight").add_(
                torch.randn(gone.shape, generator=torch.Generator().manual_seed(1))
            )
    assert sparsity(bake(net)) == pytest.approx(0.8, abs=0.01)


def test_gradients_of_pruned_weights_are_zero() -> None:
    net = Spiking()
    PruneWeights(0.5, "layer").attach(net)
    QuantizeWeights(bits=4).attach(net)
    net(frames()).sum().backward()
    grad = original(net.fc1, "weight").grad
    assert grad is not None
    assert bool(
        (
            grad[net.fc1.weight == 0].abs()
            * (~net.fc1.parametrizations.weight[0].mask.keep)[net.fc1.weight == 0]
        ).sum()
        == 0
    )


def test_two_of_four_by_hand() -> None:
    # Rows of seven: of (1 -4 3 2) go the smallest two; (5 -6 4) is short of one and loses one only, 4.
    net = nn.Sequential(nn.Linear(7, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -4.0, 3.0, 2.0, 5.0, -6.0, 4.0]]))
    step = PruneWeights(0.5, structure="2:4", schedule="gradual", begin=0.0, end=1.0)
    step.attach(net)
    step.advance(net, 0.21)  # half of the way: of each block one weight, and the short one has lost its own
    assert net[0].weight.tolist() == [[0, -4, 3, 2, 5, -6, 4]]
    step.advance(net, 1.0)
    assert net[0].weight.tolist() == [[0, -4, 3, 0, 5, -6, 0]]


def test_the_end_of_a_row_keeps_its_n_largest() -> None:
    # 25 taps in blocks of four: six blocks keep two each, and the last tap has a block of its own.
    net = nn.Sequential(nn.Conv2d(1, 3, 5, bias=False))
    PruneWeights(0.5, structure="2:4").attach(net)
    assert (net[0].weight != 0).flatten(1).sum(1).tolist() == [13, 13, 13]
    assert bool((net[0].weight[:, 0, 4, 4] != 0).all())


def test_blocks_of_an_stdp_network_are_of_its_inputs() -> None:
    # Neuron j has weights near j + 1: blocks along a pixel would leave the small neurons nothing.
    net = Stdp(neurons=4).build((1, 2, 3), 10, 0)
    with torch.no_grad():
        net.weight.copy_(torch.arange(1.0, 5.0) + torch.tensor([0.3, 0.1, 0.2, 0.0, 0.5, 0.4])[:, None])
    PruneWeights(0.5, structure="2:4").attach(net)
    assert (net.weight != 0).int().tolist() == [[int(kept)] * 4 for kept in (1, 0, 1, 0, 1, 1)]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 8)]), st.booleans())
def test_every_block_keeps_the_n_largest(blocks, gradual) -> None:
    most, block = blocks
    net = nn.Sequential(nn.Conv2d(2, 8, 4), nn.Flatten(), nn.Linear(16, 3))
    raw = net[0].weight.detach().abs().reshape(-1, block)
    step = PruneWeights(0.5, structure=f"{most}:{block}", schedule="gradual" if gradual else "one_shot")
    step.attach(net)
    for progress in (0.3, 0.6, 1.0):
        step.advance(net, progress)
    kept = (net[0].weight != 0).reshape(-1, block)
    assert bool((kept.sum(1) == most).all())
    largest = torch.zeros_like(kept).scatter(1, raw.topk(most).indices, True)
    assert torch.equal(kept, largest)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_removed_channels_are_gone_everywhere(scope) -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 12), nn.Linear(12, 4))
    PruneWeights(0.5, scope, structure="channel").attach(net)
    bake(net)
    conv, fc, last = net[0], net[2], net[3]
    alive = conv.weight.abs().sum((1, 2, 3)) > 0
    if scope == "layer":
        assert int(alive.sum()) == 4
        assert int((fc.weight.abs().sum(1) > 0).sum()) == 6
    assert int(alive.sum()) + int((fc.weight.abs().sum(1) > 0).sum()) == 10
    assert bool((conv.bias[~alive] == 0).all())
    read = fc.weight.abs().sum(0).reshape(8, 16).sum(1) > 0
    assert torch.equal(read, alive), "the next layer still reads a removed channel"
    heard = last.weight.abs().sum(0) > 0
    assert torch.equal(heard, fc.weight.abs().sum(1) > 0)
    assert int((last.weight.abs().sum(1) > 0).sum()) == 4, "a class was removed"


def attentive() -> nn.Module:
    """conv1 and conv2 of four channels each, an attention behind conv2, dense layers of 8 and 6; 4 time steps."""
    spec = Tcja(timesteps=4, channels=4, hidden=8, group=2, plain_blocks=1, attention_blocks=1, kernel=2)
    net = spec.build((1, 8, 8), 3, 0)
    with torch.no_grad():  # by size: channels 3 and 1 of conv1, 0 and 3 of conv2
        net.conv1.weight.copy_(torch.tensor([0.1, 0.3, 0.2, 0.4]).reshape(4, 1, 1, 1))
        net.conv2.weight.copy_(torch.tensor([0.4, 0.1, 0.2, 0.3]).reshape(4, 1, 1, 1))
    return net


def test_channels_before_attention_are_channels_and_not_its_time_steps() -> None:
    net = attentive()
    PruneWeights(0.5, "layer", structure="channel").attach(net)
    reads = [bool(net.conv2.weight[:, i].any()) for i in range(4)]
    speaks = [bool(net.conv2.weight[i].any()) for i in range(4)]
    assert reads == [False, True, False, True]
    assert speaks == [True, False, False, True]
    assert bool((net.attention2.time.weight != 0).all()), "it has weights for time steps, not for channels"
    mixes = (net.attention2.channel.weight != 0).any(2).tolist()
    assert mixes == [[True, False, False, True], [False] * 4, [False] * 4, [True, False, False, True]]
    heard = (net.fc1.weight != 0).any(0).reshape(4, 4).any(1)  # 2 x 2 pixels of each channel
    assert heard.tolist() == speaks


@pytest.mark.parametrize("steps", ["free", "power_of_two"])
def test_a_channel_that_attention_hears_says_the_same_once_its_normalisation_is_folded(steps) -> None:
    # Channels 1 and 2 of conv2 are gone, but their normalisation's shift makes them fire at every step.
    net = attentive()
    with torch.no_grad():
        net.norm2.bias.fill_(3.0)
        net.fc1.weight.mul_(30.0)
        net.attention2.time.weight.fill_(1.0)
    FoldBatchNorm(when="after", steps=steps).attach(net)
    PruneWeights(0.5, "layer", structure="channel").attach(net)
    net.eval()
    said: list[torch.Tensor] = []
    net.attention2.register_forward_hook(lambda _module, _inputs, out: said.append(out))
    x = (torch.rand(4, 5, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    with torch.no_grad():
        net(x)
        bake(net)
        net(x)
    assert bool((said[0][:, :, 1] > 0).all())
    assert torch.allclose(said[0], said[1], atol=1e-5)


@pytest.mark.parametrize("build", [attentive, lambda: Stdp(neurons=4).build((1, 2, 2), 10, 0)])
def test_a_channel_that_went_first_does_not_make_another_go_instead(build) -> None:
    # A quarter of four is one. The one that went grows behind its mask: at a half one more goes, not two.
    net = build()
    step = PruneWeights(0.5, "layer", structure="channel", schedule="gradual", end=1.0)
    step.attach(net)
    layer, of = (net, 1) if hasattr(net, "theta") else (net.conv2, 0)
    gone = []
    for progress in (0.21, 1.0):  # 0.5 (1 - 0.79^3) = 0.253
        step.advance(net, progress)
        gone.append((layer.weight.transpose(0, of).flatten(1) == 0).all(1))
        with torch.no_grad():
            original(layer, "weight").transpose(0, of)[gone[0]] += 10.0
    assert [int(each.sum()) for each in gone] == [1, 2]
    assert bool(gone[1][gone[0]].all())


def test_a_layer_keeps_its_last_channel() -> None:
    net = nn.Sequential(
        nn.Linear(4, 3, bias=False), nn.Linear(3, 50, bias=False), nn.Linear(50, 2, bias=False)
    )
    with torch.no_grad():
        net[0].weight.mul_(1e-3)
    PruneWeights(0.6, "global", structure="channel").attach(net)
    assert int((net[0].weight.abs().sum(1) > 0).sum()) == 1


def test_channels_of_an_stdp_network_are_its_neurons() -> None:
    net = Stdp(neurons=10, inhibition="direct").build((1, 3, 3), 10, 0)
    PruneWeights(0.4, structure="channel").attach(net)
    assert int((net.weight.sum(0) > 0).sum()) == 6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), but got 1\.0"),
        ({"sparsity": -0.1}, "sparsity must be in"),
        ({"scope": "both"}, "scope must be one of"),
        (
            {"structure": "4:2"},
            r"structure must be element, channel or N:M with 0 < N < M, as 2:4, but got '4:2'",
        ),
        ({"structure": "rows"}, "structure must be"),
        ({"schedule": "later"}, "schedule must be one of"),
        ({"score": "size"}, "score must be one of"),
        (
            {"score": "lamp", "scope": "layer"},
            "score must be magnitude unless scope=global and structure=element",
        ),
        ({"begin": 0.5, "end": 0.5}, r"end must be in \(begin, 1\]"),
    ],
)
def test_bad_values_name_the_field(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        PruneWeights(**wrong)
