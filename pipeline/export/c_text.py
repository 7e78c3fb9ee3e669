"""The C of a row of layers: how a neuron is updated, and the self-checking runner."""

from pipeline.export.c_attention import ATTEND
from pipeline.export.c_reading import READING, WALK

NEURON_H = (
    READING
    + r"""
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
    int32_t attention;    /* in front of the pools: which one; -1: none */
    uint64_t train_at;    /* bit in snn_trains where an attention finds all spikes before it */
    uint32_t spikes_at;   /* bit in a step of snn_spikes */
} snn_stage;

/* Every spike of a map is weighted by the gate of its step and channel; see snn_attend in runner.c. */
typedef struct {
    uint32_t channels, pixels, taps;
    snn_weights time, channel;
    int8_t time_shift, channel_shift; /* of the sums, onto the operands' grid */
    int32_t low, high;                /* of an operand */
    int8_t entry_shift;               /* of a product, onto the entries' grid */
    int32_t first_entry, entries;
    snn_numbers table;                /* sigmoid(entry), for entries first_entry ... */
} snn_attention;

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
)

RUNNER_C = (
    r"""/* Runs the network on the shipped vectors and compares every spike of every layer.
 *
 *     cc -std=c99 -O2 runner.c -o runner && ./runner; echo $?
 *
 * 0: all spikes are as shipped; n > 0: stage n - 1 is the first that differs (snn_failed says where).
 * C99, <stdint.h> only: no heap, no library. Memory: snn_memory (read only), snn_state, snn_maps, and snn_sums,
 * the accumulators of the largest layer; with attention also snn_trains, the spikes of all steps before it.
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
static void snn_meet(const void *whom, uint32_t place, int64_t w)
{
    const snn_stage *s = whom;
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

"""
    + WALK
    + r"""
"""
    + ATTEND
    + r"""
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
    snn_walk(&s->weight, snn_meet, s);
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

/* What comes into stage `first` at step t: the input, or the spikes before an attention with their gates. */
static void snn_take(uint32_t sample, uint32_t first, uint32_t t)
{
    uint64_t from = ((uint64_t)sample * SNN_INPUT_STEPS + (t < SNN_INPUT_STEPS ? t : 0)) * SNN_INPUTS;
#if SNN_ATTENTIONS
    if (first > 0) {
        const snn_attention *a = &snn_attentions[snn_stages[first].attention];
        uint64_t train = snn_stages[first].train_at + (uint64_t)t * a->channels * a->pixels;
        for (uint32_t i = 0; i < a->channels * a->pixels; i++)
            snn_sums[i] = (uint32_t)snn_bits(snn_trains, train + i, 1) * snn_gates[t * a->channels + i / a->pixels];
        return;
    }
#endif
    for (uint32_t i = 0; i < SNN_INPUTS && first == 0; i++) {
        uint64_t code = snn_bits(snn_inputs, (from + i) * SNN_INPUT_BITS, SNN_INPUT_BITS);
        snn_sums[i] = (uint32_t)(SNN_INPUT_SIGNED ? snn_signed(code, SNN_INPUT_BITS) : (int64_t)code);
    }
}

/* Stages first ... last - 1 at step t; the number of the stage that differs, plus 1, or 0. */
static int snn_check(uint32_t sample, uint32_t first, uint32_t last, uint32_t t)
{
    snn_take(sample, first, t);
    for (uint32_t n = first; n < last; n++) {
        uint64_t expected = ((uint64_t)sample * SNN_STEPS + t) * SNN_SPIKES + snn_stages[n].spikes_at;
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
#if SNN_ATTENTIONS
    if (last < SNN_STAGES) {
        uint32_t size = snn_size(snn_stages[last - 1].out);
        for (uint32_t i = 0; i < size; i++)
            snn_put(snn_trains, snn_stages[last].train_at + (uint64_t)t * size + i, 1, snn_sums[i]);
    }
#endif
    return 0;
}

int main(void)
{
    for (uint32_t sample = 0; sample < SNN_SAMPLES; sample++) {
        for (uint32_t i = 0; i < SNN_STATE_BYTES; i++)
            snn_state[i] = 0;
        for (uint32_t first = 0, last; first < SNN_STAGES; first = last) {
            /* An attention needs all steps of what comes before it, so the stages up to the next one go first. */
            for (last = first + 1; last < SNN_STAGES && snn_stages[last].attention < 0;)
                last++;
#if SNN_ATTENTIONS
            if (first > 0)
                snn_attend(&snn_attentions[snn_stages[first].attention], snn_stages[first].train_at);
#endif
            for (uint32_t t = 0; t < SNN_STEPS; t++) {
                int failed = snn_check(sample, first, last, t);
                if (failed)
                    return failed;
            }
        }
    }
    return 0;
}
"""
)
