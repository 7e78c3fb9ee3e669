"""Where trials are shown: MLflow. The only file that imports it.

A study is a parent run and each trial a child of it, written in one `log_batch` when the trial has ended (per-step
calls cost several times as much). Models, registry and artifacts come once, at the end. Tracking never decides
anything: the study database holds every result, and `finish` sends again whatever the server missed.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import create_engine

from pipeline.tracker import Ending, Finalist, Silent, Tracker, alias, named, note, title
from pipeline.types import STORED, Dataset, Row, require

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

log = logging.getLogger(__name__)
__all__ = ["Mlflow", "Silent", "Tracker", "title"]

LOADER = "pipeline.served"
"""The module whose ``_load_pyfunc`` opens a logged model."""
KIND = "mlflow.experimentKind"
"""Tag by which the UI shows an experiment as model training rather than as agents and prompts."""


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

    `register`: selectors in order of preference; the first that has a pick makes the registered model's version with
    the alias ``chosen``, and every selector's pick that is registered an alias of its own. Empty: nothing is
    registered.
    """

    def __init__(
        self,
        uri: str,
        artifacts: str | None = None,
        retry_s: float = 30.0,
        register: Sequence[str] = ("within 1 point", "knee"),
    ) -> None:
        require(bool(uri), "uri", "name a tracking store, e.g. sqlite:///outputs/mlflow.db", uri)
        require("://" in uri, "uri", "start with a scheme such as sqlite:/// or http://", uri)
        require(retry_s >= 0, "retry_s", "be >= 0 s", retry_s)
        self.uri, self.artifacts, self.retry_s, self.register = uri, artifacts, retry_s, tuple(register)
        self._client_: MlflowClient | None = None
        self._experiment = ""
        self._parent = ""
        self._sent: set[int] = set()
        self._down_until = 0.0
        self._study: tuple[str, Mapping[str, object], Mapping[str, str]] = ("", {}, {})
        self._data: Dataset | None = None

    @property
    def look(self) -> str:
        if self.uri.startswith("http"):
            return f"open {self.uri}"
        return f"mlflow ui --backend-store-uri {self.uri}"

    def start(
        self, name: str, params: Mapping[str, object], tags: Mapping[str, str], data: Dataset | None = None
    ) -> None:
        self._study, self._data = (name, params, tags), data
        self._attempt(self._open)

    def trial(self, row: Row) -> None:
        self._attempt(lambda: self._send(row))

    def finish(self, rows: Sequence[Row], ending: Ending) -> None:
        self._down_until = 0.0
        if not self._attempt(lambda: self._finish(rows, ending)):
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
                self._experiment = client.create_experiment(
                    name, self.artifacts, {KIND: "custom_model_development"}
                )
            except Exception:
                # Another worker was faster.
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found is not None:
            self._experiment = found.experiment_id
        same = self._runs("tags.kind = 'study'")
        run = same[0] if same else None
        run = run or client.create_run(self._experiment, tags={"kind": "study", **tags}, run_name=name)
        # An answer may have been lost between any two of these calls: what is there already is looked at each time.
        missing = {key: value for key, value in params.items() if key not in run.data.params}
        if missing:
            self._batch(run.info.run_id, missing, [], {})
        if self._data is not None and not _has_data(run):
            client.log_inputs(run.info.run_id, [_dataset(self._data)])
        if same:
            self._sent = self._numbers()
        self._parent = run.info.run_id

    def _runs(self, wanted: str) -> list[Run]:
        """The study's runs that this filter finds, the oldest first."""
        found: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment], wanted, max_results=1000, page_token=token,
                order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
            )  # fmt: skip
            found += page
            token = page.token
            if not token:
                return found

    def _numbers(self) -> set[int]:
        """Trials that are there as a whole: an open run may be empty still, or for ever."""
        return {_number(run) for run in self._runs("tags.kind = 'trial'") if _ended(run)}

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
        # Another driver of the study may have sent it, or an answer of this one's server was lost half-way.
        there = self._runs(f"tags.kind = 'trial' and tags.trial = '{row.number}'")
        if not any(map(_ended, there)):
            self._write(there[0] if there else None, row, tags)
        self._sent.add(row.number)

    def _write(self, run: Run | None, row: Row, tags: dict[str, str]) -> None:
        run = run or self._client.create_run(self._experiment, tags=tags, run_name=title(row))
        history = [(step, {k: v for k, v in told.items() if k != STORED}) for step, told in row.history]
        # Under the time at which the run began: a point that is sent twice is then kept once.
        self._batch(run.info.run_id, row.params, history, row.metrics, run.info.start_time)
        status = {"failed": "FAILED", "stopped": "KILLED"}.get(row.state.partition(":")[0], "FINISHED")
        self._client.set_terminated(run.info.run_id, status=status)

    def _batch(
        self,
        run_id: str,
        params: Mapping[str, object],
        history: Sequence[tuple[int, Mapping[str, float]]],
        metrics: Mapping[str, float],
        at_ms: int | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000) if at_ms is None else at_ms
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

    def _finish(self, rows: Sequence[Row], ending: Ending) -> None:
        self._sent |= self._numbers()
        for row in rows:
            self._send(row)
        runs = self._mark(rows, ending)
        known = {m.step for m in self._client.get_metric_history(self._parent, "hypervolume")}
        self._batch(self._parent, {}, [point for point in ending.history if point[0] not in known], {})
        self._batch(self._parent, {}, [], ending.metrics)
        for path in ending.artifacts:
            inside = ending.folder is not None and path.is_relative_to(ending.folder)
            place = path.parent.relative_to(ending.folder).as_posix() if inside and ending.folder else "."
            self._client.log_artifact(self._parent, str(path), None if place == "." else place)
        logged = Models(self._client, self._experiment, self._study[0]).send(rows, ending, runs)
        self._register(ending, logged, runs)
        self._client.set_tag(self._parent, "mlflow.note.content", note(rows, ending))
        self._client.set_terminated(self._parent, status="FINISHED")

    def _mark(self, rows: Sequence[Row], ending: Ending) -> dict[int, str]:
        """What only the finished study knows: `front`, `dominated_by`, the finalists' figures; gives trial -> run."""
        from mlflow.entities import Metric, RunTag

        front = {row.number: row for row in rows if row.on_front}
        runs = self._once(self._runs("tags.kind = 'trial'"))
        now = int(time.time() * 1000)
        for run in runs:
            number, have = _number(run), run.data
            wanted = {"front": str(number in front).lower()}
            rivals = ending.dominated_by.get(number, ())
            if rivals or "dominated_by" in have.tags:
                wanted["dominated_by"] = named(rivals)
            tags = [RunTag(key, value) for key, value in wanted.items() if have.tags.get(key) != value]
            values = front[number].metrics if number in front else {}
            new = {k: float(v) for k, v in values.items() if have.metrics.get(k) != v and math.isfinite(v)}
            if tags or new:
                points = [Metric(key, value, now, 0) for key, value in new.items()]
                self._client.log_batch(run.info.run_id, metrics=points, tags=tags)
            if self._data is not None and number in front and not _has_data(run):
                self._client.log_inputs(run.info.run_id, [_dataset(self._data)])
        return {_number(run): run.info.run_id for run in runs}

    def _once(self, runs: Sequence[Run]) -> list[Run]:
        """One run for each trial: two drivers that saw it end at the same moment have made two."""
        kept: dict[int, Run] = {}
        for run in sorted(runs, key=lambda run: not _ended(run)):
            if kept.setdefault(_number(run), run) is not run and _ended(run):
                self._client.delete_run(run.info.run_id)
        return list(kept.values())

    def _register(self, ending: Ending, logged: Mapping[int, str], runs: Mapping[int, str]) -> None:
        """Make the chosen model a version of the registered model that has the study's name."""
        chosen = next((ending.picks[one] for one in self.register if ending.picks.get(one) in logged), None)
        if chosen is None:
            return
        client, name = self._client, self._study[0]
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=f"Chosen from the front of the study {name!r}.")
        there = {v.tags.get("model"): v.version for v in client.search_model_versions(f"name = '{name}'")}
        version = there.get(logged[chosen])
        if version is None:
            model = client.get_logged_model(logged[chosen])
            tags = {"trial": str(chosen), "model": model.model_id}
            made = client.create_model_version(
                name, model.artifact_location, runs[chosen], tags=tags, model_id=model.model_id
            )
            version = made.version
        selectors = [selector for selector, number in ending.picks.items() if number == chosen]
        for one in ["chosen", *map(alias, selectors)]:
            client.set_registered_model_alias(name, one, version)


class Models:
    """Finalists as MLflow's own models: signature, dataset and trial said, loadable by ``mlflow.pyfunc.load_model``."""

    def __init__(self, client: MlflowClient, experiment: str, study: str) -> None:
        self.client, self.experiment, self.study = client, experiment, study

    def send(self, rows: Sequence[Row], ending: Ending, runs: Mapping[int, str]) -> dict[int, str]:
        """trial -> id of its model; a model that is there already is not sent again."""
        there = self._there()
        by_number = {row.number: row for row in rows}
        for model in ending.models:
            if model.number not in there and model.number in runs:
                there[model.number] = self._send(model, by_number[model.number], runs[model.number])
        return {model.number: there[model.number] for model in ending.models if model.number in there}

    def _there(self) -> dict[int, str]:
        found: dict[int, str] = {}
        token: str | None = None
        while True:
            page = self.client.search_logged_models([self.experiment], max_results=1000, page_token=token)
            found |= {
                int(m.tags["trial"]): m.model_id for m in page if m.status == "READY" and "trial" in m.tags
            }
            token = page.token
            if not token:
                return found

    def _send(self, model: Finalist, row: Row, run: str) -> str:
        from mlflow.entities import LoggedModelOutput

        params = {key: str(value)[:500] for key, value in row.params.items()}
        logged = self.client.create_logged_model(
            self.experiment,
            f"trial-{model.number:05d}",
            run,
            {"trial": str(model.number)},
            params,
            "classifier",
        )
        with tempfile.TemporaryDirectory() as folder:
            self._write(model, Path(folder), run, logged.model_id)
            self.client.log_model_artifacts(logged.model_id, folder)
        self.client.log_outputs(run, [LoggedModelOutput(logged.model_id, 0)])
        self.client.finalize_logged_model(logged.model_id, "READY")
        return str(logged.model_id)

    def _write(self, model: Finalist, folder: Path, run: str, model_id: str) -> None:
        """MLflow's model format: MLmodel with the signature, and beside it what the loader reads."""
        import numpy as np
        from mlflow import pyfunc
        from mlflow.models import Model, ModelSignature
        from mlflow.types import Schema, TensorSpec

        name, dtype, shape = model.takes
        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(dtype), (-1, *shape), name)]),
            outputs=Schema([TensorSpec(np.dtype("int64"), (-1,), "label")]),
        )
        about = Model(artifact_path=None, run_id=run, signature=signature, model_id=model_id)
        pyfunc.add_to_model(about, loader_module=LOADER, data="data")
        model.write(folder / "data")
        (folder / "requirements.txt").write_text("snn-pipeline\n", encoding="utf-8")
        about.save(str(folder / "MLmodel"))


def _dataset(data: Dataset) -> DatasetInput:
    """The data as MLflow shows it: name, sizes, and the sha256 over all three splits (its column takes 36 letters)."""
    from mlflow.entities import Dataset as Shown
    from mlflow.entities import DatasetInput, InputTag

    sizes = {name: len(data.split(name)) for name in ("train", "validation", "test")}
    source = {"name": data.name, "sha256": data.digest}
    about = {
        "splits": sizes,
        "classes": data.classes,
        "step_shape": list(data.shape),
        "timesteps": data.timesteps,
    }
    shown = Shown(data.name, data.digest[:36], "local", json.dumps(source), profile=json.dumps(about))
    return DatasetInput(shown, [InputTag("mlflow.data.context", "train, validation, test")])


def _number(run: Run) -> int:
    return int(run.data.tags.get("trial", -1))


def _ended(run: Run) -> bool:
    return run.info.status in ("FINISHED", "FAILED", "KILLED")


def _has_data(run: Run) -> bool:
    return bool(run.inputs and run.inputs.dataset_inputs)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
