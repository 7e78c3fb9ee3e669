"""The fixed part of the exported C: how numbers are read, how a neuron is updated, and the self-checking runner.

C99 without a heap and without any library: ``<stdint.h>`` alone. Written for reading, not for speed.
"""

NEURON_H = r"""/* Reading packed numbers, and the update of one spiking neuron. C99, <stdint.h> only. */
#ifndef SNN_NEURON_H
#define SNN_NEURON_H

#include <stdint.h>

enum { SNN_SUBTRACT, SNN_ZERO, SNN_NONE };                        /* resets */
enum { SNN_DENSE, SNN_BITMASK, SNN_RLE, SNN_CP, SNN_UOP };        /* encodings of weights */

enum { SNN_SIGNED, SNN_UNSIGNED, SNN_FLOAT32, SNN_SHIFT };        /* what is stored of a number */

/* Numbers stored one behind the other, `bits` each, from bit `at` of snn_memory on. */
typedef struct {
    uint64_t at;
    uint32_t shape[3];    /* broadcast over (channels, rows, columns); 1 where all share */
    uint8_t bits;
    uint8_t form;
    int8_t exponent;
    int8_t shift;         /* onto the neuron's working grid */
} snn_numbers;

typedef struct {
    uint64_t at;
    uint32_t size, rows, entries;
    uint8_t bits, run_bits, place_bits, count_bits, encoding, form;
} snn_weights;

typedef struct {
    uint32_t in[3], out[3], kernel[2], stride[2];
    uint8_t is_sum;
} snn_pool;

typedef struct {
    uint32_t in[3], out[3], kernel[2], stride[2], dilation[2], above, left, groups;
    snn_weights weight;
    const uint8_t *lifts; /* shifts of the sums onto the working grid, one per channel or one for all */
    uint32_t lift_count;
    uint8_t register_bits;
    uint8_t has_bias;
    snn_numbers bias, beta, threshold;
    int32_t low, high;    /* of the membrane's code */
    uint8_t state_bits, down, nearest, reset, delay, bar_down, bar_up;
    uint64_t state_at;    /* bit in snn_state */
    uint64_t map_at;      /* bit in snn_maps: this stage's input, after its pools */
    uint8_t map_bits, map_signed;
    uint32_t first_pool, pools;
} snn_stage;

/* `count` bits from bit `at` on, lowest first. */
static uint64_t snn_bits(const uint8_t *memory, uint64_t at, uint32_t count)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < count; i++, at++)
        value |= (uint64_t)((memory[at >> 3] >> (at & 7)) & 1) << i;
    return value;
}

static void snn_put(uint8_t *memory, uint64_t at, uint32_t count, uint64_t value)
{
    for (uint32_t i = 0; i < count; i++, at++) {
        uint8_t mask = (uint8_t)(1u << (at & 7));
        memory[at >> 3] = (uint8_t)((value >> i) & 1 ? memory[at >> 3] | mask : memory[at >> 3] & ~mask);
    }
}

/* Two's complement of `count` bits. */
static int64_t snn_signed(uint64_t value, uint32_t count)
{
    uint64_t sign = (uint64_t)1 << (count - 1);
    return value & sign ? (int64_t)(value & (sign - 1)) - (int64_t)sign : (int64_t)value;
}

/* value * 2^shift; to the right it rounds down, as the arithmetic shift of a machine does. */
static int64_t snn_shift(int64_t value, int shift)
{
    if (shift >= 0)
        return value * ((int64_t)1 << shift);
    int64_t step = (int64_t)1 << -shift;
    int64_t whole = value / step;
    return whole * step > value ? whole - 1 : whole;
}

/* A float32 that lies on the grid of 2^-exponent, as its code there. */
static int64_t snn_float_code(uint32_t pattern, int exponent)
{
    int power = (int)((pattern >> 23) & 255);
    int64_t fraction = (int64_t)(pattern & 0x7fffff) + (power ? 0x800000 : 0);
    int64_t code = snn_shift(fraction, (power ? power : 1) - 150 + exponent);
    return pattern >> 31 ? -code : code;
}

/* The number of neuron (c, y, x), on the grid it is stored on. */
static int64_t snn_number(const uint8_t *memory, const snn_numbers *n, uint32_t c, uint32_t y, uint32_t x)
{
    uint64_t i = ((uint64_t)(c % n->shape[0]) * n->shape[1] + y % n->shape[1]) * n->shape[2] + x % n->shape[2];
    uint64_t value = snn_bits(memory, n->at + i * n->bits, n->bits);
    if (n->form == SNN_FLOAT32)
        return snn_float_code((uint32_t)value, n->exponent);
    if (n->form == SNN_SHIFT) /* 1 - 2^-value */
        return ((int64_t)1 << n->exponent) - ((int64_t)1 << (n->exponent - (int)value));
    return n->form == SNN_SIGNED ? snn_signed(value, n->bits) : (int64_t)value;
}

/* One step of one neuron: `current` on the working grid, `*state` the membrane's code. Returns the spike.
 *
 *   v = beta u + current - due threshold         exact, on the working grid
 *   u = clamp((v + half) >> down)                the membrane's format
 *   spike = u > floor(threshold)
 */
static int snn_update(const snn_stage *s, int64_t beta, int64_t threshold, int64_t current, int64_t *state)
{
    int64_t bar = snn_shift(threshold, (int)s->bar_up - (int)s->bar_down);
    int64_t u = *state, fine_bar = snn_shift(threshold, s->threshold.shift), v, due = u > bar, spike;
    if (s->reset == SNN_ZERO && due)
        u = 0;
    v = snn_shift(beta, s->beta.shift) * u + current;
    if (s->reset == SNN_SUBTRACT && due)
        v -= fine_bar;
    if (s->nearest && s->down)
        v += (int64_t)1 << (s->down - 1);
    v = snn_shift(v, -(int)s->down);
    v = v < s->low ? s->low : v > s->high ? s->high : v;
    spike = v > bar;
    if (!s->delay && s->reset == SNN_SUBTRACT)
        v -= (spike - due) * bar;
    if (!s->delay && s->reset == SNN_ZERO && spike)
        v = 0;
    *state = v;
    return (int)spike;
}

#endif
"""

RUNNER_C = r"""/* Runs the network on the shipped vectors and compares every spike of every layer.
 *
 *     cc -std=c99 -O2 runner.c -o runner && ./runner; echo $?
 *
 * 0: all spikes are as shipped; n > 0: stage n - 1 is the first that differs (snn_failed says where).
 * C99, <stdint.h> only: no heap, no library. Memory: snn_memory (read only), snn_state, snn_maps, and snn_sums,
 * the accumulators of the largest layer.
 */
#include "neuron.h"
#include "weights.h"
#include "vectors.h"

static uint8_t snn_state[SNN_STATE_BYTES], snn_maps[SNN_MAP_BYTES];
static uint32_t snn_sums[SNN_LARGEST];

struct { uint32_t sample, step, stage, neuron; } snn_failed;

static uint32_t snn_size(const uint32_t shape[3]) { return shape[0] * shape[1] * shape[2]; }

static int64_t snn_input(const snn_stage *s, uint64_t i)
{
    uint64_t value = snn_bits(snn_maps, s->map_at + i * s->map_bits, s->map_bits);
    return s->map_signed ? snn_signed(value, s->map_bits) : (int64_t)value;
}

/* One weight meets everything it touches: w = weight[filter][channel][k][h]. */
static void snn_meet(const snn_stage *s, uint32_t place, int64_t w)
{
    uint32_t columns = s->kernel[1], rows = s->kernel[0], channels = s->in[0] / s->groups;
    uint32_t h = place % columns, k = place / columns % rows, c = place / (columns * rows) % channels;
    uint32_t filter = place / (columns * rows * channels);
    uint32_t channel = filter / (s->out[0] / s->groups) * channels + c;
    for (uint32_t i = 0; i < s->out[1]; i++) {
        int64_t y = (int64_t)i * s->stride[0] + (int64_t)k * s->dilation[0] - s->above;
        if (y < 0 || y >= s->in[1])
            continue;
        for (uint32_t j = 0; j < s->out[2]; j++) {
            int64_t x = (int64_t)j * s->stride[1] + (int64_t)h * s->dilation[1] - s->left;
            if (x < 0 || x >= s->in[2])
                continue;
            int64_t value = snn_input(s, ((uint64_t)channel * s->in[1] + (uint64_t)y) * s->in[2] + (uint64_t)x);
            snn_sums[(filter * s->out[1] + i) * s->out[2] + j] += (uint32_t)(uint64_t)(w * value);
        }
    }
}

static int64_t snn_value(const snn_weights *w, uint64_t at, uint32_t i)
{
    uint64_t value = snn_bits(snn_memory, at + (uint64_t)i * w->bits, w->bits);
    return w->form == SNN_SIGNED ? snn_signed(value, w->bits) : (int64_t)value;
}

/* Every stored weight once, in the order of the stream. */
static void snn_accumulate(const snn_stage *s)
{
    const snn_weights *w = &s->weight;
    uint32_t row = w->size / w->rows, at = 0, left = 0, filter = 0;
    uint64_t values = w->at, places;
    if (w->encoding == SNN_DENSE) {
        for (uint32_t i = 0; i < w->size; i++)
            snn_meet(s, i, snn_value(w, values, i));
    } else if (w->encoding == SNN_BITMASK) {
        values += w->size;
        for (uint32_t i = 0; i < w->size; i++)
            if (snn_bits(snn_memory, w->at + i, 1))
                snn_meet(s, i, snn_value(w, values, at++));
    } else if (w->encoding == SNN_RLE) {
        values += (uint64_t)w->entries * w->run_bits;
        for (uint32_t e = 0; e < w->entries; e++, at++) {
            at += (uint32_t)snn_bits(snn_memory, w->at + (uint64_t)e * w->run_bits, w->run_bits);
            snn_meet(s, at, snn_value(w, values, e));
        }
    } else {
        places = w->at + (uint64_t)(w->encoding == SNN_UOP ? w->rows + 1 : w->rows) * w->count_bits;
        values = places + (uint64_t)w->entries * w->place_bits;
        for (uint32_t e = 0; e < w->entries; e++, left--) {
            while (!left) {
                uint64_t here = w->at + (uint64_t)filter++ * w->count_bits;
                left = (uint32_t)snn_bits(snn_memory, here, w->count_bits);
                if (w->encoding == SNN_UOP)
                    left = (uint32_t)snn_bits(snn_memory, here + w->count_bits, w->count_bits) - left;
            }
            uint64_t place = snn_bits(snn_memory, places + (uint64_t)e * w->place_bits, w->place_bits);
            snn_meet(s, (filter - 1) * row + (uint32_t)place, snn_value(w, values, e));
        }
    }
}

/* snn_sums, a map of integers, pooled in place, then packed as the input of a stage. */
static void snn_feed(const snn_stage *s)
{
    for (uint32_t p = 0; p < s->pools; p++) {
        const snn_pool *pool = &snn_pools[s->first_pool + p];
        for (uint32_t c = 0; c < pool->out[0]; c++)
            for (uint32_t i = 0; i < pool->out[1]; i++)
                for (uint32_t j = 0; j < pool->out[2]; j++) {
                    int64_t best = INT64_MIN, sum = 0;
                    for (uint32_t k = 0; k < pool->kernel[0]; k++)
                        for (uint32_t h = 0; h < pool->kernel[1]; h++) {
                            uint32_t y = i * pool->stride[0] + k, x = j * pool->stride[1] + h;
                            int64_t v = snn_signed(snn_sums[(c * pool->in[1] + y) * pool->in[2] + x], 32);
                            best = v > best ? v : best;
                            sum += v;
                        }
                    snn_sums[(c * pool->out[1] + i) * pool->out[2] + j] = (uint32_t)(pool->is_sum ? sum : best);
                }
    }
    for (uint32_t i = 0; i < snn_size(s->in); i++)
        snn_put(snn_maps, s->map_at + (uint64_t)i * s->map_bits, s->map_bits, snn_sums[i]);
}

/* One time step of one stage; spikes are left in snn_sums. */
static void snn_step(const snn_stage *s)
{
    uint32_t n = snn_size(s->out), i = 0;
    for (uint32_t j = 0; j < n; j++)
        snn_sums[j] = 0;
    snn_accumulate(s);
    for (uint32_t c = 0; c < s->out[0]; c++) {
        int64_t bias = s->has_bias ? snn_shift(snn_number(snn_memory, &s->bias, c, 0, 0), s->bias.shift) : 0;
        int lift = s->lifts[s->lift_count > 1 ? c : 0];
        for (uint32_t y = 0; y < s->out[1]; y++)
            for (uint32_t x = 0; x < s->out[2]; x++, i++) {
                uint64_t at = s->state_at + (uint64_t)i * s->state_bits;
                int64_t state = snn_signed(snn_bits(snn_state, at, s->state_bits), s->state_bits);
                int64_t sum = snn_signed(snn_sums[i] & (uint32_t)(((uint64_t)1 << s->register_bits) - 1),
                                         s->register_bits);
                snn_sums[i] = (uint32_t)snn_update(s, snn_number(snn_memory, &s->beta, c, y, x),
                                                   snn_number(snn_memory, &s->threshold, c, y, x),
                                                   snn_shift(sum, lift) + bias, &state);
                snn_put(snn_state, at, s->state_bits, (uint64_t)state);
            }
    }
}

int main(void)
{
    uint64_t expected = 0;
    for (uint32_t sample = 0; sample < SNN_SAMPLES; sample++) {
        for (uint32_t i = 0; i < SNN_STATE_BYTES; i++)
            snn_state[i] = 0;
        for (uint32_t t = 0; t < SNN_STEPS; t++) {
            uint64_t from = ((uint64_t)sample * SNN_INPUT_STEPS + (t < SNN_INPUT_STEPS ? t : 0)) * SNN_INPUTS;
            for (uint32_t i = 0; i < SNN_INPUTS; i++) {
                uint64_t code = snn_bits(snn_inputs, (from + i) * SNN_INPUT_BITS, SNN_INPUT_BITS);
                snn_sums[i] = (uint32_t)(SNN_INPUT_SIGNED ? snn_signed(code, SNN_INPUT_BITS) : (int64_t)code);
            }
            for (uint32_t n = 0; n < SNN_STAGES; n++) {
                snn_feed(&snn_stages[n]);
                snn_step(&snn_stages[n]);
                for (uint32_t i = 0; i < snn_size(snn_stages[n].out); i++, expected++)
                    if (snn_bits(snn_spikes, expected, 1) != snn_sums[i]) {
                        snn_failed.sample = sample;
                        snn_failed.step = t;
                        snn_failed.stage = n;
                        snn_failed.neuron = i;
                        return (int)n + 1;
                    }
            }
        }
    }
    return 0;
}
"""
