"""An export as C99: the numbers of the program as headers, beside the fixed text of `pipeline.export.c_text`.

``weights.h`` embeds the very bytes of ``weights.bin``; the runner reads weights, parameters and membranes at their
stored widths, so its static memory is what the cost model claims, plus the accumulators of one layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np

from pipeline.export.c_attention import attention_lines
from pipeline.export.c_print import c_array, c_int32, c_numbers, c_row, c_stream
from pipeline.export.c_stdp import stdp_files, stdp_map_bits, stdp_state_bits
from pipeline.export.c_text import NEURON_H, RUNNER_C
from pipeline.export.folder import Vectors
from pipeline.export.kinds import AnyProgram
from pipeline.export.manifest import Store, describe
from pipeline.export.node import Json
from pipeline.export.pack import to_bits
from pipeline.export.program import (
    RESETS,
    Neurons,
    Program,
    Stage,
    bounds,
    current_exponent,
    input_exponents,
)
from pipeline.export.stdp_program import StdpProgram

SAMPLES = 2
"""Vectors that the C code carries: enough to prove it, few enough to compile."""


def state_bits(program: Program) -> int:
    """Membranes, at their width."""
    return sum(stage.neurons.bits * math.prod(stage.synapses.out_shape) for stage in program.stages)


def map_widths(program: Program) -> list[tuple[int, bool]]:
    """(bits, signed) of one entry of each stage's input map."""
    signed = [program.input.signed] + [False] * (len(program.stages) - 1)
    return [
        (int(high).bit_length() + negative, negative)
        for (_, high), negative in zip(input_exponents(program), signed, strict=True)
    ]


def map_bits(program: Program) -> int:
    """Input maps of all stages, after their pools."""
    widths = map_widths(program)
    return sum(
        math.prod(s.synapses.in_shape) * bits for s, (bits, _) in zip(program.stages, widths, strict=True)
    )


def working_bits(program: AnyProgram) -> dict[str, int]:
    """What the C code keeps between two steps, by part."""
    if isinstance(program, StdpProgram):
        return {"state": stdp_state_bits(program), "maps": stdp_map_bits(program)}
    return {"state": state_bits(program), "maps": map_bits(program)}


def refusals(program: AnyProgram) -> list[str]:
    """Why there can be no C code; empty if there can."""
    if isinstance(program, StdpProgram):
        return []
    return [
        f"{bound.name}: its sums may leave the {stage.accumulator.bits}-bit register, and the C code adds in the "
        f"order of the weights, where saturation would differ; use {bound.accumulator_bits} bits, or wrap."
        for stage, bound in zip(program.stages, bounds(program), strict=True)
        if stage.accumulator.overflow == "saturate" and bound.accumulator_bits > stage.accumulator.bits
    ]


def c_files(program: AnyProgram, store: Store, samples: Vectors) -> dict[str, bytes]:
    """File name -> text; the spikes of the samples must be those of the program."""
    if isinstance(program, StdpProgram):
        (spikes,) = samples.spikes.values()
        return stdp_files(program, store, samples.codes[:SAMPLES], spikes[:SAMPLES])
    texts = {
        "neuron.h": NEURON_H,
        "runner.c": RUNNER_C,
        "weights.h": _weights(program, store),
        "vectors.h": _vectors(program, samples),
    }
    return {name: text.encode("ascii") for name, text in texts.items()}


def _weights(program: Program, store: Store) -> str:
    said, stream = describe(program, store)
    stages = cast(list[Json], said["stages"])
    largest = max(math.prod(shape) for shape in _shapes(program))
    lines = [
        "/* The network: every stored number, packed, and how the layers are made of them. Generated. */",
        "#ifndef SNN_WEIGHTS_H",
        "#define SNN_WEIGHTS_H",
        '#include "neuron.h"',
        f"#define SNN_STEPS {program.timesteps}u",
        f"#define SNN_CLASSES {program.classes}u",
        f"#define SNN_STAGES {len(program.stages)}u",
        f"#define SNN_LARGEST {largest}u",
        f"#define SNN_MEMORY_BYTES {len(stream)}u",
        f"#define SNN_STATE_BYTES {(state_bits(program) + 7) // 8}u",
        f"#define SNN_MAP_BYTES {(map_bits(program) + 7) // 8}u",
        f"#define SNN_SPIKES {sum(math.prod(shape) for _, shape in program.layers)}u",
        c_array("uint8_t", "snn_memory", stream),
        _pools(program),
        *attention_lines(program, stages),
    ]
    state = maps = pools = spikes = attentions = trains = 0
    structs = []
    ends = input_exponents(program)
    for i, (stage, described) in enumerate(zip(program.stages, stages, strict=True)):
        fine = stage.neurons.working_exponent(current_exponent(stage, ends[i][0]))
        lifts = fine - ends[i][0] - stage.synapses.weight.exponents
        lines.append(c_array("uint8_t", f"snn_lifts_{i}", lifts))
        width, signed = map_widths(program)[i]
        extra = {
            "first_pool": pools, "pools": sum(pool.kind != "attention" for pool in stage.pools), "attention": -1,
            "train_at": trains, "spikes_at": spikes,
        }  # fmt: skip
        if extra["pools"] < len(stage.pools):
            extra["attention"], attentions = attentions, attentions + 1
            trains += program.timesteps * math.prod(stage.pools[0].in_shape)
        structs.append(_struct(i, stage, described, fine, state, maps, width, signed, extra))
        state += stage.neurons.bits * math.prod(stage.synapses.out_shape)
        maps += width * math.prod(stage.synapses.in_shape)
        pools, spikes = pools + extra["pools"], spikes + math.prod(stage.synapses.out_shape)
    lines += ["static const snn_stage snn_stages[] = {", ",\n".join(structs), "};", "#endif", ""]
    return "\n".join(lines)


def _shapes(program: Program) -> Iterable[tuple[int, int, int]]:
    yield program.input.shape
    for stage in program.stages:
        yield stage.synapses.out_shape
        yield from (pool.out_shape for pool in stage.pools)


def _pools(program: Program) -> str:
    rows = [
        f"    {{ {c_row(p.in_shape)}, {c_row(p.out_shape)}, {{ {p.kernel[0]}, {p.kernel[1]} }}, "
        f"{{ {p.stride[0]}, {p.stride[1]} }}, {int(p.kind == 'sum')} }}"
        for stage in program.stages
        for p in stage.pools
        if p.kind != "attention"
    ]
    nothing = "    { { 1, 1, 1 }, { 1, 1, 1 }, { 1, 1 }, { 1, 1 }, 0 }"
    return "static const snn_pool snn_pools[] = {\n" + ",\n".join(rows or [nothing]) + "\n};"


def _struct(
    i: int,
    stage: Stage,
    said: Json,
    fine: int,
    state: int,
    maps: int,
    width: int,
    signed: bool,
    extra: Mapping[str, int],
) -> str:
    synapses, neurons = stage.synapses, stage.neurons
    linear = synapses.kind == "linear"
    in_shape = (math.prod(synapses.in_shape), 1, 1) if linear else synapses.in_shape
    kernel = (1, 1) if linear else synapses.weight.codes.shape[2:]
    mine = cast(Json, said["neurons"])
    bias, channels = synapses.bias, synapses.out_shape[0]
    offset = neurons.exponent - neurons.threshold.exponent
    fields = [
        f".in = {c_row(in_shape)}, .out = {c_row(synapses.out_shape)}",
        f".kernel = {c_row(kernel)}, .stride = {c_row(synapses.stride)}, .dilation = {c_row(synapses.dilation)}",
        f".above = {synapses.padding[0]}, .left = {synapses.padding[2]}, .groups = {synapses.groups}",
        f".weight = {c_stream(said['weight'], channels)}",
        f".lifts = snn_lifts_{i}, .lift_count = {len(synapses.weight.exponents)}",
        f".register_bits = {stage.accumulator.bits}",
        f".has_bias = {int(bias is not None)}",
        f".beta = {c_numbers(mine['beta'], fine - neurons.beta.exponent - neurons.exponent)}",
        f".threshold = {c_numbers(mine['threshold'], fine - neurons.threshold.exponent)}",
        f".low = {c_int32(neurons.low)}, .high = {neurons.high}",
        f".state_bits = {neurons.bits}, .down = {fine - neurons.exponent}",
        f".nearest = {int(neurons.rounding == 'nearest')}, .reset = {_reset(neurons)}, .delay = {int(neurons.delay)}",
        f".bar_down = {max(-offset, 0)}, .bar_up = {max(offset, 0)}",
        f".state_at = {state}u, .map_at = {maps}u, .map_bits = {width}, .map_signed = {int(signed)}",
        ", ".join(f".{name} = {value}" for name, value in extra.items()),
    ]
    if bias is not None:
        fields.append(f".bias = {c_numbers(said['bias'], fine - bias.exponent)}")
    return f"    {{ /* {synapses.name}, {neurons.name} */\n      " + ",\n      ".join(fields) + " }"


def _reset(neurons: Neurons) -> int:
    return RESETS.index(neurons.reset)


def _vectors(program: Program, samples: Vectors) -> str:
    """Inputs (channels, rows, columns) and the spikes of all stages, step by step, packed."""
    count = min(SAMPLES, len(samples.codes))
    channels, rows, columns = program.input.shape
    codes = samples.codes[:count].reshape(count, -1, rows, columns, channels).transpose(0, 1, 4, 2, 3)
    width = program.input.high.bit_length() + program.input.signed
    packed = np.packbits(to_bits(codes.astype(np.int64).ravel(), width), bitorder="little")
    layers = [each[:count].reshape(count, program.timesteps, -1) for each in samples.spikes.values()]
    spikes = np.packbits(np.concatenate(layers, axis=2).ravel(), bitorder="little")
    lines = [
        "/* Inputs of real samples and the spikes of every layer at every step. Generated. */",
        "#ifndef SNN_VECTORS_H",
        "#define SNN_VECTORS_H",
        "#include <stdint.h>",
        f"#define SNN_SAMPLES {count}u",
        f"#define SNN_INPUTS {math.prod(program.input.shape)}u",
        f"#define SNN_INPUT_STEPS {codes.shape[1]}u",
        f"#define SNN_INPUT_BITS {width}u",
        f"#define SNN_INPUT_SIGNED {int(program.input.signed)}",
        c_array("uint8_t", "snn_inputs", packed),
        c_array("uint8_t", "snn_spikes", spikes),
        "#endif",
        "",
    ]
    return "\n".join(lines)
