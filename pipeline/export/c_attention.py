"""Temporal-channel attention in the exported C: its numbers, and how the gates are computed."""

from __future__ import annotations

import math
from typing import cast

from pipeline.export.c_print import c_numbers, c_stream
from pipeline.export.node import Json
from pipeline.export.program import Attention, Program

ATTEND = r"""#if SNN_ATTENTIONS
static int64_t snn_counts[SNN_GATES], snn_over_time[SNN_GATES], snn_over_channels[SNN_GATES];
static uint8_t snn_gates[SNN_GATES], snn_trains[SNN_TRAIN_BYTES];

/* w = time[t][from][k]: all channels c of the step `from`, k taps apart. */
static void snn_meet_time(const void *whom, uint32_t place, int64_t w)
{
    const snn_attention *a = whom;
    uint32_t k = place % a->taps, from = place / a->taps % SNN_STEPS, t = place / (a->taps * SNN_STEPS);
    for (uint32_t c = 0; c < a->channels; c++) {
        int64_t at = (int64_t)c + k - (a->taps - 1) / 2;
        if (at >= 0 && at < a->channels)
            snn_over_time[t * a->channels + c] += w * snn_counts[from * a->channels + (uint32_t)at];
    }
}

/* w = channel[c][from][k]: all steps t of the channel `from`, k taps apart. */
static void snn_meet_channel(const void *whom, uint32_t place, int64_t w)
{
    const snn_attention *a = whom;
    uint32_t k = place % a->taps, from = place / a->taps % a->channels, c = place / (a->taps * a->channels);
    for (uint32_t t = 0; t < SNN_STEPS; t++) {
        int64_t at = (int64_t)t + k - (a->taps - 1) / 2;
        if (at >= 0 && at < (int64_t)SNN_STEPS)
            snn_over_channels[t * a->channels + c] += w * snn_counts[(uint32_t)at * a->channels + from];
    }
}

/* Onto another grid, rounded to nearest, ties up. */
static int64_t snn_onto(int64_t value, int shift)
{
    return shift < 0 ? snn_shift(value + ((int64_t)1 << (-shift - 1)), shift) : snn_shift(value, shift);
}

static int64_t snn_held(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* The gates of all steps and channels, from the spikes of all steps: table[over_time * over_channels]. */
static void snn_attend(const snn_attention *a, uint64_t train_at)
{
    uint32_t n = SNN_STEPS * a->channels;
    for (uint32_t i = 0; i < n; i++) {
        snn_counts[i] = snn_over_time[i] = snn_over_channels[i] = 0;
        for (uint32_t p = 0; p < a->pixels; p++)
            snn_counts[i] += (int64_t)snn_bits(snn_trains, train_at + (uint64_t)i * a->pixels + p, 1);
    }
    snn_walk(&a->time, snn_meet_time, a);
    snn_walk(&a->channel, snn_meet_channel, a);
    for (uint32_t i = 0; i < n; i++) {
        int64_t left = snn_held(snn_onto(snn_over_time[i], a->time_shift), a->low, a->high);
        int64_t right = snn_held(snn_onto(snn_over_channels[i], a->channel_shift), a->low, a->high);
        int64_t entry = snn_held(snn_onto(left * right, a->entry_shift) - a->first_entry, 0, a->entries - 1);
        snn_gates[i] = (uint8_t)snn_number(snn_memory, &a->table, (uint32_t)entry, 0, 0);
    }
}
#endif
"""


def attention_lines(program: Program, stages: list[Json]) -> list[str]:
    """Definitions and the table of all attentions; `stages` as the manifest describes them."""
    pairs = [
        (pool, said)
        for stage, described in zip(program.stages, stages, strict=True)
        for pool, said in zip(stage.pools, cast(list[Json], described["pools"]), strict=True)
        if isinstance(pool, Attention)
    ]
    channels = max((pool.in_shape[0] for pool, _ in pairs), default=0)
    trains = sum(program.timesteps * math.prod(pool.in_shape) for pool, _ in pairs)
    lines = [
        f"#define SNN_ATTENTIONS {len(pairs)}",
        f"#define SNN_GATES {program.timesteps * channels}u",
        f"#define SNN_TRAIN_BYTES {(trains + 7) // 8}u",
    ]
    if pairs:
        structs = ",\n".join(_struct(pool, said, program.timesteps) for pool, said in pairs)
        lines.append(f"static const snn_attention snn_attentions[] = {{\n{structs}\n}};")
    return lines


def _struct(pool: Attention, said: Json, timesteps: int) -> str:
    exponent, low, high = pool.operand
    fields = [
        f".channels = {pool.in_shape[0]}, .pixels = {math.prod(pool.in_shape[1:])}",
        f".taps = {pool.time.codes.shape[2]}",
        f".time = {c_stream(said['time'], timesteps)}, .time_shift = {exponent - pool.time.exponent - pool.mean}",
        f".channel = {c_stream(said['channel'], pool.in_shape[0])}",
        f".channel_shift = {exponent - pool.channel.exponent - pool.mean}",
        f".low = {low}, .high = {high}, .entry_shift = {pool.entry_exponent - 2 * exponent}",
        f".first_entry = {pool.first_entry}, .entries = {len(pool.table)}",
        f".table = {c_numbers(said['table'], 0)}",
    ]
    return f"    {{ /* {pool.name} */\n      " + ",\n      ".join(fields) + " }"
