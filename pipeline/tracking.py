"""Where trials are shown: MLflow, or nowhere. The only file that imports mlflow.

A study is a parent run and each trial a child of it, written in one `log_batch` when the trial has ended (per-step
calls cost several times as much). Tracking never decides anything: the study database holds every result, and
`sync` sends again whatever the server missed.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import create_engine

from pipeline.types import Row, require

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Shows a study's trials as they end and its artifacts at the end."""

    def start(self, name: str, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """Open (or find again) the parent run of study `name`."""
        ...

    def trial(self, row: Row) -> None:
        """Write one ended trial; a trial that is already there is not written twice."""
        ...

    def finish(self, rows: Sequence[Row], metrics: Mapping[str, float], artifacts: Sequence[Path]) -> None:
        """Send what is missing, mark the front, attach the artifacts, close the parent run."""
        ...

    @property
    def look(self) -> str:
        """The command that shows what was tracked, or an empty string."""
        ...


@dataclass(frozen=True)
class Silent:
    """No tracking at all."""

    def start(self, name: str, params: Mapping[str, object], tags: Mapping[str, str]) -> None: ...

    def trial(self, row: Row) -> None: ...

    def finish(
        self, rows: Sequence[Row], metrics: Mapping[str, float], artifacts: Sequence[Path]
    ) -> None: ...

    @property
    def look(self) -> str:
        return ""


def _offline() -> None:
    """MLflow sends usage statistics unless told otherwise; its messages about schema creation are noise."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _write_ahead(uri: str) -> None:
    """SQLite's write-ahead mode, which the file remembers: a commit is one append, and readers never block it.

    Three transactions per trial in the default mode cost more than all of MLflow's own work.
    """
    if uri.startswith("sqlite:///"):
        engine = create_engine(uri)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        engine.dispose()


class Mlflow:
    """MLflow through its client, in a SQLite file of its own or on a server (``http://…``).

    A server that does not answer never stops a study: the trial stays in the study database, one warning is logged,
    and `finish` (or the same command again) sends what is missing.
    """

    def __init__(self, uri: str, artifacts: str | None = None, retry_s: float = 30.0) -> None:
        require(bool(uri), "uri", "name a tracking store, e.g. sqlite:///outputs/mlflow.db", uri)
        require("://" in uri, "uri", "start with a scheme such as sqlite:/// or http://", uri)
        require(retry_s >= 0, "retry_s", "be >= 0 s", retry_s)
        self.uri, self.artifacts, self.retry_s = uri, artifacts, retry_s
        self._client_: MlflowClient | None = None
        self._experiment = ""
        self._parent = ""
        self._sent: set[int] = set()
        self._down_until = 0.0
        self._study: tuple[str, Mapping[str, object], Mapping[str, str]] = ("", {}, {})

    @property
    def look(self) -> str:
        if self.uri.startswith("http"):
            return f"open {self.uri}"
        return f"mlflow ui --backend-store-uri {self.uri}"

    def start(self, name: str, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        self._study = (name, params, tags)
        self._attempt(self._open)

    def trial(self, row: Row) -> None:
        self._attempt(lambda: self._send(row))

    def finish(self, rows: Sequence[Row], metrics: Mapping[str, float], artifacts: Sequence[Path]) -> None:
        self._down_until = 0.0
        if not self._attempt(lambda: self._finish(rows, metrics, artifacts)):
            log.warning("MLflow at %s has not received everything; the same command sends the rest", self.uri)

    def _attempt(self, send: object) -> bool:
        """Call `send`, opening the parent run if need be; False (and silence for a while) when the store is away."""
        if time.monotonic() < self._down_until:
            return False
        try:
            if not self._parent and send != self._open:
                self._open()
            send()  # type: ignore[operator]
        except Exception as error:
            # Whatever the tracking store throws (network, database, REST), the study's own record is complete.
            log.warning("MLflow at %s did not take this: %s; the study goes on", self.uri, _first_line(error))
            self._down_until = time.monotonic() + self.retry_s
            return False
        return True

    @property
    def _client(self) -> MlflowClient:
        if self._client_ is None:
            _offline()
            from mlflow import MlflowClient

            self._client_ = MlflowClient(self.uri)
            _write_ahead(self.uri)
        return self._client_

    def _open(self) -> None:
        name, params, tags = self._study
        client = self._client
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                self._experiment = client.create_experiment(name, artifact_location=self.artifacts)
            except Exception:
                # Another worker was faster.
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found is not None:
            self._experiment = found.experiment_id
        same = client.search_runs([self._experiment], "tags.kind = 'study'", max_results=1)
        if same:
            self._parent = same[0].info.run_id
            self._sent = self._numbers()
            return
        run = client.create_run(self._experiment, tags={"kind": "study", **tags}, run_name=name)
        self._parent = run.info.run_id
        self._batch(self._parent, params, [], {})

    def _numbers(self) -> set[int]:
        numbers: set[int] = set()
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment], "tags.kind = 'trial'", max_results=1000, page_token=token
            )
            numbers |= {int(run.data.tags["trial"]) for run in page if "trial" in run.data.tags}
            token = page.token
            if not token:
                return numbers

    def _send(self, row: Row) -> None:
        if row.number in self._sent:
            return
        tags = {
            "kind": "trial",
            "trial": str(row.number),
            "state": row.state,
            "feasible": str(row.feasible).lower(),
            "mlflow.parentRunId": self._parent,
        }
        if row.reason:
            tags["reason"] = row.reason[:500]
        run = self._client.create_run(self._experiment, tags=tags, run_name=title(row))
        history = [(step, metrics) for step, metrics in row.history]
        self._batch(run.info.run_id, row.params, history, row.metrics)
        status = "FAILED" if row.state.startswith("failed") else "KILLED" if _stopped(row) else "FINISHED"
        self._client.set_terminated(run.info.run_id, status=status)
        self._sent.add(row.number)

    def _batch(
        self,
        run_id: str,
        params: Mapping[str, object],
        history: Sequence[tuple[int, Mapping[str, float]]],
        metrics: Mapping[str, float],
    ) -> None:
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        points = [
            Metric(k, v, now, step) for step, values in history for k, v in values.items() if math.isfinite(v)
        ]
        last = history[-1][0] + 1 if history else 0
        points += [Metric(k, float(v), now, last) for k, v in metrics.items() if math.isfinite(v)]
        settings = [Param(key, str(value)[:6000]) for key, value in params.items()]
        for begin in range(0, max(len(points), 1), 1000):
            chunk = settings if begin == 0 else []
            for other in range(100, len(chunk), 100):
                self._client.log_batch(run_id, params=chunk[other : other + 100])
            self._client.log_batch(run_id, metrics=points[begin : begin + 1000], params=chunk[:100])

    def _finish(self, rows: Sequence[Row], metrics: Mapping[str, float], artifacts: Sequence[Path]) -> None:
        for row in rows:
            self._send(row)
        wanted = {row.number for row in rows if row.on_front}
        for run in self._client.search_runs([self._experiment], "tags.kind = 'trial'", max_results=50_000):
            number = int(run.data.tags.get("trial", -1))
            front = str(number in wanted).lower()
            if run.data.tags.get("front") != front:
                self._client.set_tag(run.info.run_id, "front", front)
        self._batch(self._parent, {}, [], metrics)
        for path in artifacts:
            self._client.log_artifact(self._parent, str(path))
        self._client.set_terminated(self._parent, status="FINISHED")


def title(row: Row) -> str:
    """A trial's name for people: ``#17 4-bit 80% qat``."""
    params = row.params

    def last(word: str) -> object | None:
        return next((value for path, value in params.items() if path.endswith(word)), None)

    words = [f"#{row.number}"]
    bits, sparsity, scheme = (
        last("quantize_weights.bits"),
        last("prune_weights.sparsity"),
        last("plan.scheme"),
    )
    if bits is not None:
        words.append(f"{bits}-bit")
    if isinstance(sparsity, int | float):
        words.append(f"{sparsity:.0%}")
    if scheme is not None:
        words.append(str(scheme))
    if row.state != "complete":
        words.append(row.state)
    return " ".join(words)


def _stopped(row: Row) -> bool:
    return row.state.startswith("stopped")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
