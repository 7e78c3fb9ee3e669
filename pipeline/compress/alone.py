"""What each layer loses when it alone is compressed: nothing is trained, the other layers stay as they are.

Ours; the question is that of layer-wise sensitivity in mixed precision (Dong et al. 2019, HAWQ, ask it of the Hessian),
answered here by the accuracy itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from pipeline.compress.quantizers import Uniform
from pipeline.compress.stack import synapses

BITS = (2, 3, 4)
SPARSITIES = (0.5, 0.8, 0.9)


def treatments(weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(what was done, the weight after it): fixed point at `BITS`, the smallest `SPARSITIES` set to zero."""
    signed = bool((weight < 0).any())
    for bits in BITS:
        quantizer = Uniform(bits, signed=signed)
        quantizer.eval()
        quantizer.fit(weight, None)
        yield f"{bits} bits", quantizer(weight).detach()
    for share in SPARSITIES:
        smallest = weight.abs().flatten().argsort()[: int(share * weight.numel())]
        kept = torch.ones(weight.numel(), dtype=weight.dtype)
        kept[smallest] = 0.0
        yield f"{share:.0%} zeros", weight * kept.view_as(weight)


def count(net: nn.Module) -> int:
    """How often `losses` evaluates the network."""
    return 1 + (len(BITS) + len(SPARSITIES)) * sum(1 for _ in synapses(net))


@torch.no_grad()
def losses(net: nn.Module, accuracy: Callable[[], float]) -> dict[str, dict[str, float]]:
    """layer -> what was done to it -> accuracy lost (a fraction; below 0 where it gained). `net` ends as it was."""
    before = accuracy()
    found: dict[str, dict[str, float]] = {}
    for name, module in synapses(net):
        weight = module.weight
        assert isinstance(weight, Tensor)
        kept = weight.detach().clone()
        found[name] = {}
        try:
            for what, changed in treatments(kept):
                weight.copy_(changed)
                found[name][what] = before - accuracy()
        finally:
            weight.copy_(kept)
    return found
