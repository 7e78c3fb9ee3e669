"""How wide an adder tree has to be, so that no input can make a sum of quantized weights overflow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.compress.stack import grids, synapses
from pipeline.compress.stdp_neurons import is_stdp
from pipeline.types import require


class Accumulator(NamedTuple):
    """The sums of one layer's weight codes over one time step, at the worst input of spikes."""

    layer: str
    lowest: int
    """All negative weights of an output neuron spike at once, and nothing else does."""
    highest: int
    bits: int
    """Two's complement bits that hold both."""


def accumulators(net: nn.Module) -> tuple[Accumulator, ...]:
    """Of every layer of a baked net whose weights are on one grid per tensor; inputs are spikes of 0 and 1.

    Biases are added at their own, finer step and are not part of the sum.
    """
    return tuple(_found(net))


def check_accumulators(net: nn.Module, width: int) -> tuple[Accumulator, ...]:
    """The same, refused where some layer needs more than `width` bits.

    Raises:
        ValueError: ``width must be at least 14 for fc1 (sums reach -4123 to 3980), but got 12.``
    """
    found = accumulators(net)
    for each in found:
        sums = f"sums reach {each.lowest} to {each.highest}"
        require(each.bits <= width, "width", f"be at least {each.bits} for {each.layer} ({sums})", width)
    return found


def _found(net: nn.Module) -> Iterator[Accumulator]:
    known = grids(net)
    for name, module in synapses(net):
        grid = known.get(f"{name}.weight" if name else "weight")
        weight = module.weight
        if grid is None or not isinstance(weight, Tensor) or grid.step.numel() != 1:
            continue
        codes = torch.round(weight.detach().double() / grid.step)
        inputs = (
            0 if is_stdp(net) else tuple(range(1, codes.dim()))
        )  # an STDP network stores [inputs, neurons]
        lowest = int(codes.clamp(max=0).sum(inputs).min())
        highest = int(codes.clamp(min=0).sum(inputs).max())
        yield Accumulator(name or "input", lowest, highest, signed_bits(lowest, highest))


def signed_bits(lowest: int, highest: int) -> int:
    """Two's complement bits that hold every integer in [lowest, highest], lowest <= 0 <= highest."""
    return 1 + max(highest.bit_length(), (-lowest - 1).bit_length() if lowest < 0 else 0)
