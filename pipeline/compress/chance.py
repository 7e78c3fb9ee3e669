"""Pruning by chance: what magnitude pruning has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from pipeline.compress.prune import PruneWeights, keep_largest, mask_of
from pipeline.compress.stack import synapses


@dataclass(frozen=True)
class PruneAtRandom(PruneWeights):
    """As `PruneWeights`, each layer by the same share, but which weights go is drawn from `seed`."""

    seed: int = 0
    family: ClassVar[Literal["prune", "quantize"]] = "prune"

    def _prune(self, net: nn.Module, sparsity: float) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        for _, module in synapses(net):
            mask = mask_of(net, module)
            drawn = torch.rand(mask.keep.numel(), generator=generator)
            rank = torch.where(mask.keep.flatten(), drawn, -1.0)
            mask.keep = keep_largest(rank, round(sparsity * rank.numel())).reshape(mask.keep.shape)
