"""The one entry: everything a study leaves for people to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.report import front
from pipeline.report.context import Context
from pipeline.report.figures import save
from pipeline.report.page import write_front_page
from pipeline.report.tables import write_front_csv, write_summary, write_trials_csv
from pipeline.types import Row, require


def write(
    rows: Sequence[Row],
    objectives: Sequence[str],
    picks: Mapping[str, int],
    out_dir: Path,
    context: Context,
) -> list[Path]:
    """Write front.csv, trials.csv, summary.json, front.png, front.svg and front.html into `out_dir`.

    `objectives` are names of metrics, all minimised (``validation_error``, ``memory_bits``, ``energy_pj``);
    `picks` are selectors' choices (``{"knee": 17}``). Rows may be empty, unfinished, failed or full of NaN:
    the files are written all the same and say so. Each file is written whole or not at all. Returns the
    paths.

    Raises ValueError when there is no objective.
    """
    require(len(objectives) > 0, "objectives", "name at least one metric", tuple(objectives))
    return [
        write_front_csv(rows, out_dir / "front.csv", picks),
        write_trials_csv(rows, out_dir / "trials.csv", picks),
        write_summary(rows, objectives, picks, context, out_dir / "summary.json"),
        *save(front.draw(rows, objectives, picks, context), out_dir, "front"),
        write_front_page(rows, objectives, picks, context, out_dir / "front.html"),
    ]
