"""The artificial network that a spiking one is measured against: the same layers, ReLUs of 8 bits, one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from pipeline.nets.layered import Layered
from pipeline.nets.neurons import Leaky
from pipeline.types import NetSpec

STEP, HIGHEST = 1 / 16, 255 / 16


class QuantizedReLU(nn.Module):
    """8 bits without a sign on steps of 1/16, up to 15.9375; the gradient goes straight through inside."""

    def forward(self, x: Tensor) -> Tensor:
        held = x.clamp(0, HIGHEST)
        return held + ((held / STEP).round() * STEP - held).detach()


class Ann(Layered):
    """The layers of a spiking network with ReLUs: [T, B, ...] -> [1, B, N], of the input's mean over time."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.mean(0, keepdim=True))


@dataclass(frozen=True)
class AnnOf:
    """The network that `spec` builds, its neurons replaced by ReLUs, the last ones by nothing.

    Its synapses multiply and accumulate (its inputs are numbers of up to 8 bits), once per sample.
    """

    spec: NetSpec

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
        """
        Raises:
            ValueError: the spec builds no row of layers with snnTorch neurons.
        """
        net = self.spec.build(shape, classes, seed)
        if not isinstance(net, Layered):
            raise ValueError(f"spec must build a row of layers, but {type(self.spec).__name__} does not.")
        names = cast(list[str], net.order)
        layers = [(name, net.get_submodule(name)) for name in names]
        last = max(i for i, (_, layer) in enumerate(layers) if isinstance(layer, Leaky))
        return Ann(
            [
                (
                    name,
                    (nn.Identity() if i == last else QuantizedReLU()) if isinstance(layer, Leaky) else layer,
                )
                for i, (name, layer) in enumerate(layers)
            ]
        )
