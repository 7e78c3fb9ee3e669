"""The integer engine: a `Program` run event by event, in integers only.

A spike costs its synapses and a silent input nothing; a current that does not change is summed once. The result is
what the fake-quantized network computes, bit for bit, because that network's float32 sums are exact (see
`program.bounds`); `pipeline.export.proof` holds the two against each other.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pipeline.export import event_kernels, kernels
from pipeline.export.check import check
from pipeline.export.program import Input, NotExact, Program, bounds, input_exponents
from pipeline.export.ready import in_order_of_channels, prepare

_BATCH, _SPIKES = 512, 1 << 22
"""Samples that go through a layer together, and their neurons times steps: what a second-level cache holds."""


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
            prepare(stage, exponent, bound)
            for stage, (exponent, _), bound in zip(program.stages, ends, self.bounds, strict=True)
        ]
        given, first = program.input, self._stages[0]
        binary = (given.exponent, given.signed, given.high) == (0, False, 1)
        self._binary, self._inputs = binary, math.prod(given.shape)
        straight = binary and first.spikes is not None and not first.stage.pools
        self._direct = in_order_of_channels(first) if straight else None

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
            raise _off_grid(given)
        return codes

    def run(self, x: Tensor) -> Tensor:
        """[T, B, C, H, W] float32 on the input's grid -> [T, B, N] float32 output spikes."""
        return torch.from_numpy(self.spikes_of(x)).transpose(0, 1).to(torch.float32)

    def answers(self, x: Tensor) -> np.ndarray:
        """[T, B, C, H, W] float32 on the input's grid -> labels int64 [B]; `labels` without codes in between."""
        return self.vote(self.spikes_of(x))

    def spikes_of(self, x: Tensor) -> np.ndarray:
        """[T, B, C, H, W] float32 on the input's grid -> output spikes [B, T, N] uint8; see `codes` for errors."""
        if self._direct is None or x.shape[0] == 0 or x.shape[1] == 0:
            return self.spikes(self.codes(x))
        if len(x) not in (1, self.program.timesteps) or x[0, 0].numel() != self._inputs:
            raise ValueError(
                f"x must be [{self.program.timesteps}, B, C, H, W] of {self.program.input.shape}, but got "
                f"{tuple(x.shape)}."
            )
        rows = x.to(torch.float32).flatten(2)
        rows = rows if rows.stride(2) == 1 else rows.contiguous()
        parts = []
        for at in range(0, x.shape[1], self._batch):
            out = np.empty(
                (min(self._batch, x.shape[1] - at), self.program.timesteps, self._stages[0].neurons), np.uint8
            )
            if not _of_floats(rows[:, at : at + self._batch], self._direct, out):
                raise _off_grid(self.program.input)
            parts.append(self._run(out, after=1))
        return np.concatenate(parts)

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
        labels = np.empty(len(spikes), np.int64)
        kernels.vote(np.ascontiguousarray(spikes), self.program.classes, labels)
        return labels

    def trace(self, codes: np.ndarray) -> dict[str, np.ndarray]:
        """Neuron layer -> its spikes [B, T, C, H, W] uint8."""
        found: dict[str, np.ndarray] = {}
        self._run(codes, found)
        return found

    def _run(
        self, codes: np.ndarray, keep: dict[str, np.ndarray] | None = None, after: int = 0
    ) -> np.ndarray:
        """Codes, or with `after` the spikes of that many stages, through the rest."""
        # A read-only array is another type to the compiler, and would be compiled for anew.
        x, steps = np.require(codes, requirements=("C", "W")), self.program.timesteps
        for at, ready in enumerate(self._stages[after:], start=after):
            x = ready.pooling(x)
            out = np.empty((len(x), steps, ready.neurons), np.uint8)
            spiking = at > 0 or (self._binary and int(x.max(initial=0)) <= 1)
            if spiking and ready.spikes is not None:
                strides = np.array([x.strides[0], x.strides[1]], np.int64)
                of = x.ctypes.data, strides, x.shape[1] == 1, 1, x.shape[2]
                event_kernels.run_binary(*of, *ready.spikes, out)  # type: ignore[call-arg]
            else:
                kernels.run_stage(x, *ready.arguments, out)  # type: ignore[call-arg]
            if keep is not None:
                channels, rows, columns = ready.stage.synapses.out_shape
                maps = out.reshape(len(x), steps, rows, columns, channels)
                keep[ready.stage.neurons.name] = np.ascontiguousarray(maps.transpose(0, 1, 4, 2, 3))
            x = out
        return x


def _off_grid(given: Input) -> NotExact:
    return NotExact([f"the input has a value that is no multiple of 2^-{given.exponent} up to {given.high}."])


def _of_floats(rows: Tensor, arguments: tuple[object, ...], out: np.ndarray) -> bool:
    """The first stage from rows [T, B, inputs] float32; False where a number is neither 0 nor 1."""
    step, sample = 4 * rows.stride(0) * (len(rows) > 1), 4 * rows.stride(1)
    strides = np.array([sample, step], np.int64)
    return bool(
        event_kernels.run_binary(rows.data_ptr(), strides, step == 0, 4, rows.shape[2], *arguments, out)  # type: ignore[call-arg]
    )
