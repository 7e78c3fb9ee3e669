"""SQL on the tables that Optuna 5 makes, one set of statements for SQLite and one for PostgreSQL."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models
from sqlalchemy.dialects import postgresql, sqlite

STUDIES, TRIALS = models.StudyModel.__table__, models.TrialModel.__table__
STUDY_USER = models.StudyUserAttributeModel.__table__
PARAMS, VALUES = models.TrialParamModel.__table__, models.TrialValueModel.__table__
USER, SYSTEM = models.TrialUserAttributeModel.__table__, models.TrialSystemAttributeModel.__table__
STEPS, BEATS = models.TrialIntermediateValueModel.__table__, models.TrialHeartbeatModel.__table__
LAST = 2**31 - 1
"""No trial's id is greater."""


class Statements:
    """Statements of one dialect, built once: building one takes longer than running it."""

    def __init__(self, dialect: str) -> None:
        self.postgres = dialect == "postgresql"
        c = TRIALS.c
        columns = sa.select(c.trial_id, c.number, c.state, c.datetime_start, c.datetime_complete)
        which = sa.or_(self._among(c.trial_id), c.trial_id > sa.bindparam("beyond"))
        self.some = columns.where(c.study_id == sa.bindparam("study"), which).order_by(c.trial_id)
        this = c.trial_id == sa.bindparam("trial")
        self.one = columns.where(this)
        self.details = self._details()
        self.lock_study = (
            sa.select(STUDIES.c.study_id).where(STUDIES.c.study_id == sa.bindparam("study")).with_for_update()
        )
        self.last_number = (
            sa.select(c.number)
            .where(c.study_id == sa.bindparam("study"))
            .order_by(c.trial_id.desc())
            .limit(1)
        )
        self.new_trial = sa.insert(TRIALS)
        self.lock_trial = sa.select(c.state).where(this).with_for_update()
        names = ("state", "datetime_start"), ("state", "datetime_complete")
        self.take, self.end = (
            sa.update(TRIALS).where(this).values({n: sa.bindparam(f"new_{n}") for n in name})
            for name in names
        )
        self.attribute = sa.select(USER.c.value_json).where(
            USER.c.trial_id == sa.bindparam("trial"), USER.c.key == sa.bindparam("name")
        )
        self.study_attribute = sa.select(STUDY_USER.c.value_json).where(
            STUDY_USER.c.study_id == sa.bindparam("study"), STUDY_USER.c.key == sa.bindparam("name")
        )
        self.study_user = self._upsert(STUDY_USER, "study_id", "key")
        self.param = self._upsert(PARAMS, "trial_id", "param_name")
        self.value = self._upsert(VALUES, "trial_id", "objective")
        self.user = self._upsert(USER, "trial_id", "key")
        self.system = self._upsert(SYSTEM, "trial_id", "key")
        self.beat = self._upsert(BEATS, "trial_id", heartbeat=sa.func.current_timestamp())

    @staticmethod
    def of(connection: sa.Connection) -> Statements:
        return _statements(connection.dialect.name)

    def listed(self, ids: Collection[int]) -> object:
        """A list of numbers as one parameter, so that the statement is the same whatever its length."""
        return sorted(ids) if self.postgres else json.dumps(sorted(ids))

    def _among(self, column: sa.Column[int]) -> sa.ColumnElement[bool]:
        if self.postgres:
            return column == sa.any_(sa.bindparam("named", type_=postgresql.ARRAY(sa.Integer)))
        numbers = sa.func.json_each(sa.bindparam("named", type_=sa.Text)).table_valued("value")
        return column.in_(sa.select(numbers.c.value))

    def _details(self) -> sa.CompoundSelect[Any]:
        """Everything that hangs on the named trials, as rows of one shape."""

        def part(kind: str, table: sa.Table, *columns: Any) -> sa.Select[Any]:
            named: sa.Label[str] = sa.literal_column(f"'{kind}'").label("kind")
            return sa.select(named, table.c.trial_id, *columns).where(self._among(table.c.trial_id))

        none_text, none_number = sa.cast(sa.null(), sa.Text), sa.cast(sa.null(), sa.Float(53))
        p, v, s, u, y = PARAMS.c, VALUES.c, STEPS.c, USER.c, SYSTEM.c
        value, step = sa.cast(v.value_type, sa.Text), sa.cast(s.intermediate_value_type, sa.Text)
        return sa.union_all(
            part("param", PARAMS, p.param_id, p.param_name, p.param_value, p.distribution_json),
            part("value", VALUES, v.objective, none_text, v.value, value),
            part("step", STEPS, s.step, none_text, s.intermediate_value, step),
            part("user", USER, u.trial_user_attribute_id, u.key, none_number, u.value_json),
            part("system", SYSTEM, y.trial_system_attribute_id, y.key, none_number, y.value_json),
        )

    def _upsert(self, table: sa.Table, *keys: str, **fixed: Any) -> Any:
        """What is there already is replaced, so that a repeated call changes nothing."""
        insert = (postgresql if self.postgres else sqlite).insert(table)
        insert = insert.values(fixed) if fixed else insert
        own = [column.name for column in table.columns if not column.primary_key and column.name not in keys]
        changed = {name: insert.excluded[name] for name in own}
        return insert.on_conflict_do_update(index_elements=list(keys), set_=changed)


@functools.cache
def _statements(dialect: str) -> Statements:
    return Statements(dialect)
