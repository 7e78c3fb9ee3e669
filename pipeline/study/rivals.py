"""What other trials were worth at the same rung, read from the storage that all workers share."""

from __future__ import annotations

import json
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial

from pipeline.study.database import HISTORY
from pipeline.study.stopping import Never, Stopper
from pipeline.types import PART, STORED, Metrics

History = Sequence[tuple[int, Metrics]]


class Rivals:
    """Sets a trial against the others of its study by a stopping rule."""

    def __init__(self, study: optuna.Study, stopper: Stopper) -> None:
        self.study, self.stopper = study, stopper
        self._ended: dict[int, History] = {}

    def priced(self, objectives: Sequence[str]) -> bool:
        """Whether the rule looks at objectives that no epoch reports, and of which only a bound is known by then."""
        asked = getattr(self.stopper, "objectives", ())
        return any(name in objectives and not name.endswith("_error") for name in asked)

    def mark(self, history: History) -> float | None:
        """The rung that the last report has reached, if any."""
        if isinstance(self.stopper, Never):
            return None
        if not self._speaks(history[-1]) or STORED in history[-1][1]:
            return None
        past = next((report for report in reversed(history[:-1]) if self._speaks(report)), None)
        return self.stopper.mark(0.0 if past is None else self._place(past), self._place(history[-1]))

    def face(self, number: int, now: Metrics, mark: float) -> None:
        """Set trial `number` against its rivals at a rung.

        Raises:
            TrialEnded: the rule finds it hopeless.
        """
        rivals = []
        for other in self.study.get_trials(deepcopy=False):
            if other.number != number and HISTORY in other.user_attrs:
                past = self._history(other)
                there = next((report[1] for report in past if self._place(report) >= mark), None)
                if there is not None:
                    rivals.append(there)
        if self.stopper.hopeless(now, rivals):
            raise self.stopper.ended(mark)

    def _speaks(self, report: tuple[int, Metrics]) -> bool:
        """Whether a report counts for the rule: where rungs are epochs, those from inside one do not."""
        return self.stopper.by != "step" or PART not in report[1]

    def _place(self, report: tuple[int, Metrics]) -> float:
        step, metrics = report
        return float(step) if self.stopper.by == "step" else metrics.get(self.stopper.by, 0.0)

    def _history(self, trial: FrozenTrial) -> History:
        """Parsed once for a trial that has ended: a study of thousands asks for it thousands of times."""
        if trial.number in self._ended:
            return self._ended[trial.number]
        told = [(int(step), metrics) for step, metrics in json.loads(trial.user_attrs[HISTORY])]
        history = [report for report in told if self._speaks(report)]
        if trial.state.is_finished():
            self._ended[trial.number] = history
        return history
