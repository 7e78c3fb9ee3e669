"""Magnitude pruning: which weights, channels or weights of a block are zero, for good.

A mask only ever shrinks: what was pruned stays pruned, so a gradual schedule and a fixed mask are one thing.
Exactly ``round(sparsity * count)`` weights go, ties broken by a fixed order, so a sparsity is the same number on
every machine. On a coarse grid most weights are ties, and an order by position would empty the first rows whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from pipeline.compress.attention import is_attention
from pipeline.compress.compact import Hop, hops
from pipeline.compress.fold import pairs
from pipeline.compress.stack import Mask, original, stack_on, synapses
from pipeline.compress.stdp_neurons import is_stdp
from pipeline.types import require

Scope = Literal["global", "layer"]
Schedule = Literal["one_shot", "gradual"]
Score = Literal["magnitude", "lamp"]
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class PruneWeights:
    """Set the smallest weights of the synaptic layers to zero.

    Args:
        sparsity: share of zeros at the end, in [0, 1); 0 is off.
        scope: global ranks all layers together (layers with small weights lose more); layer prunes each by
            the same share.
        score: by which weights are ranked together: their magnitude, or lamp (Lee et al. 2021, eq. 1), the share of
            a weight's square in the squares of those of its layer that are not smaller. Magnitudes of two layers
            compare badly where a normalisation or a threshold makes a layer's scale irrelevant: whole layers may
            vanish. lamp is free of scale and leaves each layer at least its largest weight. Only scope=global and
            structure=element rank layers together by it.
        schedule: one_shot masks once; gradual raises the sparsity during training by the cubic rule
            s(p) = sparsity * (1 - (1 - (p - begin) / (end - begin))^3)  (Zhu & Gupta 2017, eq. 1).
        structure: element prunes single weights; channel whole output channels (neurons; not the last layer's,
            which are the classes), with their biases and what the next layer reads from them, and has them taken
            out of a chain of layers when the net is baked (`compact`). Attention's own layers have none to lose, and
            channels that it hears stay in place, masked: it has weights for neighbours among them.
            N:M keeps the N largest of every M weights in a row of inputs (2:4), and its sparsity is 1 - N / M
            whatever `sparsity` says above 0; what is left at a row's end is a block, too, and keeps as many.
        begin, end: the schedule's span as shares of the training's progress; end < 1 leaves time to recover.
    """

    sparsity: float = 0.5
    scope: Scope = "global"
    schedule: Schedule = "one_shot"
    structure: str = "element"
    begin: float = 0.0
    end: float = 0.75
    score: Score = "magnitude"
    family: ClassVar[Literal["prune", "quantize"]] = "prune"

    def __post_init__(self) -> None:
        require(0 <= self.sparsity < 1, "sparsity", "be in [0, 1)", self.sparsity)
        require(self.scope in get_args(Scope), "scope", f"be one of {get_args(Scope)}", self.scope)
        require(
            self.schedule in get_args(Schedule), "schedule", f"be one of {get_args(Schedule)}", self.schedule
        )
        rule = "be element, channel or N:M with 0 < N < M, as 2:4"
        require(
            self.structure in ("element", "channel") or _blocks(self.structure) is not None,
            "structure",
            rule,
            self.structure,
        )
        require(self.score in get_args(Score), "score", f"be one of {get_args(Score)}", self.score)
        together = self.scope == "global" and self.structure == "element"
        rule = "be magnitude unless scope=global and structure=element"
        require(together or self.score == "magnitude", "score", rule, self.score)
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
            mask_of(net, module)
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
        layers = self._layers(net)
        blocks = _blocks(self.structure)
        if blocks is not None:
            for layer in layers:
                keep_blocks(layer, *blocks, share=sparsity / self.sparsity, columns=is_stdp(net))
        elif self.structure == "channel":
            prune_channels(net, layers, sparsity, self.scope == "global")
        else:
            for group in [layers] if self.scope == "global" else [[one] for one in layers]:
                prune_elements(group, sparsity, self.score)

    def _layers(self, net: nn.Module) -> list[Layer]:
        """What is ranked, and the masks that follow from it."""
        return [
            Layer(original(module, "weight").detach(), mask_of(net, module)) for _, module in synapses(net)
        ]


class Layer(NamedTuple):
    """A weight [outputs, inputs...] as it is stored, and its mask."""

    weight: Tensor
    mask: Mask


def mask_of(net: nn.Module, module: nn.Module, tensor: str = "weight") -> Mask:
    """The mask of module.tensor, attached if it is not there yet."""
    stack = stack_on(net, module, tensor)
    if stack.mask is None:
        stack.mask = Mask(original(module, tensor).detach())
    return stack.mask


def prune_elements(group: Sequence[Layer], sparsity: float, score: Score = "magnitude") -> None:
    """Of all weights of the group together, the smallest `sparsity`."""
    scored = lamp if score == "lamp" else torch.abs
    rank = torch.cat([_rank(scored(layer.weight), layer.mask.keep) for layer in group])
    keep = keep_largest(rank, round(sparsity * rank.numel()))
    for layer, part in zip(group, keep.split([layer.weight.numel() for layer in group]), strict=True):
        layer.mask.keep = part.reshape(layer.weight.shape) & layer.mask.keep


def lamp(weight: Tensor) -> Tensor:
    """Of each weight w the score w^2 / (sum of v^2 over all v of the layer with |v| >= |w|), in (0, 1]; 0 for 0.

    Lee et al. 2021 (arXiv 2010.07611), eq. 1. Equal magnitudes have an order of their own there; here they share one
    score, that of the first of them.
    """
    squares = weight.detach().double().square().flatten()
    ordered, order = squares.sort()
    rest = ordered.flip(0).cumsum(0).flip(0)
    first = torch.searchsorted(ordered, ordered)  # equals share the sum of the first
    scores = torch.empty_like(squares)
    scores[order] = ordered / rest[first].clamp_min(torch.finfo(torch.float64).tiny)
    return scores.reshape(weight.shape)


def keep_blocks(layer: Layer, most: int, block: int, share: float, columns: bool = False) -> None:
    """Of every `block` weights in a row of inputs keep the `most` largest; `share` of the way there.

    columns: the weight is [inputs, neurons], an STDP network's, and a row of inputs is one of its columns.
    """
    drop = round(share * (block - most))
    size = torch.where(layer.mask.keep, layer.weight.abs(), -1.0)
    rows = size.t() if columns else size.reshape(len(size), -1)
    width = rows.shape[1]
    # What fills up the last block would be the first to go.
    padded = nn.functional.pad(rows, (0, -width % block), value=-torch.inf).reshape(len(rows), -1, block)
    order = padded.argsort(dim=-1, stable=True).argsort(dim=-1, stable=True)
    keep = (order >= drop).reshape(len(rows), -1)[:, :width]
    layer.mask.keep = (keep.t() if columns else keep.reshape(size.shape)) & layer.mask.keep


def prune_channels(net: nn.Module, layers: Sequence[Layer], sparsity: float, together: bool) -> None:
    """Remove the output channels with the smallest root mean square, at least one stays in each layer."""
    if is_stdp(net):  # [inputs, neurons]: every column is a neuron, and none is a class yet
        (layer,) = layers
        rank = torch.where(layer.mask.keep.any(0), layer.weight.square().mean(0).sqrt(), -1.0)
        keep = keep_largest(rank, round(sparsity * len(rank)))
        layer.mask.keep = layer.mask.keep & keep
        return
    of = {module: layer for (_, module), layer in zip(synapses(net), layers, strict=True)}
    gates = {part for module in net.modules() if is_attention(module) for part in module.modules()}
    inner = [(module, layer) for module, layer in of.items() if module not in gates][:-1]
    ranks = [_loudness(layer) for _, layer in inner]
    if together and ranks:
        joined = keep_largest(torch.cat(ranks), round(sparsity * sum(map(len, ranks))))
        keeps = list(joined.split([len(rank) for rank in ranks]))
    else:
        keeps = [keep_largest(rank, round(sparsity * len(rank))) for rank in ranks]
    normed = {layer for _, _, layer, _ in pairs(net)}
    following = {hop.layer: hop for hop in hops(net)}
    for (module, layer), keep, rank in zip(inner, keeps, ranks, strict=True):
        if not bool(keep.any()):
            keep = torch.arange(len(rank), device=rank.device) == rank.argmax()
        layer.mask.keep = layer.mask.keep & keep.reshape([-1] + [1] * (layer.weight.dim() - 1))
        # Before a normalisation the bias is where folding puts its shift: masked, a channel that attention hears
        # would speak while tuning and be silent once baked.
        if module not in normed and isinstance(getattr(module, "bias", None), Tensor):
            mask_of(net, module, "bias").keep = keep.clone()
        if module in following:
            _unread(keep, following[module], of)


def _loudness(layer: Layer) -> Tensor:
    """The root mean square of each output channel; what is gone already ranks below everything."""
    size = layer.weight.reshape(len(layer.weight), -1).square().mean(1).sqrt()
    return torch.where(layer.mask.keep.reshape(len(size), -1).any(1), size, -1.0)


def _unread(keep: Tensor, hop: Hop, of: Mapping[nn.Module, Layer]) -> None:
    """Nobody speaks on removed channels: what the next layer of a chain reads from them goes, too.

    Of an attention on the way, so does what its convolution over channels reads from them and says to them. The other
    one slides along the channels, all of them by the same weights, and stays whole.
    """
    for module in hop.between:
        if is_attention(module):
            mixing = of[cast(Any, module).channel]
            mixing.mask.keep = mixing.mask.keep & (keep[:, None] & keep)[..., None]
        elif any(True for _ in synapses(module)):
            return  # what it makes of the channels is its own affair
    following = of[hop.reader]
    inputs = following.weight.shape[1]
    if inputs % len(keep) == 0:  # a flattened map has height x width inputs per channel
        heard = keep.repeat_interleave(inputs // len(keep))
        shape = [1, inputs] + [1] * (following.weight.dim() - 2)
        following.mask.keep = following.mask.keep & heard.reshape(shape)


def _blocks(structure: str) -> tuple[int, int] | None:
    most, _, block = structure.partition(":")
    if not (most.isdigit() and block.isdigit() and 0 < int(most) < int(block)):
        return None
    return int(most), int(block)


def _rank(score: Tensor, keep: Tensor) -> Tensor:
    """Scores, flat; what is pruned already ranks below everything."""
    return torch.where(keep, score, -1.0).flatten()


def keep_largest(rank: Tensor, drop: int) -> Tensor:
    """rank [n] -> bool [n], False at exactly `drop` of the smallest; equals go spread over all positions.

    The spread is the golden ratio's sequence: any number of its first terms is even, and no row or column is in step.
    """
    if drop <= 0:
        return torch.ones_like(rank, dtype=torch.bool)
    edge = rank.kthvalue(drop).values
    gone = rank < edge
    ties = (rank == edge).nonzero().flatten()
    turn = (torch.arange(len(ties), dtype=torch.float64) * GOLDEN % 1.0).argsort(stable=True).to(ties.device)
    gone[ties[turn[: drop - int(gone.sum())]]] = True
    return ~gone
