"""Counting what a network does: a pass over the data with hooks on its layers, or the network's own report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import snntorch as snn
import torch
from torch import Tensor, nn

from pipeline.hardware.meter import BATCH_NORMS, Meter
from pipeline.hardware.tally import CONVS, zero_runs
from pipeline.hardware.workload import (
    LayerLoad,
    Loads,
    ReportsLearning,
    ReportsLoad,
    ReportsMatrices,
    load_from,
)
from pipeline.types import Batch, Widths

__all__ = ["LayerLoad", "Meter", "learned", "matrix_bits", "measure", "metering", "zero_runs"]


def refuse_uncounted(net: nn.Module) -> None:
    """Raise for a module whose weights the meter would miss; a quiet undercount is worse than an error."""
    for name, module in net.named_modules():
        if (
            isinstance(module, (nn.Linear, *CONVS, *BATCH_NORMS, snn.SpikingNeuron))
            or "parametrizations" in name
        ):
            continue
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.ndim >= 2:
                raise ValueError(
                    f"{f'{name}.{key}'.lstrip('.')} is a weight of {type(module).__name__}, which cannot be counted; "
                    f"use Linear, Conv1d or Conv2d, or give the network its own load(batches, widths)."
                )


@contextmanager
def metering(net: nn.Module, widths: Widths) -> Iterator[Meter]:
    """Count everything `net` does inside the block: ``with metering(net, widths) as meter: ...; meter.loads()``.

    An evaluation that runs anyway pays for the counting only, not for a second pass.

    Raises:
        ValueError: a weight of a module that is not Linear, Conv1d or Conv2d.
    """
    refuse_uncounted(net)
    meter = Meter(net, widths)
    try:
        yield meter
    finally:
        meter.remove()


def measure(
    net: nn.Module,
    batches: Iterable[Batch],
    widths: Widths,
    observe: Callable[[Batch, Tensor], None] | None = None,
) -> Loads:
    """What each layer of `net` does for one sample, mean and worst case over `batches`.

    Works on the network as it stands: masks and fake quantizers may still be attached, zero weights are not counted
    as effective. `widths` gives stored bits by tensor name; what is absent counts as 32
    (``conv5.input``: of a layer whose input is neither spikes nor counts). A network with a method
    ``load(batches, widths)`` answers for itself (`ReportsLoad`). `observe(batch, spikes)` sees each batch and the
    network's answer to it, so that accuracy needs no pass of its own.
    """
    training = net.training
    net.eval()
    try:
        with torch.no_grad():
            watched = _watched(net, batches, observe)
            if isinstance(net, ReportsLoad):
                return tuple(load_from(report) for report in net.load(watched, widths))
            with metering(net, widths) as meter:
                for batch in watched:
                    net(batch.x)
            return meter.loads()
    finally:
        net.train(training)


def learned(net: nn.Module, widths: Widths, dense: bool) -> Loads:
    """What `net` did per sample while it learned, at the stored bits `widths`; empty where it does not count that.

    dense: as a simulator that updates whole rows and columns would count; else only what changes.
    """
    if not isinstance(net, ReportsLearning) or not net.trained_samples:
        return ()
    return tuple(load_from(report) for report in net.training_load(widths, dense))


def matrix_bits(net: nn.Module, widths: Widths) -> float | None:
    """Bits of the dense matrices that a simulator would allocate for `net`; None for a network of no such kind."""
    return net.matrix_bits(widths) if isinstance(net, ReportsMatrices) else None


def _watched(
    net: nn.Module, batches: Iterable[Batch], observe: Callable[[Batch, Tensor], None] | None
) -> Iterator[Batch]:
    """The batches, each shown to `observe` with the answer that the network gives to it."""
    if observe is None:
        yield from batches
        return
    answers: list[Tensor] = []
    hook = net.register_forward_hook(lambda _net, _args, spikes: answers.append(spikes))
    try:
        for batch in batches:
            yield batch
            while answers:
                observe(batch, answers.pop())
    finally:
        hook.remove()
