"""Saving a half-trained network and going on from there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.types import DataError


@dataclass
class Progress:
    """Where a run stands, and whose it is."""

    run: str
    """`named` of what the run starts from."""
    epoch: int = 0
    position: int = 0
    """Training images of this epoch that were presented already."""


def named(net: nn.Module, settings: str) -> str:
    """12 hex digits of all that decides where a run from `net`, as it is now, under `settings` ends.

    Trials of a study, and the parts of a fine-tuning, share a folder: each finds its own file and never another's.
    """
    digest = hashlib.sha256(settings.encode())
    for name, module in net.named_modules():
        plain = {key: value for key, value in vars(module).items() if isinstance(value, int | float | str)}
        digest.update(f"{name} {type(module).__name__} {sorted(plain.items())}".encode())
        digest.update(repr(getattr(module, "spec", None)).encode())
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def save(folder: str, net: nn.Module, progress: Progress) -> None:
    """Write state and progress to one file that replaces the last one whole."""
    path = _path(folder, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(state, part, metadata={"progress": json.dumps(asdict(progress))})
    part.replace(path)


def resume(folder: str, net: nn.Module, progress: Progress) -> bool:
    """Fill `net` and `progress` from this run's file, if there is one; False otherwise.

    Raises:
        DataError: the file is damaged.
    """
    path = _path(folder, progress)
    if not path.exists():
        return False
    try:
        with safe_open(path, "pt") as file:
            was = Progress(**json.loads((file.metadata() or {})["progress"]))
        net.load_state_dict(load_file(path))
    except Exception as error:
        raise DataError(f"{path} cannot be read ({error}); delete it to start over.") from error
    progress.epoch, progress.position = was.epoch, was.position
    return True


def _path(folder: str, progress: Progress) -> Path:
    return Path(folder) / f"stdp-{progress.run}.safetensors"
