"""Batch normalisation folded into the layer before it, so that only weights and biases are left to quantize."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from pipeline.types import require

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class FoldBatchNorm:
    """Before anything else: w <- w g / sqrt(var + eps),  b <- (b - mean) g / sqrt(var + eps) + beta.

    The statistics are those of training, so evaluation gives the same outputs. Acts on every normalisation
    that directly follows a linear or convolutional layer in its parent; fine-tuning afterwards has none.
    """

    enabled: bool = True
    family: ClassVar[Literal["prepare"]] = "prepare"

    @property
    def active(self) -> bool:
        return self.enabled

    def attach(self, net: nn.Module) -> None:
        if self.enabled:
            for parent, name, layer, norm in list(pairs(net)):
                fold(layer, norm)
                parent._modules[name] = nn.Identity()

    def advance(self, net: nn.Module, progress: float) -> None:
        """Nothing to do."""

    def widths(self, net: nn.Module) -> dict[str, int]:  # noqa: ARG002
        return {}

    def check(self, net: nn.Module) -> None:
        """Raise ValueError for a normalisation without running statistics."""
        if self.enabled:
            for _, name, _, norm in pairs(net):
                kept = norm.running_mean is not None
                require(kept, "enabled", f"be false where {name} keeps no running statistics", self.enabled)


def pairs(net: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module, _BatchNorm]]:
    """(parent, name of the normalisation, layer before it, normalisation)."""
    for parent in net.modules():
        before: nn.Module | None = None
        for name, module in parent.named_children():
            if isinstance(module, _BatchNorm) and isinstance(before, _LAYERS):
                yield parent, name, before, module
            before = module


def fold(layer: nn.Module, norm: _BatchNorm) -> None:
    """Put `norm`'s affine map, as it is in evaluation, into the weight and bias of `layer`, in place.

    Raises:
        ValueError: the layer is compressed already.
    """
    if parametrize.is_parametrized(layer):
        raise ValueError("fold_batch_norm must come before masks and quantizers.")
    weight, bias = cast(nn.Parameter, layer.weight), cast("nn.Parameter | None", layer.bias)
    mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    with torch.no_grad():
        scale = torch.rsqrt(var + norm.eps)
        scale = scale * norm.weight if norm.affine else scale
        shift = (bias - mean if bias is not None else -mean) * scale
        shift = shift + norm.bias if norm.affine else shift
        weight.mul_(scale.reshape([-1] + [1] * (weight.dim() - 1)))
        layer.bias = nn.Parameter(shift)
