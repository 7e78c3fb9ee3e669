"""Small compressed networks that fire, for the tests of this room."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.compress.attention import TableAttention
from pipeline.compress.fold import FoldBatchNorm
from pipeline.compress.plan import Plan, compress
from pipeline.compress.prune import PruneWeights
from pipeline.compress.quantize import QuantizeNeurons, QuantizeWeights
from pipeline.compress.stack import grids
from pipeline.export.codes import input_format
from pipeline.export.lower import lower
from pipeline.export.program import Accumulator, Program
from pipeline.learn.decode import RateDecode
from pipeline.nets.conv import Conv
from pipeline.nets.feedforward import FeedForward
from pipeline.nets.layered import Layered
from pipeline.nets.neurons import Leaky
from pipeline.nets.tcja import Tcja
from pipeline.types import Batch

CLASSES = 3
FLAT, MAP = (1, 4, 5), (2, 9, 8)
ATTENDED, STEPS = (2, 16, 16), 5
ATTENTION = Tcja(
    timesteps=STEPS, channels=6, hidden=12, group=1, plain_blocks=1, attention_blocks=2, kernel=3, threshold=0.4,
    init_gain=2.0,
)  # fmt: skip


@dataclass
class Model:
    net: nn.Module
    widths: dict[str, int]
    x: Tensor
    decode: RateDecode
    shape: tuple[int, int, int]

    def program(self, accumulator: Accumulator | None = None) -> Program:
        given = input_format([self.x], self.shape)
        return lower(self.net, grids(self.net), self.widths, given, len(self.x), CLASSES, accumulator)

    def batches(self, size: int = 16) -> list[Batch]:
        """The inputs in batches; the labels are the network's own answers."""
        with torch.no_grad():
            y = self.decode(self.net(self.x))
        pairs = zip(self.x.split(size, dim=1), y.split(size), strict=True)
        return [Batch(x, part) for x, part in pairs]


def currents(shape, steps=6, batch=24, seed=0, density=0.4) -> Tensor:
    """Direct currents [T, B, C, H, W] on the grid of 1/256, the same at every step."""
    generator = torch.Generator().manual_seed(seed)
    lit = torch.rand(batch, *shape, generator=generator) < density
    x = lit * torch.randint(0, 256, (batch, *shape), generator=generator) / 256
    return x.expand(steps, *x.shape)


def spikes(shape, steps=6, batch=24, seed=0, density=0.3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(steps, batch, *shape, generator=generator) < density).float()


def compressed(spec, x, weights=None, neurons=None, sparsity=0.0, seed=0) -> Model:
    """`spec` built for x, then compressed after training (there is none) and baked."""
    shape = tuple(x.shape[2:])
    net = spec.build(shape, CLASSES, seed)
    torch.manual_seed(seed)
    for module in net.modules():
        if getattr(module, "bias", None) is not None:
            nn.init.uniform_(module.bias, -0.2, 0.2)
    steps = {
        "fold": FoldBatchNorm(),
        "attention": TableAttention(),
        "weights": QuantizeWeights(**{"bits": 6, **(weights or {})}),
        "neurons": QuantizeNeurons(**{"beta": 8, "threshold": 8, "membrane": 12, **(neurons or {})}),
        "prune": PruneWeights(sparsity=sparsity),
    }
    decode, widths = compress(net, steps, Plan(), lambda epochs, report: RateDecode(CLASSES), [x])
    net.eval()
    return Model(net, dict(widths), x, decode, shape)


class Normalised:
    """A spec of conv -> batch norm -> lif -> pool -> fc -> lif, its statistics as if it had been trained."""

    def build(self, shape, classes, seed):
        torch.manual_seed(seed)
        layers = [
            ("conv1", nn.Conv2d(shape[0], 6, 3, bias=False)),
            ("bn1", nn.BatchNorm2d(6)),
            ("lif1", Leaky(0.9, 0.5)),
            ("pool1", nn.AvgPool2d(2)),
            ("flatten", nn.Flatten()),
            ("fc1", nn.Linear(6 * ((shape[1] - 2) // 2) * ((shape[2] - 2) // 2), classes)),
            ("lif2", Leaky(0.8, 0.3, reset_mechanism="zero")),
        ]
        net = Layered(layers, chunk=2)
        for value in (net.bn1.running_mean, net.bn1.bias.data):
            value.uniform_(-0.3, 0.3)
        for value in (net.bn1.running_var, net.bn1.weight.data):
            value.uniform_(0.3, 1.5)
        return net


class Row:
    """A spec of layers (name, maker) in a row, then a fully connected one with its neurons."""

    def __init__(self, *layers):
        self.layers = layers

    def build(self, shape, classes, seed):
        torch.manual_seed(seed)
        layers = [(name, make()) for name, make in self.layers]
        x = torch.zeros(1, *shape)
        for _, layer in layers:
            x = x if isinstance(layer, Leaky) else layer(x)
        last = nn.Linear(x.numel(), classes)
        return Layered(
            [*layers, ("flatten", nn.Flatten()), ("fc1", last), ("lif2", Leaky(0.5, 0.2))], chunk=2
        )


def flat(x=None, weights=None, neurons=None, sparsity=0.0, seed=0, **changes) -> Model:
    spec = FeedForward(**{"hidden": (14, 9), "threshold": 0.4, "init_gain": 2.0, "group": 2, **changes})
    return compressed(spec, currents(FLAT) if x is None else x, weights, neurons, sparsity, seed)


def convolutional(x=None, weights=None, neurons=None, sparsity=0.0, seed=0, **changes) -> Model:
    fields = {"channels": (4, 6), "kernel": 3, "padding": "same", "threshold": 0.4, "init_gain": 2.0}
    spec = Conv(**{**fields, **changes})
    return compressed(spec, currents(MAP) if x is None else x, weights, neurons, sparsity, seed)


class Loud:
    """The spec with attention weights large enough that the gates differ, and statistics that let neurons fire."""

    def build(self, shape, classes, seed):
        net = ATTENTION.build(shape, classes, seed)
        torch.manual_seed(seed)
        for module in net.modules():
            if isinstance(module, nn.Conv1d):
                module.weight.data *= 8
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.02, 0.1)
                module.bias.data.uniform_(0.0, 0.3)
        return net


def attending(weights=None) -> Model:
    """Two blocks with attention after one without, and two dense layers."""
    return compressed(Loud(), spikes(ATTENDED, steps=STEPS, batch=16, density=0.4), weights)
