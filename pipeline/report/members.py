"""The picks and the members of the front as HTML tables whose rows open a trial."""

from __future__ import annotations

import math
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
    heads = ("trial", "validation", "test", "memory", "energy", "worst energy", "latency", "bits", "zeros")
    body = []
    for row in members:
        cells = [
            f'<button type="button" class="trial" data-trial="{row.number}">#{row.number}</button>',
            *(_share(row, "validation_accuracy", context.validation_samples),),
            *(_share(row, "test_accuracy", context.test_samples),),
            *(
                show(name, value(row, name))
                for name in ("memory_bits", "energy_pj", "worst_energy_pj", "latency_us")
            ),
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


def picks_table(rows: Sequence[Row], picks: Mapping[str, int], context: Context) -> str:
    """What each selector chose, beside the float model where the study trained one: points lost, times smaller."""
    by_number = {row.number: row for row in rows}
    chosen = [(name, by_number[number]) for name, number in picks.items() if number in by_number]
    if not chosen:
        return ""
    reference = context.baseline
    lines = []
    for name, row in chosen:
        cells = [
            _against(row, reference, "validation_accuracy"),
            _against(row, reference, "test_accuracy"),
            _against(row, reference, "memory_bits"),
            _against(row, reference, "energy_pj"),
        ]
        lines.append(
            f'<tr data-trial="{row.number}"><td class="text"><span class="mark">◆ {escape(name)}</span></td>'
            f'<td><button type="button" class="trial" data-trial="{row.number}">#{row.number}</button></td>'
            f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        )
    if reference:
        names = ("validation_accuracy", "test_accuracy", "memory_bits", "energy_pj")
        cells = [show(name, value(reference, name)) for name in names]
        lines.append(
            f'<tr><td class="text">float model</td><td></td>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        )
    heads = '<th class="text">pick</th>' + "".join(
        f"<th>{name}</th>" for name in ("trial", "validation", "test", "memory", "energy")
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _against(row: Row, reference: Row | None, metric: str) -> str:
    """``94.2% <quiet>−1.3 points</quiet>`` or ``1.2 KiB <quiet>31× smaller</quiet>``; the number alone without
    float."""
    at = value(row, metric)
    own = show(metric, at)
    there = value(reference, metric) if reference else math.nan
    if not (math.isfinite(at) and math.isfinite(there)):
        return own
    if metric.endswith("_accuracy"):
        words = f"{100 * (at - there):+.1f} points".replace("-", "−")
    elif at <= 0 or there <= 0:
        return own
    else:
        words = f"{there / at:.3g}× less" if there >= at else f"{at / there:.3g}× more"
    return f'{own} <span class="quiet">{words}</span>'
