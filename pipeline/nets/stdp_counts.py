"""What an STDP network did, per sample, as the hardware model reads it, and what its matrices take in memory.

Inhibition is stored as one number here, since all its weights are equal (`STORED`); the dense matrices that a
simulator allocates are counted beside it (`DENSE`): both are published ways to count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pipeline.compiled import njit
from pipeline.nets.stdp_kernel import (
    EXCITATORY_UPDATES,
    INHIBITIONS,
    INHIBITORY_UPDATES,
    INPUT_SPIKES,
    READS,
    SPIKES,
)
from pipeline.nets.stdp_plasticity import (
    DENSE_POST_WRITES,
    DENSE_PRE_WRITES,
    LEARN_READS,
    NORM_WRITES,
    POST_WRITES,
    PRE_WRITES,
)
from pipeline.types import FLOAT_BITS, Widths

if TYPE_CHECKING:
    from pipeline.nets.stdp import Ops, StdpNet


CONSTANTS = ("threshold", "beta", "reset")
"""Numbers that all neurons share, one each."""


class Counts(NamedTuple):
    """Operations per sample."""

    input_spikes: float
    spikes: float
    neuron_updates: float
    inhibitory_updates: float
    synaptic_reads: float
    """Weights read to integrate input spikes."""
    inhibitions: float
    """Additions of an inhibitory spike to another neuron."""
    learning_reads: float
    pre_writes: float
    """Weights written on presynaptic spikes: those whose neuron fired before in the sample (x_post > 0)."""
    post_writes: float
    """Weights written on postsynaptic spikes or at the end of a window: those with x_pre > 0."""
    norm_writes: float
    dense_pre_writes: float
    """The same writes by a simulator that updates whole rows and columns."""
    dense_post_writes: float

    @property
    def stdp_writes(self) -> float:
        """Weight writes of STDP proper, event-driven, without normalisation."""
        return self.pre_writes + self.post_writes

    @property
    def dense_stdp_writes(self) -> float:
        return self.dense_pre_writes + self.dense_post_writes


def per_sample(ops: Ops, samples: int) -> Counts:
    """Counters of `stdp_kernel.present` over `samples` samples -> means; zeros where nothing was shown."""
    order = (
        INPUT_SPIKES, SPIKES, EXCITATORY_UPDATES, INHIBITORY_UPDATES, READS, INHIBITIONS, LEARN_READS,
        PRE_WRITES, POST_WRITES, NORM_WRITES, DENSE_PRE_WRITES, DENSE_POST_WRITES,
    )  # fmt: skip
    return Counts(*(float(ops[i]) / max(samples, 1) for i in order))


class Sample(NamedTuple):
    """The most that any one sample did, count by count."""

    input_spikes: float = 0.0
    effective_reads: float = 0.0
    """Weights read that are not zero."""
    synaptic_reads: float = 0.0
    spikes: float = 0.0

    def or_more(self, found: npt.NDArray[np.int64]) -> Sample:
        """The larger of each with samples [S, 4], in this order."""
        return Sample(*np.maximum(self, found.max(0, initial=0)).tolist())


@njit(cache=True, nogil=True)
def count_reads(starts, pixels, steps, alive, rows, out):  # type: ignore[no-untyped-def]
    """Spikes of samples (see `stdp_kernel.present`) that are integrated: those of a sample's last step come too late.

    alive [P]: weights of a pixel that are not zero. rows [P] += spikes of each pixel; out [S, 2] = (all spikes, weights
    read that are not zero).
    """
    for s in range(out.shape[0]):
        effective = 0
        for e in range(starts[s * steps], starts[(s + 1) * steps - 1]):
            p = np.uint32(pixels[e])  # unsigned: numba need not look for indices from the end
            rows[p] += 1
            effective += alive[p]
        out[s, 0] = starts[(s + 1) * steps] - starts[s * steps]
        out[s, 1] = effective


def by_sample(
    starts: Ops,
    pixels: npt.NDArray[np.int32],
    steps: int,
    weight: npt.NDArray[np.float32],
    spikes: npt.NDArray[np.int32],
    rows: Ops,
) -> npt.NDArray[np.int64]:
    """[S, 4], the fields of `Sample`, of samples that answered with spike counts [S, n]; adds to rows [P]."""
    found = np.zeros((len(spikes), 2), np.int64)
    if steps:
        count_reads(starts, pixels, steps, np.count_nonzero(weight, axis=1), rows, found)
    events = (
        starts[steps - 1 :: steps][: len(spikes)] - starts[:-1:steps][: len(spikes)] if steps else found[:, 0]
    )
    return np.stack([found[:, 0], found[:, 1], events * weight.shape[1], spikes.sum(1)], axis=1)


class Memory(NamedTuple):
    """Bits of a network, counted both ways."""

    dense_bits: float
    """Input weights plus the n x n matrices that a simulator allocates for inhibition (layer: 2, direct: 1)."""
    weight_bits: float
    """The plastic weights alone."""
    stored_bits: float
    """What a device keeps: weights, theta, membranes and refractory counters, one number for inhibition, and one each
    for threshold, decay and reset."""


def memory(inputs: int, neurons: int, layer: bool, refractory: int, widths: Widths) -> Memory:
    """(784 n + 2 n^2) * 32 for the baseline, (784 n + n^2) * 8 for FSpiNN with 8 bits: 7.45x at n = 4900.

    widths: bits by name (weight, theta, membrane, inhibition); dense counts all matrices at `weight`'s width.
    """
    weight = widths.get("weight", FLOAT_BITS)
    dense = (inputs * neurons + (2 if layer else 1) * neurons**2) * weight
    shared = sum(widths.get(name, FLOAT_BITS) for name in ("inhibition", *CONSTANTS))
    stored = inputs * neurons * weight + shared
    state = widths.get("membrane", FLOAT_BITS) + int(refractory).bit_length()
    stored += neurons * (widths.get("theta", FLOAT_BITS) + state * (2 if layer else 1))
    return Memory(dense, inputs * neurons * weight, stored)


def zero_runs(weight: npt.NDArray[np.float32]) -> tuple[tuple[int, int], ...]:
    """Lengths of the runs of zeros before each nonzero weight [neurons, pixels], row by row, with their counts."""
    places = np.flatnonzero(weight)
    lengths, counts = np.unique(np.diff(places, prepend=-1) - 1, return_counts=True)
    return tuple(zip(lengths.tolist(), counts.tolist(), strict=True))


def inference_load(net: StdpNet, widths: Widths) -> tuple[Mapping[str, object], ...]:
    """Fields of the hardware model's `LayerLoad`, per sample, of everything shown since `forget_inference`."""
    done = per_sample(net.inference_ops, net.shown_samples)
    effective = _effective(net, net.inference_pixels, net.shown_samples)
    return _loads(net, widths, done, effective, 0.0, 0.0, 0, net.inference_most)


def _effective(net: StdpNet, pixels: Ops, samples: int) -> float:
    """Weights read per sample that are not zero now: pixels differ, and the silent ones hold most of the zeros."""
    alive = torch.count_nonzero(net.weight.detach(), dim=1).numpy()
    return float(pixels @ alive) / max(samples, 1)


def training_load(net: StdpNet, widths: Widths, dense: bool) -> tuple[Mapping[str, object], ...]:
    """The same while learning, with updates of weights and traces; neurons have traces for presynaptic updates only."""
    done = per_sample(net.training_ops, net.trained_samples)
    inputs, neurons = net.weight.shape
    post = neurons if done.pre_writes else 0
    if dense:
        writes = done.dense_stdp_writes + done.norm_writes
        updates = float(inputs + post) * net.steps
    else:
        writes = done.stdp_writes + done.norm_writes
        updates = done.input_spikes + (done.spikes if post else 0.0)
    effective = _effective(net, net.training_pixels, net.trained_samples)
    return _loads(net, widths, done, effective, writes, updates, inputs + post, None)


def _loads(
    net: StdpNet,
    widths: Widths,
    done: Counts,
    effective: float,
    writes: float,
    trace_updates: float,
    traces: int,
    most: Sample | None,
) -> tuple[Mapping[str, object], ...]:
    weight = net.weight.detach()
    inputs, neurons = weight.shape
    alive = torch.count_nonzero(weight).item()
    cell, steps = net.spec.cell(), max(net.steps, 1)
    state = widths.get("membrane", FLOAT_BITS) + int(cell.refractory).bit_length()
    lateral = widths.get("inhibition", FLOAT_BITS)
    shared = sum(widths.get(name, FLOAT_BITS) for name in CONSTANTS)
    mean = {
        "events_in": done.input_spikes, "spikes_out": done.spikes,
        "synops": effective, "synops_event": done.synaptic_reads,
        "synops_dense": float(inputs) * neurons * steps, "updates": done.neuron_updates,
        "weight_updates": writes, "trace_updates": trace_updates,
    }  # fmt: skip
    pushed = {
        "events_in": done.spikes, "spikes_out": done.spikes if cell.layer else 0.0,
        "synops": done.inhibitions, "synops_event": done.inhibitions,
        "synops_dense": float(neurons) * (neurons - 1) * steps, "updates": done.inhibitory_updates,
    }  # fmt: skip
    first = {
        "name": "input", "kind": "stdp", "geometry": {"in_channels": inputs, "out_channels": neurons},
        "steps": steps, "synapses": inputs * neurons, "nonzero": alive, "neurons": neurons,
        "weight_bits": widths.get("weight", FLOAT_BITS), "state_bits": state,
        "parameters": neurons + len(CONSTANTS), "parameter_bits": neurons * widths.get("theta", FLOAT_BITS) + shared,
        "trace_bits": widths.get("trace", FLOAT_BITS), "traces": traces,
        "mean": mean,
        "runs": zero_runs(weight.numpy().T),
    }  # fmt: skip
    # One stored number acts on the n - 1 others: it is read once per spike, and added to each of them.
    second = {
        "name": "inhibition", "kind": "stdp", "geometry": {"in_channels": neurons, "out_channels": neurons},
        "steps": steps, "synapses": 1, "nonzero": int(cell.w_inh != 0),
        "neurons": neurons if cell.layer else 0, "weight_bits": lateral,
        "state_bits": state if cell.layer else 0,
        "mean": pushed,
    }  # fmt: skip
    if most is None:
        return first, second
    pushes = most.spikes * (neurons - 1)
    busy = mean | {
        "events_in": most.input_spikes, "spikes_out": most.spikes, "synops": most.effective_reads,
        "synops_event": most.synaptic_reads,
    }  # fmt: skip
    heard = pushed | {
        "events_in": most.spikes, "spikes_out": most.spikes if cell.layer else 0.0, "synops": pushes,
        "synops_event": pushes,
    }  # fmt: skip
    return first | {"worst": busy}, second | {"worst": heard}
