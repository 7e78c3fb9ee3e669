"""The epochs of a trial, float training and fine-tuning, as one sequence of steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.types import PART, Metrics, Report


@dataclass
class Clock:
    """Numbers epochs through pretraining and refitting as one sequence of steps."""

    target: Report
    step: int = field(default=0)
    """Epochs that are over."""

    def report(self, epoch: int, metrics: Metrics) -> None:
        """An epoch of the first training."""
        self.tell(0, epoch, metrics)

    def then(self, on_progress: Callable[[float], None], epochs: int | None) -> Report:
        """What a further training of so many epochs reports to; it starts where the one before ended."""
        return Paced(self, self.step, on_progress, epochs)

    def tell(self, before: int, epoch: int, metrics: Metrics) -> None:
        """Epoch 1, 2, ... of a training that so many were before; one that is under way has the number it will have."""
        self.step = max(self.step, before + epoch - (PART in metrics))
        self.target(before + epoch, metrics)


@dataclass(frozen=True)
class Paced:
    """A report that also tells the compression how far its training is, within epochs, too (`types.within`).

    By the number of the epoch: a training that goes on from a checkpoint is as far as it was.
    """

    clock: Clock
    before: int
    on_progress: Callable[[float], None]
    epochs: int | None

    def __call__(self, epoch: int, metrics: Metrics) -> None:
        if PART not in metrics:
            self.within(epoch, 1.0)
        self.clock.tell(self.before, epoch, metrics)

    def within(self, epoch: int, share: float) -> None:
        self.on_progress(min(1.0, (epoch - 1 + share) / self.epochs) if self.epochs else 1.0)
