"""Models on disk: safetensors only (no pickle), written whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.types import DataError, Decode, Learner, Widths

_DECODE = "decode."


@runtime_checkable
class SavedDecode(Protocol):
    """A decoding that can be written down as tensors; `Class.from_tensors(tensors)` gives it back."""

    def tensors(self) -> Mapping[str, Tensor]: ...


def save(path: Path, net: nn.Module, decode: Decode, widths: Widths, notes: Mapping[str, object]) -> None:
    """Write the net's state (parametrizations baked), its decoding and widths; `notes` is any JSON."""
    if not isinstance(decode, SavedDecode):
        raise TypeError(f"{type(decode).__name__} has no tensors() and cannot be saved")
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in net.state_dict().items()}
    tensors |= {_DECODE + name: t.contiguous().clone() for name, t in decode.tensors().items()}
    kind = f"{type(decode).__module__}.{type(decode).__qualname__}"
    metadata = {"decode": kind, "widths": json.dumps(dict(widths)), "notes": json.dumps(notes, default=str)}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        save_file(tensors, part, metadata)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


class Saved:
    """An opened model file.

    Raises:
        DataError: the file is missing, cut off or not a model of this project.
    """

    def __init__(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                self.tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.widths: dict[str, int] = json.loads(metadata["widths"])
            self.notes: dict[str, object] = json.loads(metadata["notes"])
            self._decode = metadata["decode"]
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise DataError(
                f"{path} is not a readable model: {error}. Delete it to have it made again."
            ) from error
        self.path = path

    @property
    def state(self) -> dict[str, Tensor]:
        """The net's own tensors."""
        return {name: t for name, t in self.tensors.items() if not name.startswith(_DECODE)}

    def decode(self, known: Mapping[str, type]) -> Decode:
        """The decoding, rebuilt by one of the `known` classes (the file names one, it does not choose code)."""
        if self._decode not in known:
            raise DataError(
                f"{self.path} names an unknown decoding {self._decode!r}; known are {sorted(known)}"
            )
        tensors = {k.removeprefix(_DECODE): t for k, t in self.tensors.items() if k.startswith(_DECODE)}
        return cast(Decode, known[self._decode].from_tensors(tensors))  # type: ignore[attr-defined]


def apart(learner: Learner, *told: object) -> Learner:
    """The learner, its checkpoints in a folder that only trials compressed alike share.

    What is learned and what is masked on the way belong together, and no network says how its masks will grow.
    """
    folder = getattr(learner, "checkpoint", None)
    if folder is None:
        return learner
    own = hashlib.sha256(repr(told).encode()).hexdigest()[:12]
    return cast(Learner, dataclasses.replace(cast(Any, learner), checkpoint=str(Path(folder, own))))
