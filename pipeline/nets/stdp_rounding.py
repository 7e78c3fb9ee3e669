"""Fixed-point rounding inside the STDP kernel, with its own small random generator.

A format is (eps, lo, hi, rounding): values become ``round(x / eps) * eps`` clamped to [lo, hi]; eps = 0 leaves
them alone. Roundings (Putra and Shafique 2022, section III-C): truncation floor(x / eps), nearest
floor(x / eps + 1/2), stochastic floor(x / eps) + Bernoulli(fraction).
"""

from __future__ import annotations

import numpy as np

from pipeline.compiled import quick, random_bits

TRUNCATE, NEAREST, STOCHASTIC = 0, 1, 2
ROUNDINGS = {"truncation": TRUNCATE, "truncate": TRUNCATE, "nearest": NEAREST, "stochastic": STOCHASTIC}
# No Python ints: numba would compile every function anew for each of those.
WEIGHT, MEMBRANE, THETA, TRACE = np.int64(0), np.int64(1), np.int64(2), np.int64(3)
QUANTITIES = ("weight", "membrane", "theta", "trace")
"""What `formats` [4, 4] holds, row by row."""


@quick
def uniform(rng):  # type: ignore[no-untyped-def]
    """float64 in [0, 1) from splitmix64; rng [1] uint64 is advanced."""
    return np.float64(random_bits(rng)) * (1.0 / 9007199254740992.0)


@quick
def rounded(x, eps, lo, hi, rounding, draw):  # type: ignore[no-untyped-def]
    """x in the format (eps, lo, hi, rounding), eps > 0; `draw` in [0, 1) decides stochastic rounding."""
    scaled = np.float64(x) / eps
    whole = np.floor(scaled)
    if rounding == NEAREST:
        whole = np.floor(scaled + 0.5)
    elif rounding == STOCHASTIC and draw < scaled - whole:
        whole += 1.0
    return np.float32(min(max(whole * eps, lo), hi))


@quick
def quantized(x, formats, row, rng):  # type: ignore[no-untyped-def]
    """One value in the format of `row`, as float32."""
    if formats[row, 0] <= 0.0:
        return np.float32(x)
    draw = uniform(rng) if formats[row, 3] == STOCHASTIC else 0.0
    return rounded(x, formats[row, 0], formats[row, 1], formats[row, 2], formats[row, 3], draw)


@quick
def quantized_array(x, formats, row, rng):  # type: ignore[no-untyped-def]
    """`quantized` on every element of x [n], in place.

    Without draws, and where float32 holds every code and a half (up to 22 bits on a power-of-two grid), the loop
    runs in float32 without branches, which is what makes a quantized membrane affordable.
    """
    eps, lo, hi, rounding = formats[row, 0], formats[row, 1], formats[row, 2], formats[row, 3]
    if eps <= 0.0:
        return
    if rounding == STOCHASTIC:
        for j in range(x.shape[0]):
            x[j] = rounded(x[j], eps, lo, hi, rounding, uniform(rng))
    elif np.log2(eps) == np.floor(np.log2(eps)) and max(-lo, hi) / eps <= 2.0**22:
        half = np.float32(0.5 if rounding == NEAREST else 0.0)
        step, steps, low, high = np.float32(eps), np.float32(1.0 / eps), np.float32(lo), np.float32(hi)
        for j in range(x.shape[0]):
            x[j] = min(max(np.floor(x[j] * steps + half) * step, low), high)
    else:
        for j in range(x.shape[0]):
            x[j] = rounded(x[j], eps, lo, hi, rounding, 0.0)
