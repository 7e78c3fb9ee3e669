"""The front as a table on the terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from pipeline.report.context import Context, command_of
from pipeline.report.detail import interval, sparsity, weight_bits
from pipeline.report.files import write_whole
from pipeline.report.points import marks, sort_out, tally, value
from pipeline.report.units import NOTHING, show
from pipeline.types import Row

_PROOF = {1.0: "proven", 0.0: "differs"}
"""Whether every spike of the test split is equal when a member runs in integers."""


def on_front(rows: Iterable[Row]) -> list[Row]:
    """Members of the front, the most accurate first; equal accuracy: the smaller memory first."""

    def rank(row: Row) -> tuple[float, float, int]:
        accuracy, memory = value(row, "validation_accuracy"), value(row, "memory_bits")
        return (
            -accuracy if math.isfinite(accuracy) else math.inf,
            memory if math.isfinite(memory) else math.inf,
            row.number,
        )

    return sorted((row for row in rows if row.on_front), key=rank)


def front_table(rows: Sequence[Row], picks: Mapping[str, int], limit: int = 24) -> Table:
    """The front, the most accurate first, with the picks marked.

    A front longer than `limit` is thinned evenly; its ends and the picks always stay, and the caption says
    how many are left out. Columns that no row has a number for are left out.
    """
    members = on_front(rows)
    chosen = marks(picks)
    kept = _thinned(members, chosen, limit)
    columns = _columns(kept)
    table = Table(title=f"Pareto front: {len(members)} of {len(rows)} trials", title_justify="left")
    for name in ("trial", *columns):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("scheme", no_wrap=True)
    table.add_column("pick", overflow="fold")
    for row, *cells in zip(kept, *columns.values(), strict=True):
        mark = chosen.get(row.number, "")
        scheme = next((str(v) for k, v in row.params.items() if k.endswith("plan.scheme")), NOTHING)
        pick = Text(f"◆ {mark}" if mark else "")
        table.add_row(f"#{row.number}", *cells, scheme, pick, style="bold" if mark else None)
    if not members:
        table.caption = "No trial is on the front: none finished within the constraints."
    elif len(kept) < len(members):
        table.caption = f"{len(members) - len(kept)} more members in front.csv"
    return table


def _thinned(members: list[Row], chosen: Mapping[int, str], limit: int) -> list[Row]:
    if len(members) <= limit:
        return members
    spots = {round(i * (len(members) - 1) / (limit - 1)) for i in range(limit)}
    return [row for i, row in enumerate(members) if i in spots or row.number in chosen]


def _columns(members: Sequence[Row]) -> dict[str, list[str]]:
    """Heading -> one cell per member; only columns in which some member has something to say."""

    def accuracy(row: Row, metric: str) -> str:
        spread = interval(row, metric)
        if spread is None:
            return show(metric, value(row, metric))
        half = (spread.high - spread.low) / 2
        return f"{100 * spread.middle:.1f} ±{100 * half:.1f}%"

    def chance(row: Row) -> str:
        """How often a member stays on the front when its seeds are drawn; one seed says nothing about it."""
        seeds = value(row, "finalist_seeds")
        return show("front_probability", value(row, "front_probability")) if seeds > 1 else NOTHING

    cells = {
        "valid.": [accuracy(row, "validation_accuracy") for row in members],
        "test": [accuracy(row, "test_accuracy") for row in members],
        "memory": [show("memory_bits", value(row, "memory_bits")) for row in members],
        "energy": [show("energy_pj", value(row, "energy_pj")) for row in members],
        "latency": [show("latency_us", value(row, "latency_us")) for row in members],
        "bits": [weight_bits(row) or NOTHING for row in members],
        "zeros": [show("sparsity", sparsity(row)) for row in members],
        "on front": [chance(row) for row in members],
        "in integers": [_PROOF.get(value(row, "integer_exact"), NOTHING) for row in members],
    }
    always = ("valid.", "test", "memory", "energy", "bits", "zeros")
    return {
        name: column
        for name, column in cells.items()
        if name in always or any(cell != NOTHING for cell in column)
    }


def write_front_csv(rows: Sequence[Row], path: Path, picks: Mapping[str, int] | None = None) -> Path:
    """The members of the front as CSV: trial, picks, every metric, every parameter; the most accurate
    first."""
    return _write_csv(on_front(rows), path, marks(picks or {}))


def write_trials_csv(rows: Sequence[Row], path: Path, picks: Mapping[str, int] | None = None) -> Path:
    """Every trial as CSV, by number, with its state and why it ended."""
    return _write_csv(sorted(rows, key=lambda row: row.number), path, marks(picks or {}))


def _write_csv(rows: Sequence[Row], path: Path, chosen: Mapping[int, str]) -> Path:
    metrics = sorted({name for row in rows for name in row.metrics})
    params = sorted({name for row in rows for name in row.params})
    text = io.StringIO()
    sheet = csv.writer(text, lineterminator="\n")
    sheet.writerow(
        ["trial", "picks", "state", "on_front", "feasible", "reason", "duration_s", *metrics, *params]
    )
    for row in rows:
        sheet.writerow(
            [row.number, chosen.get(row.number, ""), row.state, row.on_front, row.feasible, row.reason]
            + [f"{row.duration_s:.3f}"]
            + [_number(row.metrics.get(name)) for name in metrics]
            + [row.params.get(name, "") for name in params]
        )
    return write_whole(path, text.getvalue())


def _number(given: float | None) -> str:
    return "" if given is None or math.isnan(given) else repr(float(given))


def write_summary(
    rows: Sequence[Row], objectives: Sequence[str], picks: Mapping[str, int], context: Context, path: Path
) -> Path:
    """What a script needs to know about the study, as strict JSON (a number that is not finite becomes
    null)."""
    by_number = {row.number: row for row in rows}
    kinds = sort_out(rows, objectives)
    summary = {
        "experiment": context.experiment,
        "command": context.command,
        "data": context.data,
        "ended": context.ended or None,
        "objectives": list(objectives),
        "trials": len(rows),
        "states": tally(rows),
        "counts": {
            "front": len(kinds.front),
            "dominated": len(kinds.dominated),
            "infeasible": len(kinds.infeasible),
            "ended": len(kinds.ended),
        },
        "trial_seconds": sum(row.duration_s for row in rows if math.isfinite(row.duration_s)),
        "hypervolume": context.hypervolume[-1][2] if context.hypervolume else None,
        "hypervolume_reference": dict(zip(objectives, context.reference, strict=False)),
        "picks": {name: _entry(by_number[n], context) for name, n in picks.items() if n in by_number},
        "front": [_entry(row, context) for row in on_front(rows)],
        "tracking_uri": context.tracking_uri,
    }
    return write_whole(
        path, json.dumps(strict(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )


def _entry(row: Row, context: Context) -> dict[str, object]:
    return {
        "trial": row.number,
        "metrics": dict(row.metrics),
        "params": dict(row.params),
        "command": command_of(row, context),
    }


def strict(given: object) -> object:
    """The same for strict JSON: what is not finite becomes None, what JSON does not know becomes its text."""
    if isinstance(given, Mapping):
        return {str(key): strict(entry) for key, entry in given.items()}
    if isinstance(given, list | tuple):
        return [strict(entry) for entry in given]
    if isinstance(given, bool | int | str) or given is None:
        return given
    if isinstance(given, float):
        return given if math.isfinite(given) else None
    if hasattr(given, "tolist"):
        return strict(given.tolist())
    return str(given)
