"""Cells of a long benchmark in one file: rewritten whole after each, so that a run which is cut off goes on."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

Cells = Mapping[str, Mapping[str, Any]]


class Book:
    """The cells that are done, by their keys, and what `told` makes of them, in a JSON file.

    `known`: other keys in the file are left out (cells that are no longer run); None: none are.
    """

    def __init__(
        self, path: Path, told: Callable[[Cells], Mapping[str, object]], known: Collection[str] | None = None
    ) -> None:
        self.path, self.told, self.known = path, told, known
        self.cells: dict[str, dict[str, Any]] = {}
        self.look()

    def look(self) -> None:
        """Read what is in the file now: other processes may have written."""
        kept: dict[str, dict[str, Any]] = (
            json.loads(self.path.read_text())["cells"] if self.path.exists() else {}
        )
        order = kept if self.known is None else self.known
        self.cells = {key: kept[key] for key in order if key in kept}

    def add(self, key: str, result: Mapping[str, Any]) -> None:
        """Keep a result; cells that another process has finished meanwhile are kept too."""
        with FileLock(Path(tempfile.gettempdir()) / f"{self.path.stem}.lock"):
            self.look()
            self.cells[key] = json.loads(json.dumps(result))
            self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        found = {**self.told(self.cells), "cells": self.cells}
        part.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(self.path)
