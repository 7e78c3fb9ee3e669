"""The manifest of an export: a program as JSON beside its bit stream, written once and read with suspicion.

``weights.bin`` holds every stored number at its own width, without gaps (`pipeline.export.pack`); the manifest says
where each tensor lies and how the numbers are to be read. Everything that is read is checked against bounds before
any memory is taken for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from pipeline.export import pack
from pipeline.export.check import MOST_STEPS, MOST_WEIGHTS, check, claim
from pipeline.export.node import Json, Node
from pipeline.export.pack import Encoding
from pipeline.export.program import (
    FORMS,
    OVERFLOWS,
    RESETS,
    ROUNDINGS,
    Accumulator,
    Attention,
    Fixed,
    Form,
    Input,
    Neurons,
    Pool,
    Program,
    Reset,
    Rounding,
    Shape,
    Stage,
    Synapses,
)
from pipeline.types import DataError, require

FORMAT = "snn-pipeline export"
VERSION = 2


@dataclass(frozen=True)
class Store:
    """How weights lie in memory: the encoding of the accelerator that priced them."""

    encoding: Encoding | Literal["smallest"] = "dense"
    """smallest: for each tensor the one that takes least."""
    run_bits: int | None = None
    """Of run lengths; None: the best width per tensor."""

    def __post_init__(self) -> None:
        options = (*pack.ENCODINGS, "smallest")
        require(self.encoding in options, "encoding", f"be one of {options}", self.encoding)
        ok = self.run_bits is None or 1 <= self.run_bits <= pack.MAX_RUN_BITS
        require(ok, "run_bits", f"be in [1, {pack.MAX_RUN_BITS}]", self.run_bits)


def describe(program: Program, store: Store) -> tuple[Json, bytes]:
    """The program as JSON, and its bit stream."""
    writer = pack.Writer()
    stages = [_stage(stage, store, writer) for stage in program.stages]
    given = program.input
    said: Json = {
        "kind": "layers",
        "input": {
            "shape": list(given.shape), "exponent": given.exponent, "high": given.high, "signed": given.signed,
        },
        "timesteps": program.timesteps,
        "classes": program.classes,
        "stages": stages,
    }  # fmt: skip
    return said, writer.bytes()


def _stage(stage: Stage, store: Store, writer: pack.Writer) -> Json:
    synapses, neurons = stage.synapses, stage.neurons
    said: Json = {
        "name": synapses.name,
        "kind": synapses.kind,
        "pools": [_pool(pool, store, writer) for pool in stage.pools],
        "out_shape": list(synapses.out_shape),
        "weight": put_tensor(synapses.weight, store, writer),
        "bias": None if synapses.bias is None else put_tensor(synapses.bias, Store(), writer),
        "accumulator": {"bits": stage.accumulator.bits, "overflow": stage.accumulator.overflow},
        "neurons": {
            "name": neurons.name,
            "beta": put_tensor(neurons.beta, Store(), writer),
            "threshold": put_tensor(neurons.threshold, Store(), writer),
            "decay": decay(neurons),
            "mem": {"bits": neurons.bits, "exponent": neurons.exponent, "low": neurons.low, "high": neurons.high},
            "rounding": neurons.rounding,
            "reset": neurons.reset,
            "delay": neurons.delay,
        },
    }  # fmt: skip
    if synapses.kind == "conv":
        said |= {
            "stride": list(synapses.stride),
            "padding": list(synapses.padding),
            "dilation": list(synapses.dilation),
            "groups": synapses.groups,
        }
    return said


def _pool(pool: Pool, store: Store, writer: pack.Writer) -> Json:
    said: Json = {
        "name": pool.name, "kind": pool.kind, "kernel": list(pool.kernel), "stride": list(pool.stride),
        "halvings": pool.halvings,
    }  # fmt: skip
    if isinstance(pool, Attention):
        exponent, low, high = pool.operand
        said |= {
            "time": put_tensor(pool.time, store, writer),
            "channel": put_tensor(pool.channel, store, writer),
            "operand": {"exponent": exponent, "low": low, "high": high},
            "entry_exponent": pool.entry_exponent,
            "first_entry": pool.first_entry,
            "table": put_tensor(gates(pool), Store(), writer),
        }
    return said


def gates(attention: Attention) -> Fixed:
    """The sigmoid's table as it is stored: whole numbers of 2^-halvings, without a sign."""
    bits = attention.halvings
    return Fixed(attention.table, np.array([bits], np.int64), bits, "unsigned")


def decay(neurons: Neurons) -> str:
    """How the membrane decays on the device, in words."""
    exponent = neurons.beta.exponent
    if neurons.beta.codes.size == 1:
        code = int(neurons.beta.codes.reshape(-1)[0])
        rest = (1 << max(exponent, 0)) - code
        if code == 0:
            return "none: the membrane is forgotten"
        if code.bit_count() == 1:
            return f"shift by {exponent - code.bit_length() + 1}"
        if rest.bit_count() == 1:
            return f"a shift by {exponent - rest.bit_length() + 1} and a subtraction, before rounding"
    return f"multiply by a code, then shift by {exponent}"


def stored(tensor: Fixed) -> np.ndarray:
    """What is written for each number, int64 [size]."""
    if tensor.form == "float32":
        return tensor.values.astype(np.float32).view(np.int32).astype(np.int64).ravel()
    if tensor.form == "shift":  # 1 - 2^-k has the code 2^e - 2^(e-k)
        rest = (1 << tensor.exponent) - tensor.codes.ravel()
        return tensor.exponent - np.log2(rest).astype(np.int64)
    return tensor.codes.ravel()


EXPONENT_BITS = 8
"""Of one step where every channel has its own: they lie behind the tensor."""


def put_tensor(tensor: Fixed, store: Store, writer: pack.Writer) -> Json:
    """Append the tensor to the stream; says where it lies and how it is to be read."""
    codes = stored(tensor)
    rows = tensor.codes.shape[0] if tensor.codes.ndim else 1
    encoding, run, bits, entries = _smallest(store, codes, rows, tensor.bits)
    offset, length = writer.put(bits)
    if len(tensor.exponents) > 1:
        writer.put(pack.to_bits(tensor.exponents, EXPONENT_BITS))
    return {
        "shape": list(tensor.codes.shape), "bits": tensor.bits, "form": tensor.form,
        "exponents": tensor.exponents.tolist(), "encoding": encoding, "run_bits": run, "entries": entries,
        "offset_bits": offset, "length_bits": length,
    }  # fmt: skip


def _smallest(
    store: Store, codes: np.ndarray, rows: int, width: int
) -> tuple[Encoding, int, np.ndarray, int]:
    """(encoding, run bits, bits, entries); the first of the shortest where any will do."""

    def one(encoding: Encoding) -> tuple[Encoding, int, np.ndarray, int]:
        run = (store.run_bits or pack.best_run_bits(codes, width)) if encoding == "rle" else 0
        return encoding, run, *pack.encode(encoding, codes, rows, width, run)

    options = pack.ENCODINGS if store.encoding == "smallest" else (store.encoding,)
    return min((one(encoding) for encoding in options), key=lambda made: len(made[2]))


_SIDE = 1 << 20
MOST_STREAM = 64 << 20
"""Bytes of weights.bin: 16 million weights of 32 bits, and 0.5 GB while its bits are taken apart."""


def rebuild(node: Node, stream: bytes) -> Program:
    """The program of a manifest and its bit stream, checked.

    Raises:
        DataError: anything that is missing, of the wrong type, out of range, or inconsistent.
    """
    claim(len(stream) <= MOST_STREAM, f"weights.bin has {len(stream):,} bytes, more than {MOST_STREAM:,}")
    given = node["input"]
    shape = cast(Shape, given["shape"].integers(3, 1, _SIDE))
    high = given["high"].integer(1, (1 << 24) - 1)
    start = Input(shape, given["exponent"].integer(0, 40), high, given["signed"].boolean())
    bits = np.unpackbits(np.frombuffer(stream, np.uint8), bitorder="little")
    reading = Reading(bits)
    stages: list[Stage] = []
    at = start.shape
    for stage in node["stages"].items(64):
        made = reading.stage(stage, at)
        stages.append(made)
        at = made.synapses.out_shape
    reading.finish()
    classes = node["classes"].integer(1, 1 << 20)
    return check(Program(start, node["timesteps"].integer(1, MOST_STEPS), classes, tuple(stages)))


@dataclass
class Reading:
    """Tensors taken from the stream one behind the other: overlaps and gaps are refused."""

    bits: np.ndarray
    at: int = 0
    weights: int = 0

    def finish(self) -> None:
        left = len(self.bits) - self.at
        claim(
            0 <= left < 8 and not self.bits[self.at :].any(),
            f"weights.bin has {left} bits that no tensor owns",
        )

    def stage(self, node: Node, at: Shape) -> Stage:
        pools = []
        for pool in node["pools"].items(8):
            pools.append(self._pool(pool, at))
            at = pools[-1].out_shape
        name, kind = node["name"].text(), node["kind"].choice(("linear", "conv"))
        out = cast(Shape, node["out_shape"].integers(3, 1, _SIDE))
        weight = self.tensor(node["weight"], f"{name}.weight")
        bias = None if node["bias"].missing else self.tensor(node["bias"], f"{name}.bias")
        if kind == "conv":
            synapses = Synapses(
                name, "conv", weight, bias, at, out,
                cast(tuple[int, int], node["stride"].integers(2, 1, _SIDE)),
                cast(tuple[int, int, int, int], node["padding"].integers(4, 0, _SIDE)),
                cast(tuple[int, int], node["dilation"].integers(2, 1, _SIDE)),
                node["groups"].integer(1, _SIDE),
            )  # fmt: skip
        else:
            synapses = Synapses(name, "linear", weight, bias, at, out)
        register = node["accumulator"]
        overflow = register["overflow"].choice(OVERFLOWS)
        accumulator = Accumulator(
            register["bits"].integer(2, 32), "wrap" if overflow == "wrap" else "saturate"
        )
        return Stage(tuple(pools), synapses, self._neurons(node["neurons"]), accumulator)

    def _pool(self, node: Node, at: Shape) -> Pool:
        kernel = cast(tuple[int, int], node["kernel"].integers(2, 1, 256))
        stride = cast(tuple[int, int], node["stride"].integers(2, 1, 256))
        sides = [(n - k) // s + 1 for n, k, s in zip(at[1:], kernel, stride, strict=True)]
        claim(min(sides) >= 1, f"{node.path} does not fit {at}")
        kind = node["kind"].choice(("max", "sum", "attention"))
        out = (at[0], sides[0], sides[1])
        halvings = node["halvings"].integer(0, 16)
        if kind == "attention":
            return self._attention(node, at, halvings)
        return Pool(node["name"].text(), "sum" if kind == "sum" else "max", kernel, stride, at, out, halvings)

    def _attention(self, node: Node, at: Shape, halvings: int) -> Attention:
        name, operand = node["name"].text(), node["operand"]
        parts = {part: self.tensor(node[part], f"{name}.{part}") for part in ("time", "channel")}
        claim(
            all(weight.codes.ndim == 3 for weight in parts.values()), f"{name}: its weights have three axes"
        )
        ends = operand["low"].integer(-_SIDE, 0), operand["high"].integer(0, _SIDE)
        entry_exponent, first = node["entry_exponent"].integer(0, 16), node["first_entry"].integer(-_SIDE, 0)
        table = self.tensor(node["table"], f"{name}.table")
        claim(table.codes.ndim == 1, f"{name}.table has one axis")
        return Attention(
            name, "attention", (1, 1), (1, 1), at, at, halvings, **parts,
            mean=(math.prod(at[1:]) - 1).bit_length(), operand=(operand["exponent"].integer(0, 16), *ends),
            entry_exponent=entry_exponent, first_entry=first, table=table.codes,
        )  # fmt: skip

    def _neurons(self, node: Node) -> Neurons:
        name, mem = node["name"].text(), node["mem"]
        end = 1 << 31
        return Neurons(
            name,
            self.tensor(node["beta"], f"{name}.beta"),
            self.tensor(node["threshold"], f"{name}.threshold"),
            mem["bits"].integer(2, 32),
            mem["exponent"].integer(-16, 40),
            mem["low"].integer(-end, 0),
            mem["high"].integer(0, end - 1),
            cast(Rounding, node["rounding"].choice(ROUNDINGS)),
            cast(Reset, node["reset"].choice(RESETS)),
            node["delay"].boolean(),
        )

    def tensor(self, node: Node, name: str) -> Fixed:
        sides = tuple(side.integer(1, _SIDE) for side in node["shape"].items(4))
        size = math.prod(sides)
        self.weights += size
        claim(self.weights <= MOST_WEIGHTS, f"{name}: more than {MOST_WEIGHTS} numbers")
        width = node["bits"].integer(1, 32)
        form = cast(Form, node["form"].choice(FORMS))
        claim(form != "float32" or width == 32, f"{name}: a float32 has 32 bits, not {width}")
        offset, length = (node[key].integer(0, len(self.bits)) for key in ("offset_bits", "length_bits"))
        claim(
            offset == self.at and offset + length <= len(self.bits),
            f"{name} must begin at bit {self.at} and fit",
        )
        self.at = offset + length
        encoding = cast(Encoding, node["encoding"].choice(pack.ENCODINGS))
        entries, run = node["entries"].integer(0, size), node["run_bits"].integer(0, pack.MAX_RUN_BITS)
        rows = sides[0] if sides else 1
        signed = form in ("signed", "float32")
        try:
            taken = self.bits[offset : self.at]
            codes = pack.decode(encoding, taken, size, rows, width, entries, run, signed)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        exponents = np.array([e.integer(-16, 40) for e in node["exponents"].items(max(rows, 1))], np.int64)
        claim(len(exponents) in (1, rows), f"{name} has {len(exponents)} exponents for {rows} rows")
        if len(exponents) > 1:
            self._steps(exponents, name)
        exponent = int(exponents[0])
        if form == "float32":
            codes = _float_codes(codes, exponent, name)
        if form == "shift":
            ok = 0 <= exponent <= 30 and codes.max(initial=0) <= exponent
            claim(bool(ok), f"{name} shifts by more than {exponent}")
            codes = (1 << exponent) - (np.int64(1) << (exponent - codes))
        return Fixed(codes.reshape(sides), exponents, width, form)

    def _steps(self, exponents: np.ndarray, name: str) -> None:
        """One step per channel lies behind its tensor, too."""
        start, self.at = self.at, self.at + len(exponents) * EXPONENT_BITS
        claim(self.at <= len(self.bits), f"{name}: its steps must fit")
        stored = pack.from_bits(self.bits[start : self.at], EXPONENT_BITS, signed=True)
        claim(bool((stored == exponents).all()), f"{name}: its steps are not those of the stream")


def _float_codes(patterns: np.ndarray, exponent: int, name: str) -> np.ndarray:
    """float32 bit patterns -> codes on the grid of 2^-exponent; every value must lie on it."""
    values = patterns.astype(np.int32).view(np.float32).astype(np.float64)
    claim(
        bool(np.isfinite(values).all() and (np.abs(values) < 2.0**20).all()),
        f"{name} is not finite or too large",
    )
    codes = np.ldexp(values, exponent)
    claim(
        bool((codes == np.rint(codes)).all() and (np.abs(codes) < 2.0**31).all()), f"{name} lies on no grid"
    )
    return codes.astype(np.int64)
