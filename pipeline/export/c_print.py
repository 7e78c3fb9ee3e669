"""Pieces of the exported headers: arrays, and where numbers and weights lie in the stream."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

from pipeline.export.node import Json
from pipeline.export.pack import ENCODINGS, Encoding, index_bits
from pipeline.export.program import FORMS, Form


def c_stream(said: object, rows: int) -> str:
    tensor = cast(Json, said)
    size = math.prod(cast(list[int], tensor["shape"]))
    entries, encoding = cast(int, tensor["entries"]), cast(Encoding, tensor["encoding"])
    count = index_bits(size // rows + 1) if encoding == "cp" else index_bits(entries + 1)
    return (
        f"{{ {tensor['offset_bits']}u, {size}u, {rows}u, {entries}u, {tensor['bits']}, {tensor['run_bits']}, "
        f"{index_bits(size // rows)}, {count}, {ENCODINGS.index(encoding)}, {_form(tensor)} }}"
    )


def c_numbers(said: object, shift: int) -> str:
    tensor = cast(Json, said)
    wide = [*cast(list[int], tensor["shape"]), 1, 1, 1][:3]
    exponent = cast(list[int], tensor["exponents"])[0]
    offset, bits = tensor["offset_bits"], tensor["bits"]
    return f"{{ {offset}u, {c_row(wide)}, {bits}, {_form(tensor)}, {exponent}, {shift} }}"


def _form(tensor: Json) -> int:
    return FORMS.index(cast(Form, tensor["form"]))


def c_int32(value: int) -> str:
    return "(-2147483647 - 1)" if value == -(1 << 31) else str(value)


def c_row(sides: Iterable[int]) -> str:
    return "{ " + ", ".join(str(int(side)) for side in sides) + " }"


def c_array(kind: str, name: str, values: Iterable[int]) -> str:
    numbers = [str(int(value)) for value in values] or ["0"]
    rows = [", ".join(numbers[at : at + 24]) for at in range(0, len(numbers), 24)]
    return f"static const {kind} {name}[] = {{\n  " + ",\n  ".join(rows) + "\n};"
