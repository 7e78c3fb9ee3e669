"""How stored uint8 samples become the [T, B, C, H, W] float32 input of a network.

Each encoding is a frozen dataclass called as ``encoding(x, generator)``; the same generator state gives the
same spikes. Images [B, C, H, W] go through `Direct`, `Rate` or `Latency`; event frames, which already have
time, [B, T, C, H, W], through `Frames`. A data set puts its own number of steps in place of `timesteps`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from pipeline.compiled import njit
from pipeline.types import require

MOST_STEPS = 1000
"""More time steps than any data set here needs; a larger number is a slip of the keyboard."""


@runtime_checkable
class Encoding(Protocol):
    """What a data set needs of its encoding: a dataclass with `timesteps`, called with samples."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def timesteps(self) -> int: ...

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor: ...


Values = Literal["count", "root", "binary"]
"""What becomes of the number of events of a pixel in a frame."""


def require_values(values: str) -> None:
    """Raise ValueError unless it is one of `Values`."""
    require(values in get_args(Values), "values", f"be one of {', '.join(get_args(Values))}", values)


def unrolled(encoding: Encoding, timesteps: int) -> Encoding:
    """The same encoding over `timesteps` steps: T is a field of the data set, where searches look for it."""
    return dataclasses.replace(encoding, timesteps=timesteps)


def require_timesteps(timesteps: int) -> None:
    """Raise ValueError unless ``1 <= timesteps <= 1000``."""
    require(1 <= timesteps <= MOST_STEPS, "timesteps", f"be in [1, {MOST_STEPS}]", timesteps)


@dataclass(frozen=True)
class Direct:
    """Direct current: the intensity x / 256, in [0, 1), at every step.

    256 and not 255, so that the current is a fixed-point number of 8 fraction bits: a machine that adds integers
    then sees the very input that the network was searched with. `white` = 255 gives [0, 1] and no exact machine.

    The first layer turns the constant current into spikes (Rueckauer et al. 2017, section 2.3; Rathi and Roy
    2021, "direct input encoding"). The steps share one memory (stride 0): T copies of an image cost nothing.
    """

    timesteps: int = 1
    white: int = 256
    """Intensity that is a current of 1, at least 255."""

    by_sample: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_timesteps(self.timesteps)
        require(self.white >= 255, "white", "be at least 255", self.white)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """[B, C, H, W] uint8 -> [T, B, C, H, W] float32 in [0, 1]; `generator` is not used."""
        current = x.to(torch.float32) / self.white
        return current.unsqueeze(0).expand(self.timesteps, *current.shape)


@dataclass(frozen=True)
class Rate:
    """Rate coding: independent spikes at every step, on average ``max_rate * x / 255`` of them.

    draw="bernoulli": 0 or 1 per step, P(spike) = max_rate * x / 255. draw="poisson": the count of a Poisson
    process in one step, which may exceed 1; the two agree for small rates. (Diehl and Cook 2015, section 2.4,
    use rates proportional to intensity with 63.75 Hz for a white pixel: max_rate = 0.0319 at 0.5 ms steps.)
    """

    timesteps: int = 1
    max_rate: float = 1.0
    """Mean spikes per step of a white pixel, in (0, 1]."""
    draw: Literal["bernoulli", "poisson"] = "bernoulli"

    def __post_init__(self) -> None:
        require_timesteps(self.timesteps)
        require(0 < self.max_rate <= 1, "max_rate", "be in (0, 1]", self.max_rate)
        require(self.draw in ("bernoulli", "poisson"), "draw", "be bernoulli or poisson", self.draw)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """[B, C, H, W] uint8 -> [T, B, C, H, W] float32, whole numbers of spikes."""
        mean = (x.to(torch.float32) * (self.max_rate / 255)).expand(self.timesteps, *x.shape)
        if self.draw == "poisson":
            return torch.poisson(mean, generator=generator)
        return (torch.rand(mean.shape, generator=generator) < mean).to(torch.float32)


@dataclass(frozen=True)
class Latency:
    """Time to first spike: one spike per pixel, the brighter the earlier; dark pixels stay silent.

    A pixel x >= darkest fires once, at step ``round((255 - x) / (255 - darkest) * (T - 1))``: white at
    step 0, the darkest firing intensity at step T - 1. Order by intensity as in Thorpe,
    Delorme and Van Rullen (2001); the linear map is ours: it spreads 8-bit intensities evenly over few steps.
    """

    timesteps: int = 1
    darkest: int = 1
    """Smallest uint8 intensity that fires, in [1, 254]."""

    def __post_init__(self) -> None:
        require_timesteps(self.timesteps)
        require(1 <= self.darkest <= 254, "darkest", "be in [1, 254]", self.darkest)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """[B, C, H, W] uint8 -> [T, B, C, H, W] float32 of 0 and 1; `generator` is not used."""
        wait = (255 - x.to(torch.float32)) / (255 - self.darkest)
        step = (wait * (self.timesteps - 1)).round().to(torch.int64)
        step[x < self.darkest] = self.timesteps  # a step that never comes
        clock = torch.arange(self.timesteps).view(-1, *[1] * x.dim())
        return (step.unsqueeze(0) == clock).to(torch.float32)


@dataclass(frozen=True)
class Frames:
    """Event frames: the stored counts of each step, their rounded roots, or 0 and 1, as float32 times `scale`."""

    timesteps: int = 1
    scale: float = 1.0
    """Input of one event; 0.5 undoes the halving u + (x - u) / 2 of a network written for it."""
    values: Values = "count"
    """count: as stored; root: the square root, rounded; binary: 1 where there was any event."""

    by_sample: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_timesteps(self.timesteps)
        require(self.scale > 0, "scale", "be above 0", self.scale)
        require_values(self.values)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """[B, T, C, H, W] uint8 counts -> [T, B, C, H, W] float32; `generator` is not used."""
        if x.dim() != 5 or x.shape[1] != self.timesteps:
            raise ValueError(f"x must be [B, {self.timesteps}, C, H, W], but got {list(x.shape)}.")
        if x.dtype != torch.uint8:  # the table has a place for each of its values, and for no other
            raise ValueError(f"x must be uint8 counts, but got {x.dtype}.")
        seen = torch.arange(256, dtype=torch.float32)
        if self.values == "root":
            seen = seen.sqrt().round()
        elif self.values == "binary":
            seen = seen.clamp(max=1)
        batch, steps, *shape = x.shape
        frames = torch.empty((steps, batch, *shape))
        _look_up(x.reshape(batch, steps, -1).numpy(), (seen * self.scale).numpy(), frames.flatten(2).numpy())
        return frames


@njit(cache=True, nogil=True)
def _look_up(x, table, out):  # type: ignore[no-untyped-def]
    """out [T, B, P] = table [256] at x [B, T, P]: one pass, where arithmetic on whole arrays takes one each."""
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            for p in range(x.shape[2]):
                out[t, b, p] = table[x[b, t, p]]
