"""The integer engine: a `Program` run event by event, in integers only.

A spike costs its synapses and a silent input nothing; a current that does not change is summed once. The result is
what the fake-quantized network computes, bit for bit, because that network's float32 sums are exact (see
`program.bounds`); `pipeline.export.proof` holds the two against each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.export import kernels
from pipeline.export.check import check
from pipeline.export.program import (
    Attention,
    Bounds,
    NotExact,
    Pool,
    Program,
    Stage,
    Synapses,
    bounds,
    current_exponent,
    input_exponents,
)

_BATCH, _SPIKES = 512, 1 << 22
"""Samples that go through a layer together, and their neurons times steps: what a second-level cache holds."""
_FEW = 16
"""Outputs for which a dot product is faster than events."""


@dataclass(frozen=True, eq=False)
class _Ready:
    """One stage in the layout and the integer types of its kernel."""

    stage: Stage
    arguments: tuple[object, ...]

    @property
    def neurons(self) -> int:
        return math.prod(self.stage.synapses.out_shape)


class Engine:
    """Runs a program; compiled code is kept on disk by numba.

    The accumulators are those of the program: where the bounds prove that they cannot overflow, unchecked; where
    they may, every single addition saturates or wraps, in the order pixel by pixel, channel by channel.
    """

    def __init__(self, program: Program) -> None:
        self.program = check(program)
        largest = max(math.prod(stage.synapses.out_shape) for stage in program.stages)
        self._batch = max(1, min(_BATCH, _SPIKES // (largest * program.timesteps)))
        self.bounds = bounds(program)
        ends = input_exponents(program)
        self._stages = [
            _prepare(stage, exponent, bound)
            for stage, (exponent, _), bound in zip(program.stages, ends, self.bounds, strict=True)
        ]

    def codes(self, x: Tensor) -> np.ndarray:
        """[T, B, C, H, W] float input -> integers [B, T, H * W * C], or [B, 1, ...] where no step differs.

        Raises:
            NotExact: a value lies off the input's grid or out of its range.
        """
        given = self.program.input
        if x.stride(0) == 0:
            x = x[:1]
        maps = x.to(torch.float32).contiguous().flatten(3).numpy()
        size = maps.shape[2] * maps.shape[3]
        kind = np.uint8 if given.high <= 255 and not given.signed else np.int32
        codes = np.empty((maps.shape[1], maps.shape[0], size), kind)
        ends = np.float32(given.low), np.float32(given.high)
        if not kernels.to_codes(maps, np.float32(2.0**given.exponent), *ends, codes):
            raise NotExact(
                [f"the input has a value that is no multiple of 2^-{given.exponent} up to {given.high}."]
            )
        return codes

    def run(self, x: Tensor) -> Tensor:
        """[T, B, C, H, W] float32 on the input's grid -> [T, B, N] float32 output spikes."""
        return torch.from_numpy(self.spikes(self.codes(x))).transpose(0, 1).to(torch.float32)

    def spikes(self, codes: np.ndarray) -> np.ndarray:
        """Integers [B, T or 1, inputs] -> output spikes [B, T, N] uint8."""
        parts = [self._run(codes[at : at + self._batch]) for at in range(0, len(codes), self._batch)]
        return (
            np.concatenate(parts)
            if parts
            else np.zeros((0, self.program.timesteps, self.program.outputs), np.uint8)
        )

    def labels(self, codes: np.ndarray) -> np.ndarray:
        """Integers [B, T or 1, inputs] -> int64 [B]: the class whose group fired most, the lower one if equal."""
        return self.vote(self.spikes(codes))

    def vote(self, spikes: np.ndarray) -> np.ndarray:
        """Output spikes [B, T, N] -> labels int64 [B]."""
        counts = spikes.sum(1, dtype=np.int64)
        return counts.reshape(len(counts), self.program.classes, -1).sum(2).argmax(1)

    def trace(self, codes: np.ndarray) -> dict[str, np.ndarray]:
        """Neuron layer -> its spikes [B, T, C, H, W] uint8."""
        found: dict[str, np.ndarray] = {}
        self._run(codes, found)
        return found

    def _run(self, codes: np.ndarray, keep: dict[str, np.ndarray] | None = None) -> np.ndarray:
        # A read-only array is another type to the compiler, and would be compiled for anew.
        x, steps = np.require(codes, requirements=("C", "W")), self.program.timesteps
        for ready in self._stages:
            for pool in ready.stage.pools:
                x = _pooled(pool, x)
            out = np.empty((len(x), steps, ready.neurons), np.uint8)
            kernels.run_stage(x, *ready.arguments, out)  # type: ignore[call-arg]
            if keep is not None:
                channels, rows, columns = ready.stage.synapses.out_shape
                maps = out.reshape(len(x), steps, rows, columns, channels)
                keep[ready.stage.neurons.name] = np.ascontiguousarray(maps.transpose(0, 1, 4, 2, 3))
            x = out
        return x


def _gated(attention: Attention, x: np.ndarray) -> np.ndarray:
    """Spikes [B, T, pixels * C] -> the gates of those that spiked, uint8."""
    channels = attention.in_shape[0]
    maps = x.reshape(*x.shape[:2], -1, channels)
    counts = maps.sum(2, dtype=np.int64)
    taps = attention.time.codes.shape[2]
    around = ((taps - 1) // 2, taps // 2)
    along = np.pad(counts, ((0, 0), (0, 0), around))
    windows = np.lib.stride_tricks.sliding_window_view(along, taps, axis=2)  # [B, T, C, taps]
    a = np.einsum("btck,otk->boc", windows, attention.time.codes)
    along = np.pad(counts, ((0, 0), around, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(along, taps, axis=1)  # [B, T, C, taps]
    b = np.einsum("btck,ock->bto", windows, attention.channel.codes)
    exponent, low, high = attention.operand
    left, right = (
        np.clip(_onto(each, weight.exponent + attention.mean, exponent), low, high)
        for each, weight in ((a, attention.time), (b, attention.channel))
    )
    entries = _onto(left * right, 2 * exponent, attention.entry_exponent) - attention.first_entry
    gates = attention.table[np.clip(entries, 0, len(attention.table) - 1)]
    return (maps * gates[:, :, None, :]).reshape(x.shape).astype(np.uint8)


def _onto(codes: np.ndarray, exponent: int, wanted: int) -> np.ndarray:
    """Codes on the grid of 2^-exponent, rounded to nearest (ties up) on that of 2^-wanted."""
    if wanted >= exponent:
        return codes << (wanted - exponent)
    return (codes + (1 << (exponent - wanted - 1))) >> (exponent - wanted)


def _pooled(pool: Pool, x: np.ndarray) -> np.ndarray:
    if isinstance(pool, Attention):
        return _gated(pool, x)
    channels, rows, columns = pool.in_shape
    maps = x.reshape(-1, rows, columns * channels)
    kind = x.dtype if pool.kind == "max" else np.int32
    out = np.empty((len(maps), *pool.out_shape[1:], channels), kind)
    run = kernels.pool_max if pool.kind == "max" else kernels.pool_sum
    run(maps, out, pool.kernel, pool.stride)
    return out.reshape(len(x), x.shape[1], -1)


def _prepare(stage: Stage, input_exponent: int, bound: Bounds) -> _Ready:
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
    return _Ready(stage, arguments)


def _alignment(synapses: Synapses, fine: int, input_exponent: int) -> np.ndarray:
    """int64 [2, neurons or 1]: the factor and the bias that bring a sum onto the grid of 2^-fine."""
    wide = np.zeros((2, *synapses.out_shape), np.int64)
    lifts = fine - input_exponent - np.broadcast_to(synapses.weight.exponents, synapses.out_shape[:1])
    wide[0] = (np.int64(1) << lifts)[:, None, None]
    if synapses.bias is not None:
        wide[1] = (synapses.bias.codes << (fine - synapses.bias.exponents))[:, None, None]
    return _per_neuron(wide)


def _constants(stage: Stage, fine: int) -> np.ndarray:
    """int64 [7, neurons or 1]: see `kernels.fire`."""
    neurons = stage.neurons
    down = fine - neurons.exponent
    wide = np.zeros((7, *stage.synapses.out_shape), np.int64)
    threshold = neurons.threshold.codes << (fine - neurons.threshold.exponent)
    subtract, zero = threshold * (neurons.reset == "subtract"), -int(neurons.reset == "zero")
    wide[kernels.BETA] = neurons.beta.codes << (fine - neurons.beta.exponent - neurons.exponent)
    wide[kernels.THRESHOLD], wide[kernels.BAR] = threshold, threshold >> down
    wide[kernels.SUBTRACTED], wide[kernels.ZEROED] = subtract, zero
    wide[kernels.STEP_SUBTRACTED] = 0 if neurons.delay else subtract >> down
    wide[kernels.STEP_ZEROED] = 0 if neurons.delay else zero
    return _per_neuron(wide)


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
