"""Batch normalisation folded into the layer before it, so that only weights and biases are left to quantize."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from pipeline.compress.quantize import EXPONENT_BITS
from pipeline.compress.stack import full_name, ledger, original, record, stack_of
from pipeline.types import FLOAT_BITS, require

When = Literal["before", "after"]
Steps = Literal["free", "power_of_two"]
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class FoldBatchNorm:
    """w <- w g / sqrt(var + eps),  b <- (b - mean) g / sqrt(var + eps) + beta: no normalisation is left.

    The statistics are those of training, so evaluation gives the same outputs. Acts on every normalisation
    that directly follows a linear or convolutional layer in its parent.

    Args:
        enabled: false leaves the normalisations as they are.
        when: before anything else, so that what is masked and quantized is what will run and fine-tuning has no
            normalisation; or after fine-tuning, when the net is baked. Until then the normalisation follows the
            compressed weights: the statistics of a pruned or ternary layer are its own, and no layer falls silent
            because its weights were (Jacob et al. 2018, section 3.2; "signal collapse", Saikumar & Varghese 2024).
            What is masked and quantized are then the weights as trained, and each output channel gets a step of
            its own, stored beside the weights (`widths`), the codes staying what they are.
            A float network (no quantizer) is the same either way.
        steps: of the channels, with `after`. Free ones are floats, and no integer machine repeats them exactly.
            power_of_two: from attaching on the normalisation scales by powers of two, and a step is a shift. What is
            left of each scale, in [0.7, 1.42], goes into the weights before they are quantized, so that outputs stay;
            while tuning the scale stays at the nearest power of two (in the logarithm, gradients straight through).
            Ours, after the shift-based normalisation of Courbariaux et al. 2016; the weights' own step must be a power
            of two, too.
    """

    enabled: bool = True
    when: When = "before"
    steps: Steps = "free"
    family: ClassVar[Literal["prepare"]] = "prepare"

    def __post_init__(self) -> None:
        require(self.when in get_args(When), "when", f"be one of {get_args(When)}", self.when)
        require(self.steps in get_args(Steps), "steps", f"be one of {get_args(Steps)}", self.steps)

    @property
    def active(self) -> bool:
        return self.enabled

    def attach(self, net: nn.Module) -> None:
        if not self.enabled:
            return
        names = {module: name for name, module in net.named_modules()}
        for parent, name, layer, norm in list(pairs(net)):
            if self.when == "before":
                fold(layer, norm)
                parent._modules[name] = nn.Identity()
            else:
                _give_bias(layer)
                if self._shifts:
                    _balance(layer, norm)
                    parametrize.register_parametrization(norm, "weight", Shift(norm))
                finish = partial(_fold_baked, net, names[layer], parent, name, self._shifts)
                ledger(net).finish.append(finish)
                ledger(net).steps[full_name(names[layer], "step")] = self._step_bits

    def advance(self, net: nn.Module, progress: float) -> None:
        """Nothing to do."""

    def widths(self, net: nn.Module) -> dict[str, int]:
        """After: the steps of the channels of a layer that is quantized."""
        if not self.enabled or self.when == "before":
            return {}
        names = {module: name for name, module in net.named_modules()}
        found = {}
        for _, _, layer, _ in pairs(net):
            stack = stack_of(layer, "weight")
            if stack is not None and stack.quantizer is not None:
                found[full_name(names[layer], "step")] = self._step_bits
        return found

    def check(self, net: nn.Module) -> None:
        """Raise ValueError for a normalisation without running statistics."""
        if self.enabled:
            for _, name, _, norm in pairs(net):
                kept = norm.running_mean is not None
                require(kept, "enabled", f"be false where {name} keeps no running statistics", self.enabled)
                learns = norm.affine or not self._shifts
                require(learns, "steps", f"be free where {name} has no weight of its own", self.steps)

    @property
    def _shifts(self) -> bool:
        return self.steps == "power_of_two"

    @property
    def _step_bits(self) -> int:
        return EXPONENT_BITS if self._shifts else FLOAT_BITS


class Shift(nn.Module):
    """A normalisation's weight g -> the g that makes its scale in evaluation, g / sqrt(var + eps), a power of two."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self._norm = [norm]  # not a child: it is this module's parent

    def forward(self, weight: Tensor) -> Tensor:
        (norm,) = self._norm
        spread = torch.sqrt(cast(Tensor, norm.running_var) + norm.eps)
        with torch.no_grad():
            shifted = nearest_shift(weight / spread) * spread
        return weight + (shifted - weight).detach()

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is assigned is the weight that tuning moves."""
        return weight


def _balance(layer: nn.Module, norm: _BatchNorm) -> None:
    """Move into the weights what keeps the normalisation's scale from being a power of two; the outputs stay."""
    with torch.no_grad():
        scale, _ = affine(norm, None)
        shift = nearest_shift(scale)
        rest = torch.where(shift == 0, 1.0, scale / shift)
        weight = original(layer, "weight")
        weight.mul_(over_channels(rest, weight))
        original(layer, "bias").mul_(rest)
        mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        mean.mul_(rest)
        var.mul_(rest * rest)
        norm.weight.copy_(shift * torch.sqrt(var + norm.eps))


def nearest_shift(scale: Tensor) -> Tensor:
    """Each nonzero entry to the power of two that is nearest in the logarithm, its sign kept; 0 stays 0."""
    size = scale.abs().clamp_min(torch.finfo(scale.dtype).tiny)
    return torch.exp2(torch.round(torch.log2(size))) * scale.sign()


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
    with torch.no_grad():
        scale, shift = affine(norm, bias)
        weight.mul_(over_channels(scale, weight))
        layer.bias = nn.Parameter(shift)


def affine(norm: _BatchNorm, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """(scale, shift), [C] each: in evaluation `norm` makes scale * sums + shift of a layer's sums (without `bias`)."""
    mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = torch.rsqrt(var + norm.eps)
    scale = scale * norm.weight if norm.affine else scale
    shift = (bias - mean if bias is not None else -mean) * scale
    return scale, shift + norm.bias if norm.affine else shift


def over_channels(scale: Tensor, weight: Tensor) -> Tensor:
    """[C] -> [C, 1, ...], to be multiplied with `weight`."""
    return scale.reshape([-1] + [1] * (weight.dim() - 1))


def _give_bias(layer: nn.Module) -> None:
    """A place for the shift that folding will leave: a quantizer can be attached to it, and no training moves it."""
    if layer.bias is None:
        weight = cast(Tensor, layer.weight)
        layer.bias = nn.Parameter(weight.new_zeros(len(weight)), requires_grad=False)


def _fold_baked(
    net: nn.Module, layer_name: str, parent: nn.Module, name: str, shifts: bool
) -> Callable[[], None]:
    """Before baking: the shift becomes the bias, on its grid. What is returned comes after: the scale and the steps."""
    layer, norm = net.get_submodule(layer_name), cast(_BatchNorm, parent._modules[name])
    stacked = stack_of(layer, "weight")
    quantizer = None if stacked is None else stacked.quantizer
    with torch.no_grad():
        bias = original(layer, "bias")
        scale, shift = affine(norm, bias)
        if shifts:
            scale = nearest_shift(scale)
        bias.copy_(shift)
        stack = stack_of(layer, "bias")
        if stack is not None and stack.quantizer is not None:
            stack.quantizer.fit(shift, stack.kept)
    parent._modules[name] = nn.Identity()

    def scaled() -> None:
        weight = cast(nn.Parameter, layer.weight)
        factor = over_channels(scale.detach(), weight)
        with torch.no_grad():
            if quantizer is None:
                weight.mul_(factor)
                return
            grid = quantizer.grid()
            codes = torch.round(weight / grid.step) * factor.sign()
            size = factor.abs()
            step = grid.step * torch.where(
                size > 0, size, 1.0
            )  # a channel that is scaled by 0 has codes of 0
            weight.copy_(codes.clamp(grid.low, grid.high) * step)
            record(net, full_name(layer_name, "weight"), grid._replace(step=step))

    return scaled
