"""The equations of `pipeline.export.program` in plain Python integers, and random programs to run them on."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from pipeline.export.program import (
    Accumulator,
    Fixed,
    Input,
    Neurons,
    Pool,
    Program,
    Stage,
    Synapses,
    current_exponent,
    input_exponents,
)


class Grid(NamedTuple):
    bits: int
    step: torch.Tensor
    low: int
    high: int


class Membrane(nn.Module):
    """A fixed-point membrane in plain torch."""

    def __init__(self, bits, step, rounding="nearest"):
        super().__init__()
        self.bits, self.step, self.rounding = bits, torch.tensor(step), rounding
        self.low, self.high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1

    def forward(self, mem):
        half = 0.5 if self.rounding == "nearest" else 0.0
        return (mem / self.step + half).floor().clamp(self.low, self.high) * self.step


def fixed(codes, exponent, bits):
    exponents = np.atleast_1d(np.asarray(exponent, np.int64))
    return Fixed(np.asarray(codes, np.int64), exponents, bits)


def run(program, codes):
    """codes [T or 1, rows, columns, C] -> per stage spikes [T, C, rows, columns]."""
    x = [codes[t if len(codes) > 1 else 0].transpose(2, 0, 1).tolist() for t in range(program.timesteps)]
    found = []
    for stage, (exponent, _) in zip(program.stages, input_exponents(program), strict=True):
        for pool in stage.pools:
            x = [pooled(pool, step) for step in x]
        x = neurons_of(stage, exponent, [currents_of(stage, step) for step in x])
        found.append(np.array(x, np.uint8))
    return found


def pooled(pool, x):
    c, rows, columns = pool.out_shape
    pick = max if pool.kind == "max" else sum
    return [
        [
            [
                pick(
                    x[k][i * pool.stride[0] + a][j * pool.stride[1] + b]
                    for a in range(pool.kernel[0])
                    for b in range(pool.kernel[1])
                )
                for j in range(columns)
            ]
            for i in range(rows)
        ]
        for k in range(c)
    ]


def gated(attention, x):
    """Spikes [B, T, rows, columns, C] -> the same, each as its gate: whole arrays, no event looked at."""
    counts = x.sum((2, 3), dtype=np.int64)  # [B, T, C]
    taps = attention.time.codes.shape[2]
    around = ((taps - 1) // 2, taps // 2)
    along = np.lib.stride_tricks.sliding_window_view(np.pad(counts, ((0, 0), (0, 0), around)), taps, axis=2)
    a = np.einsum("btck,otk->boc", along, attention.time.codes)
    along = np.lib.stride_tricks.sliding_window_view(np.pad(counts, ((0, 0), around, (0, 0))), taps, axis=1)
    b = np.einsum("btck,ock->bto", along, attention.channel.codes)
    exponent, low, high = attention.operand
    left, right = (
        np.clip(onto(each, weight.exponent + attention.mean, exponent), low, high)
        for each, weight in ((a, attention.time), (b, attention.channel))
    )
    entries = onto(left * right, 2 * exponent, attention.entry_exponent) - attention.first_entry
    gates = attention.table[np.clip(entries, 0, len(attention.table) - 1)]
    return x * gates[:, :, None, None]


def onto(codes, exponent, wanted):
    """Codes on the grid of 2^-exponent, rounded to nearest (ties up) on that of 2^-wanted."""
    if wanted >= exponent:
        return codes << (wanted - exponent)
    return (codes + (1 << (exponent - wanted - 1))) >> (exponent - wanted)


def held(value, register):
    if register.overflow == "saturate":
        return min(max(value, -register.high - 1), register.high)
    span = 2 * (register.high + 1)
    return (value + register.high + 1) % span - register.high - 1


def currents_of(stage, x):
    """Sums per output neuron, additions in the order rows, columns, channels of the input."""
    s, register = stage.synapses, stage.accumulator
    weight = s.weight.codes
    channels, rows, columns = s.in_shape
    out = np.zeros(s.out_shape, object)
    for y in range(rows):
        for column in range(columns):
            for c in range(channels):
                if not x[c][y][column]:
                    continue
                for place, w in synapses_of(s, weight, c, y, column):
                    out[place] = held(out[place] + int(x[c][y][column]) * int(w), register)
    return out


def synapses_of(s, weight, c, y, column):
    n, rows, columns = s.out_shape
    if s.kind == "linear":
        at = (c * s.in_shape[1] + y) * s.in_shape[2] + column
        return [((j, 0, 0), weight[j, at]) for j in range(n)]
    per_in, per_out = s.in_shape[0] // s.groups, n // s.groups
    found = []
    for j in range(c // per_in * per_out, (c // per_in + 1) * per_out):
        for a in range(weight.shape[2]):
            for b in range(weight.shape[3]):
                i, k = y + s.padding[0] - a * s.dilation[0], column + s.padding[2] - b * s.dilation[1]
                if i % s.stride[0] or k % s.stride[1]:
                    continue
                i, k = i // s.stride[0], k // s.stride[1]
                if 0 <= i < rows and 0 <= k < columns:
                    found.append(((j, i, k), weight[j, c % per_in, a, b]))
    return found


def neurons_of(stage, input_exponent, sums):
    s, n = stage.synapses, stage.neurons
    fine = n.working_exponent(current_exponent(stage, input_exponent))

    def at(tensor, place):
        codes = tensor.codes if tensor.codes.size > 1 else tensor.codes[0]
        return int(np.broadcast_to(codes, s.out_shape)[place])

    u = np.zeros(s.out_shape, object)
    spikes = []
    for acc in sums:
        out = np.zeros(s.out_shape, int)
        for place in np.ndindex(*s.out_shape):
            exponents = s.weight.exponents
            own = int(exponents[place[0] if len(exponents) > 1 else 0]) + input_exponent
            current = int(acc[place]) << (fine - own)
            if s.bias is not None:
                current += int(s.bias.codes[place[0]]) << (fine - s.bias.exponent)
            threshold = at(n.threshold, place)
            bar = math.floor(threshold * 2.0 ** (n.exponent - n.threshold.exponent))
            due = u[place] > bar
            old = 0 if due and n.reset == "zero" else u[place]
            v = (at(n.beta, place) * old << (fine - n.beta.exponent - n.exponent)) + current
            v -= (threshold << (fine - n.threshold.exponent)) if due and n.reset == "subtract" else 0
            down = fine - n.exponent
            v = (v + ((1 << down) // 2 if n.rounding == "nearest" else 0)) >> down
            v = min(max(v, n.low), n.high)
            spike = v > bar
            if not n.delay and n.reset == "subtract":
                v -= (int(spike) - int(due)) * bar
            if not n.delay and n.reset == "zero" and spike:
                v = 0
            u[place], out[place] = v, spike
        spikes.append(out.tolist())
    return spikes


@st.composite
def programs(draw):
    """One or two small stages with any formats, pools and registers."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(2, 5)), draw(st.integers(2, 5)))
    given = Input(shape, draw(st.integers(0, 8)), draw(st.sampled_from([1, 7, 255])), False)
    stages = []
    at = shape
    for name in ("a", "b")[: draw(st.integers(1, 2))]:
        pools = ()
        if min(at[1:]) >= 4 and draw(st.booleans()):
            kind = draw(st.sampled_from(["max", "sum"]))
            out = (at[0], at[1] // 2, at[2] // 2)
            pools = (Pool(f"pool{name}", kind, (2, 2), (2, 2), at, out, 2 if kind == "sum" else 0),)
            at = out
        synapses = draw(layers(name, at, rng))
        stages.append(Stage(pools, synapses, draw(neurons(name, synapses.out_shape, rng)), draw(registers())))
        at = synapses.out_shape
    return Program(given, draw(st.integers(1, 4)), 1, tuple(stages))


def registers():
    overflow = st.sampled_from(["saturate", "wrap"])
    return st.builds(Accumulator, st.sampled_from([4, 8, 12, 32]), overflow)


@st.composite
def layers(draw, name, at, rng):
    bits = draw(st.sampled_from([2, 4, 8]))
    outputs = draw(st.sampled_from([2, 4]))
    exponents = rng.integers(2, 6, outputs) if draw(st.booleans()) else [draw(st.integers(2, 6))]
    bias = fixed(rng.integers(-60, 60, outputs), draw(st.integers(2, 8)), 8) if draw(st.booleans()) else None
    codes = lambda *size: rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), size)  # noqa: E731
    if draw(st.booleans()):
        weight = fixed(codes(outputs, math.prod(at)), exponents, bits)
        return Synapses(f"fc{name}", "linear", weight, bias, at, (outputs, 1, 1))
    groups = 2 if at[0] == 2 and draw(st.booleans()) else 1
    kernel = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    dilation = (draw(st.integers(1, 2)), 1)
    pads = tuple(draw(st.integers(0, 2)) for _ in range(4))
    sides = [
        (at[1 + i] + pads[2 * i] + pads[2 * i + 1] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    ]
    if min(sides) < 1:
        weight = fixed(codes(outputs, math.prod(at)), exponents, bits)
        return Synapses(f"fc{name}", "linear", weight, bias, at, (outputs, 1, 1))
    weight = fixed(codes(outputs, at[0] // groups, *kernel), exponents, bits)
    out = (outputs, sides[0], sides[1])
    return Synapses(f"conv{name}", "conv", weight, bias, at, out, stride, pads, dilation, groups)


@st.composite
def neurons(draw, name, shape, rng):
    bits, exponent = draw(st.sampled_from([4, 8, 12])), draw(st.integers(0, 6))
    delay = draw(st.booleans())
    size = draw(st.sampled_from([(1,), (shape[0], 1, 1), shape]))
    beta = fixed(rng.integers(0, 129, size), 7, 8)
    finest = exponent if not delay else 6
    threshold = fixed(rng.integers(1, 40, size), draw(st.integers(0, finest)), 8)
    if size == (1,):
        beta, threshold = fixed(beta.codes.reshape(1), 7, 8), threshold
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    rounding = draw(st.sampled_from(["nearest", "truncation"]))
    reset = draw(st.sampled_from(["subtract", "zero", "none"]))
    return Neurons(f"lif{name}", beta, threshold, bits, exponent, low, high, rounding, reset, delay)
