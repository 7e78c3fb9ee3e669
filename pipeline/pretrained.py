"""Train once, compress many: the float model of a (data, net, learner, seed) is trained by whoever needs it first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from filelock import FileLock
from torch import Tensor, nn

from pipeline import checkpoint
from pipeline.experiment import DECODES
from pipeline.types import STORED, DataError, Decode, Metrics, Report

FLOAT_KEYS = ("data", "net", "learner", "seed")
"""The parts of a config that make a float model."""
log = logging.getLogger(__name__)


class Pretrained:
    """A folder of float models, one file per fingerprint, safe under several workers.

    A worker that needs a model which another is training waits for it (a file lock, which the system releases when
    its holder dies). The epochs' metrics are stored with the model and reported again, marked as `STORED`: a trial's
    history is the same whether it trained or not, and no rule ends a trial whose training is paid for. A damaged file
    is trained again.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"{key[:24]}.safetensors"

    def __call__(self, net: nn.Module, fit: Callable[[Report], Decode], report: Report) -> Decode:
        """Fill `net` with the trained weights; returns the decoding."""
        decode = self._load(net, report)
        if decode is not None:
            return decode
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            decode = self._load(net, report)
            if decode is None:
                decode = self._train(net, fit, report)
        return decode

    def _load(self, net: nn.Module, report: Report) -> Decode | None:
        if not self.path.exists():
            return None
        try:
            saved = checkpoint.Saved(self.path)
            decode = saved.decode(DECODES)
            _fits(net, saved.state)
        except (DataError, RuntimeError) as error:
            log.warning("float model %s is not usable and is trained again: %s", self.path, error)
            return None
        net.load_state_dict(saved.state)
        for step, metrics in cast(list[tuple[int, Mapping[str, float]]], saved.notes["history"]):
            report(step, {**metrics, STORED: 1.0})
        return decode

    def _train(self, net: nn.Module, fit: Callable[[Report], Decode], report: Report) -> Decode:
        history: list[tuple[int, dict[str, float]]] = []

        def remember(step: int, metrics: Metrics) -> None:
            history.append((step, dict(metrics)))
            report(step, metrics)

        # A trial that is stopped on the way leaves nothing behind: half a model is no float model.
        decode = fit(remember)
        checkpoint.save(self.path, net, decode, {}, {"history": history})
        return decode


def _fits(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise DataError where the tensors are not those of the net: loading would fill in the others before it says so,
    and what is trained again would not start where it starts alone."""
    own = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    odd = sorted(name for name in own | found if own.get(name) != found.get(name))
    if odd:
        name = odd[0]
        raise DataError(f"{name} is {found.get(name, 'missing')} there and {own.get(name, 'missing')} here")
