"""From a compressed STDP network to a `StdpProgram`; everything that stands in the way is said at once."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.export.codes import Gridded, Grids, dyadic, exponents_of, form_of
from pipeline.export.program import FLOAT32_INTEGERS, Fixed, NotExact, Rounding
from pipeline.export.stdp_program import (
    WINNERS,
    StdpProgram,
    check_stdp,
    finer_bars,
    one_drive_fires,
)
from pipeline.types import DataError

MOST_WEIGHT_BITS = 16
_ADVICE = "compression.quantize_neurons."
_ADVISED = {"threshold": "threshold=8", "beta": "beta=8", "inhibition": "inhibition=8", "reset": "reset=8"}


def is_stdp(net: nn.Module) -> bool:
    """Whether the net is an STDP network: one that keeps a spec, numerics and theta."""
    return all(hasattr(net, name) for name in ("spec", "numerics", "theta", "weight"))


def lower_stdp(net: nn.Module, grids: Grids, timesteps: int) -> StdpProgram:
    """The integer form of a compressed STDP network.

    Raises:
        NotExact: with every reason, and the setting that removes it.
    """
    cell, reasons = cast(Any, net).spec.cell(), []
    if cell.layer and not one_drive_fires(cell.drive, cell.inh_threshold, cell.inh_reset):
        reasons.append(
            "an inhibitory neuron may need several drives, and its potential decays in float: raise net.inh_reset_mv "
            "to net.inh_rest_mv or net.inh_drive_mv, or use net.inhibition=direct."
        )
    weight = _weight(cast(Tensor, net.weight).detach(), grids.get("weight"), reasons)
    form = cast(Any, net).numerics.get("membrane")
    if form is None or form[3] == "stochastic":
        why = "has no format" if form is None else "is rounded by random numbers at run time"
        reasons.append(f"membrane {why}: {_ADVICE}membrane=16 with rounding=nearest.")
    values = {
        "threshold": cell.threshold, "beta": cell.decay, "reset": cell.reset, "inhibition": cell.w_inh
    }  # fmt: skip
    numbers = {name: _constant(name, value, grids.get(name), reasons) for name, value in values.items()}
    theta = _theta(cast(Tensor, net.theta).detach(), cell.threshold, grids.get("theta"), reasons)
    if math.frexp(cell.gain)[0] != 0.5:
        reasons.append(f"w_input_mv = {cell.gain:g} is no power of two.")
    lowest = None if cell.lowest == -math.inf else _lowest(cell.lowest, reasons)
    if reasons or weight is None or theta is None or form is None:
        raise NotExact(reasons)
    step, low, high, rounding = form
    mem = exponents_of(torch.tensor(step, dtype=torch.float64))
    if mem is None:
        raise NotExact(["membrane has a step that is no power of two."])
    program = StdpProgram(
        tuple(cast(Any, net).shape), timesteps, weight, round(math.log2(cell.gain)), theta, numbers["threshold"],
        numbers["beta"], numbers["reset"], numbers["inhibition"], (round(high / step) + 1).bit_length(), int(mem[0]),
        round(low / step), round(high / step), cast(Rounding, rounding), lowest, int(cell.refractory),
        WINNERS[cell.winner], int(cell.inh_refractory) if cell.layer else None,
    )  # fmt: skip
    return _consistent(program)


def _consistent(program: StdpProgram) -> StdpProgram:
    """Formats that do not fit each other."""
    reasons, m = [], program.exponent
    if program.reset.exponent > m:
        reasons.append(
            f"reset is finer than the membrane's grid of {2.0**-m:g}: {_ADVICE}reset or .membrane."
        )
    if program.lowest is not None and program.lowest[1] > program.fine:
        reasons.append(f"lowest_mv is finer than the working grid of {2.0**-program.fine:g}.")
    top = max(-program.low, program.high)
    if int(program.beta.codes.max()) * top >= 1 << FLOAT32_INTEGERS:
        reasons.append(f"decay times membrane needs more than 24 bits: fewer for {_ADVICE}beta or .membrane.")
    if program.winner == "highest" and finer_bars(program):
        reasons.append(
            f"theta is finer than the membrane, and decides who is highest: {_ADVICE}theta or .membrane."
        )
    if reasons:
        raise NotExact(reasons)
    try:
        return check_stdp(program)
    except DataError as error:
        raise NotExact([str(error)]) from error


def _weight(value: Tensor, grid: Gridded | None, reasons: list[str]) -> Fixed | None:
    """[pixels, neurons] float32 -> codes [neurons, pixels]."""
    if grid is None:
        reasons.append("weight is float32 without a fixed-point grid: compression.quantize_weights.bits=8.")
        return None
    exponents = exponents_of(grid.step)
    if exponents is None or len(exponents) > 1:
        reasons.append("weight has a step that is no power of two, or several steps.")
        return None
    if grid.bits > MOST_WEIGHT_BITS:
        reasons.append(
            f"weight has {grid.bits} bits, and {MOST_WEIGHT_BITS} are added here: compression.quantize_weights.bits=16."
        )
        return None
    codes = np.ldexp(value.double().numpy().T, int(exponents[0]))
    outside = codes.min(initial=0) < grid.low or codes.max(initial=0) > grid.high
    if not np.array_equal(codes, np.rint(codes)) or outside:
        reasons.append("weight does not lie on its own grid.")
        return None
    return Fixed(np.ascontiguousarray(codes.astype(np.int64)), exponents, grid.bits, form_of(grid))


def _constant(name: str, value: float, grid: Gridded | None, reasons: list[str]) -> Fixed:
    """One number: its code on its grid, or a float32 with few enough bits."""
    number = torch.tensor([value], dtype=torch.float32)
    if grid is not None and value == 0:  # whatever its step is
        return Fixed(np.zeros(1, np.int64), np.zeros(1, np.int64), grid.bits)
    if grid is not None and (exponents := exponents_of(grid.step)) is not None:
        codes = np.ldexp(number.double().numpy(), int(exponents[0]))
        if np.array_equal(codes, np.rint(codes)) and grid.low <= codes[0] <= grid.high:
            return Fixed(codes.astype(np.int64), exponents[:1], grid.bits, form_of(grid))
    found = dyadic(number, 32)
    if found is None:
        reasons.append(f"{name} = {value:.6g} has more than 16 bits: {_ADVICE}{_ADVISED[name]}.")
        return Fixed(np.zeros(1, np.int64), np.zeros(1, np.int64), 32, "float32")
    return found


def _theta(value: Tensor, threshold: float, grid: Gridded | None, reasons: list[str]) -> Fixed | None:
    """Codes on the grid, or the float32 that make threshold + theta what float32 makes of it."""
    numbers = value.numpy().astype(np.float32)
    heard = np.float32(threshold) + numbers  # float32, as the network adds them
    exact = float(np.float32(threshold)) + numbers.astype(np.float64)
    if grid is not None and (exponents := exponents_of(grid.step)) is not None and len(exponents) == 1:
        if not np.array_equal(heard.astype(np.float64), exact):
            reasons.append(
                f"threshold + theta needs more than 24 bits: fewer for {_ADVICE}theta or .threshold."
            )
            return None
        codes = np.ldexp(numbers.astype(np.float64), int(exponents[0]))
        if np.array_equal(codes, np.rint(codes)):
            return Fixed(codes.astype(np.int64), exponents, grid.bits, form_of(grid))
    heard_theta = torch.from_numpy(heard.astype(np.float64) - float(np.float32(threshold)))
    found = dyadic(heard_theta, 32, most_bits=31)
    if found is None:
        reasons.append(f"theta has more than 31 bits: {_ADVICE}theta=16.")
    return found


def _lowest(value: float, reasons: list[str]) -> tuple[int, int] | None:
    found = dyadic(torch.tensor([value], dtype=torch.float32), 32)
    if found is None:
        reasons.append(f"lowest_mv is {value:g} above rest, which has more than 16 bits.")
        return None
    return int(found.codes[0]), found.exponent
