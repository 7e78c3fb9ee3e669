"""The two kinds of networks behind one door: rows of layers, and STDP networks."""

from __future__ import annotations

from pipeline.export.check import work
from pipeline.export.integer import Engine
from pipeline.export.manifest import Store, describe, rebuild
from pipeline.export.node import Json, Node
from pipeline.export.program import Program
from pipeline.export.stdp_integer import StdpEngine
from pipeline.export.stdp_manifest import describe_stdp, rebuild_stdp
from pipeline.export.stdp_program import StdpProgram, stdp_work

AnyProgram = Program | StdpProgram
AnyEngine = Engine | StdpEngine
KINDS = ("layers", "stdp")


def engine_of(program: AnyProgram) -> AnyEngine:
    """What runs the program."""
    return Engine(program) if isinstance(program, Program) else StdpEngine(program)


def work_of(program: AnyProgram) -> int:
    """Synaptic operations of one sample if every input is an event at every step."""
    return work(program) if isinstance(program, Program) else stdp_work(program)


def said_and_stored(program: AnyProgram, store: Store) -> tuple[Json, bytes]:
    """The program as JSON, and its bit stream."""
    return describe(program, store) if isinstance(program, Program) else describe_stdp(program, store)


def rebuilt(root: Node, stream: bytes) -> AnyProgram:
    """The program of a manifest and its bit stream, checked.

    Raises:
        DataError: anything that is missing, of the wrong type, out of range, or inconsistent.
    """
    kind = root["kind"].choice(KINDS)
    return rebuild(root, stream) if kind == "layers" else rebuild_stdp(root, stream)
