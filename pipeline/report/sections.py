"""The report's sections, in the order a person reads them; each is there only when the study measured it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from matplotlib.figure import Figure

from pipeline.report import device, worth
from pipeline.report.accuracy import accuracy_charts, draw_accuracy
from pipeline.report.charts import front_charts
from pipeline.report.context import Context, command_of
from pipeline.report.curves import (
    curve_charts,
    draw_curves,
    draw_hypervolume,
    draw_states,
    ended_table,
    hypervolume_charts,
    learning_words,
    states_charts,
)
from pipeline.report.front import NO_FRONT, Scene, caption
from pipeline.report.influence import (
    draw_importance,
    draw_sensitivity,
    importance_charts,
    sensitivity_charts,
    sensitivity_words,
)
from pipeline.report.layers import draw_stacks, draw_widths, stack_charts, width_charts
from pipeline.report.members import members_table, picks_table
from pipeline.report.page import Section
from pipeline.report.parallel import draw_parallel, parallel_charts
from pipeline.report.points import Model, marks, models
from pipeline.report.samples import (
    confusion_charts,
    draw_confusion,
    draw_fields,
    draw_rasters,
    fields_html,
    raster_charts,
)
from pipeline.report.significance import WORDS as SIGNIFICANCE
from pipeline.report.significance import (
    draw_significance,
    significance,
    significance_charts,
    significance_table,
)
from pipeline.report.sweeps import draw_front_by_method, draw_sweep, methods_words, sweep_charts
from pipeline.report.tables import on_front
from pipeline.types import Row


@dataclass(frozen=True)
class Report:
    """What every section is made of."""

    rows: Sequence[Row]
    objectives: tuple[str, ...]
    picks: Mapping[str, int]
    context: Context

    @property
    def scene(self) -> Scene:
        return Scene.of(self.rows, self.objectives, self.picks, self.context)

    @property
    def models(self) -> list[Model]:
        return models(self.rows, self.picks)


Draw = Callable[[Report], Figure | None]
FIGURES: tuple[tuple[str, Draw], ...] = (
    ("parallel", lambda of: draw_parallel(of.scene)),
    ("accuracy-over-bits", lambda of: draw_sweep(of.scene, "bits")),
    ("accuracy-over-sparsity", lambda of: draw_sweep(of.scene, "sparsity")),
    ("front-methods", lambda of: draw_front_by_method(of.scene)),
    ("accuracy", lambda of: draw_accuracy(of.rows, of.picks, of.context)),
    ("energy-layers", lambda of: draw_stacks(of.models, "energy_pj")),
    ("memory-layers", lambda of: draw_stacks(of.models, "memory_bits")),
    ("layers", lambda of: draw_widths(of.models)),
    ("sensitivity", lambda of: draw_sensitivity(of.context.sensitivity, of.context.sensitivity_samples)),
    ("significance", lambda of: draw_significance(significance(of.rows))),
    ("confusion", lambda of: draw_confusion(of.models, of.context)),
    ("rasters", lambda of: draw_rasters(of.models)),
    ("receptive-fields", lambda of: draw_fields(of.models)),
    ("learning", lambda of: draw_curves(of.rows, of.picks)),
    ("hypervolume", lambda of: draw_hypervolume(of.context, of.objectives)),
    ("importance", lambda of: draw_importance(of.context.importance)),
    ("states", lambda of: draw_states(of.rows)),
)
"""Name of the file -> what draws it, or None where the study has nothing for it. The front itself is
apart."""


def _quiet(words: str) -> str:
    return f'<p class="quiet">{escape(words)}</p>'


def front_section(of: Report) -> Section:
    """The front, its parallel coordinates and its members."""
    scene = of.scene
    charts = (*front_charts(scene), *parallel_charts(scene))
    words = caption(of.rows, of.objectives, of.picks, of.context)
    if not any(row.on_front for row in of.rows):
        words = f"{NO_FRONT} {words}"
    papers = f"{scene.priced.source}. {scene.priced.note}" if scene.priced else ""
    intro = _quiet(words) + (_quiet(papers) if papers else "")
    return Section("front", "Front", intro, charts, members_table(of.rows, of.picks, of.context))


def sections(of: Report) -> list[Section]:
    """All sections of the report page; an empty one is left out of the page."""
    context, shown, lost = of.context, of.models, significance(of.rows)
    names = ", ".join(model.name for model in shown)
    return [
        Section("short", "In short", html=picks_table(of.rows, of.picks, context)),
        front_section(of),
        Section(
            "worth",
            "Is the spiking network worth it?",
            _quiet(worth.WORDS),
            html=worth.worth_html(context.compared),
        ),
        Section(
            "methods",
            "Widths, zeros and methods",
            _quiet(methods_words(of.scene)),
            tuple(sweep_charts(of.scene)),
        ),
        Section(
            "accuracy",
            "Accuracy and how sure it is",
            _quiet("Each member of the front on validation and, read once, on test, with 95 % intervals."),
            tuple(accuracy_charts(of.rows, of.picks, context)),
        ),
        Section(
            "device",
            "As a device would run it",
            _quiet(device.WORDS),
            html=device.device_html(of.rows, of.picks),
        ),
        Section(
            "energy",
            "Where the energy and the memory go",
            _quiet(f"Per layer and part of the hardware, of {names}; all on one scale."),
            (*stack_charts(shown, "energy_pj"), *stack_charts(shown, "memory_bits")),
        ),
        Section(
            "layers",
            "Bits and zeros per layer",
            _quiet(f"What the compression gave each layer of {names}."),
            tuple(width_charts(shown)),
        ),
        Section(
            "sensitivity",
            "Sensitivity per layer",
            _quiet(sensitivity_words(context.sensitivity_samples)),
            tuple(sensitivity_charts(context.sensitivity)),
        ),
        Section(
            "significance",
            "Significance: what each group of parameters loses over its bits",
            _quiet(SIGNIFICANCE),
            tuple(significance_charts(lost)),
            significance_table(lost),
        ),
        Section(
            "classes",
            "Which classes are confused",
            _quiet("Rows are the true classes, in percent of each."),
            tuple(confusion_charts(shown, context)),
        ),
        Section(
            "spikes",
            "Spikes and receptive fields",
            _quiet("Spikes of each layer for one sample, and what the neurons have learned to answer to."),
            tuple(raster_charts(shown)),
            fields_html(shown),
        ),
        Section(
            "learning",
            "Learning curves",
            _quiet(learning_words(of.rows)),
            tuple(curve_charts(of.rows, of.picks)),
        ),
        Section(
            "search",
            "How the search went",
            _quiet(
                "Hypervolume over finished trials and over time; what each parameter explains of the objectives."
            ),
            (*hypervolume_charts(context), *importance_charts(context.importance)),
        ),
        Section(
            "ended",
            "What was stopped and why",
            "",
            tuple(states_charts(of.rows)),
            ended_table(of.rows) if of.rows else "",
        ),
        Section("claims", "Published claims", _quiet(CLAIMS), html=claims_table(context.claims)),
        Section("again", "Run any of it again", html=commands(of)),
    ]


CLAIMS = "What the papers state, what was measured with this project, and whether it holds on that data."


def claims_table(claims: Sequence[Mapping[str, str]]) -> str:
    """One line per claim; where it has several records they unfold below the count of verdicts."""
    if not claims:
        return ""
    heads = "".join(f'<th class="text">{escape(name)}</th>' for name in claims[0])
    groups: dict[str, list[Mapping[str, str]]] = {}
    for line in claims:
        groups.setdefault(line.get("id", ""), []).append(line)
    body = "".join(_claim(lines) for lines in groups.values())
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _claim(lines: Sequence[Mapping[str, str]]) -> str:
    """The rows of one claim."""

    def cell(text: str, more: str = "") -> str:
        return f'<td class="text">{escape(text)}{more}</td>'

    if len(lines) == 1:
        return "<tr>" + "".join(map(cell, lines[0].values())) + "</tr>"
    verdicts = Counter(line.get("holds", "") for line in lines)
    counted = ", ".join(f"{count} x {verdict}" for verdict, count in verdicts.items())
    own = [name for name in lines[0] if len({line.get(name) for line in lines}) > 1]
    inner = "".join("<tr>" + "".join(cell(line[name]) for name in own) + "</tr>" for line in lines)
    unfold = (
        f"<details><summary>{len(lines)} records</summary><table><tbody>{inner}</tbody></table></details>"
    )
    cells = []
    for name, text in lines[0].items():
        if name == "measured":
            cells.append(cell("", unfold))
        else:
            cells.append(cell(counted if name == "holds" else text if name not in own else ""))
    return "<tr>" + "".join(cells) + "</tr>"


def commands(of: Report) -> str:
    """The command of every member of the front; all other trials' open with a click."""
    chosen = marks(of.picks)
    members = on_front(of.rows)
    lines = "".join(
        f'<tr data-trial="{row.number}"><td><button type="button" class="trial" data-trial="{row.number}">'
        f'#{row.number}</button></td><td class="text"><span class="mark">{escape(chosen.get(row.number, ""))}</span>'
        f" <code>{escape(command_of(row, of.context))}</code></td></tr>"
        for row in members
    )
    look = f"<p>Every run with its curves and files:</p><pre class='command'>{escape(of.context.tracking_uri)}</pre>"
    return (
        "<p>The whole study; the same command resumes it:</p>"
        f'<pre class="command">{escape(of.context.command)}</pre>'
        + (look if of.context.tracking_uri else "")
        + (f"<p>One member of the front:</p><table><tbody>{lines}</tbody></table>" if lines else "")
    )
