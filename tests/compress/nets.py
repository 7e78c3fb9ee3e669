"""Small snnTorch nets for the tests of this room."""

from __future__ import annotations

import snntorch as snn
import torch
from torch import Tensor, nn


class Spiking(nn.Module):
    """fc1 -> lif1 -> fc2 -> lif2, snnTorch's own neurons stepped one by one."""

    def __init__(self, inputs: int = 12, hidden: int = 16, outputs: int = 5, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.fc1 = nn.Linear(inputs, hidden)
        self.lif1 = snn.Leaky(beta=0.9, threshold=torch.tensor(0.5))
        self.fc2 = nn.Linear(hidden, outputs)
        self.lif2 = snn.Leaky(beta=0.8, threshold=torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        mem1 = torch.zeros(x.shape[1], self.fc1.out_features)
        mem2 = torch.zeros(x.shape[1], self.fc2.out_features)
        out = []
        for step in x.flatten(2):
            spikes, mem1 = self.lif1(self.fc1(step), mem1)
            spikes, mem2 = self.lif2(self.fc2(spikes), mem2)
            out.append(spikes)
        return torch.stack(out)


def frames(steps: int = 6, batch: int = 7, inputs: int = 12, seed: int = 1) -> Tensor:
    """[T, B, 1, 1, inputs] of zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(steps, batch, 1, 1, inputs, generator=generator) < 0.5).float()


def first_class(spikes: Tensor) -> Tensor:
    """[T, B, N] -> [B], a decoding for tests that need any."""
    return spikes.sum(0).argmax(-1)
