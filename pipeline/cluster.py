"""Workers as Ray tasks, on one node or a thousand. The only file that imports ray, when it is asked for.

A task is a worker that runs a few trials and returns: Ray places it by its request of CPU, memory and (fractions of
a) GPU, and starts it again when its node dies. The trial that was lost with it is done again, because the study
database says so (`pipeline.study.database.reap`); Ray's own bookkeeping decides nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import optuna
import torch

from pipeline import launch
from pipeline.job import Job
from pipeline.launch import Arguments, Crew
from pipeline.nursery import Task
from pipeline.study import database
from pipeline.study.attempt import no_room
from pipeline.types import DataError, Row, require

POLL_S = 0.5
FUSE_S = 10.0
"""So long after the driver has ended a hanging trial by name, its worker's process ends itself."""


@dataclass(frozen=True)
class Ray:
    """Runs `workers` Ray tasks at a time.

    address        of a running cluster (``auto``, ``ray://host:10001``); null starts one on this machine
    cpus, gpus     what a worker asks for; a fraction of a GPU shares it
    memory_gb      what a worker asks for; null: no request
    trials_a_task  after so many trials a task returns, and Ray may place the next one elsewhere
    retries        how often Ray starts a task again whose node or process died
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float | None = None
    trials_a_task: int = 10
    retries: int = 3

    def __post_init__(self) -> None:
        require(self.cpus > 0, "cpus", "be > 0", self.cpus)
        require(self.gpus >= 0, "gpus", "be >= 0", self.gpus)
        require(self.memory_gb is None or self.memory_gb > 0, "memory_gb", "be > 0, or null", self.memory_gb)
        require(self.trials_a_task >= 1, "trials_a_task", "be >= 1", self.trials_a_task)
        require(self.retries >= 0, "retries", "be >= 0", self.retries)

    @contextmanager
    def open(self, here: Job) -> Iterator[Crew]:
        """Connect to the cluster, or start one here.

        Raises:
            DataError: Ray is not installed, or several nodes would write into one SQLite file.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise DataError("launcher=ray needs Ray: pip install 'snn-pipeline[cluster]'") from error
        if self.address is not None and here.storage.startswith("sqlite"):
            raise DataError(
                "a cluster needs a database that all nodes reach: storage=postgresql://user@host/name"
            )
        own = not ray.is_initialized()
        if own:
            ray.init(
                address=self.address, log_to_driver=False, include_dashboard=False, configure_logging=False
            )
        try:
            yield RayCrew(here, self, ray)
        finally:
            if own:
                ray.shutdown()


class RayCrew:
    """A crew of Ray tasks."""

    def __init__(self, here: Job, settings: Ray, ray: Any) -> None:
        self.here, self.settings, self.ray = here, settings, ray
        memory = {} if settings.memory_gb is None else {"memory": int(settings.memory_gb * 2**30)}
        self._remote = ray.remote(
            num_cpus=settings.cpus, num_gpus=settings.gpus, max_retries=settings.retries, **memory
        )
        self._work = self._remote(_work)
        self._task = self._remote(_task)
        self._aside: list[Any] = []

    def search(
        self,
        study: optuna.Study,
        after_trial: Callable[[Row], None],  # noqa: ARG002
        on_poll: Callable[[], None],
    ) -> None:
        here, threads = self.here, max(1, int(self.settings.cpus))
        at_work: list[Any] = []
        losses = launch.Losses(here, study)
        watch = launch.Watch(study, here.study.trial_timeout_s)
        try:
            while True:
                losses.look()
                going = losses.going
                while going and len(at_work) < here.workers:
                    at_work.append(self._work.remote(here.config, threads, self.settings.trials_a_task))
                if not at_work:
                    break
                ended, at_work = self.ray.wait(at_work, num_returns=1, timeout=POLL_S)
                for reference in ended:
                    error = self._lost(reference)
                    if error is not None:
                        lasting = isinstance(error, optuna.exceptions.StorageInternalError)
                        losses.lost(_first_line(error), lasting or no_room(error))
                watch.look(None)
                database.reap(study, here.study.retries)
                on_poll()
        finally:
            for reference in at_work:
                self.ray.cancel(reference, force=True)
            if self._aside:
                self.ray.wait(self._aside, num_returns=len(self._aside))
            database.reap(study, here.study.retries)
        on_poll()
        losses.answer()

    def each(self, task: Task, arguments: Sequence[Arguments], on_poll: Callable[[], None]) -> None:
        left = [self._task.remote(task, given) for given in arguments]
        while left:
            ended, left = self.ray.wait(left, num_returns=1, timeout=POLL_S)
            for reference in ended:
                self._lost(reference)
            on_poll()

    def aside(self, task: Task, *arguments: object) -> bool:
        self._aside.append(self._task.remote(task, arguments))
        return True

    def _lost(self, reference: Any) -> BaseException | None:
        """By what error of its own, or with its node, a task ended for good."""
        try:
            self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)  # of an error of its own: as the task raised it
            return cause if isinstance(cause, BaseException) else cast(BaseException, error)
        return None


def _work(plain: dict[str, object], threads: int, trials: int) -> None:
    timeout_s = cast(Mapping[str, float | None], plain["study"]).get("trial_timeout_s")
    fuse_s = None if timeout_s is None else timeout_s * launch.TIMEOUT_GRACE + FUSE_S
    launch.work(plain, threads, limit=trials, fuse_s=fuse_s)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error.__cause__ or error).strip().partition(chr(10))[0]}"


def _task(task: Task, arguments: Arguments) -> None:
    torch.set_num_threads(1)
    task(*arguments)
