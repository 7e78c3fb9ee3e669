"""The neurons of the STDP network: their constants, who fires, who is heard, and who inhibits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.compiled import quick
from pipeline.nets.stdp_lanes import LANES, above
from pipeline.nets.stdp_rounding import uniform

RANDOM, FIRST, HIGHEST, ALL = 0, 1, 2, 3
"""Who spikes when several cross the threshold in one step: one of them (drawn, lowest index, highest
overshoot), or all of them."""


class Cell(NamedTuple):
    """Neuron constants in mV above rest and steps; decays are factors per step."""

    decay: float
    threshold: float
    reset: float
    lowest: float
    refractory: int
    theta_plus: float
    theta_decay: float
    gain: float
    w_inh: float
    winner: int
    layer: bool
    drive: float
    inh_decay: float
    inh_threshold: float
    inh_reset: float
    inh_refractory: int


@quick
def find_fired(v, bar, theta, faded, fired):  # type: ignore[no-untyped-def]
    """Neurons at or above threshold into `fired`, in order; returns how many. v, theta: a multiple of LANES long."""
    count = 0
    for j in range(0, v.shape[0], LANES):
        bits = above(v, theta, j, bar, faded)
        i = j
        while bits != 0:
            if bits & 1:
                fired[count] = i
                count += 1
            bits >>= 1
            i += 1
    return count


@quick
def choose(winner, fired, count, v, theta, faded, rng):  # type: ignore[no-untyped-def]
    """Position in `fired` of the one neuron that spikes."""
    if winner == RANDOM and count > 1:
        return int(uniform(rng) * count)
    best = 0
    if winner == HIGHEST:
        for i in range(1, count):
            if v[fired[i]] - theta[fired[i]] * faded > v[fired[best]] - theta[fired[best]] * faded:
                best = i
    return best


@quick
def inhibit(cell, spiked, spikes, t, inh_v, inh_time, inh_free, out):  # type: ignore[no-untyped-def]
    """Inhibitory neurons that spike at step t, into `out`; driven one to one by `spiked` of step t - 1.

    Their voltage only decays between drives, so it is computed when the next drive comes.
    """
    count = 0
    for i in range(spikes):
        j = spiked[i]
        v = inh_v[j] * np.float32(cell.inh_decay ** (t - inh_time[j]))
        if t >= inh_free[j]:
            v += np.float32(cell.drive)
        if v >= cell.inh_threshold:
            v = np.float32(cell.inh_reset)
            inh_free[j] = t + cell.inh_refractory + 1
            out[count] = j
            count += 1
        inh_v[j] = v
        inh_time[j] = t
    return count
