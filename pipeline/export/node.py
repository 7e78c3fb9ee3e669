"""Reading JSON that may say anything: every value says where it stands and what is allowed there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from pipeline.export.check import claim

Json = dict[str, object]


@dataclass(frozen=True)
class Node:
    """A value of a JSON file with its path; every way to read it says what is allowed."""

    value: object
    path: str = "manifest"

    def __getitem__(self, key: str) -> Node:
        claim(isinstance(self.value, dict) and key in self.value, f"{self.path} has no {key!r}")
        return Node(cast(Json, self.value)[key], f"{self.path}.{key}")

    @property
    def missing(self) -> bool:
        return self.value is None

    def integer(self, low: int, high: int) -> int:
        value = self.value
        ok = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        claim(ok, f"{self.path} must be a whole number in [{low}, {high}], but is {_short(value)}")
        return cast(int, value)

    def boolean(self) -> bool:
        claim(isinstance(self.value, bool), f"{self.path} must be true or false, but is {_short(self.value)}")
        return cast(bool, self.value)

    def text(self, longest: int = 200) -> str:
        ok = isinstance(self.value, str) and 0 < len(self.value) <= longest and self.value.isprintable()
        claim(ok, f"{self.path} must be a text of 1 to {longest} characters, but is {_short(self.value)}")
        return cast(str, self.value)

    def choice(self, options: tuple[str, ...]) -> str:
        claim(self.value in options, f"{self.path} must be one of {options}, but is {_short(self.value)}")
        return cast(str, self.value)

    def items(self, most: int) -> Iterator[Node]:
        claim(isinstance(self.value, list), f"{self.path} must be a list, but is {_short(self.value)}")
        values = cast(list[object], self.value)
        claim(len(values) <= most, f"{self.path} has {len(values)} entries, more than {most}")
        return (Node(value, f"{self.path}[{i}]") for i, value in enumerate(values))

    def integers(self, count: int, low: int, high: int) -> tuple[int, ...]:
        found = tuple(node.integer(low, high) for node in self.items(count))
        claim(len(found) == count, f"{self.path} must have {count} numbers, but has {len(found)}")
        return found


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
