"""What a network does for one sample, layer by layer: the only thing the cost model reads.

A `LayerLoad` holds counts, never energies, so one measurement prices a network on every accelerator. Counts are per
sample, summed over all T time steps; `mean` is the mean over the samples measured, `worst` the largest value that
any one sample reached, taken count by count and layer by layer (so the worst case of a sum is an upper bound).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal, Protocol, cast, runtime_checkable

from pipeline.types import FLOAT_BITS, Batch, Widths, require

Kind = Literal["linear", "conv", "recurrent", "attention", "pool", "stdp"]
Runs = tuple[tuple[int, int], ...]
"""((zeros before a nonzero, how often), ...) in storage order; empty: unknown, zeros are taken as independent."""


@dataclass(frozen=True)
class Activity:
    """Dynamic counts of one layer for one sample, over all time steps. All >= 0."""

    events_in: float = 0.0
    """Input entries that are not zero (spikes, or counts when the input is not binary)."""
    spikes_out: float = 0.0
    """Output entries that are not zero, of the neurons that follow (0 where there are none)."""
    synops: float = 0.0
    """Effective synaptic operations: a nonzero weight meets a nonzero input, exact at the edges of a convolution."""
    synops_event: float = 0.0
    """The same with all weights, zeros too: what a machine does that skips silent inputs only."""
    synops_dense: float = 0.0
    """All weights with all inputs: what a machine does that skips nothing (padding is never counted)."""
    updates: float = 0.0
    """Neuron state updates: neurons x time steps."""
    gates: float = 0.0
    """Multiplications outside the weights (attention: the products that make the gates, and a gate per event)."""
    additions: float = 0.0
    """Additions outside the weights (means of an attention, average pooling): one per event that comes in."""
    weight_updates: float = 0.0
    """Weights read, changed and written back by learning (0 in inference)."""
    trace_updates: float = 0.0
    """Learning traces read, changed and written back (0 in inference)."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            require(value >= 0, item.name, "be >= 0", value)


@dataclass(frozen=True)
class Geometry:
    """The loop nest of one layer and time step; a fully connected layer is a 1x1 convolution on a 1x1 map."""

    in_channels: int
    out_channels: int
    in_size: tuple[int, int] = (1, 1)
    """(rows, columns) of the input map, without padding."""
    out_size: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def inputs(self) -> int:
        """Input entries of one time step."""
        return self.in_channels * self.in_size[0] * self.in_size[1]

    @property
    def outputs(self) -> int:
        """Output entries (partial sums) of one time step."""
        return self.out_channels * self.out_size[0] * self.out_size[1]

    @property
    def fan_in(self) -> int:
        """Weights of one filter: what one output accumulates over (away from the edges)."""
        return self.in_channels // self.groups * self.kernel[0] * self.kernel[1]


@dataclass(frozen=True)
class LayerLoad:
    """One layer with synapses, and the neurons behind it."""

    name: str
    kind: Kind
    geometry: Geometry
    steps: int
    """Times the layer runs per sample (T; 1 for a layer that sees all time steps at once)."""
    synapses: int
    """Stored weights if nothing is compressed (shared convolution weights once)."""
    nonzero: int
    """Weights that are neither pruned nor quantized to zero."""
    neurons: int
    """Neurons with a state (0: none behind this layer)."""
    weight_bits: int = FLOAT_BITS
    state_bits: int = FLOAT_BITS
    """Stored bits of all state variables of one neuron together."""
    parameters: int = 0
    """Other stored values: biases (batch norm folded into them), decays, thresholds."""
    parameter_bits: int = 0
    """Bits of all those values together."""
    input_bits: int = 1
    """1: spikes. More: counts or real values, and then every synaptic operation is a multiplication too."""
    trace_bits: int = FLOAT_BITS
    """Stored bits of one learning trace (read only where learning is counted)."""
    traces: int = 0
    """Learning traces kept."""
    mean: Activity = field(default_factory=Activity)
    worst: Activity = field(default_factory=Activity)
    runs: Runs = ()

    def __post_init__(self) -> None:
        require(self.synapses >= 0, "synapses", "be >= 0", self.synapses)
        require(0 <= self.nonzero <= self.synapses, "nonzero", f"be in [0, {self.synapses}]", self.nonzero)
        require(self.neurons >= 0, "neurons", "be >= 0", self.neurons)
        require(self.steps >= 1, "steps", "be >= 1", self.steps)
        require(self.weight_bits >= 1, "weight_bits", "be >= 1", self.weight_bits)
        require(self.state_bits >= 0, "state_bits", "be >= 0", self.state_bits)
        require(self.input_bits >= 1, "input_bits", "be >= 1", self.input_bits)

    @property
    def multiplies(self) -> bool:
        """True when the input is not binary: multiply-accumulate (MAC) instead of accumulate (AC)."""
        return self.input_bits > 1

    @property
    def events_in(self) -> float:
        return self.mean.events_in

    @property
    def synops(self) -> float:
        return self.mean.synops

    @property
    def updates(self) -> float:
        return self.mean.updates

    @property
    def density(self) -> float:
        """Share of weights that are not zero, in [0, 1]."""
        return self.nonzero / self.synapses if self.synapses else 0.0

    @property
    def input_density(self) -> float:
        """Mean share of input entries that are not zero, in [0, 1]."""
        return self.mean.events_in / max(self.geometry.inputs * self.steps, 1)

    @property
    def firing_rate(self) -> float:
        """Mean spikes per neuron and time step, in [0, 1]."""
        return self.mean.spikes_out / self.mean.updates if self.mean.updates else 0.0

    def at_worst(self) -> LayerLoad:
        """The same layer with the worst case in place of the mean."""
        return replace(self, mean=self.worst)


Loads = tuple[LayerLoad, ...]


@runtime_checkable
class ReportsLoad(Protocol):
    """A network that counts for itself, because it has no `nn.Linear` or `nn.Conv2d` to hook (the STDP network).

    It runs itself over the batches (calling itself, so that forward hooks see each answer) and answers plain
    mappings, because the rooms do not import each other: the keys are the fields of `LayerLoad`, with `geometry`,
    `mean` and `worst` mappings of their fields in turn (`worst` may be left out: then it is the mean).
    """

    def load(self, batches: Iterable[Batch], widths: Widths) -> Iterable[Mapping[str, object]]:
        """Counts per sample over `batches`, one mapping for each group of synapses."""
        ...


@runtime_checkable
class ReportsLearning(Protocol):
    """A network whose learning a device could do: it counts what it reads, updates and writes per training sample."""

    trained_samples: int

    def training_load(self, widths: Widths, dense: bool) -> Iterable[Mapping[str, object]]:
        """Means per sample learned from, as `ReportsLoad.load`; dense: as updates of whole rows and columns count."""
        ...


@runtime_checkable
class ReportsMatrices(Protocol):
    """A network that simulators hold as dense matrices, its constant connections too: the way papers count memory."""

    def matrix_bits(self, widths: Widths) -> float:
        """Bits of every matrix that a simulator of dense matrices allocates, at the width of the weights."""
        ...


def load_from(report: Mapping[str, object]) -> LayerLoad:
    """A `LayerLoad` from a network's own report, or from what `dataclasses.asdict` made of one (through JSON, too).

    Raises:
        ValueError: a key that `LayerLoad` does not have, or a count out of range.
    """
    known = {item.name for item in fields(LayerLoad)}
    for key in report:
        require(key in known, f"load key {key!r}", f"be one of {sorted(known)}", key)
    given = dict(report)
    given["runs"] = tuple(tuple(run) for run in cast(Iterable[tuple[int, int]], given.get("runs", ())))
    mean = Activity(**cast(Mapping[str, float], given.pop("mean")))
    worst = Activity(**cast(Mapping[str, float], given.pop("worst"))) if "worst" in given else mean
    shape = cast(Mapping[str, object], given.pop("geometry"))  # lists, where it has been JSON
    geometry = Geometry(**{k: tuple(v) if isinstance(v, list) else v for k, v in shape.items()})  # type: ignore[arg-type]
    return LayerLoad(mean=mean, worst=worst, geometry=geometry, **given)  # type: ignore[arg-type]
