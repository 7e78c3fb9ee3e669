"""Starting workers: in this process, or as processes of this machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import optuna
import torch

from pipeline import config, experiment, job
from pipeline.exits import NO_ROOM, GivenUp
from pipeline.job import Job
from pipeline.nursery import Nursery, Task
from pipeline.study import database, results, search
from pipeline.study.attempt import WAITS
from pipeline.study.storage import WORKER
from pipeline.types import Row, require

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
POLL_S = 0.3
TIMEOUT_GRACE = 1.1
"""A trial ends itself at its next report after `trial_timeout_s`; one that hangs is killed at this multiple."""

Arguments = tuple[object, ...]


class Crew(Protocol):
    """Workers that are ready to search, and for whatever else can be done side by side."""

    def search(
        self, study: optuna.Study, after_trial: Callable[[Row], None], on_poll: Callable[[], None]
    ) -> None:
        """Run the study's trials until its budget is met, or it ends by itself.

        Raises:
            GivenUp: neither, and workers cannot run.
        """
        ...

    def each(self, task: Task, arguments: Sequence[Arguments], on_poll: Callable[[], None]) -> None:
        """Call `task` with each of the arguments, several at a time; what dies twice is left out."""
        ...

    def aside(self, task: Task, *arguments: object) -> bool:
        """Start `task` beside the search; False where there is nobody to do it."""
        ...


@runtime_checkable
class Launcher(Protocol):
    """A config of where workers run."""

    def open(self, here: Job) -> AbstractContextManager[Crew]: ...


def work(
    plain: config.Plain,
    threads: int,
    after_trial: Callable[[Row], None] | None = None,
    limit: int | None = None,
    fuse_s: float | None = None,
) -> None:
    """One worker: open the study and run trials (at most `limit`) until the budget is met.

    The sampler's seed depends on how many trials there are already, and on the worker's place among those who began
    then: neither two workers, of whatever drivers, nor a resumed study draw the same random points again.
    """
    torch.set_num_threads(threads)
    here = job.build(plain)
    storage = database.connect(here.storage, made=True)
    study = optuna.load_study(storage=storage, study_name=here.name)
    begun, place = storage.join(study._study_id)
    study.sampler = here.sampler.build(
        (here.seed + 1_000_003 * place + 7919 * begun) % 2**32
    )  # as NumPy's are
    worker = search.Worker(
        here.study, study, here.evaluate, here.fingerprint, here.stopper, after_trial, here.bound, here.folder
    )
    worker.run(limit, fuse_s)


def work_apart(plain: config.Plain, threads: int, variables: Mapping[str, str]) -> None:
    """A worker process of its own: `variables` (threads, GPU) are set before a library has read them."""
    os.environ.update(variables)
    work(plain, threads)


@dataclass(frozen=True)
class Local:
    """Processes on this machine, `threads` compute threads each; null shares the cores out among the workers.

    With one worker trials run in the calling process: the same seed gives the same trials. GPUs, where there are
    any, are dealt out in turn. Measured on two cores: two processes of one thread do 1.1 to 1.45 times the trials
    of one process with two threads.
    """

    threads: int | None = 1

    def __post_init__(self) -> None:
        require(self.threads is None or self.threads >= 1, "threads", "be >= 1, or null", self.threads)

    @contextmanager
    def open(self, here: Job) -> Iterator[Crew]:
        """Workers for `here`. To be opened early, before databases, threads and GPUs are in use: they are forked."""
        threads = self.threads or max(1, (os.cpu_count() or 1) // here.workers)
        if here.workers == 1 and here.study.trial_timeout_s is None:
            yield Alone(here, threads)
            return

        def prepare() -> None:
            os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
            torch.set_num_threads(threads)
            database.rehearse(here.sampler.build(0))
            if not visible_gpus():  # a GPU that was in use cannot be used after a fork
                experiment.rehearse(here.experiment({}))

        with Nursery(prepare) as nursery:
            yield Team(here, threads, nursery)


@dataclass(frozen=True)
class Alone:
    """This process does everything, one thing after another."""

    here: Job
    threads: int

    def search(
        self,
        study: optuna.Study,  # noqa: ARG002
        after_trial: Callable[[Row], None],
        on_poll: Callable[[], None],
    ) -> None:
        work(self.here.config, self.threads, after_trial)
        on_poll()

    def each(self, task: Task, arguments: Sequence[Arguments], on_poll: Callable[[], None]) -> None:
        for given in arguments:
            task(*given)
            on_poll()

    def aside(self, task: Task, *arguments: object) -> bool:  # noqa: ARG002
        return False


class Losses:
    """Counts workers that died: one is replaced while the study makes progress, and while there is room to write."""

    def __init__(self, here: Job, study: optuna.Study) -> None:
        self.here, self.study = here, study
        self._done, self._since, self._why, self._no_room = database.finished(study), 0, "", False

    def lost(self, why: str, no_room: bool, blame: bool = True) -> None:
        """A worker has ended before its time; not counted without `blame`."""
        before = self._done
        self.look()
        self._since = self._since + 1 if blame and self._done == before else 0
        self._why, self._no_room = why, self._no_room or no_room

    def look(self) -> None:
        """Any trial that has ended meanwhile is progress."""
        now = database.finished(self.study)
        self._since, self._done = (0, now) if now > self._done else (self._since, self._done)

    @property
    def going(self) -> bool:
        """Whether to begin another worker: there is work, and workers can do it."""
        return not self._no_room and self._since < 3 * self.here.workers and self._left()

    def answer(self) -> None:
        """Raise GivenUp where workers died and the study is not through."""
        if self._why and self._left():
            raise GivenUp(f"workers cannot go on: {self._why}", self._no_room)

    def _left(self) -> bool:
        here, study = self.here, self.study
        met = (
            database.finished(study) >= here.study.trials or results.exhausted(study, here.study) is not None
        )
        return not met and search.ended(here.sampler, study) is None


class Team:
    """Processes from a nursery: a worker that dies is replaced (see `Losses`)."""

    def __init__(self, here: Job, threads: int, nursery: Nursery) -> None:
        self.here, self.threads, self.nursery = here, threads, nursery
        self._aside: set[int] = set()

    def search(
        self,
        study: optuna.Study,
        after_trial: Callable[[Row], None],  # noqa: ARG002
        on_poll: Callable[[], None],
    ) -> None:
        here = self.here
        team = {self._start(index): index for index in range(here.workers)}
        losses = Losses(here, study)
        watch = Watch(study, here.study.trial_timeout_s)
        try:
            while team or self._aside:
                time.sleep(POLL_S)
                for pid, code in self.nursery.ended():
                    self._aside.discard(pid)
                    index = team.pop(pid, None)
                    if index is None or code == 0:
                        continue
                    database.reap(study, here.study.retries)
                    why = self.nursery.last_words(pid) or _ending(code)
                    losses.lost(why, code == NO_ROOM, blame=pid not in watch.killed)
                    if losses.going:
                        team[self._start(index)] = index
                watch.look(team)
                on_poll()
        finally:
            for pid in team:
                _tell(pid, signal.SIGTERM)
        on_poll()
        losses.answer()

    def each(self, task: Task, arguments: Sequence[Arguments], on_poll: Callable[[], None]) -> None:
        waiting = [(given, 0) for given in reversed(arguments)]
        at_work: dict[int, tuple[Arguments, int]] = {}
        slots: dict[int, int] = {}
        try:
            while waiting or at_work:
                while waiting and len(at_work) < self.here.workers:
                    given, tries = waiting.pop()
                    slot = min(set(range(self.here.workers)) - set(slots.values()))
                    pid = self.nursery.start(_apart, self._variables(slot), self.threads, task, given)
                    at_work[pid], slots[pid] = (given, tries), slot
                time.sleep(POLL_S / 3)
                for pid, code in self.nursery.ended():
                    given, tries = at_work.pop(pid, ((), 2))
                    slots.pop(pid, None)
                    if code != 0 and tries == 0:
                        waiting.append((given, 1))
                on_poll()
        finally:
            for pid in at_work:
                _tell(pid, signal.SIGTERM)

    def aside(self, task: Task, *arguments: object) -> bool:
        variables = self._variables(self.here.workers)  # the GPU after the workers' own
        self._aside.add(self.nursery.start(_apart, variables, self.threads, task, arguments))
        return True

    def _start(self, index: int) -> int:
        return self.nursery.start(work_apart, self.here.config, self.threads, self._variables(index))

    def _variables(self, index: int) -> dict[str, str]:
        """The environment of the process in this place: GPUs are dealt out in turn."""
        variables = dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        gpus = visible_gpus()
        if gpus:
            variables["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
        return variables


class Watch:
    """Kills workers whose trial takes longer than it may: one that hangs in a library never reports again.

    Time is measured here, from when a trial is first seen at work, so that a clock that jumps kills nobody.
    """

    def __init__(self, study: optuna.Study, timeout_s: float | None) -> None:
        self.study, self.timeout_s = study, timeout_s
        self.killed: set[int] = set()
        self._seen: dict[int, float] = {}

    def look(self, team: Mapping[int, int] | None) -> None:
        """End what takes too long in `team`; None: in any worker of the study, which then has a fuse (`Worker.run`)."""
        if self.timeout_s is None:
            return
        mine = None if team is None else {database.identity(pid): pid for pid in team}
        now = time.monotonic()
        for trial in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            if trial.user_attrs.get(WAITS):
                self._seen.pop(trial.number, None)
                continue
            pid = None if mine is None else mine.get(str(trial.user_attrs.get(WORKER)))
            took = now - self._seen.setdefault(trial.number, now)
            if (mine is None or pid is not None) and took > self.timeout_s * TIMEOUT_GRACE:
                reason = f"killed at its {took:.0f} s, beyond {TIMEOUT_GRACE:g} x trial_timeout_s = {self.timeout_s:g}"
                if search.end(self.study, trial, search.TimedOut(reason)) and pid is not None:
                    self.killed.add(pid)
                    _tell(pid, signal.SIGKILL)


def _apart(variables: Mapping[str, str], threads: int, task: Task, arguments: Arguments) -> None:
    os.environ.update(variables)
    torch.set_num_threads(threads)
    task(*arguments)


def _ending(code: int) -> str:
    """What an exit code says where a process has not said anything."""
    return f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"


def _tell(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, without touching one."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip() and name != "-1"]
    found = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return sorted((name for name in found if name.isdigit()), key=int)
