"""Making a compressed net plain again: weights that are masked and on the grid, no parametrizations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.compress.compact import shape_like
from pipeline.compress.snn_neurons import release, state_formats
from pipeline.compress.stack import bounds_key, grid_key, grids, ledger, record, stacks
from pipeline.compress.stdp_neurons import held, hold, is_stdp, numerics, settle_reset


class Attachable(Protocol):
    @property
    def family(self) -> str: ...
    def attach(self, net: nn.Module) -> None: ...


def bake(net: nn.Module) -> nn.Module:
    """Replace every compressed tensor by its evaluation-mode value, in place; the outputs do not change.

    Stochastic rounding is drawn once, here. State formats stay: they act at run time.
    """
    training = net.training
    net.eval()
    book = ledger(net)
    finish = [before() for before in book.finish]
    book.finish = []
    for name, module, tensor, stack in list(stacks(net)):
        if stack.quantizer is not None:
            record(net, name, stack.quantizer.grid())
        parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
    for after in finish:
        after()
    for name, _, state in state_formats(net):
        record(net, name, state.grid())
    for name, grid in {**book.constants, **(held(net) if is_stdp(net) else {})}.items():
        record(net, name, grid)
    for handle in book.handles:
        handle.remove()
    book.handles, book.places = [], []
    net.train(training)
    return net


def restore(net: nn.Module, steps: Mapping[str, Attachable], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Rebuild a compressed net from its config and the state_dict of the baked net, in place.

    `net` is freshly built from the same net config, `steps` are the same compression steps. Grids and state
    formats come from `tensors`, and so does which steps the plan had left out.

    Raises:
        RuntimeError: a key is missing or unexpected, or a shape differs; the message names them.
    """
    spec = getattr(net, "spec", None)
    for step in sorted(steps.values(), key=lambda step: step.family != "prepare"):
        step.attach(net)
    bake(net)
    if is_stdp(net) and not all(grid_key(name) in tensors for name in ledger(net).constants):
        net.__dict__["spec"] = spec
    shape_like(net, tensors)
    for name, grid in grids(net).items():
        if grid_key(name) not in tensors:
            _forget(net, name)
        else:  # a grid per channel has a shape of its own
            record(net, name, grid._replace(step=torch.empty_like(tensors[grid_key(name)])))
    state = {name: value for name, value in net.state_dict().items() if not value.numel()}
    net.load_state_dict({**state, **tensors}, strict=True)
    if is_stdp(net):
        for name, (_, _, _, rounding) in list(numerics(net).items()):
            hold(net, name, grids(net)[name], rounding)
        if "membrane" in numerics(net):
            settle_reset(net, cast(Any, spec).reset_mv)
    return net


def _forget(net: nn.Module, name: str) -> None:
    """An isolated plan left this tensor alone: so does the rebuilt net."""
    for key in (grid_key(name), bounds_key(name)):
        delattr(net, key)
    if is_stdp(net):
        numerics(net).pop(name, None)
        return
    for found, neuron, _ in list(state_formats(net)):
        if found == name:
            ledger(net).rewinds.pop(name, None)
            release(neuron)


def sparsity(net: nn.Module) -> float:
    """Share of zeros among all weights of a baked net with two or more dimensions."""
    weights = [p for p in net.parameters() if p.dim() >= 2]
    total = sum(w.numel() for w in weights)
    return 1 - sum(int(torch.count_nonzero(w)) for w in weights) / total if total else 0.0
