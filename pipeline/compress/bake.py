"""Making a compressed net plain again: weights that are masked and on the grid, no parametrizations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.compress.quantizers import Membrane
from pipeline.compress.stack import bounds_key, full_name, grid_key, grids, ledger, record, stacks


class Attachable(Protocol):
    def attach(self, net: nn.Module) -> None: ...


def bake(net: nn.Module) -> nn.Module:
    """Replace every compressed tensor by its evaluation-mode value, in place; the outputs do not change.

    Stochastic rounding is drawn once, here. Membrane formats stay: they act at run time.
    """
    training = net.training
    net.eval()
    for name, module, tensor, stack in list(stacks(net)):
        if stack.quantizer is not None:
            record(net, name, stack.quantizer.grid())
        parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
    for name, module in list(net.named_modules()):
        if isinstance(getattr(module, "state_quant", None), Membrane):
            record(net, full_name(name, "mem"), module.state_quant.grid())
    book = ledger(net)
    for handle in book.handles:
        handle.remove()
    book.handles = []
    net.train(training)
    return net


def restore(net: nn.Module, steps: Mapping[str, Attachable], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Rebuild a compressed net from its config and the state_dict of the baked net, in place.

    `net` is freshly built from the same net config, `steps` are the same compression steps. Grids and
    membrane formats come from `tensors`, and so does which steps the plan had left out.

    Raises:
        RuntimeError: a key is missing or unexpected, or a shape differs; the message names them.
    """
    for step in steps.values():
        step.attach(net)
    bake(net)
    for name, grid in grids(net).items():
        if grid_key(name) not in tensors:
            _forget(net, name)
        else:  # a grid per channel has a shape of its own
            record(net, name, grid._replace(step=torch.empty_like(tensors[grid_key(name)])))
    state = {name: value for name, value in net.state_dict().items() if not value.numel()}
    net.load_state_dict({**state, **tensors}, strict=True)
    return net


def _forget(net: nn.Module, name: str) -> None:
    """An isolated plan left this tensor alone: so does the rebuilt net."""
    for key in (grid_key(name), bounds_key(name)):
        delattr(net, key)
    owner, _, tensor = name.rpartition(".")
    if tensor == "mem":
        ledger(net).rewinds.pop(name, None)
        neuron = net.get_submodule(owner)
        del neuron.state_quant
        neuron.state_quant = False  # type: ignore[assignment]


def sparsity(net: nn.Module) -> float:
    """Share of zeros among all weights of a baked net with two or more dimensions."""
    weights = [p for p in net.parameters() if p.dim() >= 2]
    total = sum(w.numel() for w in weights)
    return 1 - sum(int(torch.count_nonzero(w)) for w in weights) / total if total else 0.0
