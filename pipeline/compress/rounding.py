"""Fixed-point numbers and three ways to reach them: truncation, nearest, stochastic.

Sign convention, used in every table of this project: a format Qi.f is two's complement with one sign bit
that is NOT counted in i, so ``bits = 1 + i + f``, the step is 2^-f and the range [-2^i, 2^i - 2^-f]. An unsigned
format has no sign bit: ``bits = i + f``, range [0, 2^i - 2^-f]. Values outside saturate, as hardware does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pipeline.compress.kernels import fill_uniform
from pipeline.types import require

Rounding = Literal["truncation", "nearest", "stochastic"]
ROUNDINGS: tuple[str, ...] = get_args(Rounding)
_SNAP = 1e-4
_MANTISSA = 24


def code_range(bits: int, signed: bool = True) -> tuple[int, int]:
    """Smallest and largest stored integer: two's complement, or 0 to 2^bits - 1.

    Of more than 25 bits (24 without a sign) the largest is the last that float32, in which codes are counted, can tell
    from 2^(bits - 1): it would be rounded to one beyond the range.
    """
    places = bits - 1 if signed else bits
    high = (1 << places) - (1 << max(0, places - _MANTISSA))
    return (-(1 << places) if signed else 0), high


@dataclass(frozen=True)
class FixedPoint:
    """Qi.f: ``bits = 1 + integer_bits + fraction_bits`` (without the 1 where unsigned).

    Worked: Q2.5 has 8 bits, step 1/32, range [-4, 3.96875].
    """

    integer_bits: int
    fraction_bits: int
    signed: bool = True

    def __post_init__(self) -> None:
        require(self.integer_bits >= 0, "integer_bits", "be at least 0", self.integer_bits)
        require(self.fraction_bits >= 0, "fraction_bits", "be at least 0", self.fraction_bits)
        require(self.bits >= 2, "integer_bits", "with fraction_bits give at least 2 bits", self.bits)

    @property
    def bits(self) -> int:
        return int(self.signed) + self.integer_bits + self.fraction_bits

    @property
    def step(self) -> float:
        return 2.0**-self.fraction_bits

    @property
    def low(self) -> int:
        """Smallest stored integer."""
        return code_range(self.bits, self.signed)[0]

    @property
    def high(self) -> int:
        """Largest stored integer."""
        return code_range(self.bits, self.signed)[1]

    def __call__(self, x: Tensor, rounding: Rounding = "nearest", noise: Tensor | None = None) -> Tensor:
        """Values of any shape -> the nearest, lower or randomly chosen neighbour on the grid."""
        return fake_quantize(x, torch.tensor(self.step), self.low, self.high, rounding, noise)


@dataclass
class Noise:
    """Uniform numbers for stochastic rounding, an own generator: number i of draw d is a hash of (seed, d, i).

    While training every draw is new. In evaluation the draws start over when `rewind` is called, so one net
    gives the same answer to the same batch, and baking the drawn weights leaves the outputs unchanged.
    """

    seed: int
    draw: int = 0

    def rewind(self) -> None:
        self.draw = 0

    def key(self, fresh: bool) -> int:
        """Of the next draw, or of the first one, which is always the same."""
        self.draw += fresh
        return draw_key(self.seed, self.draw if fresh else 0)

    def fresh(self, like: Tensor) -> Tensor:
        return uniform(like, self.key(True))


def draw_key(seed: int, draw: int) -> int:
    """32 bits that differ between neighbouring seeds and draws (splitmix64's finish)."""
    z = (seed * 0x9E3779B97F4A7C15 + draw * 0xD1B54A32D192ED03 + 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return (z ^ (z >> 31)) >> 32


def uniform(like: Tensor, key: int) -> Tensor:
    """Uniform [0, 1) of the shape, type and device of `like`, contiguous; the same numbers on every machine."""
    out = torch.empty(like.shape, dtype=torch.float32)
    fill_uniform(out.view(-1).numpy(), np.uint32(key))
    return out.to(device=like.device, dtype=like.dtype)


def round_(scaled: Tensor, rounding: Rounding, noise: Tensor | None = None) -> Tensor:
    """Round ``scaled = x / step`` to integers, in place; returns `scaled`.

    truncation: floor(s); nearest: floor(s + 1/2), so ties go up; stochastic: floor(s + u) with u uniform in
    [0, 1), whose mean is s. `noise` (u, of the shape of `scaled`) is needed by stochastic only.
    """
    if rounding == "nearest":
        return scaled.add_(0.5).floor_()
    if rounding == "truncation":
        return scaled.floor_()
    if noise is None:
        raise ValueError("noise must be given for stochastic rounding, but got None.")
    return scaled.add_(noise).floor_()


def snap_(scaled: Tensor) -> Tensor:
    """Pull values within 1e-4 of an integer onto it, in place.

    ``k * step / step`` may fall just below k in float32 unless the step is a power of two, and a floor would
    then lose a whole step each time a value passes the quantizer.
    """
    whole = scaled.round()
    return scaled.copy_(torch.where((scaled - whole).abs_() < _SNAP, whole, scaled))


class _FakeQuantize(torch.autograd.Function):
    """Saturating fake quantization whose gradient is 1 inside the range and 0 where it saturates."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        step: Tensor,
        low: int,
        high: int,
        rounding: Rounding,
        noise: Tensor | None,
        exact: bool,
    ) -> Tensor:
        scaled = x / step
        if not exact and rounding != "nearest":
            snap_(scaled)
        codes = round_(scaled, rounding, noise)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((codes >= low) & (codes <= high))
        return codes.clamp_(low, high).mul_(step)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None, None, None, None, None


def fake_quantize(
    x: Tensor,
    step: Tensor,
    low: int,
    high: int,
    rounding: Rounding = "nearest",
    noise: Tensor | None = None,
    exact: bool = True,
) -> Tensor:
    """Values -> values on the grid ``{low, ..., high} * step``; straight-through gradient (Bengio 2013).

    Args:
        x: any shape. step: scalar, or broadcastable ([C, 1, ...] for one step per channel).
        low, high: saturation bounds as integers.
        noise: uniform [0, 1) of the shape of x, for stochastic rounding only.
        exact: the steps are powers of two, so that dividing is exact; otherwise truncation and stochastic
            rounding first snap values that are on the grid already.
    """
    out: Tensor = _FakeQuantize.apply(x, step, low, high, rounding, noise, exact)  # type: ignore[no-untyped-call]
    return out
