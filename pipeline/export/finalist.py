"""A finalist as a device would run it: lowered to integers, proven on the test split, and put under stress."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from torch import nn

from pipeline.export.codes import Grids, input_format
from pipeline.export.integer import Engine
from pipeline.export.lower import lower
from pipeline.export.program import Accumulator, NotExact, Program
from pipeline.export.proof import prove
from pipeline.export.robustness import Stress, robustness
from pipeline.export.stdp_integer import is_stdp, lower_stdp, prove_stdp
from pipeline.types import Dataset, Decode, SplitName, Widths

_BATCH = 256


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
    seen = (batch.x for split in splits for batch in data.batches(split, _BATCH, seed=0))
    given = input_format(seen, data.shape)
    return lower(net, grids, widths, given, data.timesteps, data.classes, accumulator)


def device_columns(
    net: nn.Module, grids: Grids, widths: Widths, decode: Decode, data: Dataset, seed: int, stress: Stress
) -> dict[str, float]:
    """``integer_exact`` (1: every spike of the test split is the network's own), and the robustness columns.

    Empty for a network that has no exact integer form: nothing is claimed for it.
    """
    try:
        if is_stdp(net):
            return prove_stdp(
                net, lower_stdp(net, grids), decode, data.batches("test", _BATCH, seed=0)
            ).metrics()
        engine = Engine(program_of_model(net, grids, widths, decode, data, Accumulator()))
        proof = prove(net, engine, decode, data.batches("test", _BATCH, seed=0))
        codes = [engine.codes(batch.x) for batch in data.batches("test", _BATCH, seed=0)]
    except NotExact:
        return {}
    columns = proof.metrics()
    if proof.holds and codes:
        labels = data.test.y.numpy()
        columns |= robustness(engine, np.concatenate(codes), labels, stress, seed)
    return columns
