"""An STDP network in a manifest and its bit stream: written once, read with suspicion."""

from __future__ import annotations

from typing import cast

import numpy as np

from pipeline.export import pack
from pipeline.export.check import MOST_STEPS
from pipeline.export.manifest import Reading, Store, put_tensor
from pipeline.export.node import Json, Node
from pipeline.export.program import ROUNDINGS, Rounding, Shape
from pipeline.export.stdp_program import CONSTANTS, LAYER, WINNERS, StdpProgram, Winner, check_stdp

_SIDE = 1 << 20


def describe_stdp(program: StdpProgram, store: Store) -> tuple[Json, bytes]:
    """The program as JSON, and its bit stream: weights, theta, the constants, the one number of inhibition."""
    writer = pack.Writer()
    weight = put_tensor(program.weight, store, writer)
    theta = put_tensor(program.theta, Store(), writer)
    shared = {name: put_tensor(getattr(program, name), Store(), writer) for name in CONSTANTS}
    floor = program.lowest
    said: Json = {
        "kind": "stdp",
        "input": {"shape": list(program.shape)},
        "timesteps": program.timesteps,
        "weight": weight,
        "gain": program.gain,
        "neurons": {
            "name": LAYER, "theta": theta, **shared,
            "mem": {"bits": program.bits, "exponent": program.exponent, "low": program.low, "high": program.high},
            "rounding": program.rounding,
            "lowest": None if floor is None else {"code": floor[0], "exponent": floor[1]},
            "refractory_steps": program.refractory,
            "winner": program.winner,
        },
        "inhibition": {
            "weight": put_tensor(program.inhibition, store, writer),
            "through_a_layer_resting_steps": program.inhibitory,
        },
    }  # fmt: skip
    return said, writer.bytes()


def rebuild_stdp(node: Node, stream: bytes) -> StdpProgram:
    """The program of a manifest and its bit stream, checked.

    Raises:
        DataError: anything that is missing, of the wrong type, out of range, or inconsistent.
    """
    reading = Reading(np.unpackbits(np.frombuffer(stream, np.uint8), bitorder="little"))
    neurons, inhibition = node["neurons"], node["inhibition"]
    mem, floor, end = neurons["mem"], neurons["lowest"], 1 << 31
    neurons["name"].choice((LAYER,))
    weight = reading.tensor(node["weight"], "weight")
    theta = reading.tensor(neurons["theta"], "theta")
    shared = {name: reading.tensor(neurons[name], name) for name in CONSTANTS}
    push = reading.tensor(inhibition["weight"], "inhibition")
    reading.finish()
    rest = inhibition["through_a_layer_resting_steps"]
    return check_stdp(
        StdpProgram(
            shape=cast(Shape, node["input"]["shape"].integers(3, 1, _SIDE)),
            timesteps=node["timesteps"].integer(1, MOST_STEPS),
            weight=weight, gain=node["gain"].integer(-16, 16), theta=theta, **shared, inhibition=push,
            bits=mem["bits"].integer(2, 32), exponent=mem["exponent"].integer(-16, 40),
            low=mem["low"].integer(-end, 0), high=mem["high"].integer(0, end - 1),
            rounding=cast(Rounding, neurons["rounding"].choice(ROUNDINGS)),
            lowest=None if floor.missing else (floor["code"].integer(-end, end), floor["exponent"].integer(-16, 40)),
            refractory=neurons["refractory_steps"].integer(0, 1 << 16),
            winner=cast(Winner, neurons["winner"].choice(WINNERS)),
            inhibitory=None if rest.missing else rest.integer(0, 1 << 16),
        )
    )  # fmt: skip
