"""A finalist as a device would run it: lowered to integers, proven on the test split, and put under stress."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
from torch import nn

from pipeline.export.codes import Grids, input_format
from pipeline.export.integer import Engine
from pipeline.export.kinds import AnyEngine, work_of
from pipeline.export.lower import lower
from pipeline.export.program import Accumulator, NotExact, Program, signed_bits
from pipeline.export.proof import Proof, prove
from pipeline.export.robustness import Stress, robustness
from pipeline.export.stdp_integer import StdpEngine, prove_stdp
from pipeline.export.stdp_lower import is_stdp, lower_stdp
from pipeline.types import EVALUATION_BATCH, Batch, Dataset, Decode, SplitName, Widths

_FEW = 8
_MOST_WORK = 1 << 40
"""Synaptic operations, were every input an event, that stress may take: about a minute at usual activity."""


@runtime_checkable
class Rated(Protocol):
    """A decoding by spike counts alone: the class whose group fires most."""

    @property
    def classes(self) -> int: ...


def program_of_model(
    net: nn.Module, grids: Grids, widths: Widths, decode: Decode, data: Dataset, accumulator: Accumulator
) -> Program:
    """The integer form of a compressed network, for inputs like those of its validation and test splits.

    Raises:
        NotExact: with everything that is in the way.
    """
    if not isinstance(decode, Rated):
        raise NotExact([f"{type(decode).__name__} is a decoding without an integer form here."])
    splits: tuple[SplitName, ...] = ("validation", "test")
    seen = (batch.x for split in splits for batch in data.batches(split, data.at_once, seed=0))
    given = input_format(seen, data.shape)
    return lower(net, grids, widths, given, data.timesteps, data.classes, accumulator)


def obstacles(
    net: nn.Module, grids: Grids, widths: Widths, data: Dataset, accumulator: Accumulator
) -> tuple[str, ...]:
    """What keeps a compressed network, trained or not, from an integer form: reasons with the settings that help.

    Of the inputs one validation batch is looked at; values that only training brings (a theta of too many bits) are
    not seen before it.
    """
    try:
        if is_stdp(net):
            _refuse_registers(accumulator)
            lower_stdp(net, grids, data.timesteps)
        else:
            batch = next(iter(data.batches("validation", _FEW, seed=0)))
            given = input_format([batch.x], data.shape)
            lower(net, grids, widths, given, data.timesteps, data.classes, accumulator)
    except NotExact as error:
        return tuple(error.reasons)
    return ()


def lowered(
    net: nn.Module, grids: Grids, widths: Widths, decode: Decode, data: Dataset, accumulator: Accumulator
) -> AnyEngine:
    """The integer engine of a compressed network of either kind; STDP networks add in 32 bits.

    Raises:
        NotExact: with everything that is in the way.
    """
    if is_stdp(net):
        _refuse_registers(accumulator)
        return StdpEngine(lower_stdp(net, grids, data.timesteps), decode)
    return Engine(program_of_model(net, grids, widths, decode, data, accumulator))


def _refuse_registers(accumulator: Accumulator) -> None:
    """STDP networks have one register."""
    if accumulator != Accumulator():
        what = f"an STDP network adds in 32 bits, and accumulator ({accumulator}) is not for it"
        raise NotExact(
            [f"{what}: accumulator.bits=32, .overflow=saturate (or --accumulator-bits, --overflow)."]
        )


def prove_any(net: nn.Module, engine: AnyEngine, decode: Decode, batches: Iterable[Batch]) -> Proof:
    """Run both on every batch and compare all spikes."""
    if isinstance(engine, StdpEngine):
        return prove_stdp(net, engine, decode, batches)
    return prove(net, engine, decode, batches)


def device_columns(
    net: nn.Module,
    grids: Grids,
    widths: Widths,
    decode: Decode,
    data: Dataset,
    seed: int,
    stress: Stress,
    accumulator: Accumulator,
) -> dict[str, float]:
    """``integer_exact`` (1: every spike of the test split is the network's own), and the robustness columns.

    ``integer_accumulator_bits`` is the register's width, ``integer_accumulator_wraps`` what it does on overflow, and
    ``integer_accumulator_bits_needed`` the width that no input can overflow in any layer.

    Raises:
        NotExact: the network has no exact integer form, and nothing is claimed for it.
    """
    engine = lowered(net, grids, widths, decode, data, accumulator)
    proof = prove_any(net, engine, decode, data.batches("test", _at_once(engine, data), seed=0))
    found = proof.metrics() | {
        "integer_accumulator_bits": float(accumulator.bits),
        "integer_accumulator_bits_needed": float(needed_bits(engine)),
        "integer_accumulator_wraps": float(accumulator.overflow == "wrap"),
    }
    return found | (stressed(engine, data, seed, stress) if proof.holds else {})


def needed_bits(engine: AnyEngine) -> int:
    """Bits of an accumulator that no input can overflow, in the layer that needs most."""
    if isinstance(engine, Engine):
        return max(bound.accumulator_bits for bound in engine.bounds)
    return signed_bits(int(np.abs(engine.program.weight.codes).sum(1).max()))


def _at_once(engine: AnyEngine, data: Dataset) -> int:
    """Samples of a batch, as in an evaluation: what random encodings draw depends on it."""
    return data.at_once if isinstance(engine, Engine) else EVALUATION_BATCH


def stressed(engine: AnyEngine, data: Dataset, seed: int, stress: Stress) -> dict[str, float]:
    """The robustness columns on the first samples of the test split: all of them, unless that would take minutes."""
    affordable = max(8, _MOST_WORK // max(1, work_of(engine.program) * stress.runs))
    codes: list[np.ndarray] = []
    for batch in data.batches("test", _at_once(engine, data), seed=0):
        if sum(map(len, codes)) >= affordable:
            break
        codes.append(engine.codes(batch.x))
    if not codes:
        return {}
    given = np.concatenate(codes)[:affordable]
    labels = data.test.y.numpy()[: len(given)]
    return robustness(engine, given, labels, stress, seed) | {"robust_samples": float(len(given))}
