"""Saving a half-trained network and going on from there."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.types import DataError

_FILE = "stdp.safetensors"


@dataclass
class Progress:
    """Where a run stands and what it is a run of."""

    seed: int
    epochs: int
    digest: str
    rule: str
    epoch: int = 0
    position: int = 0
    """Training images of this epoch that were presented already."""


def save(folder: str, net: nn.Module, progress: Progress) -> None:
    """Write state and progress to one file that replaces the last one whole."""
    path = Path(folder) / _FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(state, part, metadata={"progress": json.dumps(asdict(progress))})
    part.replace(path)


def resume(folder: str, net: nn.Module, progress: Progress) -> bool:
    """Fill `net` and `progress` from the file, if there is one; False otherwise.

    More epochs than before are welcome; anything else that differs is an error.

    Raises:
        DataError: the file belongs to another run, or is damaged; says what differs.
    """
    path = Path(folder) / _FILE
    if not path.exists():
        return False
    try:
        with safe_open(path, "pt") as file:
            was = Progress(**json.loads((file.metadata() or {})["progress"]))
        state = load_file(path)
    except Exception as error:
        raise DataError(f"{path} cannot be read ({error}); delete it to start over.") from error
    for name in ("seed", "digest", "rule"):
        if getattr(was, name) != getattr(progress, name):
            before, now = getattr(was, name), getattr(progress, name)
            raise DataError(
                f"{path} is of another run: {name} was {before}, is {now}; delete it to start over."
            )
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(f"{path} is of another network: {error}") from error
    progress.epoch, progress.position = was.epoch, was.position
    return True
