"""Layer-by-layer execution: time folded into the batch, in chunks of a few steps.

A synaptic layer does not care which of its [K x B] rows is which time step, so K steps go through it in one
call; a neuron layer runs its K steps in one fused scan; the membranes are carried from chunk to chunk. All of T
at once is best while the activations stay in the cache, K = 2 to 4 on larger convolutional nets.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from pipeline.nets.event_linear import spiking
from pipeline.nets.neurons import Leaky

_PER_SAMPLE = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.Flatten,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.Identity,
)
_SYNAPTIC = (nn.Linear, nn.Conv2d)
_RATE = 0.1  # spikes per input and step that initial weights are made for
_LEAK = 0.05  # below this leak (beta above 0.975) the number of steps, and not the leak, bounds a membrane


class Dropout(nn.Module):
    """Loses a unit of a sample for all time steps together, with probability `p`, while training.

    The spikes of one unit over time are one activation; masks drawn anew at each step average out over T
    (Lee et al. 2020, "Enabling spike-based backpropagation", section 2.3.3; SpikingJelly's `layer.Dropout`).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[K, B, ...] and the mask of earlier chunks [B, ...] (None: a new one) -> [K, B, ...], mask."""
        if not self.training:
            return x, x.new_ones(())
        if mask is None:
            mask = functional.dropout(torch.ones_like(x[0]), self.p)
        return x * mask, mask


class Layered(nn.Sequential):
    """Named layers in a row, [T, B, C, H, W] -> [T, B, N] output spikes; `net.fc1`, `net.lif1`, ...

    Three kinds of layers:
    * `Leaky` and `Dropout`: see [K, B, ...] and their state (membrane, mask), which starts anew in each forward;
    * a layer with a true attribute `all_timesteps`, and batch normalisation while it learns its statistics: sees
      all of T at once, [T, B, ...] (batch normalisation [T x B, ...]); earlier layers finish first, and a synaptic
      layer right before it runs whole, as do neurons and pools between it and the next of its kind;
    * any other module: sees [K x B, ...].
    Parametrizations (masks, fake-quantizers) are computed once per forward, not once per chunk.

    `chunk`: K, the steps per call; 0 for all of T. It changes speed and memory, and no result
    but the draws of dropout.
    """

    def __init__(
        self, layers: Mapping[str, nn.Module] | Iterable[tuple[str, nn.Module]], chunk: int = 0
    ) -> None:
        super().__init__(OrderedDict(layers))
        self.order = tuple(self._modules)  # others may hang bookkeeping modules on the net: those do not run
        self.chunk = chunk
        self.images = any(isinstance(layer, nn.Conv2d) for layer in self)

    def forward(self, input: Tensor) -> Tensor:
        """[T, B, C, H, W] -> [T, B, N] output spikes."""
        layers = [(name, self.get_submodule(name)) for name in self.order]
        stops = [at for at, (_, layer) in enumerate(layers) if self._needs_all(layer)]
        steps, x = self.chunk or len(input), input
        with parametrize.cached():
            for start, stop in pairwise([-1, *stops, len(layers)]):
                if start >= 0:
                    x = self._whole(layers[start][1], x)
                chunked, at_once = layers[start + 1 : stop], []
                if stop < len(layers) and _synapses(chunked[-1:]):
                    # What comes next needs all of T: computed whole, its currents need not be joined.
                    chunked, at_once = chunked[:-1], chunked[-1:]
                if chunked:
                    between = start >= 0 and stop < len(layers) and not _synapses(chunked)
                    parts = (x,) if between else _split(x, steps)
                    x = _joined(self._segment(chunked, parts, first=start < 0))
                if at_once:
                    (x,) = self._segment(at_once, (x,), first=start < 0 and not chunked)
        return x

    def _segment(
        self, layers: list[tuple[str, nn.Module]], parts: Sequence[Tensor], first: bool
    ) -> tuple[Tensor, ...]:
        """Chunk after chunk through layers that need no more than a chunk."""
        state: dict[str, Tensor] = {}
        constant, skip = self._constant_currents(parts[0], layers) if first else (None, 0)
        done = []
        for part in parts:
            steps, batch = part.shape[:2]
            rows = (part if constant is None else constant.expand(steps, *constant.shape)).flatten(0, 1)
            rows = _channels_last(rows) if self.images else rows
            for name, layer in layers[skip:]:
                if isinstance(layer, (Leaky, Dropout)):
                    out, state[name] = layer(rows.unflatten(0, (-1, batch)), state.get(name))
                    rows = out.flatten(0, 1)
                else:
                    rows = spiking(layer, rows)
            done.append(rows.unflatten(0, (steps, batch)))
        return tuple(done)

    def _constant_currents(self, x: Tensor, layers: list[tuple[str, nn.Module]]) -> tuple[Tensor | None, int]:
        """Currents [B, ...] of an input that is the same memory at every step, and the layers they came through.

        An image as a constant current needs to go through the synaptic layers before the first neuron only once.
        Only in training: whoever counts operations in evaluation sees every step go through every layer.
        """
        stop = (at for at, (_, layer) in enumerate(layers) if not isinstance(layer, _PER_SAMPLE))
        ahead = next(stop, len(layers))
        if not self.training or x.stride(0) != 0 or ahead == 0:
            return None, 0
        rows = _channels_last(x[0]) if self.images else x[0]
        for _, layer in layers[:ahead]:
            rows = layer(rows)
        return rows, ahead

    def _needs_all(self, layer: nn.Module) -> bool:
        return bool(getattr(layer, "all_timesteps", False)) or (
            isinstance(layer, _BatchNorm) and layer.training
        )

    def _whole(self, layer: nn.Module, x: Tensor) -> Tensor:
        if not isinstance(layer, _BatchNorm):
            return layer(x)
        rows = x.flatten(0, 1)
        if len(rows) == 1 and rows.dim() == 4:
            # A single map keeps the strides of time, and PyTorch's gradients are then wrong without a word (2.13).
            rows = rows.clone(memory_format=torch.channels_last)
        return layer(rows).unflatten(0, x.shape[:2])


def _synapses(layers: Iterable[tuple[str, nn.Module]]) -> bool:
    return any(isinstance(layer, _SYNAPTIC) for _, layer in layers)


def _split(x: Tensor, steps: int) -> tuple[Tensor, ...]:
    """[T, B, ...] -> chunks [K, B, ...], so that the gradients come back in the layout of maps (see `_joined`)."""
    if x.dim() != 5 or x.stride(0) == 0:
        return x.split(steps)
    batch = x.shape[1]
    return tuple(rows.unflatten(0, (-1, batch)) for rows in x.flatten(0, 1).split(steps * batch))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Chunks [K, B, ...] -> [T, B, ...], maps [K, B, C, H, W] as [K x B, C, H, W].

    PyTorch knows what channels-last is of four dimensions alone: joined as five, in either direction, maps are turned
    around into N, C, H, W, and every layer after turns them back.
    """
    if len(parts) == 1:
        return parts[0]  # cat copies a single tensor too
    if parts[0].dim() != 5:
        return torch.cat(tuple(parts))
    return torch.cat([part.flatten(0, 1) for part in parts]).unflatten(0, (-1, parts[0].shape[1]))


def _channels_last(rows: Tensor) -> Tensor:
    """[N, C, H, W] stored as N, H, W, C; layers that see it hand the layout on. Stored weights stay as they are.

    With one channel both layouts are the same numbers in the same order, and only the strides say which is meant.
    """
    if rows.dim() != 4:
        return rows
    if rows.shape[1] > 1:
        return rows.contiguous(memory_format=torch.channels_last)
    height, width = rows.shape[2:]
    return rows.contiguous().as_strided(rows.shape, (height * width, 1, width, 1))


def initialise(
    net: nn.Module, seed: int, beta: float = 0.9, threshold: float = 1.0, gain: float = 0.5
) -> None:
    """Draw the synaptic weights, uniform around 0, and set biases to 0: a pure function of the arguments.

    Fluctuation-driven (Rossbroich, Gygax & Zenke 2022, eq. 5, without their bias): with inputs that fire at 10 %
    of the steps, a membrane of decay `beta` has standard deviation sigma / sqrt(1 - beta^2) per unit of input
    current; the weights are scaled so that this is `gain` thresholds. Networks then start neither silent nor
    saturated whatever beta and threshold a search tries.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            inputs = layer.weight[0].numel()
            sigma = gain * threshold * math.sqrt(max(1 - beta**2, _LEAK) / (_RATE * inputs))
            bound = sigma * math.sqrt(3)
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
