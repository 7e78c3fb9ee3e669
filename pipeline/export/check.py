"""What a program must satisfy before any compiled loop runs it: nothing out of range, nothing without a bound.

The engine's loops do not check indices. A program that was lowered from a network satisfies all this by
construction; one that was read from a file may say anything.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.export.program import (
    RESETS,
    ROUNDINGS,
    Attention,
    Fixed,
    Neurons,
    Pool,
    Program,
    Shape,
    Stage,
    Synapses,
    bounds,
    input_exponents,
)
from pipeline.types import DataError

MOST_STEPS = 1000
MOST_SIDE = 1 << 20
MOST_WEIGHTS = 1 << 24
MOST_NEURONS = 1 << 22
MOST_SPIKES = 1 << 27
"""Neurons of the largest map times steps: what one sample may take in memory."""
MOST_STAGES = 64
EXPONENTS = (-16, 40)


def claim(ok: bool, what: str) -> None:
    """Raise `DataError` unless `ok`."""
    if not ok:
        raise DataError(what)


def check(program: Program) -> Program:
    """The same program, if the engine can run it.

    Raises:
        DataError: says which layer and what is wrong with it.
    """
    given = program.input
    claim(
        1 <= program.timesteps <= MOST_STEPS,
        f"timesteps must be in [1, {MOST_STEPS}], but got {program.timesteps}",
    )
    claim(1 <= len(program.stages) <= MOST_STAGES, f"stages must number 1 to {MOST_STAGES}")
    claim(1 <= given.high < 1 << 24, f"the input's largest code must be in [1, 2^24), but got {given.high}")
    claim(0 <= given.exponent <= EXPONENTS[1], f"the input's exponent is {given.exponent}")
    map_shape("input", given.shape)
    names: set[str] = set()
    at = given.shape
    for stage in program.stages:
        for place, pool in enumerate(stage.pools):
            ok = pool.kind != "attention" or (place == 0 and stage is not program.stages[0])
            claim(ok, f"{pool.name}: attention must directly follow neurons")
            at = _pool(pool, at, program.timesteps)
        _synapses(stage.synapses, at)
        at = stage.synapses.out_shape
        _neurons(stage.neurons, at)
        for name in (stage.synapses.name, stage.neurons.name):
            claim(name not in names, f"{name} is there twice")
            names.add(name)
    claim(
        sum(s.synapses.weight.codes.size for s in program.stages) <= MOST_WEIGHTS,
        "there are too many weights",
    )
    claim(program.classes >= 1, f"classes must be at least 1, but got {program.classes}")
    claim(
        program.outputs % program.classes == 0,
        f"{program.outputs} outputs cannot vote for {program.classes} classes",
    )
    largest = max(math.prod(shape) for shape in (given.shape, *_maps(program)))
    claim(largest * program.timesteps <= MOST_SPIKES, "its maps over all time steps are too large")
    claim(all(high < 1 << 31 for _, high in input_exponents(program)), "a pool's sums leave 32 bits")
    for bound in bounds(program):
        claim(bound.update_bits <= 62, f"{bound.name}: its update needs {bound.update_bits} bits")
    return program


def work(program: Program) -> int:
    """Synaptic operations of one sample if every input is an event at every step: a bound on running time."""
    return program.timesteps * sum(_dense(stage) for stage in program.stages)


def _maps(program: Program) -> list[Shape]:
    return [s.synapses.out_shape for s in program.stages] + [
        p.out_shape for s in program.stages for p in s.pools
    ]


def _dense(stage: Stage) -> int:
    weights = stage.synapses.weight.codes
    pixels = 1 if stage.synapses.kind == "linear" else math.prod(stage.synapses.in_shape[1:])
    pooling = sum(math.prod(pool.out_shape) * math.prod(pool.kernel) for pool in stage.pools)
    for pool in stage.pools:
        if isinstance(pool, Attention):
            steps, taps = pool.time.codes.shape[1:]
            pooling += steps * taps * pool.in_shape[0] + pool.channel.codes.size
    return weights.size * pixels + math.prod(stage.synapses.out_shape) + pooling


def map_shape(name: str, shape: Shape) -> None:
    """Claim that a map has three sides and a bounded size."""
    claim(
        len(shape) == 3 and all(1 <= side <= MOST_SIDE for side in shape),
        f"{name}: shape {shape} is out of range",
    )
    claim(math.prod(shape) <= MOST_NEURONS, f"{name}: shape {shape} is too large")


def _pool(pool: Pool, at: Shape, timesteps: int) -> Shape:
    claim(pool.in_shape == at, f"{pool.name} expects {pool.in_shape}, but {at} comes")
    if isinstance(pool, Attention):
        return _attention(pool, at, timesteps)
    claim(pool.kind in ("max", "sum"), f"{pool.name}: kind {pool.kind!r}")
    claim(
        all(1 <= k <= 256 and 1 <= s <= 256 for k, s in zip(pool.kernel, pool.stride, strict=True)),
        f"{pool.name}: window",
    )
    sides = tuple((n - k) // s + 1 for n, k, s in zip(at[1:], pool.kernel, pool.stride, strict=True))
    claim(
        min(sides) >= 1 and pool.out_shape == (at[0], *sides),
        f"{pool.name}: cannot make {pool.out_shape} of {at}",
    )
    window = math.prod(pool.kernel)
    claim(
        pool.halvings == 0 or 1 << pool.halvings == window,
        f"{pool.name}: {pool.halvings} halvings of {window}",
    )
    return pool.out_shape


def _attention(attention: Attention, at: Shape, timesteps: int) -> Shape:
    name, taps = attention.name, attention.time.codes.shape[-1]
    times, channels = (timesteps, timesteps, taps), (at[0], at[0], taps)
    claim(attention.out_shape == at, f"{name}: cannot make {attention.out_shape} of {at}")
    claim(attention.time.codes.shape == times, f"{name}: it is built for other time steps")
    claim(attention.channel.codes.shape == channels, f"{name}: it is built for other channels")
    claim(1 << attention.mean == math.prod(at[1:]), f"{name}: its mean is over another map")
    for part, weight in (("time", attention.time), ("channel", attention.channel)):
        fixed(f"{name}.{part}", weight, {1})
        inside = weight.codes.min() >= -(1 << 15) and weight.codes.max() < 1 << 15
        claim(inside, f"{name}.{part} has a code beyond 16 bits")
    exponent, low, high = attention.operand
    ok = 0 <= exponent <= 16 and -(1 << 15) <= low < 0 < high < 1 << 15
    claim(ok and 0 <= attention.entry_exponent <= 16, f"{name}: the formats of its operands and entries")
    entries = len(attention.table)
    ok = attention.first_entry < 0 < entries + attention.first_entry and entries <= 1 << 12
    claim(ok, f"{name}: its table has {entries} entries from {attention.first_entry} on")
    gates = attention.table
    ok = 1 <= attention.halvings <= 8 and gates.min() >= 0 and 1 <= gates.max() < 1 << attention.halvings
    claim(ok, f"{name}: a gate beyond {attention.halvings} bits")
    return at


def fixed(name: str, tensor: Fixed, sizes: set[int]) -> None:
    """Claim bounds of width, exponents (as many as one of `sizes`) and codes."""
    claim(1 <= tensor.bits <= 32, f"{name} must have 1 to 32 bits, but has {tensor.bits}")
    claim(len(tensor.exponents) in sizes, f"{name} has {len(tensor.exponents)} exponents")
    low, high = EXPONENTS
    inside = tensor.exponents.size and tensor.exponents.min() >= low and tensor.exponents.max() <= high
    claim(bool(inside), f"{name} has an exponent outside [{low}, {high}]")
    claim(int(np.abs(tensor.codes).max(initial=0)) <= 1 << 31, f"{name} has a code beyond 32 bits")


def _synapses(synapses: Synapses, at: Shape) -> None:
    name = synapses.name
    claim(synapses.in_shape == at, f"{name} expects {synapses.in_shape}, but {at} comes")
    map_shape(name, synapses.out_shape)
    channels = synapses.out_shape[0]
    fixed(f"{name}.weight", synapses.weight, {1, channels})
    if synapses.bias is not None:
        fixed(f"{name}.bias", synapses.bias, {1})
        claim(synapses.bias.codes.shape == (channels,), f"{name}.bias must have {channels} values")
    shape = synapses.weight.codes.shape
    if synapses.kind == "linear":
        claim(synapses.out_shape == (channels, 1, 1), f"{name}: out_shape {synapses.out_shape}")
        claim(shape == (channels, math.prod(at)), f"{name}.weight has shape {shape}")
        plain = (
            synapses.stride == synapses.dilation == (1, 1)
            and synapses.groups == 1
            and not any(synapses.padding)
        )
        claim(plain, f"{name}: a fully connected layer has no stride, padding, dilation or groups")
        return
    claim(synapses.kind == "conv", f"{name}: kind {synapses.kind!r}")
    claim(len(shape) == 4 and shape[0] == channels, f"{name}.weight has shape {shape}")
    kernel = shape[2:]
    numbers = (*kernel, *synapses.stride, *synapses.dilation, synapses.groups)
    claim(all(1 <= number <= MOST_SIDE for number in numbers), f"{name}: {numbers} must all be at least 1")
    claim(all(0 <= pad <= MOST_SIDE for pad in synapses.padding), f"{name}: padding {synapses.padding}")
    groups = synapses.groups
    claim(
        channels % groups == 0 and at[0] % groups == 0 and shape[1] == at[0] // groups,
        f"{name}: groups {groups}",
    )
    pads = (synapses.padding[:2], synapses.padding[2:])
    sides = tuple(
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(at[1:], pads, synapses.dilation, kernel, synapses.stride, strict=True)
    )
    claim(synapses.out_shape[1:] == sides, f"{name}: makes {sides}, not {synapses.out_shape[1:]}")


def _neurons(neurons: Neurons, shape: Shape) -> None:
    name = neurons.name
    for key, tensor in (("beta", neurons.beta), ("threshold", neurons.threshold)):
        fixed(f"{name}.{key}", tensor, {1})
        wide = tensor.codes.shape
        fits = wide == (1,) or (len(wide) == 3 and all(a in (1, b) for a, b in zip(wide, shape, strict=True)))
        claim(fits, f"{name}.{key} of shape {wide} does not fit {shape}")
    one = 1 << max(neurons.beta.exponent, 0)
    claim(neurons.beta.codes.min() >= 0 and neurons.beta.codes.max() <= one, f"{name}.beta must be in [0, 1]")
    claim(neurons.threshold.codes.min() >= 0, f"{name}.threshold must not be negative")
    claim(2 <= neurons.bits <= 32, f"{name}.mem must have 2 to 32 bits, but has {neurons.bits}")
    claim(EXPONENTS[0] <= neurons.exponent <= EXPONENTS[1], f"{name}.mem has the exponent {neurons.exponent}")
    ends = (-(1 << (neurons.bits - 1)), (1 << (neurons.bits - 1)) - 1)
    claim(
        ends[0] <= neurons.low <= 0 <= neurons.high <= ends[1], f"{name}.mem: [{neurons.low}, {neurons.high}]"
    )
    claim(neurons.rounding in ROUNDINGS, f"{name}: rounding {neurons.rounding!r}")
    claim(neurons.reset in RESETS, f"{name}: reset {neurons.reset!r}")
    if not neurons.delay and neurons.reset == "subtract":
        step = 1 << max(neurons.threshold.exponent - neurons.exponent, 0)
        claim(not (neurons.threshold.codes % step).any(), f"{name}.threshold is finer than the membrane")
