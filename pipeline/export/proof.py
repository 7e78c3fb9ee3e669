"""Holding the integer engine against the network that was searched: every layer, every step, every spike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import snntorch
import torch
from torch import Tensor, nn

from pipeline.export.integer import Engine
from pipeline.types import Batch, Decode

PLACES = ("layer", "step", "sample", "channel", "row", "column")
"""What says where a spike differs, as columns ``integer_layer`` and so on."""


@dataclass(frozen=True)
class Difference:
    """The first spike that differs: of the first layer in which any does, at its first step."""

    layer: str
    step: int
    sample: int
    neuron: tuple[int, ...]
    """(channel, row, column); (neuron, 0, 0) in a fully connected layer."""
    network: int
    """Whether the network's neuron fired."""
    integer: int
    spikes: int
    """Spikes of this layer that differ, in this batch."""
    place: int = 0
    """Number of the layer in the network."""

    def __str__(self) -> str:
        return (
            f"{self.layer} differs first at step {self.step}, neuron {self.neuron}, sample {self.sample}: "
            f"the network says {self.network}, the integers {self.integer} ({self.spikes} spikes differ there)."
        )


@dataclass(frozen=True)
class Proof:
    """What was compared, and what differed first (nothing, if the model is proven)."""

    samples: int
    spikes: int
    """Spikes of the network, over all layers and steps."""
    compared: int
    """Neurons x steps x samples that were compared."""
    labels_differ: int
    accuracy: float
    """Of the integer engine's labels."""
    guaranteed: bool
    """The bounds prove equality for every input; else it holds for what was compared."""
    difference: Difference | None

    @property
    def holds(self) -> bool:
        return self.difference is None and self.labels_differ == 0

    def metrics(self) -> dict[str, float]:
        """Columns for a table of finalists; where a spike differs also which one: its layer (from 1), step,
        sample, and channel, row and column on its map."""
        found = {
            "integer_exact": float(self.holds),
            "integer_samples": float(self.samples),
            "integer_accuracy": self.accuracy,
        }
        at = self.difference
        if at is not None:
            places = (at.place + 1, at.step, at.sample, *at.neuron)
            found |= {f"integer_{n}": float(p) for n, p in zip(PLACES, places, strict=False)}
        return found

    def __str__(self) -> str:
        if self.difference is not None:
            return f"NOT proven: {self.difference}"
        if self.labels_differ:
            return f"NOT proven: spikes are equal, but {self.labels_differ} labels differ."
        scope = "for every input" if self.guaranteed else "on these samples"
        return (
            f"proven {scope}: {self.compared:,} neuron steps of {self.samples:,} samples, no spike differs."
        )


@contextmanager
def recording(net: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Spikes of every snnTorch neuron by name, as they are made: uint8 [K, B, ...] or [B, ...] per call."""
    seen: dict[str, list[Tensor]] = defaultdict(list)

    def hook(name: str):  # type: ignore[no-untyped-def]
        def keep(_module: nn.Module, _args: object, out: Tensor | tuple[Tensor, ...]) -> None:
            seen[name].append((out if isinstance(out, Tensor) else out[0]).detach().to(torch.uint8))

        return keep

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in net.named_modules()
        if isinstance(module, snntorch.SpikingNeuron)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def spikes_of(net: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, np.ndarray]]:
    """The network's answer [T, B, N] and every neuron layer's spikes [T, B, ...] as uint8."""
    steps, batch = x.shape[:2]
    with torch.no_grad(), recording(net) as seen:
        out = net(x)
    layers = {}
    for name, parts in seen.items():
        whole = torch.cat([part.reshape(-1, batch, *_neurons(part, batch)) for part in parts])
        if len(whole) != steps:
            raise ValueError(f"{name} spoke {len(whole)} times in {steps} steps and cannot be compared.")
        layers[name] = whole.numpy()
    return out, layers


def _neurons(part: Tensor, batch: int) -> tuple[int, ...]:
    """The shape of one sample and step: [K, B, ...] from chunked networks, [B, ...] from stepped ones."""
    chunked = part.dim() >= 3 and part.shape[1] == batch
    return tuple(part.shape[2:] if chunked else part.shape[1:])


def prove(net: nn.Module, engine: Engine, decode: Decode, batches: Iterable[Batch]) -> Proof:
    """Run both on every batch and compare all spikes; stops at the first batch that differs.

    Args:
        net: baked, as it was searched; put into evaluation mode.
        batches: the whole test split, encoded.
    """
    net.eval()
    samples = spikes = compared = labels = right = 0
    difference = None
    for x, y in batches:
        out, layers = spikes_of(net, x)
        codes = engine.codes(x)
        traced = engine.trace(codes)
        for place, (name, mine) in enumerate(traced.items()):
            theirs = layers[name].reshape(len(x), len(y), *mine.shape[2:])
            mine = mine.swapaxes(0, 1)
            spikes, compared = spikes + int(theirs.sum()), compared + theirs.size
            if difference is None and not np.array_equal(theirs, mine):
                difference = replace(first_difference(name, theirs, mine, samples), place=place)
        last = traced[engine.program.stages[-1].neurons.name]
        said = torch.from_numpy(engine.vote(last.reshape(*last.shape[:2], -1)))
        labels += int((said != decode(out)).sum())
        right, samples = right + int((said == y).sum()), samples + len(y)
        if difference is not None:
            break
    guaranteed = all(bound.float_exact for bound in engine.bounds)
    return Proof(samples, spikes, compared, labels, right / max(samples, 1), guaranteed, difference)


def first_difference(name: str, theirs: np.ndarray, mine: np.ndarray, before: int) -> Difference:
    """theirs, mine [T, B, C, H, W]; the earliest step, then the lowest sample and neuron."""
    unequal = theirs != mine
    at = tuple(int(i) for i in np.unravel_index(int(unequal.argmax()), unequal.shape))
    return Difference(name, at[0], before + at[1], at[2:], int(theirs[at]), int(mine[at]), int(unequal.sum()))
