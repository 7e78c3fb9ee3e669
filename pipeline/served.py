"""A finalist as a folder that predicts: ``model.safetensors``, the config that made it, and how samples are encoded.

MLflow's ``pyfunc`` opens such a folder with `_load_pyfunc`; nothing is pickled, and no data set is needed. The config
names the classes that are built: open only models from a store that you trust.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import checkpoint, config, experiment
from pipeline.experiment import Responds
from pipeline.types import EVALUATION_BATCH, DataError, Dataset, Encode, require, samples_at_once

FORMAT = 1
MODEL, MANIFEST = "model.safetensors", "model.json"
Json = dict[str, Any]


@dataclass(frozen=True)
class Finalist:
    """A saved model with all that answering a question with it takes."""

    number: int
    model: Path
    """What `checkpoint.save` wrote."""
    config: Mapping[str, object]
    """The plain config of this very trial."""

    @functools.cached_property
    def data(self) -> Dataset:
        """Read when the model is written, not before: a study that only reports need not wait for it."""
        made = config.build_experiment(self.config)
        return made.data.load(made.seed)

    @property
    def takes(self) -> tuple[str, str, tuple[int, ...]]:
        """(name, dtype, shape of one input): stored samples where the encoding can be written down, else spikes."""
        if encoding(self.data.encode) is None:
            return "spikes", "float32", (self.data.timesteps, *self.data.shape)
        return "samples", "uint8", tuple(self.data.test.x.shape[1:])

    def write(self, folder: Path) -> None:
        """Make the folder that `_load_pyfunc` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.model, folder / MODEL)
        name, dtype, shape = self.takes
        manifest = {
            "format": FORMAT,
            "trial": self.number,
            "config": config.decisive(self.config),
            "classes": self.data.classes,
            "step_shape": list(self.data.shape),
            "input": {"name": name, "dtype": dtype, "shape": list(shape)},
            "encoding": encoding(self.data.encode),
            "data": {"name": self.data.name, "sha256": self.data.digest},
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


class Served:
    """A model that answers with labels: `predict` is MLflow's interface."""

    def __init__(self, folder: Path) -> None:
        manifest = _manifest(folder / MANIFEST)
        made = config.build_experiment(manifest["config"])
        trained = experiment.revive(
            made, checkpoint.Saved(folder / MODEL), tuple(manifest["step_shape"]), manifest["classes"]
        )
        self.net, self.decode = trained.net.eval(), trained.decode
        spec = manifest["encoding"]
        self.encode: Encode | None = None
        if spec is not None:
            self.encode = cast(Encode, config.instantiate(spec, "encoding"))
        self.name, self.dtype = manifest["input"]["name"], manifest["input"]["dtype"]
        self.shape = tuple(manifest["input"]["shape"])

    def predict(self, samples: object, params: object = None) -> NDArray[np.int64]:  # noqa: ARG002
        """[B, ...] samples as stored (uint8), or [B, T, C, H, W] spikes -> [B] labels.

        In batches and with the generator of an evaluation: the validation split as a whole gives
        the study's own accuracy.

        Raises ValueError when the samples are not of the shape that the model was made for.
        """
        given = np.asarray(samples[self.name] if isinstance(samples, Mapping) else samples)
        require(
            given.shape[1:] == self.shape,
            "samples",
            f"be [B, {', '.join(map(str, self.shape))}]",
            given.shape,
        )
        x = torch.from_numpy(np.ascontiguousarray(given, dtype=self.dtype))
        generator = torch.Generator().manual_seed(0)
        answers = []
        with torch.no_grad():
            for part in x.split(self._at_once()):
                answers.append(self.decode(self.net(self._input(part, generator))))
        return torch.cat(answers).numpy() if answers else np.zeros(0, dtype=np.int64)

    def _at_once(self) -> int:
        """As `experiment.evaluation_batch`."""
        steps = 1 if self.encode is None else int(getattr(self.encode, "timesteps", 1))
        return (
            EVALUATION_BATCH
            if isinstance(self.net, Responds)
            else samples_at_once(steps * math.prod(self.shape))
        )

    def _input(self, part: Tensor, generator: torch.Generator) -> Tensor:
        return part.transpose(0, 1) if self.encode is None else self.encode(part, generator)


def _load_pyfunc(path: str) -> Served:
    """What MLflow calls with the folder that `Finalist.write` made."""
    return Served(Path(path))


def encoding(encode: Encode) -> Json | None:
    """An encoding as a config, or None where it is no dataclass of plain values (a user's own function)."""
    if not dataclasses.is_dataclass(encode) or isinstance(encode, type):
        return None
    values = {item.name: getattr(encode, item.name) for item in dataclasses.fields(encode) if item.init}
    if not all(value is None or isinstance(value, bool | int | float | str) for value in values.values()):
        return None
    kind = type(encode)
    if "<" in kind.__qualname__:
        return None
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **values}


def _manifest(path: Path) -> Json:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} does not describe a model: {error}") from error
    if version != FORMAT:
        raise DataError(f"{path} has format {version!r}, but this version reads {FORMAT}")
    return cast(Json, found)
