"""The integer engine's inner loops: events into accumulators, accumulators into membranes and spikes.

Maps are [P, C], pixels (row by row) times channels, so that the synapses of one event are contiguous. An
accumulator is read and cleared by the neuron's update. Integer types are chosen by the caller from proven bounds,
so nothing here can overflow unless a saturating or wrapping accumulator is asked for.
"""

from __future__ import annotations

import numpy as np

from pipeline.compiled import njit, quick
from pipeline.export.fire_kernel import align, fire, neurons_of

EXACT, SATURATE, WRAP = 0, 1, 2


@quick
def gather(x, events):  # type: ignore[no-untyped-def]
    """Places of the nonzero x [inputs] into events [inputs + 1]; returns (how many, whether any is not 1).

    Without a branch per entry, which a processor would guess wrong at every event; eight empty bytes are one test.
    """
    count = 0
    largest = 0
    done = 0
    if x.itemsize == 1 and x.shape[0] % 8 == 0:
        words = x.view(np.uint64)
        for k in range(words.shape[0]):
            if words[k] != 0:
                for i in range(8 * k, 8 * k + 8):
                    events[count] = i
                    count += x[i] != 0
                    largest |= x[i]
        done = x.shape[0]
    for i in range(done, x.shape[0]):
        events[count] = i
        count += x[i] != 0
        largest |= x[i]
    return count, largest != 0 and largest != 1


@quick
def add_linear(x, w, acc, events):  # type: ignore[no-untyped-def]
    """acc [n] += sum of x[i] * w[i, :] over the nonzero x [inputs]; w [inputs, n]. acc int16 where sums fit it."""
    number = acc.dtype.type
    n = acc.shape[0]
    count, graded = gather(x, events)
    e = 0
    if not graded:  # eight rows at a time: the sums are read and written once for all of them
        while e + 8 <= count:
            a, b, c, d = w[events[e]], w[events[e + 1]], w[events[e + 2]], w[events[e + 3]]
            f, g, h, o = w[events[e + 4]], w[events[e + 5]], w[events[e + 6]], w[events[e + 7]]
            for at in range(n):
                left = number(a[at]) + number(b[at]) + number(c[at]) + number(d[at])
                right = number(f[at]) + number(g[at]) + number(h[at]) + number(o[at])
                acc[at] += left + right
            e += 8
    while e + 4 <= count:
        i, j, k, m = events[e], events[e + 1], events[e + 2], events[e + 3]
        a, b, c, d = w[i], w[j], w[k], w[m]
        p, q, r, s = number(x[i]), number(x[j]), number(x[k]), number(x[m])
        for at in range(n):
            acc[at] += number(a[at]) * p + number(b[at]) * q + number(c[at]) * r + number(d[at]) * s
        e += 4
    while e < count:
        a, p = w[events[e]], number(x[events[e]])
        for at in range(n):
            acc[at] += number(a[at]) * p
        e += 1


@quick
def add_few(x, w, acc):  # type: ignore[no-untyped-def]
    """As `add_linear` for a handful of outputs, w [n, inputs]: a dot product is sooner done than events are found."""
    number = acc.dtype.type
    for j in range(w.shape[0]):
        of = w[j]
        total = number(0)
        for i in range(x.shape[0]):
            total = number(total + number(number(of[i]) * number(x[i])))
        acc[j] = total


@quick
def add_conv(x, w, acc, shape, events):  # type: ignore[no-untyped-def]
    """Stride 1, dilation 1, one group. x [rows * columns * C], acc [out rows * out columns * N].

    w [C * kernel rows, kernel columns * N], columns from right to left: an event's row of synapses is contiguous.
    shape: rows, columns, C, out rows, out columns, N, kernel rows, kernel columns, padding above, padding left.
    """
    number = acc.dtype.type
    columns, channels, out_rows, out_columns, n = shape[1], shape[2], shape[3], shape[4], shape[5]
    kernel_rows, kernel_columns, above, left = shape[6], shape[7], shape[8], shape[9]
    count, _ = gather(x, events)
    for e in range(count):
        at = events[e]
        scale = number(x[at])
        pixel, c = at // channels, at % channels
        y, column = pixel // columns, pixel % columns
        first = column + left - (kernel_columns - 1)
        start, stop = max(0, -first), min(kernel_columns, out_columns - first)
        length = (stop - start) * n
        if length <= 0:
            continue
        for k in range(kernel_rows):
            row = y + above - k
            if row < 0 or row >= out_rows:
                continue
            to = acc[(row * out_columns + first + start) * n :][:length]
            of = w[c * kernel_rows + k, start * n :][:length]
            if scale == 1:
                for j in range(length):
                    to[j] += number(of[j])
            else:
                for j in range(length):
                    to[j] += number(of[j]) * scale


@quick
def add_any(x, w, acc, shape, stride, dilation, groups, low, high, mode):  # type: ignore[no-untyped-def]
    """As `add_conv` for any stride, dilation, groups and register; w [C * kernel rows * columns, N / groups].

    A fully connected layer is a 1x1 map of `inputs` channels. Every addition is held in [low, high].
    """
    rows, columns, channels, out_rows, out_columns, n = (
        shape[0],
        shape[1],
        shape[2],
        shape[3],
        shape[4],
        shape[5],
    )
    kernel_rows, kernel_columns, above, left = shape[6], shape[7], shape[8], shape[9]
    share = n // groups
    at = -1
    for y in range(rows):
        for column in range(columns):
            for c in range(channels):
                at += 1
                scale = np.int64(x[at])
                if scale == 0:
                    continue
                begin = c // (channels // groups) * share
                for k in range(kernel_rows):
                    down = y + above - k * dilation[0]
                    if down < 0 or down % stride[0] != 0 or down // stride[0] >= out_rows:
                        continue
                    for h in range(kernel_columns):
                        along = column + left - h * dilation[1]
                        if along < 0 or along % stride[1] != 0 or along // stride[1] >= out_columns:
                            continue
                        of = w[(c * kernel_rows + k) * kernel_columns + h]
                        place = (down // stride[0] * out_columns + along // stride[1]) * n + begin
                        for j in range(share):
                            total = np.int64(acc[place + j]) + np.int64(scale) * np.int64(of[j])
                            if mode == SATURATE:
                                total = min(max(total, low), high)
                            elif mode == WRAP:
                                total = ((total - low) & (high - low)) + low
                            acc[place + j] = total


LINEAR, CONV, ANY, FEW = 0, 1, 2, 3


@njit(cache=True, nogil=True)
def run_stage(  # type: ignore[no-untyped-def]
    x, kind, narrow, w, shape, stride, dilation, groups, register, mode, lifts, biases, constants, half, down,
    low, high, out,
):  # fmt: skip
    """All samples and steps of one stage.

    x [B, T or 1 (the same at every step), inputs], register (low, high), out [B, T, neurons] uint8. `narrow`: the
    sums are proven to fit 16 bits. One compiled function per combination of integer types.
    """
    n = out.shape[2]
    acc = np.zeros(1 if narrow else n, np.int32)
    low_acc = np.zeros(n if narrow else 1, np.int16)
    u, current = neurons_of(n, constants)
    events = np.empty(x.shape[2] + 1, np.int32)
    of = w, shape, stride, dilation, groups, register, mode, lifts, biases, constants, half, down, low, high
    _run(x, kind, narrow, of, (acc, low_acc, u, current, events), out)


@quick
def _run(x, kind, narrow, of, memory, out):  # type: ignore[no-untyped-def]
    """`run_stage` with memory to work in."""
    w, shape, stride, dilation, groups, register, mode, lifts, biases, constants, half, down, low, high = of
    acc, low_acc, u, current, events = memory
    samples, steps = out.shape[0], out.shape[1]
    same = x.shape[1] == 1
    for b in range(samples):
        u[:] = 0
        for t in range(steps):
            if t == 0 or not same:
                if kind == LINEAR and narrow:
                    add_linear(x[b, t], w, low_acc, events)
                elif kind == LINEAR:
                    add_linear(x[b, t], w, acc, events)
                elif kind == CONV and narrow:
                    add_conv(x[b, t], w, low_acc, shape, events)
                elif kind == CONV:
                    add_conv(x[b, t], w, acc, shape, events)
                elif kind == FEW and narrow:
                    add_few(x[b, t], w, low_acc)
                elif kind == FEW:
                    add_few(x[b, t], w, acc)
                else:
                    add_any(x[b, t], w, acc, shape, stride, dilation, groups, register[0], register[1], mode)
                if narrow:
                    align(low_acc, lifts, biases, current)
                    low_acc[:] = 0
                else:
                    align(acc, lifts, biases, current)
                    acc[:] = 0
            fire(current, u, out[b, t], constants, half, down, low, high)


@quick
def vote(spikes, classes, labels):  # type: ignore[no-untyped-def]
    """labels [B] = the class whose group of neurons fired most in spikes [B, T, N] uint8, the lower one if equal."""
    samples, steps, n = spikes.shape
    each = n // classes
    for b in range(samples):
        most, fired = np.int64(-1), spikes[b]
        for label in range(classes):
            total = np.int64(0)
            for j in range(label * each, (label + 1) * each):
                for t in range(steps):
                    total += fired[t, j]
            if total > most:
                most, labels[b] = total, label


@njit(cache=True, nogil=True)
def to_codes(x, scale, low, high, out):  # type: ignore[no-untyped-def]
    """x [T, B, C, pixels] float32 -> out [B, T, pixels * C] = x * scale; False where one is no integer in range.

    What is wrong is kept per pixel: a sum over all of them would keep the loop from being vectorised.
    """
    steps, samples, channels, pixels = x.shape
    wrong = np.zeros(pixels, np.int32)
    for t in range(steps):  # outside: x is read from its beginning to its end
        for b in range(samples):
            if channels == 1:  # without a stride the loop is a few wide instructions
                of, to = x[t, b, 0], out[b, t]
                for i in range(pixels):
                    value = of[i] * scale
                    code = np.int32(min(max(value, low), high))
                    to[i] = code
                    wrong[i] |= np.int32(np.float32(code) != value)
                continue
            for c in range(channels):
                of, to = x[t, b, c], out[b, t, c:]
                for i in range(pixels):
                    value = of[i] * scale
                    code = np.int32(min(max(value, low), high))
                    to[i * channels] = code
                    wrong[i] |= np.int32(np.float32(code) != value)
    return not wrong.any()
