"""The one entry: everything a study leaves for people to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.report import front
from pipeline.report.context import Context
from pipeline.report.figures import save
from pipeline.report.files import write_whole
from pipeline.report.page import render
from pipeline.report.sections import FIGURES, Report, front_section, sections
from pipeline.report.significance import significance, write_significance_csv
from pipeline.report.tables import write_front_csv, write_summary, write_trials_csv
from pipeline.types import Row, require


def write(
    rows: Sequence[Row],
    objectives: Sequence[str],
    picks: Mapping[str, int],
    out_dir: Path,
    context: Context,
) -> list[Path]:
    """Write front.csv, trials.csv, summary.json, front.{png,svg,html}, report.html and figures/*.{png,svg},
    and significance.csv where trials differ in one width alone.

    `objectives` are names of metrics, all minimised (``validation_error``, ``memory_bits``, ``energy_pj``);
    `picks` are selectors' choices (``{"knee": 17}``). Rows may be empty, unfinished, failed or full of NaN:
    the files are written all the same and say so. Each file is written whole or not at all; a figure that
    this study has nothing for is not written, and an older one of that name is removed. Returns the paths.

    Raises ValueError when there is no objective, or `context.published` names no table.
    """
    require(len(objectives) > 0, "objectives", "name at least one metric", tuple(objectives))
    of = Report(rows, tuple(objectives), picks, context)
    return [
        write_front_csv(rows, out_dir / "front.csv", picks),
        write_trials_csv(rows, out_dir / "trials.csv", picks),
        write_summary(rows, objectives, picks, context, out_dir / "summary.json"),
        *save(front.draw(rows, objectives, picks, context), out_dir, "front"),
        *write_figures(of, out_dir / "figures"),
        *write_significance_csv(significance(rows), out_dir / "significance.csv"),
        write_page(of, out_dir / "front.html", whole=False),
        write_page(of, out_dir / "report.html", whole=True),
    ]


def write_page(of: Report, path: Path, whole: bool) -> Path:
    """The front alone, or all sections, as one HTML file."""
    name = of.context.experiment
    if whole:
        return write_whole(path, render(f"{name}: report", sections(of), of.rows, of.picks, of.context))
    return write_whole(path, render(f"{name}: front", [front_section(of)], of.rows, of.picks, of.context))


def write_figures(of: Report, folder: Path) -> list[Path]:
    """Every figure of the report as PNG and SVG."""
    paths = []
    for name, draw in FIGURES:
        figure = draw(of)
        if figure is not None:
            paths += save(figure, folder, name)
            continue
        for form in ("png", "svg"):
            (folder / f"{name}.{form}").unlink(missing_ok=True)
    return paths
