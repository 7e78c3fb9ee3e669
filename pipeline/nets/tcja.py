"""TCJA-SNN: convolutions, batch normalisation, LIF neurons, and attention over time and channels together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from pipeline.nets.layered import Dropout, Layered, initialise
from pipeline.nets.neurons import LeakyConstants
from pipeline.nets.normalisation import BatchNorm
from pipeline.nets.pooling import MaxPool
from pipeline.types import require


class SigmoidGate(nn.Module):
    """sigmoid(a * b), the attention's gate; compression may put a table in its place."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.sigmoid(a * b)


class TemporalChannelAttention(nn.Module):
    """Temporal-channel joint attention (Zhu et al. 2022, arXiv 2206.10177, eq. 5 to 9), [T, B, C, H, W] -> the same.

    With m the mean of x over H and W, [T, B, C]: one convolution of `kernel` taps runs along the channels and mixes
    all time steps (`time`, T x T x kernel weights), one runs along the time steps and mixes all channels
    (`channel`, C x C x kernel weights); out = x * sigmoid(time(m) * channel(m)). Needs all of T, and exactly T.
    """

    all_timesteps = True

    def __init__(self, timesteps: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.time = nn.Conv1d(timesteps, timesteps, kernel, bias=False)
        self.channel = nn.Conv1d(channels, channels, kernel, bias=False)
        self.gate: nn.Module = SigmoidGate()
        self.around = ((kernel - 1) // 2, kernel // 2)  # zeros before and after: the length stays what it is

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != self.time.in_channels:
            raise ValueError(f"timesteps must be {self.time.in_channels}, as built, but got {len(x)}.")
        pixels = x.shape[3] * x.shape[4]
        mean = x.sum((3, 4)) / pixels  # as x.mean, whose gradient PyTorch writes down as a whole map
        over_time = self.time(functional.pad(mean.transpose(0, 1), self.around)).transpose(0, 1)
        over_channels = self.channel(functional.pad(mean.permute(1, 2, 0), self.around)).permute(2, 0, 1)
        return x * self.gate(over_time, over_channels)[..., None, None]


@dataclass(frozen=True, kw_only=True)
class Tcja(LeakyConstants):
    """TCJA-SNN of Schaefer et al. 2023 (arXiv 2302.04174) for DVS Gesture: [T, B, C, H, W] -> [T, B, classes x group].

    plain_blocks x {conv 3x3, batch norm, lif, max pool 2}, attention_blocks x {conv 3x3, batch norm, lif, attention,
    max pool 2}, flatten, dropout, dense, lif, dropout, dense, lif. No biases. Names: conv1, norm1, lif1, pool1, ...,
    conv4, norm4, lif4, attention4, pool4, ..., flatten, dropout1, fc1, lif6, dropout2, fc2, lif7. With the defaults,
    2 x 128 x 128 inputs and 11 classes: 1,831,296 weights (batch normalisation's 1,280 apart).

    The published neuron is u <- u + (x - u) / 2 with threshold 1 and slope 2. U = 2 u is the same neuron without the
    halving: U <- U / 2 + x with threshold 2 and slope 1, spike for spike and gradient for gradient.
    # Differs from the paper: a neuron fires above its threshold (snnTorch), not at it.

    timesteps    T: the attention has weights for each time step
    channels     of all convolutions, or one number per block, first to last
    hidden, group    widths of the dense layers; group outputs per class vote
    kernel       taps of the attention's convolutions
    dropout      probability in [0, 1), the same units over all of T
    init_gain    of the dense layers, see `initialise`; attention and convolutions start as PyTorch's
    chunk        time steps per call, 0 for all of T; a batch norm that learns sees all of T either way
    """

    timesteps: int = 20
    channels: int | tuple[int, ...] = 128
    hidden: int = 512
    group: int = 10
    plain_blocks: int = 3
    attention_blocks: int = 2
    kernel: int = 4
    dropout: float = 0.5
    init_gain: float = 1.0
    chunk: int = 4
    beta: float = 0.5
    threshold: float = 2.0
    reset: str = "zero"
    reset_delay: bool = False
    detach_reset: bool = True
    slope: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("timesteps", "hidden", "group", "kernel"):
            require(getattr(self, name) >= 1, name, "be at least 1", getattr(self, name))
        for name in ("plain_blocks", "attention_blocks"):
            require(0 <= getattr(self, name) <= 16, name, "be in [0, 16]", getattr(self, name))
        require(self.chunk >= 0, "chunk", "be at least 0", self.chunk)
        require(
            self.plain_blocks + self.attention_blocks > 0, "plain_blocks", "be above 0 without attention", 0
        )
        blocks = self.plain_blocks + self.attention_blocks
        if not isinstance(self.channels, int):
            object.__setattr__(self, "channels", tuple(self.channels))  # a YAML list
            require(len(self.channels) == blocks, "channels", f"be one or {blocks} numbers", self.channels)
        require(min(self.widths) >= 1, "channels", "be at least 1", self.channels)
        require(0 <= self.dropout < 1, "dropout", "be in [0, 1)", self.dropout)
        require(self.init_gain > 0, "init_gain", "be above 0", self.init_gain)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each block."""
        if isinstance(self.channels, int):
            return (self.channels,) * (self.plain_blocks + self.attention_blocks)
        return self.channels

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
        """shape (C, H, W) of one time step -> a `Layered` net, its weights drawn from `seed`.

        Raises ValueError when H x W is too small for the poolings.
        """
        inputs, height, width = shape
        blocks = self.plain_blocks + self.attention_blocks
        sides = (height >> blocks, width >> blocks)
        require(min(sides) >= 1, "plain_blocks", f"leave a pixel of {height}x{width}", self.plain_blocks)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = self._blocks(inputs)
        pixels = self.widths[-1] * sides[0] * sides[1]
        dense = nn.ModuleDict(
            {
                "fc1": skip_init(nn.Linear, pixels, self.hidden, bias=False),
                "fc2": skip_init(nn.Linear, self.hidden, classes * self.group, bias=False),
            }
        )
        initialise(dense, seed, self.beta, self.threshold, self.init_gain)
        layers.append(("flatten", nn.Flatten()))
        for at, name in enumerate(("fc1", "fc2"), start=1):
            if self.dropout > 0:
                layers.append((f"dropout{at}", Dropout(self.dropout)))
            layers += [(name, dense[name]), (f"lif{blocks + at}", self.neuron())]
        return Layered(layers, self.chunk)

    def _blocks(self, inputs: int) -> list[tuple[str, nn.Module]]:
        layers: list[tuple[str, nn.Module]] = []
        for at, channels in enumerate(self.widths, start=1):
            layers += [
                (f"conv{at}", nn.Conv2d(inputs, channels, 3, padding=1, bias=False)),
                (f"norm{at}", BatchNorm(channels)),
                (f"lif{at}", self.neuron()),
            ]
            if at > self.plain_blocks:
                attention = TemporalChannelAttention(self.timesteps, channels, self.kernel)
                layers.append((f"attention{at}", attention))
            layers.append((f"pool{at}", MaxPool(2)))
            inputs = channels
        return layers
