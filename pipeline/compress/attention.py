"""The gates of temporal-channel attention as a device has them: fixed-point operands and a sigmoid in a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pipeline.compress.rounding import FixedPoint
from pipeline.types import require


def is_attention(module: nn.Module) -> bool:
    """Whether a module is an attention layer: it has a convolution over `time`, one over `channel`, and a `gate`."""
    return all(hasattr(module, name) for name in ("time", "channel", "gate"))


@dataclass(frozen=True)
class TableAttention:
    """Both sums of every attention layer on Qi.f, their product looked up in a table of the sigmoid.

    A module that has `time`, `channel` and `gate` is an attention layer; its gate is replaced. Without this step the
    gate is a float sigmoid, which no integer machine repeats.

    Args:
        integer_bits, fraction_bits: of the two sums, Qi.f, saturating, rounded to nearest.
        entry_bits: the table has 2^entry_bits entries over products in [-8, 8).
        gate_bits: a gate is a whole number of 2^-gate_bits below 1.
    """

    enabled: bool = True
    integer_bits: int = 3
    fraction_bits: int = 6
    entry_bits: int = 8
    gate_bits: int = 8
    family: ClassVar[Literal["prepare"]] = (
        "prepare"  # a part of the network, like folding, whatever a plan leaves out
    )

    def __post_init__(self) -> None:
        FixedPoint(self.integer_bits, self.fraction_bits)
        width = 1 + self.integer_bits + self.fraction_bits
        require(
            width <= 12,
            "fraction_bits",
            "with integer_bits give at most 12 bits (their product is exact)",
            width,
        )
        require(4 <= self.entry_bits <= 12, "entry_bits", "be in [4, 12]", self.entry_bits)
        require(2 <= self.gate_bits <= 8, "gate_bits", "be in [2, 8]", self.gate_bits)

    @property
    def active(self) -> bool:
        return self.enabled

    def attach(self, net: nn.Module) -> None:
        if self.enabled:
            operand = FixedPoint(self.integer_bits, self.fraction_bits)
            for module in net.modules():
                if is_attention(module):
                    module.gate = TableGate(operand, self.entry_bits, self.gate_bits)

    def advance(self, net: nn.Module, progress: float) -> None:
        """Nothing to do."""

    def widths(self, net: nn.Module) -> dict[str, int]:  # noqa: ARG002
        return {}

    def check(self, net: nn.Module) -> None:
        """Any net will do; one without attention is left as it is."""


class TableGate(nn.Module):
    """forward(a, b) -> gates in [0, 1) for the product of two sums; gradients as those of the sigmoid."""

    table: Tensor

    def __init__(self, operand: FixedPoint, entry_bits: int, gate_bits: int) -> None:
        super().__init__()
        self.operand, self.gate_bits = operand, gate_bits
        self.low, self.high = -(1 << (entry_bits - 1)), (1 << (entry_bits - 1)) - 1
        self.entry_exponent = entry_bits - 4
        at = torch.arange(self.low, self.high + 1, dtype=torch.float64) * 2.0**-self.entry_exponent
        codes = (torch.sigmoid(at) * 2.0**gate_bits + 0.5).floor().clamp(0, 2**gate_bits - 1)
        self.register_buffer("table", codes.to(torch.int64), persistent=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        product = self.operand(a) * self.operand(b)
        index = (product.detach() * 2.0**self.entry_exponent + 0.5).floor().clamp(self.low, self.high)
        gate = self.table[index.to(torch.int64) - self.low].to(product.dtype) * 2.0**-self.gate_bits
        if not product.requires_grad:
            return gate
        smooth = torch.sigmoid(product)
        return smooth + (gate - smooth).detach()
