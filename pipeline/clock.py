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

    def report(self, _epoch: int, metrics: Metrics) -> None:
        self.step += PART not in metrics
        self.target(self.step + (PART in metrics), metrics)

    def then(self, on_progress: Callable[[float], None], epochs: int | None) -> Report:
        done = 0

        def report(_epoch: int, metrics: Metrics) -> None:
            nonlocal done
            if PART not in metrics:
                done += 1
                on_progress(min(1.0, done / epochs) if epochs else 1.0)
            self.report(_epoch, metrics)

        return report
