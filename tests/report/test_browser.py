"""The report in a real browser: it draws without a network and without an error. Needs Chromium; else skipped."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.report import writing
from pipeline.report.sections import Report, sections

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Without these a browser that has no network tries for long to reach its maker.
QUIET = shlex.split(
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=20000"
)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("size", ["1366,768", "820,1180"], ids=["laptop", "narrow"])
def test_every_chart_is_drawn_and_a_deep_link_opens_its_trial(
    studies: ModuleType, tmp_path: Path, size: str
) -> None:
    rows = studies.study(30)
    picks, context = studies.picks(rows), studies.full_context(rows)
    writing.write(rows, studies.OBJECTIVES, picks, tmp_path, context)
    number = picks["knee"]
    address = f"{(tmp_path / 'report.html').as_uri()}#trial={number}"
    browser = subprocess.run(
        [
            str(CHROMIUM),
            *QUIET,
            f"--window-size={size}",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            address,
        ],
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    page = browser.stdout
    charts = [
        chart
        for section in sections(Report(rows, studies.OBJECTIVES, picks, context))
        for chart in section.charts
    ]
    wide = int(size.partition(",")[0])
    widths = [int(found) for found in re.findall(r'class="main-svg"[^>]* width="(\d+)"', page)]
    assert widths, "no chart says how wide it is"
    assert max(widths) <= wide, "a chart is wider than its window"
    for chart in charts:
        drawn = re.search(rf'id="chart-{re.escape(chart.name)}"[^>]*js-plotly-plot|js-plotly-plot[^>]*id="chart-'
                          rf'{re.escape(chart.name)}"', page)  # fmt: skip
        assert drawn, chart.name
    assert f"Trial {number} ◆ knee (complete)" in page
    assert "CONSOLE" not in browser.stderr, browser.stderr
