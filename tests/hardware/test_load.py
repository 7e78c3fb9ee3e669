"""`measure` against a count made one multiplication at a time."""

from __future__ import annotations

import snntorch as snn
import torch
from torch import Tensor, nn

from pipeline.hardware.load import measure
from pipeline.types import Batch


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
