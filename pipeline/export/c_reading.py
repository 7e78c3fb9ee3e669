"""What every exported C program shares: how packed numbers and encoded weights are read.

C99 without a heap and without any library: ``<stdint.h>`` alone. Written for reading, not for speed.
"""

READING = r"""/* Reading packed numbers, and the update of one spiking neuron. C99, <stdint.h> only. */
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
"""

WALK = r"""static int64_t snn_value(const snn_weights *w, uint64_t at, uint32_t i)
{
    uint64_t value = snn_bits(snn_memory, at + (uint64_t)i * w->bits, w->bits);
    return w->form == SNN_SIGNED ? snn_signed(value, w->bits) : (int64_t)value;
}

/* Every stored weight once, in the order of the stream: meet(whom, its place in the tensor, its code). */
static void snn_walk(const snn_weights *w, void (*meet)(const void *, uint32_t, int64_t), const void *whom)
{
    uint32_t row = w->size / w->rows, at = 0, left = 0, filter = 0;
    uint64_t values = w->at, places;
    if (w->encoding == SNN_DENSE) {
        for (uint32_t i = 0; i < w->size; i++)
            meet(whom, i, snn_value(w, values, i));
    } else if (w->encoding == SNN_BITMASK) {
        values += w->size;
        for (uint32_t i = 0; i < w->size; i++)
            if (snn_bits(snn_memory, w->at + i, 1))
                meet(whom, i, snn_value(w, values, at++));
    } else if (w->encoding == SNN_RLE) {
        values += (uint64_t)w->entries * w->run_bits;
        for (uint32_t e = 0; e < w->entries; e++, at++) {
            at += (uint32_t)snn_bits(snn_memory, w->at + (uint64_t)e * w->run_bits, w->run_bits);
            meet(whom, at, snn_value(w, values, e));
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
            meet(whom, (filter - 1) * row + (uint32_t)place, snn_value(w, values, e));
        }
    }
}
"""
