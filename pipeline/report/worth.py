"""A member of the front beside baselines of its own size, as a table on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from rich.table import Table

from pipeline.report.units import NOTHING, show

Line = Mapping[str, object]
COLUMNS = {
    "validation": "validation_accuracy",
    "test": "test_accuracy",
    "memory": "memory_bits",
    "energy": "energy_pj",
    "latency": "latency_us",
}
WORDS = (
    "A member beside three networks of its size, trained and priced in the same way: a smaller float SNN in the same "
    "memory, the same network with weights pruned by chance, and a quantized ANN of the same shape and weight bits, "
    "whose energy is multiply-accumulates of one pass. With several seeds: means, and 95 % intervals over them."
)


def _name(line: Line) -> str:
    """``random pruning, 2 of 3 seeds`` where the others ended early: means are of those that are left."""
    seeds, runs = line.get("seeds"), line.get("runs")
    few = isinstance(seeds, int) and isinstance(runs, int) and 0 < seeds < runs
    return f"{line['name']}, {seeds} of {runs} seeds" if few else str(line["name"])


def _cells(line: Line) -> list[str]:
    if "ended" in line:
        return [NOTHING] * len(COLUMNS)
    return [_cell(line, metric) for metric in COLUMNS.values()]


def _cell(line: Line, metric: str) -> str:
    """A mean, with the half width of its interval over seeds where it has one that is not 0."""
    value, half = line.get(metric), line.get(f"{metric}_interval")
    if not isinstance(value, int | float):
        return NOTHING
    if not isinstance(half, int | float) or half == 0:
        return show(metric, float(value))
    return f"{show(metric, float(value))} ±{show(metric, float(half))}"


def worth_table(lines: Sequence[Line]) -> Table:
    """For the terminal."""
    table = Table(title="Beside baselines of its size", title_justify="left")
    table.add_column("network", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        state = str(line.get("ended", "")).partition(": ")[0]  # the page has the reason in words
        table.add_row(f"{_name(line)}, {state}" if state else _name(line), *_cells(line))
    return table


def worth_html(lines: Sequence[Line]) -> str:
    """For the page; empty without lines."""
    if not lines:
        return ""
    body = []
    for line in lines:
        name = escape(_name(line))
        if "ended" in line:
            name += f' <span class="quiet">{escape(str(line["ended"]))}</span>'
        if name.startswith("trial "):
            name = f'<span class="mark">{name}</span>'
        body.append(
            f'<tr><td class="text">{name}</td>' + "".join(f"<td>{c}</td>" for c in _cells(line)) + "</tr>"
        )
    heads = '<th class="text">network</th>' + "".join(f"<th>{name}</th>" for name in COLUMNS)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
