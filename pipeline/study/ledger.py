"""What a worker has to know of all trials before each of its own: every ended trial is looked at once."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.study.database import counted

FINGERPRINT = "fingerprint"


def point(trial: FrozenTrial) -> str:
    """Where in the space a trial is. Several points may be one computation, with one fingerprint: a space is used up
    by its points."""
    return json.dumps(trial.params, sort_keys=True)


class Ledger:
    """Counts the places of the budget and finds equal trials without walking through the study again and again.

    Trials appear in the order of their numbers and never change once they have ended, so that a look costs the
    trials that are new or still running, not those of the whole study.
    """

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self.trials: Sequence[FrozenTrial] = ()
        self.running = 0
        self.complete: list[FrozenTrial] = []
        self._settled = 0
        self._seen = 0
        self._open: list[int] = []
        self._waiting = 0
        self._equal: dict[str, list[FrozenTrial]] = defaultdict(list)
        self._tried: set[str] = set()

    def look(self) -> None:
        """Read what has changed in the study."""
        self.trials = self.study.get_trials(deepcopy=False)
        open_, self.running, self._waiting = [], 0, 0
        for place in [*self._open, *range(self._seen, len(self.trials))]:
            trial = self.trials[place]
            if trial.state.is_finished():
                self._settle(trial)
                continue
            open_.append(place)
            self.running += trial.state == TrialState.RUNNING
            self._waiting += trial.state == TrialState.WAITING
        self._open, self._seen = open_, len(self.trials)

    def _settle(self, trial: FrozenTrial) -> None:
        if trial.state == TrialState.COMPLETE:
            self.complete.append(trial)
        key = trial.user_attrs.get(FINGERPRINT)
        if counted(trial):
            self._settled += 1
            if key is not None:
                self._tried.add(point(trial))
        if key is not None:
            self._equal[key].append(trial)

    @property
    def held(self) -> int:
        """Places of the budget that are taken, by trials that have ended or run."""
        return self._settled + self.running

    @property
    def tried(self) -> int:
        """How many different points of the space have ended and hold a place."""
        return len(self._tried)

    def held_before(self, number: int) -> int:
        """Places taken or soon to be taken by trials with smaller numbers."""
        later = sum(counted(t) or t.state == TrialState.WAITING for t in self.trials[number:])
        return self.held + self._waiting - later

    def equal(self, key: str, number: int) -> Iterator[FrozenTrial]:
        """Trials before `number` with this fingerprint: those that have ended, then those that run."""
        for trial in self._equal.get(key, ()):
            if trial.number < number:
                yield trial
        for place in self._open:
            trial = self.trials[place]
            if place < number and trial.user_attrs.get(FINGERPRINT) == key:
                yield trial
