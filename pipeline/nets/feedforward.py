"""A fully connected network of snnTorch `Leaky` neurons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn
from torch.nn.utils import skip_init

from pipeline.nets.layered import Dropout, Layered, initialise
from pipeline.nets.neurons import LeakyConstants
from pipeline.types import require


@dataclass(frozen=True, kw_only=True)
class FeedForward(LeakyConstants):
    """flatten, then fc1, lif1, fc2, lif2, ...: [T, B, C, H, W] -> [T, B, classes x group] output spikes.

    hidden      neurons per hidden layer: one number, or one per layer; an empty list for none
    group       output neurons per class, which vote
    dropout     probability in [0, 1) that a hidden neuron is lost for a sample, in training
    bias        whether synaptic layers have one (a constant current)
    init_gain   initial spread of the membranes, in thresholds (see `initialise`)
    chunk       time steps per call, 0 for all of T; changes speed and memory only
    The rest: `LeakyConstants`.
    """

    hidden: int | Sequence[int] = 128
    group: int = 1
    dropout: float = 0.0
    bias: bool = False
    init_gain: float = 0.4
    chunk: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            all(width >= 1 for width in self._widths()), "hidden", "be at least 1 everywhere", self.hidden
        )
        require(self.group >= 1, "group", "be at least 1", self.group)
        require(0 <= self.dropout < 1, "dropout", "be in [0, 1)", self.dropout)
        require(self.init_gain > 0, "init_gain", "be above 0", self.init_gain)
        require(self.chunk >= 0, "chunk", "be 0 (all steps) or more", self.chunk)

    def _widths(self) -> tuple[int, ...]:
        return (self.hidden,) if isinstance(self.hidden, int) else tuple(self.hidden)

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
        """shape (C, H, W) of one time step -> a `Layered` net with fc1, lif1, ..., its weights drawn from `seed`."""
        widths = (math.prod(shape), *self._widths(), classes * self.group)
        layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
        for at, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            if at > 1 and self.dropout > 0:
                layers.append((f"dropout{at - 1}", Dropout(self.dropout)))
            layers += [
                (f"fc{at}", skip_init(nn.Linear, inputs, outputs, bias=self.bias)),
                (f"lif{at}", self.neuron()),
            ]
        net = Layered(layers, self.chunk)
        initialise(net, seed, self.beta, self.threshold, self.init_gain)
        return net
