"""A stage of a program in the layout and the integer types of its kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.export import event_kernels, fire_kernel, kernels
from pipeline.export.pooling import Pooling, pooling
from pipeline.export.program import Attention, Bounds, Stage, Synapses, current_exponent

_FEW = 16
"""Outputs for which a dot product is faster than events."""


@dataclass(frozen=True, eq=False)
class Ready:
    """One stage in the layout and the integer types of its kernel."""

    stage: Stage
    arguments: tuple[object, ...]
    spikes: tuple[object, ...] | None
    """Of `event_kernels.run_binary`, where inputs of 0 and 1 can take that way."""
    pooling: Pooling

    @property
    def neurons(self) -> int:
        return math.prod(self.stage.synapses.out_shape)


def prepare(stage: Stage, input_exponent: int, bound: Bounds) -> Ready:
    """Constants on the working grid, weights in the order in which events read them."""
    synapses, neurons = stage.synapses, stage.neurons
    work = np.int32 if bound.update_bits <= 32 else np.int64
    fine = neurons.working_exponent(current_exponent(stage, input_exponent))
    down = fine - neurons.exponent
    half = (1 << down) >> 1 if neurons.rounding == "nearest" else 0
    mode, register = _register(stage, bound)
    kind = _kind(synapses, mode)
    narrow = bound.accumulator_bits <= 16 and kind != kernels.ANY
    channels, rows, columns = synapses.out_shape
    linear = synapses.kind == "linear"
    in_map = (
        (1, 1, math.prod(synapses.in_shape)) if linear else (*synapses.in_shape[1:], synapses.in_shape[0])
    )
    shape = np.array(
        [*in_map, rows, columns, channels,
         *(synapses.weight.codes.shape[2:] or (1, 1)), synapses.padding[0], synapses.padding[2]], np.int64,
    )  # fmt: skip
    lifts, biases = _alignment(synapses, fine, input_exponent).astype(work)
    arguments = (
        kind, narrow, _arranged(synapses, kind), shape, np.array(synapses.stride), np.array(synapses.dilation),
        synapses.groups, register, mode, lifts, biases, _constants(stage, fine).astype(work),
        work(half), work(down), work(neurons.low), work(neurons.high),
    )  # fmt: skip
    binary = (
        narrow
        and mode == kernels.EXACT
        and linear
        and not any(isinstance(pool, Attention) or pool.kind != "max" for pool in stage.pools)
    )
    weights, pools = _arranged(synapses, kernels.LINEAR) if binary else None, pooling(stage.pools)
    if (
        weights is None
        or weights.dtype != np.int8
        or len(weights) % 8
        or len(weights) > event_kernels.MOST_INPUTS
    ):
        return Ready(stage, arguments, None, pools)
    packed = _tiled(weights)
    columns = packed.shape[0] * packed.shape[2]
    wide = (_wide(numbers, columns) for numbers in (lifts, biases))
    return Ready(stage, arguments, (packed, *wide, *arguments[11:]), pools)


def _tiled(weights: np.ndarray) -> np.ndarray:
    """Weights [inputs, n] int8 for `event_kernels`: [tiles, rows, width], the inputs' rows, their negatives, zeros."""
    inputs, n = weights.shape
    wide = event_kernels.width(n)
    signed = int(weights.min(initial=0)) > -128
    packed = np.zeros((-(-n // wide), inputs * (1 + signed) + 1, wide), np.int8)
    for tile in range(len(packed)):
        columns = weights[:, tile * wide : (tile + 1) * wide]
        packed[tile, :inputs, : columns.shape[1]] = columns
        if signed:
            packed[tile, inputs : 2 * inputs, : columns.shape[1]] = -columns
    return packed


def _wide(numbers: np.ndarray, columns: int) -> np.ndarray:
    """One number, or one a neuron with zeros up to `columns`."""
    return numbers if len(numbers) == 1 else np.pad(numbers, (0, columns - len(numbers)))


def in_order_of_channels(ready: Ready) -> tuple[object, ...]:
    """The arguments of a fully connected first stage whose inputs lie as [C, H, W] and not as [H, W, C]."""
    assert ready.spikes is not None
    codes = ready.stage.synapses.weight.codes
    return (
        _tiled(np.ascontiguousarray(codes.reshape(len(codes), -1).T.astype(np.int8))),
        *ready.spikes[1:],
    )


def _alignment(synapses: Synapses, fine: int, input_exponent: int) -> np.ndarray:
    """int64 [2, neurons or 1]: the factor and the bias that bring a sum onto the grid of 2^-fine."""
    wide = np.zeros((2, *synapses.out_shape), np.int64)
    lifts = fine - input_exponent - np.broadcast_to(synapses.weight.exponents, synapses.out_shape[:1])
    wide[0] = (np.int64(1) << lifts)[:, None, None]
    if synapses.bias is not None:
        wide[1] = (synapses.bias.codes << (fine - synapses.bias.exponents))[:, None, None]
    return _per_neuron(wide)


def _constants(stage: Stage, fine: int) -> np.ndarray:
    """int64 [6, neurons in whole vectors, or 1]: see `fire_kernel.fire`."""
    neurons = stage.neurons
    down = fine - neurons.exponent
    wide = np.zeros((6, *stage.synapses.out_shape), np.int64)
    threshold = neurons.threshold.codes << (fine - neurons.threshold.exponent)
    subtract, zero = threshold * (neurons.reset == "subtract"), -int(neurons.reset == "zero")
    wide[fire_kernel.BETA] = neurons.beta.codes << (fine - neurons.beta.exponent - neurons.exponent)
    wide[fire_kernel.BAR] = threshold >> down
    wide[fire_kernel.SUBTRACTED], wide[fire_kernel.ZEROED] = subtract, zero
    wide[fire_kernel.STEP_SUBTRACTED] = 0 if neurons.delay else subtract >> down
    wide[fire_kernel.STEP_ZEROED] = 0 if neurons.delay else zero
    rows = _per_neuron(wide)
    if rows.shape[1] == 1:
        return rows
    return np.pad(rows, ((0, 0), (0, fire_kernel.padded(rows.shape[1]) - rows.shape[1])))


def _per_neuron(maps: np.ndarray) -> np.ndarray:
    """[k, C, H, W] -> [k, neurons] in the engine's order (pixels, then channels), [k, 1] where all are equal."""
    rows = np.ascontiguousarray(maps.transpose(0, 2, 3, 1).reshape(len(maps), -1))
    return rows[:, :1].copy() if (rows == rows[:, :1]).all() else rows


def _register(stage: Stage, bound: Bounds) -> tuple[int, np.ndarray]:
    """(how to add, [low, high]): unchecked where the worst case fits the accumulator."""
    held = stage.accumulator
    modes = {"saturate": kernels.SATURATE, "wrap": kernels.WRAP}
    mode = kernels.EXACT if bound.accumulator_bits <= held.bits else modes[held.overflow]
    return mode, np.array([-held.high - 1, held.high], np.int64)


def _kind(synapses: Synapses, mode: int) -> int:
    plain = synapses.stride == (1, 1) and synapses.dilation == (1, 1) and synapses.groups == 1
    if mode != kernels.EXACT or not plain:
        return kernels.ANY
    if synapses.kind == "linear":
        return kernels.FEW if synapses.out_shape[0] <= _FEW else kernels.LINEAR
    return kernels.CONV


def _arranged(synapses: Synapses, kind: int) -> np.ndarray:
    """Weights with the synapses of one event contiguous, in the smallest integers that hold them."""
    codes = synapses.weight.codes
    if synapses.kind == "linear":
        channels, rows, columns = synapses.in_shape
        maps = codes.reshape(-1, channels, rows, columns).transpose(2, 3, 1, 0)
        w = maps.reshape(-1, len(codes))
        w = w.T if kind == kernels.FEW else w
    elif kind == kernels.CONV:
        w = codes.transpose(1, 2, 3, 0)[:, :, ::-1].reshape(codes.shape[1] * codes.shape[2], -1)
    else:
        groups = codes.reshape(synapses.groups, -1, *codes.shape[1:])
        w = groups.transpose(0, 2, 3, 4, 1).reshape(-1, groups.shape[1])
    top = int(np.abs(w).max(initial=0))
    kind_of = next(t for t in (np.int8, np.int16, np.int32) if top <= np.iinfo(t).max)
    return np.ascontiguousarray(w.astype(kind_of))
