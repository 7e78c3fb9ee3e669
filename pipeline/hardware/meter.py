"""The hooks that count what a network does.

The counts need no second convolution. An input position of a layer leads to a fixed number of synapses (its fan-out,
smaller at the edges of a convolution, smaller again where weights are zero), so effective operations are one inner
product of the input's nonzero pattern with that map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import snntorch as snn
from torch import Tensor, nn

from pipeline.hardware.kernels import Doubles, Floats, count_events, count_rows
from pipeline.hardware.tally import (
    ADDITIONS,
    CONVS,
    GATES,
    SPIKES,
    Flow,
    Tally,
    Values,
    conv_geometry,
    in_memory_order,
    look_over,
    same_memory,
)
from pipeline.hardware.workload import Activity, Geometry, Kind, LayerLoad, Loads
from pipeline.types import FLOAT_BITS, Widths, require

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
STATES = ("mem", "syn", "syn_exc", "syn_inh")
"""snnTorch's names of what a neuron keeps between two steps."""
NEURON_PARAMETERS = ("beta", "threshold", "alpha")


class Meter:
    """Hooks on a network that tally its work; see `load.metering`."""

    def __init__(self, net: nn.Module, widths: Widths) -> None:
        self.net, self.widths = net, widths
        self.names = {module: name for name, module in net.named_modules()}
        self.tallies: dict[nn.Module, Tally] = {}
        self.latest: Tally | None = None
        self.samples = 0
        self.steps = 0
        self.rows = 0
        self.repeats = False
        """The input is one image at every step, and no neuron has seen it yet."""
        self.fired: tuple[Tensor, Tally] | None = None
        self.pooled: dict[nn.Module, Values] = {}
        """Average pool -> what values come into it."""
        self.flowing: tuple[Flow, int] | None = None
        """What an average pool has just given, and how many entries."""
        self.hooks = [net.register_forward_pre_hook(self._start)]
        self._hook()

    def _hook(self) -> None:
        inside = {m for n in self.net.modules() if isinstance(n, snn.SpikingNeuron) for m in n.modules()}
        attending = [m for m in self.net.modules() if getattr(m, "all_timesteps", False)]
        attention = {m for parent in attending for m in parent.modules()}
        for module in self.net.modules():
            if isinstance(module, (nn.Linear, *CONVS)):
                kind: Kind = "conv" if isinstance(module, CONVS) else "linear"
                kind = "recurrent" if module in inside else "attention" if module in attention else kind
                self.hooks.append(module.register_forward_hook(self._synapses(kind)))
            elif isinstance(module, BATCH_NORMS):
                self.hooks.append(module.register_forward_hook(self._norm))
            elif isinstance(module, snn.SpikingNeuron):
                self.hooks.append(module.register_forward_hook(self._neuron))
            elif isinstance(module, AVERAGES):
                self.hooks.append(module.register_forward_hook(self._average))
            elif module in attending:
                self.hooks.append(module.register_forward_hook(self._gate))

    def _start(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._settle()
        self.steps, self.samples = args[0].shape[:2]
        self.latest = self.flowing = None
        self.repeats = args[0].stride(0) == 0 and self.steps > 1
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
            rows, last = in_memory_order(args[0], tally.survey.reach[1].numel())
            self.rows, again = len(rows), 1
            if self.repeats and len(rows) % self.samples == 0:
                rows, again = rows[: self.samples], len(rows) // self.samples
            counts = np.empty((len(rows), 3))
            if (flow := self._flow(rows)) is not None:
                tally.values.expect(flow)
            if count_rows(rows, np.float32(tally.values.unit), *tally.reach_in(last), counts):
                first = rows[: self.samples]
                ends = float(rows.min()), float(rows.max())
                tally.values.see(first if first.any() else rows, *ends, fresh=tally.calls == 0)
            tally.batch[:, :3] += self._per_sample(counts) * again
            self._settle(args[0], counts)
            tally.calls += self.rows
            if kind not in ("recurrent", "attention"):
                self.latest = tally

        return hook

    def _first(self, module: nn.Module, kind: Kind, x: Tensor, y: Tensor) -> Tally:
        if isinstance(module, CONVS):
            geometry = conv_geometry(module, x, y)
        else:
            linear = cast(nn.Linear, module)
            geometry = Geometry(linear.in_features, linear.out_features)
        tally = Tally(kind, module, geometry, look_over(module, x))
        tally.begin(self.samples)
        self.tallies[module] = tally
        return tally

    def _norm(self, module: nn.Module, _args: tuple[Tensor, ...], _y: Tensor) -> None:
        if self.latest is not None:
            self.latest.norm = self.names[module]

    def _gate(self, module: nn.Module, args: tuple[Tensor, ...], _y: Tensor) -> None:
        """An attention adds up the entries of its input that are not zero, and multiplies each of them by a gate.

        Each gate is a product too, one for each output of its last convolution.
        """
        last = [self.tallies[m] for m in module.modules() if m in self.tallies][-1:]
        for tally in last:
            events = self._events(args[0])
            tally.batch[:, GATES] += events + tally.geometry.outputs
            tally.batch[:, ADDITIONS] += events

    def _average(self, module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
        """Average pooling adds up what is not zero; a maximum of spikes is an OR, and free."""
        x = args[0].detach()
        if self.latest is not None:
            self.latest.batch[:, ADDITIONS] += self._events(x)
        rows, fresh = self._flat(x), module not in self.pooled
        values = self.pooled.setdefault(module, Values())
        if (flow := self._flow(rows)) is not None:
            values.expect(flow)
        first = rows[: self.samples]
        values.see(first if first.any() else rows, float(rows.min()), float(rows.max()), fresh)
        made = values.averaged(module, x.shape)
        self.flowing = None if made is None else (made, y.numel())

    def _flow(self, rows: Floats) -> Flow | None:
        """The grid of the average pool just before; None where none was, or something else lies between."""
        if self.flowing is None:
            return None
        (flow, entries), self.flowing = self.flowing, None
        return flow if rows.size <= entries and flow.holds(rows) else None

    def _flat(self, x: Tensor) -> Floats:
        """[K, B, ...] or [K x B, ...], time outermost -> [rows, entries]."""
        return x.reshape(-1, x.numel() // max(self._rows_of(x), 1)).float().cpu().numpy()

    def _events(self, x: Tensor) -> Doubles:
        """Entries that are not zero, per sample [B], of rows [K, B, ...] or [K x B, ...], time outermost."""
        flat = self._flat(x.detach())
        events = np.empty(len(flat))
        count_events(flat, events)
        return self._per_sample(events[:, None])[:, 0]

    def _rows_of(self, x: Tensor) -> int:
        """Rows of time and samples of [K, B, ...] or [K x B, ...]; five dimensions are a map at every step."""
        return len(x) * x.shape[1] if x.ndim == 5 else len(x)

    def _neuron(self, module: nn.Module, _args: tuple[Tensor, ...], y: Tensor | tuple[Tensor, ...]) -> None:
        self.repeats, self.flowing = False, None
        spikes = (y if isinstance(y, Tensor) else y[0]).detach()
        tally = self.latest
        if tally is None:
            raise ValueError(
                f"{self.names[module]}: a neuron without a synaptic layer before it cannot be priced."
            )
        tally.neuron = self.names[module]
        tally.neuron_entries += spikes.numel()
        self._settle()
        self.fired = (spikes, tally)
        if tally.read_on is False:
            self._settle()  # while the spikes are still in the cache

    def _settle(self, seen: Tensor | None = None, counts: Doubles | None = None) -> None:
        """Count the spikes of the latest neurons, unless the next layer has just read (`seen`) and counted them."""
        if self.fired is None:
            return
        (spikes, tally), self.fired = self.fired, None
        tally.read_on = seen is not None and same_memory(spikes, seen)
        if tally.read_on and counts is not None:
            tally.batch[:, SPIKES] += self._per_sample(counts[:, :1])[:, 0]
            return
        b = self.samples
        chunk = spikes.ndim >= 2 and spikes.shape[1] == b and (spikes.shape[0] != b or self.rows == b * b)
        steps = len(spikes) if chunk else 1
        if spikes.ndim >= 4 and not spikes.is_contiguous():
            spikes = spikes.movedim(-3, -1)  # channels last in memory
        rows = spikes.reshape(steps * b, -1).float().cpu().numpy()
        events = np.empty(len(rows))
        count_events(rows, events)
        tally.batch[:, SPIKES] += events.reshape(steps, b).sum(0)

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def loads(self) -> Loads:
        """One `LayerLoad` per synaptic layer, in the order they first ran."""
        self._settle()
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
        updates = tally.neuron_entries / tally.samples
        dense = float(tally.survey.reach[1].double().sum()) * tally.calls / tally.samples
        parameters, parameter_bits = self._parameters(name, tally)
        neuron = self.net.get_submodule(tally.neuron) if tally.neuron else None
        states = [s for s in STATES if neuron is not None and hasattr(neuron, s)]
        mean, worst = tally.total / tally.samples, tally.worst

        def activity(counts: Doubles) -> Activity:
            events, effective, reached, spikes, gates, additions = counts.tolist()
            return Activity(events, spikes, effective, reached, dense, updates, gates, additions)

        return LayerLoad(
            name=name,
            kind=tally.kind,
            geometry=tally.geometry,
            steps=max(1, round(tally.calls / tally.samples)),
            synapses=tally.survey.synapses,
            nonzero=tally.survey.nonzero,
            neurons=round(updates / self.steps),
            weight_bits=self.widths.get(f"{name}.weight", FLOAT_BITS),
            state_bits=sum(self.widths.get(f"{tally.neuron}.{s}", FLOAT_BITS) for s in states),
            parameters=parameters,
            parameter_bits=parameter_bits,
            input_bits=min(tally.values.bits, self.widths.get(f"{name}.input", FLOAT_BITS)),
            mean=activity(mean),
            worst=activity(worst),
            runs=tally.survey.runs,
        )

    def _parameters(self, name: str, tally: Tally) -> tuple[int, int]:
        """(values, bits) of the bias, with a batch norm folded into it, of steps by channel, decays and thresholds."""
        values = bits = 0
        step = self.widths.get(f"{name}.step", 0)
        if step and tally.geometry.out_channels > 1:  # a single one is folded into constants
            values, bits = tally.geometry.out_channels, tally.geometry.out_channels * step
        if tally.norm or getattr(tally.module, "bias", None) is not None:
            width = self.widths.get(f"{name}.bias", self.widths.get(f"{tally.norm}.bias", FLOAT_BITS))
            values, bits = values + tally.geometry.out_channels, bits + tally.geometry.out_channels * width
        neuron = self.net.get_submodule(tally.neuron) if tally.neuron else None
        for key in NEURON_PARAMETERS:
            tensor = getattr(neuron, key, None)
            if isinstance(tensor, Tensor):
                values += tensor.numel()
                bits += tensor.numel() * self.widths.get(f"{tally.neuron}.{key}", FLOAT_BITS)
        gate = getattr(self.net.get_submodule(name.rpartition(".")[0]), "gate", None)
        table = getattr(gate, "table", None)
        if name.endswith(".channel") and isinstance(table, Tensor):  # an attention's sigmoid, stored once
            values += table.numel()
            bits += table.numel() * int(cast(int, cast(nn.Module, gate).gate_bits))
        return values, bits
