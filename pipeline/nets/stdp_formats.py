"""Which grids the quantities of an STDP network lie on: those it was told, and that of a quantizer on its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.nets.stdp_rounding import QUANTITIES, ROUNDINGS, WEIGHT

Format = tuple[float, float, float, str]
"""(eps, lo, hi, rounding): the grid of a fixed-point quantity and how values get onto it; potentials in mV
above rest."""


def grids(net: nn.Module, numerics: Mapping[str, Format], started: bool) -> npt.NDArray[np.float64]:
    """[4, 4] (eps, lo, hi, rounding) by quantity, as the kernel takes them; eps 0: full precision.

    started: learning has begun, and the grid may not move any more.

    Raises:
        ValueError: the quantizer's grid is not one grid for all weights and all time.
    """
    out = np.zeros((len(QUANTITIES), 4))
    for name, (eps, lo, hi, rounding) in numerics.items():
        out[QUANTITIES.index(name)] = eps, lo, hi, ROUNDINGS[rounding]
    for entry in _parametrized(net):
        quantizer = getattr(entry, "quantizer", None)
        if quantizer is None:
            continue
        grid = quantizer.grid()
        if grid.step.numel() != 1 or (getattr(quantizer, "format", None) is None and started):
            raise ValueError(
                "integer_bits must be a number and granularity per_tensor to learn on quantized weights, "
                "but the format follows the weights."
            )
        eps = float(grid.step)
        out[WEIGHT] = eps, grid.low * eps, grid.high * eps, ROUNDINGS[quantizer.rounding]
    return out


def raw_of(net: nn.Module) -> Tensor:
    """The stored weights: behind a parametrization its original, which learning writes."""
    if not parametrize.is_parametrized(net, "weight"):
        return cast(Tensor, net.weight).detach()
    return cast(Tensor, cast(nn.ModuleDict, net.parametrizations)["weight"].original).detach()


def kept_of(net: nn.Module) -> Tensor | None:
    """bool [P, n], False where a mask has pruned; None without a mask."""
    for entry in _parametrized(net):
        kept = getattr(entry, "kept", None)
        if kept is not None:
            return cast(Tensor, kept)
    return None


def _parametrized(net: nn.Module) -> list[nn.Module]:
    if not parametrize.is_parametrized(net, "weight"):
        return []
    return list(cast(nn.ModuleList, cast(nn.ModuleDict, net.parametrizations)["weight"]))
