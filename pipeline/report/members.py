"""The members of the front as an HTML table whose rows open a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from pipeline.report.context import Context
from pipeline.report.detail import interval, sparsity, weight_bits
from pipeline.report.points import marks, value
from pipeline.report.tables import on_front
from pipeline.report.units import NOTHING, show
from pipeline.types import Row


def members_table(rows: Sequence[Row], picks: Mapping[str, int], context: Context) -> str:
    """The members of the front as an HTML table; a trial's number opens its panel."""
    chosen = marks(picks)
    members = on_front(rows)
    if not members:
        return ""
    heads = ("trial", "validation", "test", "memory", "energy", "latency", "bits", "zeros")
    body = []
    for row in members:
        cells = [
            f'<button type="button" class="trial" data-trial="{row.number}">#{row.number}</button>',
            *(_share(row, "validation_accuracy", context.validation_samples),),
            *(_share(row, "test_accuracy", context.test_samples),),
            *(show(name, value(row, name)) for name in ("memory_bits", "energy_pj", "latency_us")),
            weight_bits(row) or NOTHING,
            show("sparsity", sparsity(row)),
        ]
        mark = f'<span class="mark">◆ {escape(chosen[row.number])}</span>' if row.number in chosen else ""
        picked = ' class="picked"' if mark else ""
        body.append(
            f'<tr data-trial="{row.number}"{picked}>{"".join(f"<td>{cell}</td>" for cell in cells)}'
            f'<td class="text pick">{mark}</td></tr>'
        )
    head = "".join(f"<th>{name}</th>" for name in heads) + '<th class="text">pick</th>'
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _share(row: Row, metric: str, samples: int) -> str:
    spread = interval(row, metric, samples)
    if spread is None:
        return show(metric, value(row, metric))
    around = f"{100 * spread.low:.1f} to {100 * spread.high:.1f}"
    return f'{100 * spread.middle:.1f}% <span class="quiet">{around}</span>'
