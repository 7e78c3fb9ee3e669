"""Magnitude pruning: which weights are zero, for good.

A mask only ever shrinks: what was pruned stays pruned, so a gradual schedule and a fixed mask are one thing.
Exactly ``round(sparsity * count)`` weights go, ties broken by position, so a sparsity is the same number on
every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from pipeline.compress.stack import Mask, original, stack_on, synapses
from pipeline.types import require

Scope = Literal["global", "layer"]
Schedule = Literal["one_shot", "gradual"]


@dataclass(frozen=True)
class PruneWeights:
    """Set the smallest weights of the synaptic layers to zero.

    Args:
        sparsity: share of zeros at the end, in [0, 1); 0 is off.
        scope: global ranks all layers together (layers with small weights lose more); layer prunes each by
            the same share.
        schedule: one_shot masks once; gradual raises the sparsity during training by the cubic rule
            s(p) = sparsity * (1 - (1 - (p - begin) / (end - begin))^3)  (Zhu & Gupta 2017, eq. 1).
        begin, end: the schedule's span as shares of the training's progress; end < 1 leaves time to recover.
    """

    sparsity: float = 0.5
    scope: Scope = "global"
    schedule: Schedule = "one_shot"
    begin: float = 0.0
    end: float = 0.75
    family: ClassVar[Literal["prune", "quantize"]] = "prune"

    def __post_init__(self) -> None:
        require(0 <= self.sparsity < 1, "sparsity", "be in [0, 1)", self.sparsity)
        require(self.scope in get_args(Scope), "scope", f"be one of {get_args(Scope)}", self.scope)
        require(
            self.schedule in get_args(Schedule), "schedule", f"be one of {get_args(Schedule)}", self.schedule
        )
        require(0 <= self.begin < 1, "begin", "be in [0, 1)", self.begin)
        require(self.begin < self.end <= 1, "end", "be in (begin, 1]", self.end)

    @property
    def active(self) -> bool:
        return self.sparsity > 0

    def attach(self, net: nn.Module) -> None:
        """One-shot: prune by the weights as they are now. Gradual: attach masks that keep everything."""
        if not self.active:
            return
        for _, module in synapses(net):
            stack = stack_on(net, module, "weight")
            if stack.mask is None:
                stack.mask = Mask(original(module, "weight").detach())
        if self.schedule == "one_shot":
            self._prune(net, self.sparsity)

    def advance(self, net: nn.Module, progress: float) -> None:
        if self.active and self.schedule == "gradual":
            self._prune(net, self.at(progress))

    def at(self, progress: float) -> float:
        """The sparsity that the schedule asks for at `progress` in [0, 1]."""
        if self.schedule == "one_shot":
            return self.sparsity
        span = min(1.0, max(0.0, (progress - self.begin) / (self.end - self.begin)))
        return self.sparsity * (1 - (1 - span) ** 3)

    def widths(self, net: nn.Module) -> dict[str, int]:  # noqa: ARG002
        """Pruning changes no width; who prices a net counts its zeros."""
        return {}

    def check(self, net: nn.Module) -> None:
        """Any net will do."""

    def _prune(self, net: nn.Module, sparsity: float) -> None:
        found = [(original(module, "weight").detach(), _mask(net, module)) for _, module in synapses(net)]
        groups = [found] if self.scope == "global" else [[one] for one in found]
        for group in groups:
            rank = torch.cat([_rank(weight, mask.keep) for weight, mask in group])
            keep = keep_largest(rank, round(sparsity * rank.numel()))
            parts = keep.split([weight.numel() for weight, _ in group])
            for (weight, mask), part in zip(group, parts, strict=True):
                mask.keep = part.reshape(weight.shape) & mask.keep


def _mask(net: nn.Module, module: nn.Module) -> Mask:
    stack = stack_on(net, module, "weight")
    assert stack.mask is not None
    return stack.mask


def _rank(weight: Tensor, keep: Tensor) -> Tensor:
    """Magnitudes, flat; what is pruned already ranks below everything."""
    return torch.where(keep, weight.abs(), -1.0).flatten()


def keep_largest(rank: Tensor, drop: int) -> Tensor:
    """rank [n] -> bool [n], False at exactly `drop` of the smallest; among equals the first go."""
    if drop <= 0:
        return torch.ones_like(rank, dtype=torch.bool)
    edge = rank.kthvalue(drop).values
    gone = rank < edge
    ties = (rank == edge).nonzero().flatten()
    gone[ties[: drop - int(gone.sum())]] = True
    return ~gone
