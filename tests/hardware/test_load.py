"""`measure` against a count made one multiplication at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import snntorch as snn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.compress.quantize import QuantizeWeights
from pipeline.hardware.cost import cost
from pipeline.hardware.load import measure
from pipeline.hardware.tally import look_over
from pipeline.hardware.workload import LayerLoad
from pipeline.nets.conv import Conv
from pipeline.nets.stdp import Stdp
from pipeline.nets.tcja import Tcja
from pipeline.types import Batch
from tests.hardware.machines import MACHINES


class Small(nn.Module):
    """Conv -> neuron -> pool -> linear -> neuron, called step by step as snnTorch's tutorials do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.lif1 = snn.Leaky(0.9, threshold=0.1)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(3 * 2 * 2, 4)
        self.lif2 = snn.Leaky(0.9, threshold=0.1)

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2, out = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for step in x:
            spikes, mem1 = self.lif1(self.conv(step), mem1)
            spikes, mem2 = self.lif2(self.fc(self.pool(spikes).flatten(1)), mem2)
            out.append(spikes)
        return torch.stack(out)


def brute_conv(x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[int, int, int]:
    """(effective, event, dense) operations, one weight, position and sample at a time; x [C, H, W]."""
    effective = event = dense = 0
    filters, channels, rows, columns = weight.shape
    high, wide = x.shape[1:]
    for m in range(filters):
        for p in range((high + 2 * padding - rows) // stride + 1):
            for q in range((wide + 2 * padding - columns) // stride + 1):
                for c in range(channels):
                    for r in range(rows):
                        for s in range(columns):
                            i, j = p * stride + r - padding, q * stride + s - padding
                            if not (0 <= i < high and 0 <= j < wide):
                                continue
                            dense += 1
                            if x[c, i, j] != 0:
                                event += 1
                                effective += int(weight[m, c, r, s] != 0)
    return effective, event, dense


def test_counts_equal_a_brute_force_count() -> None:
    torch.manual_seed(0)
    net = Small()
    with torch.no_grad():
        net.conv.weight[torch.rand_like(net.conv.weight) < 0.5] = 0.0
        net.fc.weight[torch.rand_like(net.fc.weight) < 0.3] = 0.0
    x = (torch.rand(4, 3, 2, 8, 8) < 0.3).float()
    conv, fc = measure(
        net, [Batch(x[:, :2], torch.zeros(2)), Batch(x[:, 2:], torch.zeros(1))], {"conv.weight": 5}
    )

    counts = torch.tensor(
        [[brute_conv(x[t, b], net.conv.weight, 2, 1) for t in range(4)] for b in range(3)],
        dtype=torch.float64,
    ).sum(1)
    assert (conv.mean.synops, conv.mean.synops_event, conv.mean.synops_dense) == tuple(
        counts.mean(0).tolist()
    )
    assert conv.worst.synops == counts[:, 0].max()
    assert (conv.nonzero, conv.synapses, conv.weight_bits) == (int((net.conv.weight != 0).sum()), 54, 5)
    assert (conv.neurons, conv.mean.updates, conv.steps) == (48, 48 * 4, 4)

    seen: list[Tensor] = []
    hook = net.fc.register_forward_pre_hook(lambda _m, args: seen.append(args[0].detach()))
    net(x)
    hook.remove()
    spikes = torch.stack(seen)
    reach = (net.fc.weight != 0).sum(0).float()
    assert fc.mean.events_in == float(spikes.sum()) / 3
    assert fc.mean.synops == float((spikes @ reach).sum()) / 3
    assert fc.worst.synops == float((spikes @ reach).sum(0).max())
    assert not conv.multiplies
    assert not fc.multiplies


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2),
    st.booleans(), st.integers(0, 1000),
)  # fmt: skip
def test_the_fan_out_of_any_convolution_is_exact(
    groups: int, kernel: int, stride: int, dilation: int, padding: int, flat: bool, seed: int
) -> None:
    """Against a convolution of the nonzero pattern of the input with that of the weights."""
    torch.manual_seed(seed)
    make, convolve = (nn.Conv1d, nn.functional.conv1d) if flat else (nn.Conv2d, nn.functional.conv2d)
    conv = make(4, 8, kernel, stride, padding, dilation, groups, bias=False)
    with torch.no_grad():
        conv.weight[torch.rand_like(conv.weight) < 0.5] = 0.0
    x = (torch.rand(5, 4, *(9, 7)[: 1 if flat else 2]) < 0.4).double()
    found = look_over(conv, x)

    def counted(weight: Tensor) -> Tensor:
        return convolve(x, weight, None, stride, padding, dilation, groups).flatten(1).sum(1)

    pattern = (conv.weight.detach() != 0).double()
    for ways, weight in zip(found.reach, (pattern, torch.ones_like(pattern)), strict=True):
        assert torch.equal((x * ways.double()).flatten(1).sum(1), counted(weight))
    assert found.nonzero == int(pattern.sum()) == sum(count for _, count in found.runs)
    assert found.synapses == pattern.numel()


class Stepped(nn.Module):
    """One layer of synapses, then neurons, step by step."""

    def __init__(self, neuron: nn.Module, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.fc = layer or nn.Linear(6, 5, bias=False)
        self.lif = neuron

    def forward(self, x: Tensor) -> Tensor:
        self.lif.reset_mem()
        out = []
        for step in x:
            answer = self.lif(self.fc(step.flatten(1)))
            out.append(answer[0] if isinstance(answer, tuple) else answer)
        return torch.stack(out)


def only(net: nn.Module, x: Tensor, widths: dict[str, int] | None = None) -> LayerLoad:
    (load,) = measure(net, [Batch(x, torch.zeros(x.shape[1]))], widths or {})
    return load


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ([0.0, 1.0], 1),
        ([0.0, 0.5], 1),  # a constant scale is folded into the weights
        ([0.0, 1.0, 2.0, 3.0], 2),
        ([0.0, 0.5, 1.0, 3.5], 3),  # up to 7 steps of 0.5
        ([-1.0, 0.0, 1.0], 2),
        ([0.0, 1 / 255, 128 / 255, 1.0], 8),  # an image as a current
        ([0.0, 0.31, 0.77, 0.123], 32),
    ],
)
def test_counts_and_real_numbers_are_told_from_spikes(values: list[float], bits: int) -> None:
    x = torch.tensor(values).repeat(90)[: 4 * 7 * 6].reshape(4, 7, 1, 1, 6)
    load = only(Stepped(snn.Leaky(0.9, init_hidden=True)), x)
    assert load.input_bits == bits
    assert load.multiplies == (bits > 1)
    assert load.mean.events_in * 7 == int((x != 0).sum())


def test_a_count_may_grow_in_a_later_batch() -> None:
    small = torch.ones(4, 2, 1, 1, 6)
    batches = [Batch(small * top, torch.zeros(2)) for top in (1, 1, 9)]
    batches.insert(1, Batch(small.clone().index_fill_(0, torch.tensor([1]), 2.0), torch.zeros(2)))
    (load,) = measure(Stepped(snn.Leaky(0.9, init_hidden=True)), batches, {})
    assert load.input_bits == 4


def test_an_image_that_stands_still_is_counted_at_every_step() -> None:
    image = torch.rand(1, 3, 1, 2, 3).round()
    net = Stepped(snn.Leaky(0.9, init_hidden=True))
    still, moving = only(net, image.expand(5, -1, -1, -1, -1)), only(net, image.repeat(5, 1, 1, 1, 1))
    assert still == moving


def test_state_bits_follow_the_neuron_and_the_widths() -> None:
    x = torch.ones(2, 3, 1, 1, 6)
    leaky = only(Stepped(snn.Leaky(0.9, init_hidden=True)), x, {"lif.mem": 6})
    synaptic = only(Stepped(snn.Synaptic(0.9, 0.8, init_hidden=True)), x, {"lif.mem": 6, "lif.syn": 5})
    assert (leaky.state_bits, synaptic.state_bits) == (6, 11)
    assert leaky.parameters == 2  # beta and threshold, both shared
    assert leaky.parameter_bits == 64


def test_recurrent_synapses_are_a_layer_of_their_own() -> None:
    x = (torch.rand(6, 4, 1, 1, 6) < 0.7).float()
    neuron = snn.RLeaky(0.9, threshold=0.1, linear_features=5, init_hidden=True)
    feed, back = sorted(measure(Stepped(neuron), [Batch(x, torch.zeros(4))], {}), key=lambda load: load.kind)
    assert (feed.name, back.name, back.kind) == ("fc", "lif.recurrent", "recurrent")
    assert (back.synapses, back.neurons, feed.neurons) == (25, 0, 5)
    assert back.mean.synops == back.mean.events_in * 5


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.lif = snn.Leaky(0.9, init_hidden=True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.lif(self.norm(self.conv(step))).flatten(1) for step in x])


def test_batch_norm_is_folded_into_one_bias_per_channel() -> None:
    load = only(Normed(), torch.ones(2, 2, 1, 5, 5), {"norm.bias": 12})
    assert load.parameters == 3 + 2
    assert load.parameter_bits == 3 * 12 + 2 * 32
    assert load.synapses == 27


class Averaged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.lif1 = snn.Leaky(0.9, threshold=0.05, init_hidden=True)
        self.pool = nn.AvgPool2d(2)
        self.fc = nn.Linear(12, 4)
        self.lif2 = snn.Leaky(0.9, init_hidden=True)

    def forward(self, x: Tensor) -> Tensor:
        self.lif1.reset_mem()
        self.lif2.reset_mem()
        return torch.stack([self.lif2(self.fc(self.pool(self.lif1(self.conv(s))).flatten(1))) for s in x])


def test_average_pooling_adds_up_spikes() -> None:
    torch.manual_seed(0)
    conv, fc = measure(Averaged(), [Batch(torch.rand(4, 3, 1, 6, 6).round(), torch.zeros(3))], {})
    assert conv.mean.spikes_out > 0
    assert (conv.mean.additions, conv.worst.additions) == (conv.mean.spikes_out, conv.worst.spikes_out)
    assert fc.mean.additions == 0
    assert fc.input_bits == 3  # quarters: 0 to 4 spikes
    machine = MACHINES["embedded_45nm"]
    free = replace(conv, mean=replace(conv.mean, additions=0.0))
    added = cost([conv], machine).energy_pj - cost([free], machine).energy_pj
    assert added == pytest.approx(conv.mean.additions * machine.arithmetic.add_pj(31))


def pooled_bits(x: Tensor, *pools: nn.Module, flip: bool = False) -> int:
    """Bits of a fully connected layer's input behind `pools`, its samples seen in two batches."""
    front = nn.Sequential(*pools, nn.Flatten())
    layer = nn.Sequential(*pools, nn.Flatten(), nn.Linear(front(x[0]).shape[1], 5))
    net = Unrolled(layer, snn.Leaky(0.9, init_hidden=True))
    parts = (x.flip(1) if flip else x).split(2, dim=1)
    (load,) = measure(net, [Batch(part, torch.zeros(part.shape[1])) for part in parts], {})
    return load.input_bits


class Unrolled(nn.Module):
    def __init__(self, layer: nn.Module, neuron: nn.Module) -> None:
        super().__init__()
        self.layer, self.neuron = layer, neuron

    def forward(self, x: Tensor) -> Tensor:
        self.neuron.reset_mem()
        return torch.stack([self.neuron(self.layer(step)) for step in x])


PAIRS = torch.zeros(3, 4, 1, 4, 4)
PAIRS[:, :2, :, 0, :2] = 1.0  # two of a window of four,
PAIRS[:, 2:, :, 0, 0] = 1.0  # or one: a half before a quarter
GREYS = torch.arange(64).reshape(4, 1, 4, 4).expand(3, 4, 1, 4, 4) / 256


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("x", "pools", "bits"),
    [
        (PAIRS, [nn.AvgPool2d(2)], 3),  # 0 to 4 quarters
        (PAIRS[:, 2:], [nn.AvgPool2d(2)], 3),  # though only one quarter was seen
        (0.5 * PAIRS, [nn.AvgPool2d(2)], 3),
        (PAIRS - PAIRS.flip(4), [nn.AvgPool2d(2)], 4),  # -4 to 4
        (PAIRS, [nn.AvgPool2d(2), nn.MaxPool2d(2)], 3),
        (PAIRS, [nn.AvgPool2d(2), nn.AvgPool2d(2)], 5),  # 0 to 16 sixteenths
        (PAIRS, [nn.AdaptiveAvgPool2d(1)], 5),
        (PAIRS, [nn.AvgPool2d(2, divisor_override=1)], 3),
        (GREYS, [nn.AvgPool2d(2)], 8),  # 63 x 4 = 252 of 1/1024
    ],
)
def test_behind_an_average_pool_a_map_is_as_wide_as_its_windows_sums(
    x: Tensor, pools: list[nn.Module], bits: int, flip: bool
) -> None:
    """Not as the first samples happen to show: a quarter after a half was taken for a step of 1/256, or a float."""
    assert pooled_bits(x, *pools, flip=flip) == bits


def test_what_lies_between_an_average_pool_and_its_reader_is_seen() -> None:
    """A scale of 0.7, or windows of other sizes: no sums of whole windows, and measured as they come."""

    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0.7

    assert pooled_bits(PAIRS[:, :2], nn.AvgPool2d(2), Scaled()) == 1
    uneven = nn.AvgPool2d(3, padding=1, count_include_pad=False)
    assert pooled_bits(PAIRS[:, 2:], uneven) == 1


def test_steps_that_differ_by_channel_are_stored_values() -> None:
    x = torch.ones(2, 2, 1, 5, 5)
    one, many = only(Normed(), x, {"norm.bias": 12}), only(Normed(), x, {"norm.bias": 12, "conv.step": 8})
    assert (many.parameters, many.parameter_bits) == (one.parameters + 3, one.parameter_bits + 3 * 8)
    step = QuantizeWeights(4, granularity="per_channel").widths(Normed())
    free = QuantizeWeights(4, scheme="duq", granularity="per_channel").widths(Normed())
    assert (step["conv.step"], free["conv.step"]) == (8, 32)
    assert "conv.step" not in QuantizeWeights(4).widths(Normed())


def test_what_cannot_be_counted_is_refused_by_name() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(4, 4)

    with pytest.raises(ValueError, match=r"cell\.weight_ih is a weight of LSTMCell"):
        measure(Odd(), [], {})


def test_zeros_by_a_mask_still_attached_are_not_counted() -> None:
    class Mask(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight * (torch.arange(6) % 2)

    net = Stepped(snn.Leaky(0.9, init_hidden=True))
    parametrize.register_parametrization(net.fc, "weight", Mask())
    load = only(net, torch.ones(2, 3, 1, 1, 6))
    assert (load.synapses, load.nonzero) == (30, 15)
    assert (load.mean.synops, load.mean.synops_event) == (2 * 15, 2 * 30)
    assert load.runs == ((1, 15),)


def test_chunks_and_steps_measure_the_same() -> None:
    spec = Conv(channels=(4, 5), kernel=3, chunk=2)
    x = (torch.rand(6, 3, 2, 12, 12) < 0.3).float()
    chunked, whole = spec.build((2, 12, 12), 4, 0), replace(spec, chunk=0).build((2, 12, 12), 4, 0)
    one_by_one = replace(spec, chunk=1).build((2, 12, 12), 4, 0)
    loads = [measure(net, [Batch(x, torch.zeros(3))], {}) for net in (chunked, whole, one_by_one)]
    assert loads[0] == loads[1] == loads[2]
    assert loads[0][0].mean.spikes_out > 0


def test_the_attention_network_is_counted_whole() -> None:
    spec = Tcja(timesteps=4, channels=6, hidden=8, group=2, plain_blocks=1, attention_blocks=1, dropout=0.0)
    net = spec.build((2, 12, 12), 3, 0)
    with torch.no_grad():
        net.conv1.weight.abs_()
        net.conv2.weight.abs_()
    x = torch.poisson(torch.full((4, 3, 2, 12, 12), 2.0), torch.Generator().manual_seed(0))
    loads = {load.name: load for load in measure(net, [Batch(x, torch.zeros(3))], {})}
    assert list(loads) == ["conv1", "conv2", "attention2.time", "attention2.channel", "fc1", "fc2"]
    assert sum(load.synapses for load in loads.values()) == sum(
        p.numel() for p in net.parameters() if p.ndim > 1
    )
    assert loads["conv1"].multiplies  # counts of events
    assert not loads["conv2"].multiplies
    assert loads["attention2.channel"].kind == "attention"
    assert loads["conv2"].mean.spikes_out > 0
    # A mean adds up each spike, a gate multiplies it; the 4 x 6 gates are products themselves.
    work = loads["attention2.channel"].mean
    assert work.additions == loads["conv2"].mean.spikes_out
    assert work.gates == loads["conv2"].mean.spikes_out + 4 * 6
    assert loads["attention2.channel"].worst.additions == loads["conv2"].worst.spikes_out
    assert loads["fc1"].input_bits == 32  # gated spikes are real numbers ...
    measured = measure(net, [Batch(x, torch.zeros(3))], {"fc1.input": 8})
    assert measured[-2].input_bits == 8  # ... unless a width says how they are stored


def test_the_stdp_network_reports_its_own_load() -> None:
    net = Stdp(neurons=20).build((1, 6, 6), 10, 0)
    x = (torch.rand(30, 4, 1, 6, 6) < 0.4).float()
    seen: list[Tensor] = []
    loads = measure(
        net, [Batch(x, torch.zeros(4))], {"weight": 8}, observe=lambda _, spikes: seen.append(spikes)
    )
    assert [load.kind for load in loads] == ["stdp", "stdp"]
    assert (loads[0].synapses, loads[0].weight_bits) == (36 * 20, 8)
    assert loads[0].mean.events_in * 4 <= float(x.sum())
    assert len(seen) == 1
    assert seen[0].shape == (30, 4, 20)
    for name in ("embedded_45nm", "loihi"):
        assert cost(loads, MACHINES[name]).energy_pj > 0


def test_observe_sees_every_batch_with_its_answer() -> None:
    net = Stepped(snn.Leaky(0.9, init_hidden=True))
    batches = [Batch(torch.ones(2, size, 1, 1, 6), torch.zeros(size)) for size in (3, 2)]
    seen: list[tuple[int, torch.Size]] = []
    measure(net, batches, {}, observe=lambda batch, spikes: seen.append((len(batch.y), spikes.shape)))
    assert seen == [(3, torch.Size([2, 3, 5])), (2, torch.Size([2, 2, 5]))]
    assert not net.fc._forward_hooks
    assert net.training
