"""One parametrization per tensor that holds a quantizer and a mask, and reads them once per forward.

`torch.nn.utils.parametrize` makes ``module.weight`` a property; behind it a `Stack` computes
``mask * quantizer(original)``. Mask and quantizer may be attached in either order: the mask always acts last
(0 is then 0 for every quantizer, binary too) and the quantizer may leave pruned entries out when it
calibrates. Whatever is written to the original, in place or by assignment, is read masked and on the grid.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from pipeline.compress.at_once import Task, fits, masked, together
from pipeline.compress.calibrate import Grid
from pipeline.compress.kernels import Job

_LEDGER = "_compression"
_GRID = "grid:"
_BOUNDS = ":bounds"
_NORMALISATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


class Quantizer(nn.Module):
    """What a `Stack` needs of a quantizer."""

    def fit(self, x: Tensor, kept: Tensor | None) -> None:
        """Calibrate on the values x; `kept` marks the entries that are not pruned."""
        raise NotImplementedError

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """x on the grid, and 0 where `kept` is False: masking last is masking first, and safe for binary."""
        raise NotImplementedError

    def job(self, x: Tensor, kept: Tensor | None = None) -> Task | None:  # noqa: ARG002
        """What `forward` would do to x, for the kernel that does all tensors of a net together; None: it cannot."""
        return None

    def grid(self) -> Grid:
        raise NotImplementedError


class Mask(nn.Module):
    """Which entries survive; the buffer `keep` is bool, of the weight's shape."""

    keep: Tensor

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", torch.ones_like(like, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        return masked(x, self.keep)


class Stack(nn.Module):
    """``mask * quantizer(x)``; either may be absent."""

    def __init__(self) -> None:
        super().__init__()
        self.quantizer: Quantizer | None = None
        self.mask: Mask | None = None
        self.ready: Tensor | None = None
        """While the net runs: the outcome, computed with those of its other tensors before the forward."""

    @property
    def kept(self) -> Tensor | None:
        return None if self.mask is None else self.mask.keep

    def job(self, x: Tensor) -> Task | None:
        """What is to be done to x, where one kernel can do it."""
        if not fits(x):
            return None
        if self.quantizer is not None:
            return self.quantizer.job(x, self.kept)
        return None if self.mask is None else Job(keep=self.mask.keep)

    def forward(self, x: Tensor) -> Tensor:
        if self.ready is not None:
            return self.ready
        quantizer, mask = self.quantizer, self.mask
        # Not through Module.__call__: nothing hooks these, and a small net's step has few microseconds to spare.
        if quantizer is not None:
            return quantizer.forward(x, None if mask is None else mask.keep)
        return x if mask is None else mask.forward(x)

    def right_inverse(self, x: Tensor) -> Tensor:
        """Assignment keeps full precision as the shadow that training updates."""
        return x


class Ledger:
    """What a compressed net carries beside its tensors; an ordinary attribute, not a child module.

    Grids are buffers of the net itself, so they travel in the state_dict of a baked net, and
    ``code = weight / step`` is recovered exactly from a file.
    """

    def __init__(self) -> None:
        self.handles: list[RemovableHandle] = []
        self.rewinds: dict[str, Callable[[], None]] = {}
        self.constants: dict[str, Grid] = {}
        """Formats of numbers that are no tensors of the net (an STDP network's threshold)."""
        self.finish: list[Callable[[], Callable[[], None]]] = []
        """What a step leaves to baking: each is called before the tensors are made plain, its answer after."""
        self.steps: dict[str, int] = {}
        """Bits of the steps (``conv1.step``) of a layer whose channels baking will scale, if it is quantized."""
        self.places: list[tuple[nn.Module, Stack]] = []
        """The stacks, each with the module that holds its `original`."""
        self._open = ExitStack()

    def enter(self, *_: Any) -> None:
        """Before a forward: each compressed tensor is computed once, however often it is read, and all in one go."""
        self._open.enter_context(parametrize.cached())
        found, xs, jobs = [], [], []
        for holder, stack in self.places:
            x = cast(Tensor, holder.original)
            job = stack.job(x)
            if job is not None:
                found.append(stack)
                xs.append(x)
                jobs.append(job)
        if found:
            for at, made in enumerate(together(xs, jobs)):
                found[at].ready = made

    def leave(self, *_: Any) -> None:
        for place in self.places:
            place[1].ready = None
        self._open.close()

    def rewind(self, *_: Any) -> None:
        """Before every forward, baked or not: stochastic membranes start their draws over in evaluation."""
        for call in self.rewinds.values():
            call()


def ledger(net: nn.Module) -> Ledger:
    """The net's ledger, made at the first call."""
    found = net.__dict__.get(_LEDGER)
    if found is None:
        found = net.__dict__[_LEDGER] = Ledger()
        net.register_forward_pre_hook(found.rewind)
        found.handles = [
            net.register_forward_pre_hook(found.enter),
            net.register_forward_hook(found.leave, always_call=True),
        ]
    return cast(Ledger, found)


def grid_key(name: str) -> str:
    """Buffer of the net that holds the step of the tensor `name`."""
    return _GRID + name.replace(".", "/")


def bounds_key(name: str) -> str:
    """Buffer of the net that holds (bits, low, high) of the tensor `name`."""
    return grid_key(name) + _BOUNDS


def record(net: nn.Module, name: str, grid: Grid) -> None:
    """Write down where the tensor `name` lives, as two buffers of the net."""
    net.register_buffer(grid_key(name), grid.step.detach().clone())
    net.register_buffer(bounds_key(name), torch.tensor([grid.bits, grid.low, grid.high]))


def grids(net: nn.Module) -> dict[str, Grid]:
    """Tensor name -> its grid, for every quantized tensor of a baked net (``code = value / step``)."""
    found = dict(net.named_buffers(recurse=False))
    out = {}
    for key, bounds in found.items():
        if key.startswith(_GRID) and key.endswith(_BOUNDS):
            bits, low, high = (int(v) for v in bounds)
            name = key.removeprefix(_GRID).removesuffix(_BOUNDS)
            out[name.replace("/", ".")] = Grid(bits, found[_GRID + name], low, high)
    return out


def synapses(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(layer name, module) of every module with a `weight` of two or more dimensions, in module order."""
    for name, module in list(net.named_modules()):
        if ".parametrizations" in f".{name}" or isinstance(module, _NORMALISATION):
            continue
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() >= 2:
            yield name, module


def full_name(layer: str, tensor: str) -> str:
    """``fc1`` + ``weight`` -> ``fc1.weight``, the root's own tensors without a dot."""
    return f"{layer}.{tensor}" if layer else tensor


def seed_of(seed: int, name: str) -> int:
    """A seed of its own for each tensor, the same on every machine."""
    return (seed << 32) + zlib.crc32(name.encode())


def stack_on(net: nn.Module, module: nn.Module, tensor: str) -> Stack:
    """The `Stack` of module.tensor, registered if it is not there yet."""
    present = stack_of(module, tensor)
    if present is not None:
        return present
    made = Stack()
    made.train(module.training)
    parametrize.register_parametrization(module, tensor, made)
    holder: nn.Module = cast(nn.ModuleDict, module.parametrizations)[tensor]
    ledger(net).places.append((holder, made))
    return made


def stack_of(module: nn.Module, tensor: str) -> Stack | None:
    if not parametrize.is_parametrized(module, tensor):
        return None
    for entry in cast(nn.ModuleList, cast(nn.ModuleDict, module.parametrizations)[tensor]):
        if isinstance(entry, Stack):
            return entry
    return None


def original(module: nn.Module, tensor: str) -> Tensor:
    """The raw values: the shadow behind a parametrization, or the tensor itself."""
    if parametrize.is_parametrized(module, tensor):
        return cast(Tensor, cast(nn.ModuleDict, module.parametrizations)[tensor].original)
    return cast(Tensor, getattr(module, tensor))


def stacks(net: nn.Module) -> Iterator[tuple[str, nn.Module, str, Stack]]:
    """(full name, module, tensor name, stack) of everything attached."""
    for name, module in list(net.named_modules()):
        if not parametrize.is_parametrized(module):
            continue
        for tensor in list(cast(nn.ModuleDict, module.parametrizations)):
            found = stack_of(module, tensor)
            if found is not None:
                yield full_name(name, tensor), module, tensor, found
