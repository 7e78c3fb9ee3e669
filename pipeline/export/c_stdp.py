"""An STDP network as C99: headers from its program, beside a fixed neuron and a fixed self-checking runner.

An inhibitory layer takes a counter per neuron and no membrane (`pipeline.export.stdp_program`).
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from pipeline.export.c_print import c_array, c_int32, c_numbers, c_stream
from pipeline.export.c_reading import READING, WALK
from pipeline.export.manifest import Store
from pipeline.export.node import Json
from pipeline.export.pack import to_bits
from pipeline.export.stdp_manifest import describe_stdp
from pipeline.export.stdp_program import WINNERS, StdpProgram, constants

NEURON_H = (
    READING
    + r"""
enum { SNN_RANDOM, SNN_FIRST, SNN_HIGHEST, SNN_ALL };             /* who spikes when several cross */

/* The network. F is the working grid, on which the update is exact. */
typedef struct {
    snn_weights weight;   /* [neuron][pixel] */
    snn_numbers theta, threshold, beta, reset, inhibition;
    uint8_t lift;         /* of the sums, onto F */
    uint8_t bar_fine;     /* exponent of the finer of threshold, theta and membrane */
    uint8_t bar_down;     /* from there to the membrane */
    uint8_t has_lowest;
    int64_t lowest;       /* on F */
    int32_t low, high;    /* of the membrane's code */
    uint8_t state_bits, down, nearest, winner;
    uint32_t resting;     /* steps without input after a spike */
    int32_t inhibitory;   /* the same of the inhibitory layer; -1: direct inhibition */
} snn_net;

/* ceil((threshold + theta) * 2^m): the membrane's code at which a neuron crosses. */
static int64_t snn_bar(const snn_net *s, int64_t threshold, int64_t theta)
{
    int64_t sum = snn_shift(threshold, s->bar_fine - s->threshold.exponent)
                + snn_shift(theta, s->bar_fine - s->theta.exponent);
    return -snn_shift(-sum, -(int)s->bar_down);
}

/* One step of one membrane: u = clamp((max(beta u + drive, lowest) + half) >> down). */
static int64_t snn_update(const snn_net *s, int64_t beta, int64_t drive, int64_t u)
{
    int64_t v = snn_shift(beta, s->beta.shift) * u + drive;
    if (s->has_lowest && v < s->lowest)
        v = s->lowest;
    if (s->nearest && s->down)
        v += (int64_t)1 << (s->down - 1);
    v = snn_shift(v, -(int)s->down);
    return v < s->low ? s->low : v > s->high ? s->high : v;
}

/* 53 random bits (splitmix64). */
static uint64_t snn_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) >> 11;
}

#endif
"""
)

RUNNER_C = (
    r"""/* Runs the network on the shipped vectors and compares every spike.
 *
 *     cc -std=c99 -O2 runner.c -o runner && ./runner; echo $?
 *
 * 0: all spikes are as shipped; 1: snn_failed says which is not.
 * C99, <stdint.h> only: no heap, no library. Memory: snn_memory (read only); snn_state (membranes and counters of
 * rest), snn_input (pixels of the step before), snn_heard and snn_pushing (spikes of the step before, and who
 * inhibits); snn_sums, the accumulators, and snn_bars, which are computed from threshold and theta at the start.
 */
#include "neuron.h"
#include "weights.h"
#include "vectors.h"

static uint8_t snn_state[SNN_STATE_BYTES], snn_input[SNN_INPUT_BYTES], snn_heard[SNN_SPIKE_BYTES];
static uint8_t snn_spiked[SNN_SPIKE_BYTES], snn_pushing[SNN_SPIKE_BYTES];
static int32_t snn_sums[SNN_NEURONS];
static int64_t snn_bars[SNN_NEURONS];

struct { uint32_t sample, step, neuron; } snn_failed;

"""
    + WALK
    + r"""
static void snn_meet(const void *whom, uint32_t place, int64_t w)
{
    (void)whom;
    if (snn_bits(snn_input, place % SNN_INPUTS, 1))
        snn_sums[place / SNN_INPUTS] += (int32_t)w;
}

/* Membranes first, then counters of rest, then those of the inhibitory layer. */
static int64_t snn_membrane(uint32_t j)
{
    return snn_signed(snn_bits(snn_state, (uint64_t)j * snn_it.state_bits, snn_it.state_bits), snn_it.state_bits);
}

static void snn_set_membrane(uint32_t j, int64_t u)
{
    snn_put(snn_state, (uint64_t)j * snn_it.state_bits, snn_it.state_bits, (uint64_t)u);
}

static uint64_t snn_resting_at(uint32_t j)
{
    return (uint64_t)SNN_NEURONS * snn_it.state_bits + (uint64_t)j * SNN_RESTING_BITS;
}

static uint64_t snn_quiet_at(uint32_t j)
{
    return (uint64_t)SNN_NEURONS * (snn_it.state_bits + SNN_RESTING_BITS) + (uint64_t)j * SNN_QUIET_BITS;
}

/* Integrate; returns how many cross, with their marks in snn_spiked. */
static uint32_t snn_integrate(void)
{
    int64_t push = snn_shift(snn_number(snn_memory, &snn_it.inhibition, 0, 0, 0), snn_it.inhibition.shift);
    int64_t beta = snn_number(snn_memory, &snn_it.beta, 0, 0, 0);
    uint32_t crossed = 0, pushing = 0;
    for (uint32_t j = 0; j < SNN_NEURONS; j++) {
        snn_sums[j] = 0;
        pushing += (uint32_t)snn_bits(snn_pushing, j, 1);
    }
    snn_walk(&snn_it.weight, snn_meet, &snn_it);
    for (uint32_t j = 0; j < SNN_NEURONS; j++) {
        uint64_t rest = snn_bits(snn_state, snn_resting_at(j), SNN_RESTING_BITS);
        int64_t drive = 0, u;
        if (rest)
            snn_put(snn_state, snn_resting_at(j), SNN_RESTING_BITS, rest - 1);
        else
            drive = snn_shift(snn_sums[j], snn_it.lift) - push * (int64_t)(pushing - snn_bits(snn_pushing, j, 1));
        u = snn_update(&snn_it, beta, drive, snn_membrane(j));
        snn_set_membrane(j, u);
        snn_put(snn_spiked, j, 1, u >= snn_bars[j]);
        crossed += u >= snn_bars[j];
    }
    return crossed;
}

/* The neuron that is heard among those that crossed. */
static uint32_t snn_winner(uint32_t crossed, uint64_t *random)
{
    uint32_t wanted = 0, seen = 0, best = SNN_NEURONS;
    if (snn_it.winner == SNN_RANDOM && crossed > 1) {
        /* floor(crossed * draw / 2^53) in halves */
        uint64_t draw = snn_random(random), upper = draw >> 26, lower = draw & 0x3ffffff;
        wanted = (uint32_t)((crossed * upper + ((crossed * lower) >> 26)) >> 27);
    }
    for (uint32_t j = 0; j < SNN_NEURONS; j++) {
        if (!snn_bits(snn_spiked, j, 1))
            continue;
        if (snn_it.winner == SNN_HIGHEST) {
            if (best == SNN_NEURONS || snn_membrane(j) - snn_bars[j] > snn_membrane(best) - snn_bars[best])
                best = j;
        } else if (seen++ == wanted) {
            return j;
        }
    }
    return best;
}

/* Who crossed is reset and rests; who is heard stays marked in snn_spiked. */
static void snn_fire(uint32_t crossed, uint64_t *random)
{
    int64_t reset = snn_shift(snn_number(snn_memory, &snn_it.reset, 0, 0, 0), snn_it.reset.shift);
    uint32_t winner = crossed ? snn_winner(crossed, random) : 0;
    for (uint32_t j = 0; crossed && j < SNN_NEURONS; j++) {
        if (!snn_bits(snn_spiked, j, 1))
            continue;
        snn_set_membrane(j, reset);
        snn_put(snn_state, snn_resting_at(j), SNN_RESTING_BITS, snn_it.resting);
        if (snn_it.winner != SNN_ALL && j != winner)
            snn_put(snn_spiked, j, 1, 0);
    }
}

/* Who inhibits in the next step: those that spiked, or inhibitory neurons that were driven and do not rest. */
static void snn_inhibit(void)
{
    for (uint32_t j = 0; j < SNN_NEURONS; j++) {
        uint64_t driven = snn_bits(snn_spiked, j, 1);
        if (snn_it.inhibitory >= 0) {
            uint64_t quiet = snn_bits(snn_state, snn_quiet_at(j), SNN_QUIET_BITS);
            driven = snn_bits(snn_heard, j, 1) && !quiet;
            quiet = driven ? (uint64_t)snn_it.inhibitory : quiet ? quiet - 1 : 0;
            snn_put(snn_state, snn_quiet_at(j), SNN_QUIET_BITS, quiet);
        }
        snn_put(snn_pushing, j, 1, driven);
        snn_put(snn_heard, j, 1, snn_bits(snn_spiked, j, 1));
    }
}

static int snn_check(uint32_t sample)
{
    uint64_t random = sample * 0x9E3779B97F4A7C15u;
    random = snn_random(&random) << 11;
    for (uint32_t i = 0; i < SNN_STATE_BYTES; i++)
        snn_state[i] = 0;
    for (uint32_t i = 0; i < SNN_INPUT_BYTES; i++)
        snn_input[i] = 0;
    for (uint32_t i = 0; i < SNN_SPIKE_BYTES; i++)
        snn_heard[i] = snn_pushing[i] = 0;
    for (uint32_t t = 0; t < SNN_STEPS; t++) {
        uint64_t at = (uint64_t)sample * SNN_STEPS + t;
        snn_fire(snn_integrate(), &random);
        snn_inhibit();
        for (uint32_t j = 0; j < SNN_NEURONS; j++)
            if (snn_bits(snn_spikes, at * SNN_NEURONS + j, 1) != snn_bits(snn_heard, j, 1)) {
                snn_failed.sample = sample;
                snn_failed.step = t;
                snn_failed.neuron = j;
                return 1;
            }
        for (uint32_t i = 0; i < SNN_INPUTS; i++)
            snn_put(snn_input, i, 1, snn_bits(snn_inputs, at * SNN_INPUTS + i, 1));
    }
    return 0;
}

int main(void)
{
    int64_t threshold = snn_number(snn_memory, &snn_it.threshold, 0, 0, 0);
    for (uint32_t j = 0; j < SNN_NEURONS; j++)
        snn_bars[j] = snn_bar(&snn_it, threshold, snn_number(snn_memory, &snn_it.theta, j, 0, 0));
    for (uint32_t sample = 0; sample < SNN_SAMPLES; sample++)
        if (snn_check(sample))
            return 1;
    return 0;
}
"""
)


def stdp_state_bits(program: StdpProgram) -> int:
    """Membranes and counters of rest."""
    counters = program.refractory.bit_length() + (program.inhibitory or 0).bit_length()
    return program.neurons * (program.bits + counters)


def stdp_map_bits(program: StdpProgram) -> int:
    """Pixels, and spikes of the layers that inhibit, of the step before."""
    layers = 1 if program.inhibitory is None else 2
    return math.prod(program.shape) + layers * program.neurons


def stdp_files(program: StdpProgram, store: Store, codes: np.ndarray, spikes: np.ndarray) -> dict[str, bytes]:
    """File name -> text; codes [n, T, pixels] of 0 and 1, spikes [n, T, neurons] those of the program."""
    texts = {
        "neuron.h": NEURON_H,
        "runner.c": RUNNER_C,
        "weights.h": _weights(program, store),
        "vectors.h": _vectors(codes, spikes),
    }
    return {name: text.encode("ascii") for name, text in texts.items()}


def _weights(program: StdpProgram, store: Store) -> str:
    said, stream = describe_stdp(program, store)
    neurons, inhibition = cast(Json, said["neurons"]), cast(Json, said["inhibition"])
    made, fine, m = constants(program), program.fine, program.exponent
    bar_fine = max(program.threshold.exponent, program.theta.exponent, m)
    push = _where(cast(Json, inhibition["weight"]))
    fields = [
        f".weight = {c_stream(said['weight'], program.neurons)}",
        f".theta = {c_numbers(neurons['theta'], 0)}",
        f".threshold = {c_numbers(neurons['threshold'], 0)}",
        f".beta = {c_numbers(neurons['beta'], fine - program.beta.exponent - m)}",
        f".reset = {c_numbers(neurons['reset'], m - program.reset.exponent)}",
        f".inhibition = {c_numbers(push, fine - program.inhibition.exponent)}",
        f".lift = {made.lift}, .bar_fine = {bar_fine}, .bar_down = {bar_fine - m}",
        f".has_lowest = {int(program.lowest is not None)}, .lowest = {made.lowest if program.lowest else 0}",
        f".low = {c_int32(program.low)}, .high = {program.high}, .state_bits = {program.bits}",
        f".down = {made.down}, .nearest = {int(program.rounding == 'nearest')}",
        f".winner = {WINNERS.index(program.winner)}, .resting = {program.refractory}u",
        f".inhibitory = {-1 if program.inhibitory is None else program.inhibitory}",
    ]
    lines = [
        "/* The network: every stored number, packed, and what is made of them. Generated. */",
        "#ifndef SNN_WEIGHTS_H",
        "#define SNN_WEIGHTS_H",
        '#include "neuron.h"',
        f"#define SNN_STEPS {program.timesteps}u",
        f"#define SNN_NEURONS {program.neurons}u",
        f"#define SNN_INPUTS {math.prod(program.shape)}u",
        f"#define SNN_INPUT_BYTES {(math.prod(program.shape) + 7) // 8}u",
        f"#define SNN_SPIKE_BYTES {(program.neurons + 7) // 8}u",
        f"#define SNN_RESTING_BITS {program.refractory.bit_length()}u",
        f"#define SNN_QUIET_BITS {(program.inhibitory or 0).bit_length()}u",
        f"#define SNN_STATE_BYTES {(stdp_state_bits(program) + 7) // 8}u",
        f"#define SNN_MEMORY_BYTES {len(stream)}u",
        c_array("uint8_t", "snn_memory", stream),
        "static const snn_net snn_it = {\n  " + ",\n  ".join(fields) + "\n};",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def _where(said: Json) -> Json:
    """The one value of a tensor in any encoding: at its end, or nowhere, if it is 0 and left out."""
    offset, length, bits = (cast(int, said[key]) for key in ("offset_bits", "length_bits", "bits"))
    if not said["entries"]:
        return {**said, "bits": 0, "form": "unsigned"}
    return {**said, "offset_bits": offset + length - bits}


def _vectors(codes: np.ndarray, spikes: np.ndarray) -> str:
    """Pixels and spikes, sample by sample and step by step, one bit each."""
    lines = [
        "/* Inputs of real samples and the spikes of every step. Generated. */",
        "#ifndef SNN_VECTORS_H",
        "#define SNN_VECTORS_H",
        "#include <stdint.h>",
        f"#define SNN_SAMPLES {len(codes)}u",
        c_array(
            "uint8_t",
            "snn_inputs",
            np.packbits(to_bits(codes.astype(np.int64).ravel(), 1), bitorder="little"),
        ),
        c_array("uint8_t", "snn_spikes", np.packbits(spikes.ravel(), bitorder="little")),
        "#endif",
        "",
    ]
    return "\n".join(lines)
