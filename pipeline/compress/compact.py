"""Taking pruned channels and neurons out of a network, so that what is left is a smaller network and nothing else.

A mask alone saves little on hardware: a neuron without inputs still has a state that is updated at every step, and
encodings of sparse weights still spend bits on its empty row. Taken out, it costs nothing anywhere, and whoever
measures, prices, exports or proves the network sees an ordinary one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch
from snntorch import SpikingNeuron
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.compress.stack import full_name, grid_key, grids, record, synapses
from pipeline.compress.stdp_neurons import is_stdp

_SHAPELESS = (nn.Flatten, nn.MaxPool2d, nn.AvgPool2d, nn.Identity)
_OF_CHANNELS = ("weight", "bias", "running_mean", "running_var")


class Hop(NamedTuple):
    """A layer of a chain, what lies between, and the next layer."""

    name: str
    layer: nn.Module
    between: tuple[nn.Module, ...]
    reader: nn.Module


class Link(NamedTuple):
    """A layer of a chain, and the layer that alone reads from it."""

    name: str
    layer: nn.Module
    norms: tuple[nn.Module, ...]
    """Normalisations between the two: one scale and shift per channel."""
    reader: nn.Module

    @property
    def channels(self) -> int:
        return len(cast(Tensor, self.layer.weight))

    def heard(self) -> Tensor:
        """bool [channels]: those of which the reader has a weight that is not zero."""
        read = cast(Tensor, self.reader.weight).detach()
        inputs = read.transpose(0, 1).reshape(
            self.channels, -1
        )  # a flattened map: height x width rows a channel
        return inputs.ne(0).any(1)

    def cut(self, net: nn.Module, keep: Tensor) -> None:
        """Leave the channels `keep` (int64 [k]), in place, of both layers and of what lies between."""
        count = self.channels
        for module in (self.layer, *self.norms):
            for name in _OF_CHANNELS:
                if isinstance(getattr(module, name, None), Tensor):
                    _replace(module, name, cast(Tensor, getattr(module, name))[keep])
        if isinstance(self.layer, nn.Linear):
            self.layer.out_features = len(keep)
        else:
            cast(Any, self.layer).out_channels = len(keep)
        for norm in self.norms:
            cast(Any, norm).num_features = len(keep)
        weight = cast(Tensor, self.reader.weight)
        inputs = weight.shape[1] // count
        taken = (keep[:, None] * inputs + torch.arange(inputs)).flatten()
        _replace(self.reader, "weight", weight[:, taken])
        if isinstance(self.reader, nn.Linear):
            self.reader.in_features = len(taken)
        else:
            cast(Any, self.reader).in_channels = len(taken)
        for name, grid in grids(net).items():
            if name in (full_name(self.name, "weight"), full_name(self.name, "bias")) and grid.step.dim():
                record(net, name, grid._replace(step=grid.step[keep]))


def hops(net: nn.Module) -> Iterator[Hop]:
    """From each layer of a chain to the next one, in order. Layers inside of modules (attention) are between."""
    if not isinstance(net, nn.Sequential):
        return
    names = {module: name for name, module in synapses(net)}
    before: nn.Module | None = None
    between: list[nn.Module] = []
    for module in net:
        if module not in names:
            between.append(module)
            continue
        if before is not None:
            yield Hop(names[before], before, tuple(between), module)
        before, between = module, []


def links(net: nn.Module) -> Iterator[Link]:
    """Layers of a chain whose channels nobody reads but the next layer, in order; the last layer's are the classes.

    Attention and neurons with constants of their own per channel end a link: such layers stay as they are.
    """
    for hop in hops(net):
        norms = tuple(module for module in hop.between if isinstance(module, _BatchNorm))
        alone = all(module in norms or _passes(module) for module in hop.between)
        if alone and _plain(hop.layer) and _plain(hop.reader):
            yield Link(hop.name, hop.layer, norms, hop.reader)


def compact(net: nn.Module) -> bool:
    """Take out what is pruned whole, in place, of a baked net; whether there was something. Outputs do not change.

    A channel goes when its reader has no weight for it; a neuron of an STDP network when it has no weight at all. One
    stays where all would go.
    """
    if is_stdp(net):
        alive = cast(Tensor, net.weight).detach().ne(0).any(0)
        if bool(alive.all()):
            return False
        _keep_neurons(net, _some(alive))
        return True
    found = False
    for link in list(links(net)):
        heard = link.heard()
        if not bool(heard.all()):
            link.cut(net, _some(heard))
            found = True
    return found


def shape_like(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a freshly built net the numbers of channels that a compacted one's state_dict has; values do not matter."""
    if is_stdp(net):
        count = tensors["weight"].shape[1] if "weight" in tensors else len(cast(Tensor, net.theta))
        if count < len(cast(Tensor, net.theta)):
            _keep_neurons(net, torch.arange(count))
        return
    for link in list(links(net)):
        stored = tensors.get(full_name(link.name, "weight"))
        if stored is not None and stored.dim() and len(stored) < link.channels:
            link.cut(net, torch.arange(len(stored)))


def smallest(net: nn.Module) -> None:
    """Leave one channel a layer, the least that pruning may leave, in place: for what a net cannot undercut."""
    if is_stdp(net):
        _keep_neurons(net, torch.arange(1))
    for link in list(links(net)):
        link.cut(net, torch.arange(1))


def _keep_neurons(net: nn.Module, keep: Tensor) -> None:
    spec: Any = net.spec
    net.spec = dataclasses.replace(spec, neurons=len(keep))
    _replace(net, "weight", cast(Tensor, net.weight)[:, keep])
    net.theta = cast(Tensor, net.theta)[keep].clone()
    step = grids(net)["weight"].step if grid_key("weight") in dict(net.named_buffers(recurse=False)) else None
    if step is not None and step.dim() and step.shape[-1] > 1:
        record(net, "weight", grids(net)["weight"]._replace(step=step[..., keep]))


def _some(alive: Tensor) -> Tensor:
    """Indices of what is alive; the first where nothing is."""
    found = alive.nonzero().flatten()
    return found if len(found) else torch.zeros(1, dtype=torch.int64)


def _plain(layer: nn.Module) -> bool:
    linear = isinstance(layer, nn.Linear)
    return linear or (isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == 1)


def _passes(module: nn.Module) -> bool:
    """Whether channels go through a module one by one, and it has nothing that is told apart by channel."""
    if isinstance(module, SpikingNeuron):
        return all(tensor.numel() <= 1 for tensor in _tensors(module))
    return isinstance(module, _SHAPELESS) or (type(module).__name__ == "Dropout" and not _tensors(module))


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    held = value.detach().clone().contiguous()
    if isinstance(getattr(module, name), nn.Parameter):
        grows = getattr(module, name).requires_grad
        setattr(module, name, nn.Parameter(held, requires_grad=grows))
    else:
        setattr(module, name, held)
