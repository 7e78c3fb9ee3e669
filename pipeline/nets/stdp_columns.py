"""What learning keeps beside the weights of the STDP network: columns of the neurons that spiked, and traces.

Columns of this sample's neurons lie eight side by side, so that what a pixel's spike changes in all of them is one
vector; the matrix has them back when the sample ends.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pipeline.compiled import njit, quick
from pipeline.nets.stdp_lanes import SLOTS, aligned, blocks, lower_and_sum
from pipeline.nets.stdp_rounding import WEIGHT


class Rule(NamedTuple):
    """Learning constants; decays are factors per step."""

    eta_pre: float
    eta_post: float
    mu: float
    w_max: float
    pre_decay: float
    post_decay: float
    additive: bool
    window: int
    """Steps between updates; 0 or 1: at every spike."""
    k: float
    """Potentiation factor; with spikes_per_k > 0 multiplied by ceil(most spikes of a neuron / spikes_per_k)."""
    spikes_per_k: float
    norm: float
    """Sum of a neuron's weights after each sample; 0: no normalisation."""
    weight_decay: float
    """Fraction of every weight lost per sample, before normalisation."""


class Plastic(NamedTuple):
    """What learning keeps beside the weights: columns of the neurons that spiked in this sample, and traces.

    Slots in order of the first spike, eight columns side by side: a pixel's synapses in all of them are one vector.
    """

    columns: Any
    """[n / SLOTS, P, SLOTS] float32, slot i at [i // SLOTS, :, i % SLOTS]: the weights that the network uses."""
    fulls: Any
    """The same in full precision where there is a shadow, else empty."""
    steps: Any
    """[1, n rounded up to SLOTS] float32, slot by slot: what a pixel's spike takes from its weight,"""
    lows: Any
    """and the least it leaves."""
    sums: Any
    """The current that the last step's spikes bring."""
    totals: Any
    """[n rounded up to SLOTS] float64: sums of the columns."""
    mask: Any
    """[P, n] uint8, or empty."""
    slot: Any
    """[n] int32, a neuron's slot; valid where post_time >= 0."""
    active: Any
    """[n] int32, a slot's neuron."""
    waiting: Any
    """[n] uint8: spiked, and not yet updated."""
    dirty: Any
    """[n] uint8: weights changed since the last normalisation."""
    post_time: Any
    """[n] int32, step of a neuron's last spike in this sample, -1: none."""
    place: Any
    """[P] int32, where a pixel is among those that spiked in this sample, -1: nowhere."""
    seen: Any
    """[P + 1] int32, the pixels that spiked in this sample,"""
    times: Any
    """[P + 1] int32, the step of each one's last spike,"""
    traces: Any
    """[P + 1] float32, and its trace at that step, where traces add up."""
    everyone: Any
    """[P] int32, 0 to P - 1."""
    values: Any
    """[P] float32, for use within a function."""
    faded_pre: Any
    """[steps + 1] float32: decay of a pixel's trace over so many steps."""
    faded_post: Any


@njit(cache=True, nogil=True)
def memory_of(inputs, n, steps, learn, shadowed, mask, rule):  # type: ignore[no-untyped-def]
    """Everything empty; columns take memory only where they are used."""
    most = (n + SLOTS - 1) // SLOTS if learn else 0
    faded_pre = np.ones(steps + 1, np.float32)
    faded_post = np.ones(steps + 1, np.float32)
    for t in range(steps):
        faded_pre[t + 1] = faded_pre[t] * np.float32(rule.pre_decay)
        faded_post[t + 1] = faded_post[t] * np.float32(rule.post_decay)
    return Plastic(
        blocks(most, inputs), blocks(most if shadowed else 0, inputs), aligned(np.int64(1), most * SLOTS),
        aligned(np.int64(1), most * SLOTS), aligned(np.int64(1), most * SLOTS), np.zeros(most * SLOTS, np.float64),
        mask, np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.uint8), np.zeros(n, np.uint8),
        np.zeros(n, np.int32), np.zeros(inputs, np.int32), np.zeros(inputs + 1, np.int32),
        np.zeros(inputs + 1, np.int32), np.ones(inputs + 1, np.float32),
        np.arange(inputs).astype(np.int32), np.zeros(inputs, np.float32),
        faded_pre, faded_post,
    )  # fmt: skip


@quick
def fetch(plastic, w, shadow, j, i):  # type: ignore[no-untyped-def]
    """Column j into slot i."""
    plastic.slot[j] = i
    plastic.active[i] = j
    block, lane = plastic.columns[i // SLOTS], i % SLOTS
    for p in range(w.shape[0]):
        block[p, lane] = w[p, j]
    if shadow.shape[0] > 0:
        full = plastic.fulls[i // SLOTS]
        for p in range(w.shape[0]):
            full[p, lane] = shadow[p, j]


@quick
def activate(plastic, w, shadow, j, i):  # type: ignore[no-untyped-def]
    """Column j into slot i, which is the next; lanes without a column hold zeros."""
    if i % SLOTS == 0:
        plastic.columns[i // SLOTS][:] = 0
        if shadow.shape[0] > 0:
            plastic.fulls[i // SLOTS][:] = 0
        plastic.steps[0, i : i + SLOTS] = 0
        plastic.lows[0, i : i + SLOTS] = 0
    fetch(plastic, w, shadow, j, i)


@quick
def sum_columns(plastic, active_count, pixels, first, last):  # type: ignore[no-untyped-def]
    """plastic.sums[0, i] = the weights of pixels[first:last] in slot i, in their order."""
    inputs = plastic.columns.shape[1]
    for i in range(0, active_count, SLOTS):
        plastic.steps[0, i : i + SLOTS] = 0
        plastic.lows[0, i : i + SLOTS] = -np.inf
        lower_and_sum(
            plastic.columns, i * inputs, pixels, first, last, plastic.steps, plastic.lows, plastic.sums, i
        )


@quick
def is_plain(plastic, formats):  # type: ignore[no-untyped-def]
    """True where a weight is just a float32: nothing masked, shadowed or rounded."""
    return plastic.mask.shape[0] == 0 and plastic.fulls.shape[0] == 0 and formats[WEIGHT, 0] <= 0
