"""The STDP network's equations in plain numpy, dense and step by step: what the compiled kernel must equal.

Written after the docstrings of `stdp_kernel` and `stdp_plasticity` with full vectors and matrices, no events and no
lists; float32 as the kernel. Ties are broken to the lowest index or the highest overshoot.
"""

from __future__ import annotations

import numpy as np


def quantize(x, grid, rng=None):
    """grid: (eps, lo, hi, rounding) or None."""
    if grid is None:
        return np.float32(x)
    eps, lo, hi, rounding = grid
    codes = np.floor(np.asarray(x, np.float64) / eps + (0.5 if rounding == "nearest" else 0.0))
    return np.clip(codes * eps, lo, hi).astype(np.float32)


def present(x, w, theta, cell, rule, learn, shadow=None, mask=None, weight_grid=None, membrane_grid=None):
    """x [T, P] of 0/1 for one sample; changes w [P, n], shadow and theta [n] in place; returns spikes [T, n]."""
    steps, n = len(x), w.shape[1]
    f = np.float32
    v, x_pre, x_post = np.zeros(n, f), np.zeros(w.shape[0], f), np.zeros(n, f)
    rest = np.zeros(n, int)
    inh_v, inh_rest = np.zeros(n, f), np.zeros(n, int)
    s, i = np.zeros(n, bool), np.zeros(n, bool)
    waiting, out, count = np.zeros(n, bool), np.zeros((steps, n), f), np.zeros(n, int)
    dirty = np.zeros(n, bool)
    held = w if shadow is None else shadow

    def put(columns, values):
        if mask is not None:
            values = values * mask[:, columns]
        if shadow is not None:
            shadow[:, columns] = values
        w[:, columns] = quantize(values, weight_grid)

    for t in range(steps):
        drive = f(cell.gain) * (x[t - 1] @ w if t else np.zeros(n, f)) - f(cell.w_inh) * (i.sum() - i)
        v = quantize(v * f(cell.decay) + np.where(rest > 0, 0, drive).astype(f), membrane_grid)
        v = np.maximum(v, f(cell.lowest))
        rest = np.maximum(rest - 1, 0)
        if learn:
            theta *= cell.theta_decay
        fired = v >= f(cell.threshold) + theta
        # The inhibitory layer sees the excitatory spikes of the step before.
        if cell.layer:
            inh_v *= f(cell.inh_decay)
            inh_v += np.where((inh_rest <= 0) & s, f(cell.drive), 0).astype(f)
            inh_rest -= 1
            i = inh_v >= cell.inh_threshold
            inh_v[i], inh_rest[i] = cell.inh_reset, cell.inh_refractory
        overshoot = np.where(fired, v - theta, -np.inf)
        rest[fired], v[fired] = cell.refractory, cell.reset
        if learn:
            theta[fired] += cell.theta_plus
        s = np.zeros(n, bool)
        if fired.any():
            s[:] = fired if cell.winner == 3 else False
            if cell.winner in (1, 2):
                s[np.argmax(fired) if cell.winner == 1 else np.argmax(overshoot)] = True
        if not cell.layer:
            i = s.copy()
        out[t] = s
        count += s
        if not learn:
            continue
        x_pre *= f(rule.pre_decay)
        x_pre = np.where(x[t] > 0, x_pre + 1 if rule.additive else 1, x_pre).astype(f)
        x_post = np.where(s, 1, x_post * f(rule.post_decay)).astype(f)
        waiting |= s
        per_event = rule.window <= 1
        if rule.eta_pre > 0:
            columns = np.flatnonzero(x_post > 0)
            old = held[:, columns]
            step = f(rule.eta_pre) * np.outer(x[t], x_post[columns]) * old**rule.mu
            low = np.where(s[columns] & per_event, -np.inf, 0)
            put(columns, np.where(x[t][:, None] > 0, np.maximum(old - step, low), old).astype(f))
            dirty[columns] = True
        if per_event or (t + 1) % rule.window == 0 or t + 1 == steps:
            k = rule.k * (np.ceil(count.max() / rule.spikes_per_k) if rule.spikes_per_k > 0 else 1)
            columns = np.flatnonzero(waiting)
            old = held[:, columns]
            new = old + f(k * rule.eta_post) * x_pre[:, None] * (rule.w_max - old) ** rule.mu
            put(columns, np.where(x_pre[:, None] > 0, np.clip(new, 0, rule.w_max), old).astype(f))
            dirty |= waiting
            waiting[:] = False
    if learn:
        keep = f(1 - rule.weight_decay)
        columns = np.arange(n) if rule.weight_decay > 0 else np.flatnonzero(dirty)
        if len(columns):
            values = held[:, columns] * keep
            total = values.sum(0, dtype=np.float64)
            if rule.norm > 0:
                values = values * np.where(total > 0, rule.norm / np.where(total > 0, total, 1), 1).astype(f)
            put(columns, values.astype(f))
    return out
