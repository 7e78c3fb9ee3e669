"""Float tensors as integers: grids, power-of-two steps, values with few bits, and what an input lies on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
from torch import Tensor

from pipeline.export.program import Fixed, Form, Input, NotExact, Shape

_MOST_FRACTION_BITS = 30


class Gridded(Protocol):
    """Where a quantized tensor lives: ``value = code * step``."""

    @property
    def bits(self) -> int: ...
    @property
    def step(self) -> Tensor: ...
    @property
    def low(self) -> int: ...
    @property
    def high(self) -> int: ...


Grids = Mapping[str, Gridded]


def input_format(batches: Iterable[Tensor], shape: Shape) -> Input:
    """The coarsest power-of-two grid that holds every value of the inputs [T, B, C, H, W].

    Raises:
        NotExact: some value needs more than 16 fraction bits, so it is no fixed-point number on purpose.
    """
    exponent = top = 0
    signed = False
    for x in batches:
        values = (x[:1] if x.stride(0) == 0 else x).detach().double()
        while not bool(((codes := values * 2.0**exponent) == codes.round()).all()):
            exponent, top = exponent + 1, top * 2
            if exponent > 16:
                raise NotExact(
                    [
                        "the input lies on no power-of-two grid (an intensity divided by 255, for one): "
                        "use data/encoding=direct with data.encoding.white=256, or rate or latency."
                    ]
                )
        top = max(top, int(codes.abs().max()) if codes.numel() else 0)
        signed |= bool((codes < 0).any())
    return Input(shape, exponent, (1 << max(top, 1).bit_length()) - 1, signed)


def dyadic(value: Tensor, bits: int, most_bits: int = 16) -> Fixed | None:
    """Float values as integers of at most `most_bits` on one power-of-two grid, or None."""
    numbers = value.double().cpu().numpy()
    for exponent in range(_MOST_FRACTION_BITS + 1):
        codes = np.ldexp(numbers, exponent)
        if np.array_equal(codes, np.rint(codes)):
            if np.abs(codes).max(initial=0) >= 1 << most_bits:
                return None
            return Fixed(codes.astype(np.int64), np.array([exponent], np.int64), bits, "float32")
    return None


def form_of(grid: Gridded) -> Form:
    """Codes beyond the width are those of 1 - 2^-k, of which k is stored."""
    if grid.high < 1 << (grid.bits - 1):
        return "signed"
    return "unsigned" if grid.high < 1 << grid.bits else "shift"


def exponents_of(step: Tensor) -> np.ndarray | None:
    """-log2 of every step (int64, flat), or None where one is no power of two."""
    mantissa, exponent = np.frexp(step.detach().double().cpu().numpy().reshape(-1))
    return (1 - exponent).astype(np.int64) if np.all(mantissa == 0.5) else None
