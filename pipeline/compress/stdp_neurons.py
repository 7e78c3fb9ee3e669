"""Neuron parameters of an STDP network on fixed-point grids; the snnTorch counterpart is in `quantize`.

Constants (threshold, reset, inhibition, decay) are replaced in the network's spec by their values on the grid.
What changes at every step (membrane, theta, traces) goes to the network's `numerics`, which its kernel reads:
``(step, lowest, highest, rounding)``, applied and saturated after each update. Potentials are counted from rest,
so that -65 mV needs no integer bits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from pipeline.compress.calibrate import HEADROOM, Grid, fit_step
from pipeline.compress.quantizers import DecayFactor
from pipeline.compress.rounding import Rounding, fake_quantize
from pipeline.compress.stack import ledger
from pipeline.types import FLOAT_BITS

STATES = ("membrane", "theta", "trace")
"""Kept on a grid by the kernel, step by step."""
CONSTANTS = {"threshold": "threshold_mv", "reset": "reset_mv", "inhibition": "w_inh_mv"}
UNTRAINED_HEADROOM = 8.0
"""Range of the membrane before learning, in thresholds above rest; theta gets the rest beyond the first. Ours: with
BindsNET's constants theta rises by 5 to 10 thresholds in an epoch of MNIST, and a neuron whose threshold lies beyond
its membrane's largest code never fires again (with 4, such a network fell from 91 to 34 %)."""


def is_stdp(net: nn.Module) -> bool:
    """Whether the net is one whose kernel takes formats (`numerics`) and constants (`spec`)."""
    return (
        hasattr(net, "numerics") and hasattr(net, "spec") and isinstance(getattr(net, "theta", None), Tensor)
    )


def quantize_stdp(
    net: nn.Module, widths: Mapping[str, int], rounding: Rounding, headroom: float | None, shift: bool
) -> None:
    """Put every quantity named in `widths` (32: left alone) on its grid, in place.

    membrane covers `headroom` thresholds (None: HEADROOM, before learning UNTRAINED_HEADROOM), or threshold + theta
    where that is more; inhibition below saturates. A reset is a code of the membrane.
    theta covers its present maximum, or before learning what the membrane leaves. Traces lie in [0, 1).
    """
    spec: Any = net.spec
    threshold = spec.threshold_mv - spec.rest_mv
    theta = cast(Tensor, net.theta)
    top = float(theta.max())
    for name, field in CONSTANTS.items():
        if (bits := widths.get(name, FLOAT_BITS)) < FLOAT_BITS:
            rest = 0.0 if name == "inhibition" else spec.rest_mv
            value, grid = on_grid(torch.tensor(getattr(spec, field) - rest, dtype=torch.float32), bits)
            ledger(net).constants[name] = grid
            spec = dataclasses.replace(spec, **{field: rest + float(value)})
    if (bits := widths.get("beta", FLOAT_BITS)) < FLOAT_BITS:
        factor = DecayFactor(bits, shift)
        factor.fit(exact := torch.tensor(math.exp(-spec.dt_ms / spec.tau_m_ms)), None)
        decay = factor(exact)
        ledger(net).constants["beta"] = factor.grid()
        spec = dataclasses.replace(spec, tau_m_ms=-spec.dt_ms / math.log(float(decay)))
    net.spec = spec
    if headroom is None:
        headroom = HEADROOM if top > 0 else UNTRAINED_HEADROOM
    ranges = {
        "membrane": max(headroom * threshold, threshold + top),
        "theta": top if top > 0 else max(headroom - 1, 1) * threshold,
        "trace": 0.5,  # Q0.f: a full trace of 1 saturates one step below
    }
    for name, reach in ranges.items():
        if (bits := widths.get(name, FLOAT_BITS)) < FLOAT_BITS:
            high = (1 << (bits - 1)) - 1
            step = (
                2.0 ** (1 - bits)
                if name == "trace"
                else float(fit_step(torch.tensor([reach]), -high - 1, high))
            )
            hold(net, name, Grid(bits, torch.tensor(step), -high - 1, high), rounding)
    if "membrane" in numerics(net):
        _reset_on_membrane(net)


def settle_reset(net: nn.Module, reset_mv: float) -> None:
    """Once the membrane's grid is the trained one: the reset anew, from the potential that the config names.

    A net that is rebuilt was quantized before it had its theta, on another grid of the membrane.
    """
    spec: Any = net.spec
    grid = ledger(net).constants.get("reset")
    if grid is not None:
        value, _ = on_grid(torch.tensor(reset_mv - spec.rest_mv, dtype=torch.float32), grid.bits)
        reset_mv = spec.rest_mv + float(value)
    net.spec = dataclasses.replace(spec, reset_mv=reset_mv)
    _reset_on_membrane(net)


def _reset_on_membrane(net: nn.Module) -> None:
    """A reset writes into the membrane's register, so it is one of its codes: rounded to the nearest."""
    spec: Any = net.spec
    step, low, high, _ = numerics(net)["membrane"]
    value = spec.reset_mv - spec.rest_mv
    code = min(max(round(value / step), round(low / step)), round(high / step))
    net.spec = dataclasses.replace(spec, reset_mv=spec.rest_mv + code * step)
    grid = ledger(net).constants.get("reset")
    if grid is not None and float(grid.step) < step:
        ledger(net).constants["reset"] = grid._replace(step=torch.tensor(step))


def numerics(net: nn.Module) -> dict[str, tuple[float, float, float, Rounding]]:
    """Quantity -> (step, lowest, highest, rounding), as the kernel reads it."""
    return cast(dict[str, tuple[float, float, float, Rounding]], net.numerics)


def hold(net: nn.Module, name: str, grid: Grid, rounding: Rounding) -> None:
    """Have the kernel keep the quantity `name` on `grid`."""
    step = float(grid.step)
    numerics(net)[name] = (step, grid.low * step, grid.high * step, rounding)
    if name == "theta":
        theta = cast(Tensor, net.theta)
        with torch.no_grad():
            theta.copy_(fake_quantize(theta, grid.step, grid.low, grid.high))


def held(net: nn.Module) -> dict[str, Grid]:
    """The grids of the quantities that the kernel keeps on one."""
    out = {}
    for name, (step, low, high, _) in numerics(net).items():
        codes = round(low / step), round(high / step)
        out[name] = Grid((codes[1] + 1).bit_length(), torch.tensor(step), *codes)
    return out


def on_grid(value: Tensor, bits: int) -> tuple[Tensor, Grid]:
    """A constant, rounded to nearest in the smallest Qi.f of that width that holds it, and that format."""
    high = (1 << (bits - 1)) - 1
    grid = Grid(bits, fit_step(value, -high - 1, high), -high - 1, high)
    return fake_quantize(value, grid.step, grid.low, grid.high), grid
