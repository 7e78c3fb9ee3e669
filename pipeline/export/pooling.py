"""Pools and attention as the integer engine runs them: from a layer's spikes to what the next synapses read.

A gate is the same for all pixels of a channel and never negative, so it commutes with maxima and sums over windows:
gates are found from the whole map, and weigh the smaller one behind the pools.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.export import pool_kernels
from pipeline.export.program import Attention, Fixed, Pool, attention_reach

Pooling = Callable[[np.ndarray], np.ndarray]
"""Integers [B, T or 1, pixels * C] -> those of the pooled map, [B, T or 1, pixels * C]."""


def pooling(pools: Sequence[Pool]) -> Pooling:
    """All pools before a stage's synapses, of which an attention is the first."""
    gates = _gating(pools[0]) if pools and isinstance(pools[0], Attention) else None
    windows = [pool for pool in pools if not isinstance(pool, Attention)]

    def run(x: np.ndarray) -> np.ndarray:
        found = None if gates is None else gates(x)
        for pool in windows:
            x = _pooled(pool, x)
        if found is None:
            return x
        x = x if windows else x.copy()  # a layer's spikes may be wanted by others
        pool_kernels.weigh(x, found)
        return x

    return run


def _gating(attention: Attention) -> Pooling:
    """Spikes [B, T, pixels * C] uint8 -> gates [B, T, C] uint8."""
    kind = np.int32 if attention_reach(attention) < 1 << 31 else np.int64
    time, channel = (_by_spike(weight, kind) for weight in (attention.time, attention.channel))
    exponent, low, high = attention.operand
    shifts = [exponent - weight.exponent - attention.mean for weight in (attention.time, attention.channel)]
    formats = (*shifts, attention.entry_exponent - 2 * exponent, low, high, attention.first_entry)
    table = attention.table.astype(np.uint8)
    steps, channels = len(attention.time.codes), attention.in_shape[0]

    def gates(x: np.ndarray) -> np.ndarray:
        found = np.empty((len(x), steps, channels), np.uint8)
        pool_kernels.gates_of(x, time, channel, formats, table, found)
        return found

    return gates


def _by_spike(weight: Fixed, kind: type) -> np.ndarray:
    """Weights [out, in, taps] -> [in, taps from last to first * out]: all that a spike of one input adds."""
    rows = weight.codes.transpose(1, 2, 0)[:, ::-1]
    return np.ascontiguousarray(rows.reshape(len(rows), -1).astype(kind))


def _pooled(pool: Pool, x: np.ndarray) -> np.ndarray:
    channels, rows, columns = pool.in_shape
    maps = x.reshape(-1, rows, columns * channels)
    kind = x.dtype if pool.kind == "max" else np.int32
    out = np.empty((len(maps), *pool.out_shape[1:], channels), kind)
    run = pool_kernels.pool_max if pool.kind == "max" else pool_kernels.pool_sum
    run(maps, out, pool.kernel, pool.stride)
    return out.reshape(len(x), x.shape[1], -1)
