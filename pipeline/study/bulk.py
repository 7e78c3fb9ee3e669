"""Optuna's tables read and written in few statements: SQLite and PostgreSQL, the schema as Optuna 5 makes it.

`RDBStorage` needs one transaction of several statements per parameter and attribute, and reads a trial through seven
mapped classes: 30 ms of processor time for a trial that does nothing, and with many workers far more, since each
reads all running trials of the others several times per trial. Here a look at the study is two statements, and what
belongs together (a claim, a suggestion, a result) is one transaction.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna import distributions
from optuna.distributions import BaseDistribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState

from pipeline.study.statements import LAST, Statements


@dataclass
class Gathered:
    """What is to be written of one trial, all at once."""

    params: dict[str, tuple[float, BaseDistribution]] = field(default_factory=dict)
    user: dict[str, object] = field(default_factory=dict)
    system: dict[str, object] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.params or self.user or self.system)


def read(
    connection: sa.Connection, study_id: int, named: Collection[int] = (), beyond: int | None = None
) -> list[FrozenTrial]:
    """The trials of a study that are `named` or whose id is greater than `beyond`, in the order of their ids.

    A trial that has ended is read whole: its state is the last thing that is written of it, and the first that is
    read here.
    """
    said = Statements.of(connection)
    asked = {"study": study_id, "named": said.listed(named), "beyond": LAST if beyond is None else beyond}
    return _trials(connection, said, connection.execute(said.some, asked).all())


def read_one(connection: sa.Connection, trial_id: int) -> FrozenTrial:
    """One trial.

    Raises:
        KeyError: there is none.
    """
    said = Statements.of(connection)
    rows = connection.execute(said.one, {"trial": trial_id}).all()
    if not rows:
        raise KeyError(f"no trial {trial_id}")
    return _trials(connection, said, rows)[0]


def _trials(connection: sa.Connection, said: Statements, rows: Sequence[Any]) -> list[FrozenTrial]:
    params: dict[int, list[tuple[int, str, float, str]]] = defaultdict(list)
    values: dict[int, dict[int, float]] = defaultdict(dict)
    steps: dict[int, dict[int, float]] = defaultdict(dict)
    user: dict[int, dict[str, Any]] = defaultdict(dict)
    system: dict[int, dict[str, Any]] = defaultdict(dict)
    asked = {"named": said.listed([row[0] for row in rows])}
    for kind, trial_id, index, name, number, text in connection.execute(said.details, asked) if rows else ():
        if kind == "param":
            params[trial_id].append((index, name, number, text))
        elif kind == "user":
            user[trial_id][name] = json.loads(text)
        elif kind == "system":
            system[trial_id][name] = json.loads(text)
        else:
            place = values if kind == "value" else steps
            place[trial_id][index] = number if number is not None else _NOT_A_NUMBER.get(text, float("nan"))
    found = []
    for trial_id, number, state, start, complete in rows:
        given = sorted(params[trial_id])
        kinds = {name: distribution(text) for _, name, _, text in given}
        there = values.get(trial_id)
        trial = FrozenTrial(
            number=number, state=state, value=None, values=[there[i] for i in sorted(there)] if there else None,
            datetime_start=_local(start), datetime_complete=_local(complete),
            params={name: kinds[name].to_external_repr(value) for _, name, value, _ in given},
            distributions=kinds, user_attrs=user.pop(trial_id, {}), system_attrs=system.pop(trial_id, {}),
            intermediate_values=steps.pop(trial_id, {}), trial_id=trial_id,
        )  # fmt: skip
        found.append(trial)
    return found


_NOT_A_NUMBER = {"INF_POS": float("inf"), "INF_NEG": float("-inf")}


@functools.lru_cache(maxsize=65536)
def distribution(text: str) -> BaseDistribution:
    """One object for all trials that were suggested from the same range: parsed once, kept once."""
    return distributions.json_to_distribution(text)


def _local(time: datetime | None) -> datetime | None:
    return time if time is None else time.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


JOINED = "joined"
"""Study attribute: [trials, workers that joined when there were as many]."""


def join(connection: sa.Connection, study_id: int) -> tuple[int, int]:
    """How many trials there are, and how many workers have joined since there were as many: no two get the same.

    Raises:
        KeyError: there is no such study.
    """
    said = Statements.of(connection)
    before = _last_number(connection, study_id)
    trials = 0 if before is None else before + 1
    text = connection.execute(said.study_attribute, {"study": study_id, "name": JOINED}).scalar()
    then, count = (trials, 0) if text is None else json.loads(text)
    place = count if then == trials else 0
    told = {"study_id": study_id, "key": JOINED, "value_json": json.dumps([trials, place + 1])}
    connection.execute(said.study_user, told)
    return trials, place


def swap(connection: sa.Connection, study_id: int, key: str, before: object, after: object) -> bool:
    """Set a study's attribute if it is still what it was `before` (None: absent); whether it is `after` now."""
    said = Statements.of(connection)
    connection.execute(said.lock_study, {"study": study_id})
    text = connection.execute(said.study_attribute, {"study": study_id, "name": key}).scalar()
    now = None if text is None else json.loads(text)
    if now == before:
        connection.execute(
            said.study_user, {"study_id": study_id, "key": key, "value_json": json.dumps(after)}
        )
    return now in (before, after)


def _last_number(connection: sa.Connection, study_id: int) -> int | None:
    """The newest trial's number, which stays the newest until this transaction ends; None where there is none."""
    said = Statements.of(connection)
    if connection.execute(said.lock_study, {"study": study_id}).scalar() is None:
        raise KeyError(f"no study {study_id}")
    number: int | None = connection.execute(said.last_number, {"study": study_id}).scalar()
    return number


def claim(connection: sa.Connection, study_id: int, user: Mapping[str, object]) -> FrozenTrial:
    """A new RUNNING trial with its number, attributes and first heartbeat.

    The study's row is locked meanwhile, as Optuna does, so that numbers are given once and in the order of ids. The
    number is one more than that of the trial before; Optuna counts all trials, which takes the longer the more there
    are.

    Raises:
        KeyError: there is no such study.
    """
    said = Statements.of(connection)
    before = _last_number(connection, study_id)
    number, start = 0 if before is None else before + 1, _now()
    row = {"study_id": study_id, "number": number, "state": TrialState.RUNNING, "datetime_start": start}
    made = connection.execute(said.new_trial, row).inserted_primary_key
    assert made is not None
    trial_id = int(made[0])
    _attributes(connection, said.user, trial_id, user)
    beat(connection, trial_id)
    return FrozenTrial(
        number=number, state=TrialState.RUNNING, value=None, values=None, datetime_start=_local(start),
        datetime_complete=None, params={}, distributions={}, user_attrs=dict(user), system_attrs={},
        intermediate_values={}, trial_id=trial_id,
    )  # fmt: skip


def locked_state(connection: sa.Connection, trial_id: int) -> TrialState:
    """A trial's state, which nobody changes until this transaction ends.

    Raises:
        KeyError: there is no such trial.
    """
    state = connection.execute(Statements.of(connection).lock_trial, {"trial": trial_id}).scalar()
    if state is None:
        raise KeyError(f"no trial {trial_id}")
    assert isinstance(state, TrialState)
    return state


def take(connection: sa.Connection, trial_id: int, user: Mapping[str, object]) -> None:
    """A WAITING trial becomes a RUNNING one, with whose it is and its first heartbeat."""
    said = Statements.of(connection)
    changed = {"trial": trial_id, "new_state": TrialState.RUNNING, "new_datetime_start": _now()}
    connection.execute(said.take, changed)
    _attributes(connection, said.user, trial_id, user)
    beat(connection, trial_id)


def write(connection: sa.Connection, trial_id: int, gathered: Gathered) -> None:
    """Parameters and attributes."""
    said = Statements.of(connection)
    rows = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": value,
            "distribution_json": distributions.distribution_to_json(kind),
        }
        for name, (value, kind) in gathered.params.items()
    ]
    if rows:
        connection.execute(said.param, rows)
    _attributes(connection, said.user, trial_id, gathered.user)
    _attributes(connection, said.system, trial_id, gathered.system)


def finish(
    connection: sa.Connection, trial_id: int, state: TrialState, values: Sequence[float] | None
) -> None:
    """The last word on a trial that ran."""
    said = Statements.of(connection)
    rows = []
    for objective, value in enumerate(values or ()):
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        rows.append({"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind})
    if rows:
        connection.execute(said.value, rows)
    connection.execute(said.end, {"trial": trial_id, "new_state": state, "new_datetime_complete": _now()})


def attribute(connection: sa.Connection, trial_id: int, key: str) -> object:
    """One user attribute, or None."""
    asked = {"trial": trial_id, "name": key}
    text = connection.execute(Statements.of(connection).attribute, asked).scalar()
    return None if text is None else json.loads(text)


def beat(connection: sa.Connection, trial_id: int) -> None:
    """A trial is alive now, by the database's clock."""
    connection.execute(Statements.of(connection).beat, {"trial_id": trial_id})


def _attributes(
    connection: sa.Connection, statement: Any, trial_id: int, given: Mapping[str, object]
) -> None:
    rows = [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in given.items()
    ]
    if rows:
        connection.execute(statement, rows)
