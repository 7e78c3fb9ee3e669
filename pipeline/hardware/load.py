"""Counting what a network does, by forward hooks; the only file of the cost model that touches tensors.

The counts need no second convolution. An input position of a layer leads to a fixed number of synapses (its fan-out,
smaller at the edges of a convolution, smaller again where weights are zero), so effective operations are one inner
product of the input's nonzero pattern with that map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import snntorch as snn
import torch
from torch import Tensor, nn

from pipeline.hardware.tally import Doubles, Floats, count_events, count_rows, count_runs
from pipeline.hardware.workload import (
    Activity,
    Geometry,
    Kind,
    LayerLoad,
    Loads,
    ReportsLoad,
    Runs,
    load_from,
)
from pipeline.types import FLOAT_BITS, Batch, Widths, require

CONVS = (nn.Conv1d, nn.Conv2d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
STATES = ("mem", "syn", "syn_exc", "syn_inh")
"""snnTorch's names of what a neuron keeps between two steps."""
NEURON_PARAMETERS = ("beta", "threshold", "alpha")
COUNTS = 4
ON_GRID = 1e-3
"""How far, in steps, a value may be from a whole number of steps and still be one: float32 of counts / 255."""
"""Rows of the tally per sample: input events, effective operations, operations with all weights, output spikes."""


@dataclass
class Tally:
    """What one layer has seen so far; the last batch is folded in when the next begins."""

    kind: Kind
    module: nn.Module
    geometry: Geometry
    reach: tuple[Tensor, Tensor]
    """Synapses behind each input entry, shaped like one sample's input: those that are not zero, all of them."""
    calls: int = 0
    samples: int = 0
    total: Doubles = field(default_factory=lambda: np.zeros(COUNTS))
    worst: Doubles = field(default_factory=lambda: np.zeros(COUNTS))
    batch: Doubles = field(default_factory=lambda: np.zeros((0, COUNTS)))
    unit: float = 1.0
    """The value of one spike, or of one count; a constant scale costs nothing, it is folded into the weights."""
    input_bits: int = 1
    norm: str = ""
    neuron: str = ""
    neuron_entries: int = 0
    layouts: dict[bool, tuple[Doubles, Doubles]] = field(default_factory=dict)

    def fold(self) -> None:
        """Take the finished batch [B, COUNTS] into the totals."""
        if len(self.batch):
            self.total += self.batch.sum(0)
            self.worst = np.maximum(self.worst, self.batch.max(0))
            self.samples += len(self.batch)
            self.batch = self.batch[:0]

    def begin(self, samples: int) -> None:
        self.batch = np.zeros((samples, COUNTS))

    def reach_in(self, last: bool) -> tuple[Doubles, Doubles]:
        """The reach in the order of memory: channels first, or last."""
        if last not in self.layouts:
            first, second = (r.movedim(0, -1) if last else r for r in self.reach)
            self.layouts[last] = (_doubles(first), _doubles(second))
        return self.layouts[last]

    def see(self, rows: Floats, odd: int, samples: int) -> None:
        """Learn what the input's values are, from rows of which `odd` events are not `unit`.

        Whether they are counts is looked at in the first time step of each call (an encoding does not change with
        time); how large they grow, in all of them.
        """
        if not odd or self.input_bits == FLOAT_BITS:
            return
        if self.calls == 0:
            self.unit = float(np.min(np.abs(rows), initial=np.inf, where=rows != 0))
        first = rows[:samples] / np.float32(self.unit)
        low, high = float(rows.min()) / self.unit, float(rows.max()) / self.unit
        if np.abs(first - np.rint(first)).max(initial=0.0) > ON_GRID:
            self.input_bits = FLOAT_BITS
        elif low < -ON_GRID or high > 1 + ON_GRID:
            self.input_bits = max(self.input_bits, 2, round(max(high, -low)).bit_length() + int(low < 0))


def _doubles(x: Tensor) -> Doubles:
    return np.ascontiguousarray(x.numpy(), dtype=np.float64).reshape(-1)


def in_memory_order(x: Tensor, inputs: int) -> tuple[Floats, bool]:
    """([rows, inputs] float32 without moving anything where that can be, whether channels come last)."""
    x = x.detach()
    last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    rows = x.permute(0, 2, 3, 1) if last else x
    return rows.reshape(-1, inputs).float().cpu().numpy(), last


def _conv_geometry(module: nn.Conv1d | nn.Conv2d, x: Tensor, y: Tensor) -> Geometry:
    def pair(size: Iterable[int]) -> tuple[int, int]:
        sides = tuple(size)
        return (1, sides[0]) if len(sides) == 1 else (sides[0], sides[1])

    return Geometry(
        in_channels=module.in_channels,
        out_channels=module.out_channels,
        in_size=pair(x.shape[2:]),
        out_size=pair(y.shape[2:]),
        kernel=pair(module.kernel_size),
        stride=pair(module.stride),
        groups=module.groups,
    )


def reach(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """How many synapses lead away from each input entry: (nonzero ones, all), shaped like one sample's input.

    For a convolution it is the gradient of the sum of all outputs, so it is exact at the edges.
    """
    weight = cast(Tensor, module.weight).detach()
    mask = (weight != 0).float().cpu()
    if not isinstance(module, CONVS):
        return mask.sum(0), torch.full((mask.shape[1],), float(mask.shape[0]))
    require(module.padding_mode == "zeros", "padding_mode", "be 'zeros' to be counted", module.padding_mode)
    convolve = nn.functional.conv1d if isinstance(module, nn.Conv1d) else nn.functional.conv2d
    found = []
    for kernel in (mask, torch.ones_like(mask)):
        with torch.enable_grad():
            probe = torch.zeros(1, *x.shape[1:], requires_grad=True)
            out = convolve(probe, kernel, None, module.stride, module.padding, module.dilation, module.groups)
            (gradient,) = torch.autograd.grad(out.sum(), probe)
        found.append(gradient[0])
    return found[0], found[1]


def zero_runs(weight: Tensor) -> Runs:
    """Lengths of the runs of zeros before each nonzero weight, in storage order, with their counts."""
    flat = weight.detach().float().cpu().numpy().reshape(-1)
    counts = np.zeros(flat.size + 1, dtype=np.int64)
    longest = int(count_runs(flat, counts))
    return tuple((int(n), int(counts[n])) for n in np.flatnonzero(counts[: longest + 1]))


class Meter:
    """Hooks on a network that tally its work; see `metering`."""

    def __init__(self, net: nn.Module, widths: Widths) -> None:
        self.net, self.widths = net, widths
        self.names = {module: name for name, module in net.named_modules()}
        self.tallies: dict[nn.Module, Tally] = {}
        self.latest: Tally | None = None
        self.samples = 0
        self.steps = 0
        self.rows = 0
        self.hooks = [net.register_forward_pre_hook(self._start)]
        recurrent = {m for n in net.modules() if isinstance(n, snn.SpikingNeuron) for m in n.modules()}
        for module in net.modules():
            if isinstance(module, (nn.Linear, *CONVS)):
                kind: Kind = "conv" if isinstance(module, CONVS) else "linear"
                self.hooks.append(
                    module.register_forward_hook(self._synapses("recurrent" if module in recurrent else kind))
                )
            elif isinstance(module, BATCH_NORMS):
                self.hooks.append(module.register_forward_hook(self._norm))
            elif isinstance(module, snn.SpikingNeuron):
                self.hooks.append(module.register_forward_hook(self._neuron))

    def _start(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.steps, self.samples = args[0].shape[:2]
        self.latest = None
        for tally in self.tallies.values():
            tally.fold()
            tally.begin(self.samples)

    def _per_sample(self, counts: Doubles) -> Doubles:
        """[K * B, n], time outermost -> [B, n]; a layer that mixes samples is spread evenly."""
        if len(counts) % self.samples == 0:
            return counts.reshape(-1, self.samples, counts.shape[1]).sum(0)
        return np.broadcast_to(counts.sum(0) / self.samples, (self.samples, counts.shape[1]))

    def _synapses(self, kind: Kind) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
            tally = self.tallies.get(module)
            if tally is None:
                tally = self._first(module, kind, args[0].detach(), y)
            rows, last = in_memory_order(args[0], tally.reach[1].numel())
            counts = np.empty((len(rows), 3))
            tally.see(
                rows, count_rows(rows, np.float32(tally.unit), *tally.reach_in(last), counts), self.samples
            )
            tally.batch[:, :3] += self._per_sample(counts)
            tally.calls += len(rows)
            self.rows = len(rows)
            if kind != "recurrent":
                self.latest = tally

        return hook

    def _first(self, module: nn.Module, kind: Kind, x: Tensor, y: Tensor) -> Tally:
        if isinstance(module, CONVS):
            geometry = _conv_geometry(module, x, y)
        else:
            linear = cast(nn.Linear, module)
            geometry = Geometry(linear.in_features, linear.out_features)
        tally = Tally(kind, module, geometry, reach(module, x))
        tally.begin(self.samples)
        self.tallies[module] = tally
        return tally

    def _norm(self, module: nn.Module, _args: tuple[Tensor, ...], _y: Tensor) -> None:
        if self.latest is not None:
            self.latest.norm = self.names[module]

    def _neuron(self, module: nn.Module, _args: tuple[Tensor, ...], y: Tensor | tuple[Tensor, ...]) -> None:
        spikes = (y if isinstance(y, Tensor) else y[0]).detach()
        tally = self.latest
        if tally is None:
            raise ValueError(
                f"{self.names[module]}: a neuron without a synaptic layer before it cannot be priced."
            )
        tally.neuron = self.names[module]
        tally.neuron_entries += spikes.numel()
        b = self.samples
        chunk = spikes.ndim >= 2 and spikes.shape[1] == b and (spikes.shape[0] != b or self.rows == b * b)
        steps = len(spikes) if chunk else 1
        if not spikes.is_contiguous() and spikes.ndim == 5:
            spikes = spikes.permute(0, 1, 3, 4, 2)
        elif not spikes.is_contiguous() and spikes.ndim == 4:
            spikes = spikes.permute(0, 2, 3, 1)
        rows = spikes.reshape(steps * b, -1).float().cpu().numpy()
        events = np.empty(len(rows))
        count_events(rows, events)
        tally.batch[:, 3] += events.reshape(steps, b).sum(0)

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def loads(self) -> Loads:
        """One `LayerLoad` per synaptic layer, in the order they first ran."""
        for tally in self.tallies.values():
            tally.fold()
        require(
            bool(self.tallies),
            "net",
            "have a Linear or Conv layer that ran, or report its own load",
            self.net,
        )
        return tuple(self._load(self.names[module], tally) for module, tally in self.tallies.items())

    def _load(self, name: str, tally: Tally) -> LayerLoad:
        weight = cast(Tensor, tally.module.weight).detach()
        updates = tally.neuron_entries / tally.samples
        dense = float(tally.reach[1].double().sum()) * tally.calls / tally.samples
        parameters, parameter_bits = self._parameters(name, tally)
        neuron = self.net.get_submodule(tally.neuron) if tally.neuron else None
        states = [s for s in STATES if neuron is not None and hasattr(neuron, s)]
        mean, worst = tally.total / tally.samples, tally.worst

        def activity(counts: Doubles) -> Activity:
            events, effective, reached, spikes = counts.tolist()
            return Activity(events, spikes, effective, reached, dense, updates)

        return LayerLoad(
            name=name,
            kind=tally.kind,
            geometry=tally.geometry,
            steps=max(1, round(tally.calls / tally.samples)),
            synapses=weight.numel(),
            nonzero=int(torch.count_nonzero(weight)),
            neurons=round(updates / self.steps),
            weight_bits=self.widths.get(f"{name}.weight", FLOAT_BITS),
            state_bits=sum(self.widths.get(f"{tally.neuron}.{s}", FLOAT_BITS) for s in states),
            parameters=parameters,
            parameter_bits=parameter_bits,
            input_bits=tally.input_bits,
            mean=activity(mean),
            worst=activity(worst),
            runs=zero_runs(weight),
        )

    def _parameters(self, name: str, tally: Tally) -> tuple[int, int]:
        """(values, bits) of the bias, with a batch norm folded into it, and of the neurons' decay and threshold."""
        values = bits = 0
        if tally.norm or getattr(tally.module, "bias", None) is not None:
            width = self.widths.get(f"{name}.bias", self.widths.get(f"{tally.norm}.bias", FLOAT_BITS))
            values, bits = tally.geometry.out_channels, tally.geometry.out_channels * width
        neuron = self.net.get_submodule(tally.neuron) if tally.neuron else None
        for key in NEURON_PARAMETERS:
            tensor = getattr(neuron, key, None)
            if isinstance(tensor, Tensor):
                values += tensor.numel()
                bits += tensor.numel() * self.widths.get(f"{tally.neuron}.{key}", FLOAT_BITS)
        return values, bits


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
    as effective. `widths` gives stored bits by tensor name; what is absent counts as 32. A network with a method
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
