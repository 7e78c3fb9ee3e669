"""Pruning by chance: what magnitude pruning has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from pipeline.compress.prune import Layer, PruneWeights


@dataclass(frozen=True)
class PruneAtRandom(PruneWeights):
    """As `PruneWeights`, each layer by the same share, but which weights go is drawn from `seed`.

    Numbers drawn in the place of the weights are ranked, by the same rules: whole channels, or N of every M, go where
    they would by magnitude. Layers are not ranked together, whatever `scope` and `score` say.
    """

    seed: int = 0
    family: ClassVar[Literal["prune", "quantize"]] = "prune"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scope", "layer")
        object.__setattr__(self, "score", "magnitude")

    def _layers(self, net: nn.Module) -> list[Layer]:
        generator = torch.Generator().manual_seed(self.seed)
        layers = []
        for layer in super()._layers(net):
            drawn = torch.rand(layer.weight.numel(), generator=generator).reshape(layer.weight.shape)
            layers.append(layer._replace(weight=drawn.to(layer.weight.device)))
        return layers
