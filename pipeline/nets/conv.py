"""Convolutional networks of snnTorch `Leaky` neurons: the usual 12C5-MP2-32C5-MP2-FC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn
from torch.nn.utils import skip_init

from pipeline.nets.layered import Dropout, Layered, initialise
from pipeline.nets.neurons import LeakyConstants
from pipeline.nets.pooling import MaxPool
from pipeline.types import require


@dataclass(frozen=True, kw_only=True)
class Conv(LeakyConstants):
    """Blocks of conv, lif, pool, then flatten, hidden fc and lif layers: [T, B, C, H, W] -> [T, B, classes x group].

    The defaults are 12C5-MP2-32C5-MP2-FC, the network of snnTorch's convolutional tutorial, for any H x W that
    leaves at least one pixel: 28x28 -> 12x24x24 -> 12x12x12 -> 32x8x8 -> 32x4x4 -> FC. Names: conv1, lif1,
    pool1, ..., flatten, fc1, lif3. Neurons come before the pooling, so that a pool sees spikes and is an OR.

    channels    feature maps per block
    kernel      side of the (square, odd or even) kernels; padding "valid" or "same"
    pool        side of the max pooling, 1 for none: one number, or one per block
    hidden      fully connected hidden layers
    group, dropout, bias, init_gain, chunk: as in `FeedForward`; dropout acts before fully connected layers
    The rest: `LeakyConstants`.
    """

    channels: Sequence[int] = (12, 32)
    kernel: int = 5
    padding: str = "valid"
    pool: int | Sequence[int] = 2
    hidden: Sequence[int] = ()
    group: int = 1
    dropout: float = 0.0
    bias: bool = False
    init_gain: float = 0.4
    chunk: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.channels) >= 1, "channels", "name at least one block", self.channels)
        require(
            all(width >= 1 for width in self.channels), "channels", "be at least 1 everywhere", self.channels
        )
        require(all(width >= 1 for width in self.hidden), "hidden", "be at least 1 everywhere", self.hidden)
        require(self.kernel >= 1, "kernel", "be at least 1", self.kernel)
        require(self.padding in ("valid", "same"), "padding", "be valid or same", self.padding)
        require(
            len(self._pools()) == len(self.channels), "pool", "name one number, or one per block", self.pool
        )
        require(all(pool >= 1 for pool in self._pools()), "pool", "be at least 1 everywhere", self.pool)
        require(self.group >= 1, "group", "be at least 1", self.group)
        require(0 <= self.dropout < 1, "dropout", "be in [0, 1)", self.dropout)
        require(self.init_gain > 0, "init_gain", "be above 0", self.init_gain)
        require(self.chunk >= 0, "chunk", "be 0 (all steps) or more", self.chunk)

    def _pools(self) -> tuple[int, ...]:
        return (self.pool,) * len(self.channels) if isinstance(self.pool, int) else tuple(self.pool)

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
        """shape (C, H, W) of one time step -> a `Layered` net, its weights drawn from `seed`.

        Raises ValueError when H x W is too small for the kernels and pools.
        """
        inputs, height, width = shape
        layers: list[tuple[str, nn.Module]] = []
        for at, (outputs, pool) in enumerate(zip(self.channels, self._pools(), strict=True), start=1):
            conv = skip_init(nn.Conv2d, inputs, outputs, self.kernel, padding=self.padding, bias=self.bias)
            layers += [(f"conv{at}", conv), (f"lif{at}", self.neuron())]
            lost = self.kernel - 1 if self.padding == "valid" else 0
            height, width = (height - lost) // pool, (width - lost) // pool
            require(
                min(height, width) >= 1, "channels", f"leave a pixel of {shape[1]}x{shape[2]}", self.channels
            )
            if pool > 1:
                layers.append((f"pool{at}", MaxPool(pool)))
            inputs = outputs
        widths = (inputs * height * width, *self.hidden, classes * self.group)
        layers.append(("flatten", nn.Flatten()))
        for at, (before, after) in enumerate(pairwise(widths), start=1):
            if self.dropout > 0:
                layers.append((f"dropout{at}", Dropout(self.dropout)))
            neuron = (f"lif{len(self.channels) + at}", self.neuron())
            layers += [(f"fc{at}", skip_init(nn.Linear, before, after, bias=self.bias)), neuron]
        net = Layered(layers, self.chunk)
        initialise(net, seed, self.beta, self.threshold, self.init_gain)
        return net
