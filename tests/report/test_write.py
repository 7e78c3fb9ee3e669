"""What a study leaves: whole files, right numbers, and no failure on the rows that real studies have."""

import csv
import io
import json
import math
from dataclasses import replace
from html import escape
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import plotly.graph_objects as go
import pytest
from rich.console import Console

from pipeline.report import front, tables, writing
from pipeline.report.context import command_of
from pipeline.report.figures import save
from pipeline.report.files import write_whole
from pipeline.report.members import members_table, picks_table
from pipeline.report.page import _plotly
from pipeline.report.points import sort_out
from pipeline.report.sections import FIGURES, Report, sections
from pipeline.report.tables import on_front, write_front_csv, write_summary
from pipeline.report.writing import write_page
from pipeline.types import Row

OBJECTIVES = ("validation_error", "memory_bits", "energy_pj")
POINT = {"validation_error": 0.1, "memory_bits": 100.0, "energy_pj": 5.0}
AWKWARD = {
    "no rows": [],
    "nothing finished": [
        Row(0, "failed:nan", metrics={"loss": math.nan}),
        Row(1, "stopped:silent"),
        Row(2, "running"),
    ],
    "one row": [Row(0, "complete", metrics=POINT, on_front=True)],
    "all the same": [Row(n, "complete", metrics=POINT, on_front=n == 0) for n in range(3)],
    "nothing feasible": [Row(0, "complete", metrics=POINT, feasible=False)],
    "zeros": [
        Row(0, "complete", metrics=dict.fromkeys(POINT, 0.0), on_front=True),
        Row(1, "complete", metrics=POINT),
    ],
    "not numbers": [
        Row(0, "complete", metrics=POINT, on_front=True),
        Row(1, "complete", metrics={**POINT, "energy_pj": math.inf}),
    ],
    "markup": [
        Row(
            0,
            "complete",
            {"net.name": "</script><script>alert(1)</script>"},
            POINT,
            reason="<b>",
            on_front=True,
        )
    ],
}


@pytest.fixture(scope="module")
def written(
    studies: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Row], dict[str, int], Path]:
    """A whole study's report, written once for the tests that only read it."""
    rows = studies.study(40, seed=3)
    folder = tmp_path_factory.mktemp("report")
    writing.write(rows, OBJECTIVES, studies.picks(rows), folder, studies.full_context(rows))
    return rows, studies.picks(rows), folder


@pytest.mark.parametrize(
    ("name", "objectives"),
    [
        *((name, OBJECTIVES) for name in AWKWARD),
        *((name, ("validation_error", "memory_bits")) for name in ("no rows", "zeros", "all the same")),
        *((name, ("validation_error",)) for name in ("no rows", "one row", "not numbers")),
    ],
)
def test_every_file_is_written_whatever_the_rows(
    studies: ModuleType, name: str, objectives: tuple[str, ...], tmp_path: Path
) -> None:
    rows = AWKWARD[name]
    paths = writing.write(rows, objectives, {"knee": 0}, tmp_path, studies.CONTEXT)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["trials"] == len(rows)
    for page in ("front.html", "report.html"):
        assert "<script>alert(1)" not in (tmp_path / page).read_text()
    ElementTree.parse(tmp_path / "front.svg")  # well formed
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_the_front_in_the_files_is_the_front_of_the_rows(
    written: tuple[list[Row], dict[str, int], Path],
) -> None:
    rows, picks, folder = written
    members = {row.number: row for row in rows if row.on_front}
    table = list(csv.DictReader(io.StringIO((folder / "front.csv").read_text())))
    assert {int(line["trial"]) for line in table} == set(members)
    for line in table:
        row = members[int(line["trial"])]
        assert float(line["energy_pj"]) == row.metrics["energy_pj"]  # exact: nothing is rounded in files
        assert line["compression.quantize_weights.bits"] == str(
            row.params["compression.quantize_weights.bits"]
        )
    accuracies = [float(line["validation_accuracy"]) for line in table]
    assert accuracies == sorted(accuracies, reverse=True)
    summary = json.loads((folder / "summary.json").read_text())
    assert [entry["trial"] for entry in summary["front"]] == [int(line["trial"]) for line in table]
    assert {name: entry["trial"] for name, entry in summary["picks"].items()} == picks
    assert sum(summary["states"].values()) == sum(summary["counts"].values()) == len(rows)
    assert len((folder / "trials.csv").read_text().splitlines()) == len(rows) + 1


def test_the_same_rows_write_the_same_bytes(
    studies: ModuleType, written: tuple[list[Row], dict[str, int], Path], tmp_path: Path
) -> None:
    rows, picks, folder = written
    context = studies.full_context(rows)
    of = Report(rows, OBJECTIVES, picks, context)
    again = [
        write_summary(rows, OBJECTIVES, picks, context, tmp_path / "summary.json"),
        *save(front.draw(rows, OBJECTIVES, picks, context), tmp_path, "front"),
        write_page(of, tmp_path / "report.html", whole=True),
    ]
    for path in again:
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path.name


def test_every_figure_of_the_page_is_also_a_picture(written: tuple[list[Row], dict[str, int], Path]) -> None:
    _, _, folder = written
    # significance: in a random study no trials differ in one width alone
    names = {"front", *(name for name, _ in FIGURES)} - {"significance"}
    found = {path.stem for path in (folder / "figures").iterdir()} | {"front"}
    assert found == names
    for name in names - {"front"}:
        assert (folder / "figures" / f"{name}.png").stat().st_size > 5_000
        ElementTree.parse(folder / "figures" / f"{name}.svg")


def test_the_charts_are_valid_plotly_and_hold_every_drawable_trial(studies: ModuleType) -> None:
    rows = studies.study(60)
    kinds = sort_out(rows, OBJECTIVES)
    of = Report(rows, OBJECTIVES, studies.picks(rows), studies.full_context(rows))
    charts = [chart for section in sections(of) for chart in section.charts]
    assert [chart.name for chart in charts][:3] == ["front-memory_bits", "front-energy_pj", "front-parallel"]
    assert len({chart.name for chart in charts}) == len(charts)
    for chart in charts:
        go.Figure(
            _without_roles({"data": chart.data, "layout": chart.layout})
        )  # plotly's own check of every key
    for chart in charts[:3]:
        numbers = {number for trace in chart.data for number in trace.get("customdata", [])}
        assert numbers == {row.number for row in kinds.drawable}


def _without_roles(node: object) -> object:
    """The page's script replaces roles by colours; plotly's check wants colours."""
    if isinstance(node, str) and node.startswith("@"):
        return "#000000"
    if isinstance(node, dict):
        return {key: _without_roles(entry) for key, entry in node.items()}
    return [_without_roles(entry) for entry in node] if isinstance(node, list) else node


def test_the_pages_need_no_network(written: tuple[list[Row], dict[str, int], Path]) -> None:
    _, _, folder = written
    for name in ("front.html", "report.html"):
        page = (folder / name).read_text().replace(_plotly(), "")
        for outside in ('src="http', "src='http", 'href="http', "@import", "<link", "url("):
            assert outside not in page, outside
        assert "default-src 'none'" in page


def test_the_report_says_why_trials_ended_and_how_to_run_each_member_again(
    studies: ModuleType,
    written: tuple[list[Row], dict[str, int], Path],
) -> None:
    rows, _, folder = written
    page = (folder / "report.html").read_text()
    for row in rows:
        if row.on_front:
            assert escape(command_of(row, studies.CONTEXT)) in page
        if row.state.startswith(("stopped", "failed")):
            assert f"ended: {row.state}" in page
    for heading in ("Front", "Accuracy", "Where the energy", "Bits and zeros", "Which classes", "Spikes", "Learning",
                    "How the search went", "What was stopped", "Published claims", "Run any of it again"):  # fmt: skip
        assert f"<h2>{heading}" in page


def test_what_accuracies_and_prices_were_measured_on_stands_under_the_front(studies: ModuleType) -> None:
    rows, told = studies.study(12), replace(studies.CONTEXT, counted="256 training samples")
    said = front.caption(rows, studies.OBJECTIVES, {}, told)
    assert "(accuracy on 359 validation samples; energy and latency on 256 training samples)" in said
    assert "training samples" not in front.caption(rows, studies.OBJECTIVES, {}, studies.CONTEXT)


def test_the_members_have_the_energy_of_the_worst_sample_beside_the_mean(studies: ModuleType) -> None:
    rows = studies.study(12)
    member = on_front(rows)[0]
    worst = [replace(each, metrics={**each.metrics, "worst_energy_pj": 7.5e6}) for each in [member]]
    table = members_table(worst, {}, studies.CONTEXT)
    assert "<th>energy</th><th>worst energy</th>" in table
    assert "<td>7.5 µJ</td>" in table


def test_the_picks_are_said_against_the_float_model(studies: ModuleType) -> None:
    small = {"validation_accuracy": 0.94, "memory_bits": 8192.0, "energy_pj": 100.0}
    large = {"validation_accuracy": 0.97, "memory_bits": 32 * 8192.0, "energy_pj": 50.0}
    rows = [Row(7, "complete", metrics=small, on_front=True)]
    context = replace(studies.CONTEXT, baseline=Row(-1, "complete", metrics=large))
    table = picks_table(rows, {"knee": 7, "gone": 8}, context)
    for words in ("94.0%", "−3.0 points", "1 KiB", "32× less", "100 pJ", "2× more", "float model"):
        assert words in table
    assert "less" not in picks_table(rows, {"knee": 7}, studies.CONTEXT)
    assert picks_table(rows, {}, context) == ""


def test_the_terminal_table_names_picks_and_leaves_out_what_nobody_measured(studies: ModuleType) -> None:
    rows = studies.study(60)
    picks = studies.picks(rows)
    text = _printed(rows, picks)
    assert "◆ knee" in text
    assert f"#{picks['knee']}" in text
    assert "latency" in text
    bare = [Row(4, "complete", {"plan.scheme": "ptq"}, POINT, on_front=True)]
    assert "latency" not in _printed(bare, {})
    assert "90.0%" in _printed(bare, {})
    assert "none finished" in _printed([], {})


def test_the_terminal_table_says_how_surely_a_member_is_on_the_front() -> None:
    once = Row(
        4, "complete", metrics={**POINT, "finalist_seeds": 1.0, "front_probability": 1.0}, on_front=True
    )
    thrice = Row(
        5, "complete", metrics={**POINT, "finalist_seeds": 3.0, "front_probability": 0.4}, on_front=True
    )
    assert "on front" in _printed([once, thrice], {})
    assert "40.0%" in _printed([once, thrice], {})
    assert "on front" not in _printed([once], {})


def test_a_long_front_is_thinned_but_keeps_its_ends_and_picks() -> None:
    rows = [
        Row(n, "complete", metrics={"validation_error": n / 1000, "memory_bits": 1e4 - n}, on_front=True)
        for n in range(200)
    ]
    text = _printed(rows, {"knee": 101})
    for number in (0, 101, 199):
        assert f"#{number} " in text
    assert "more members in front.csv" in text
    assert len(text.splitlines()) < 36


def _printed(rows: list[Row], picks: dict[str, int]) -> str:
    stream = io.StringIO()
    Console(file=stream, width=140).print(tables.front_table(rows, picks))
    return stream.getvalue()


def test_a_row_is_reproduced_by_its_parameters_quoted_for_the_shell(studies: ModuleType) -> None:
    row = Row(3, "complete", {"net.beta": 0.5, "net.sizes": [1, 2], "plan.mode": None, "data.augment": True})
    assert command_of(row, studies.CONTEXT) == (
        "python -m pipeline.run +experiment=quickstart study=single name=again-3 net.beta=0.5 'net.sizes=[1,2]' "
        "plan.mode=null data.augment=true"
    )
    assert command_of(Row(3, "complete", detail={"command": "make it"}), studies.CONTEXT) == "make it"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write_whole(tmp_path / "front.csv", "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_front_csv([], target)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["front.csv"]


def test_objectives_are_required(studies: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="objectives must name at least one metric"):
        writing.write([], [], {}, tmp_path, studies.CONTEXT)
