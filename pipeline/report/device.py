"""The members of the front as a device would run them: the proof in integers, and what stress does to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from pipeline.report.points import marks
from pipeline.report.tables import on_front
from pipeline.report.units import NOTHING
from pipeline.types import Row

WORDS = (
    "Each member in integers on the whole test split, and its accuracy, in percent, when input events are lost (drop), "
    "appear (noise) or come one step early or late (jitter), or when stored weight bits flip (flip), with these"
    " probabilities; means and standard deviations over seeds."
)
LACKING = "What keeps a member from an integer form is listed by python -m pipeline.export FOLDER"
INEXACT = "no exact integer form"
_KINDS = ("drop", "noise", "jitter", "flip")


def stresses(rows: Sequence[Row]) -> list[str]:
    """Metric names like ``robust_drop_0.1`` that some row has, by kind and then by rate."""
    names = {name for row in rows for name in row.metrics if name.startswith("robust_")}
    plain = [name for name in names if name.split("_")[1] in _KINDS and not name.endswith("_deviation")]
    return sorted(plain, key=lambda name: (_KINDS.index(name.split("_")[1]), float(name.split("_")[2])))


def device_html(rows: Sequence[Row], picks: Mapping[str, int]) -> str:
    """A table of the front's members; empty where none was run in integers."""
    members = on_front(rows)
    if not any("integer_exact" in row.metrics or row.reason.startswith(INEXACT) for row in members):
        return ""
    chosen, columns = marks(picks), stresses(members)
    body = []
    for row in members:
        cells = [f'<button type="button" class="trial" data-trial="{row.number}">#{row.number}</button>']
        cells += [_proof(row), _share(row, "integer_accuracy"), *(_share(row, name) for name in columns)]
        mark = f'<span class="mark">◆ {escape(chosen[row.number])}</span>' if row.number in chosen else ""
        body.append(
            f'<tr data-trial="{row.number}">{"".join(f"<td>{cell}</td>" for cell in cells)}'
            f'<td class="text pick">{mark}</td></tr>'
        )
    names = [
        "trial",
        "equal spikes",
        "accuracy",
        *(name.removeprefix("robust_").replace("_", " ") for name in columns),
    ]
    heads = "".join(f"<th>{escape(name)}</th>" for name in names) + '<th class="text">pick</th>'
    lacking = [row.number for row in members if "integer_exact" not in row.metrics]
    said = f'<p class="quiet">{LACKING} --member {lacking[0]}</p>' if lacking else ""
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'{said}<div class="scroll">{table}</div>'


def _proof(row: Row) -> str:
    exact, samples = row.metrics.get("integer_exact"), row.metrics.get("integer_samples", 0.0)
    if exact is None:
        why = row.reason if row.reason.startswith(INEXACT) else INEXACT
        return f'<span class="quiet">{escape(why)}</span>'
    if exact == 1.0:
        return f'all <span class="quiet">{samples:,.0f} samples{_register(row)}</span>'
    return f"<strong>differ</strong> {escape(row.reason)}"


def _register(row: Row) -> str:
    """Bits that the sums of synapses need, and those they had."""
    held, needed = (row.metrics.get(f"integer_accumulator_bits{end}") for end in ("", "_needed"))
    if held is None or needed is None:
        return ""
    if needed <= held:
        return f", sums of {needed:.0f} bits in {held:.0f}"
    how = "wrap" if row.metrics.get("integer_accumulator_wraps") else "saturate"
    return f", sums that {how} at {held:.0f} of {needed:.0f} bits"


def _share(row: Row, name: str) -> str:
    value, spread = row.metrics.get(name), row.metrics.get(f"{name}_deviation", 0.0)
    if value is None:
        return NOTHING
    return f"{100 * value:.1f}" + (f' <span class="quiet">±{100 * spread:.1f}</span>' if spread else "")
