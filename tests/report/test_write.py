"""What a study leaves: whole files, right numbers, and no failure on the rows that real studies have."""

import csv
import importlib.util
import io
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import plotly.graph_objects as go
import pytest
from rich.console import Console

from pipeline import report
from pipeline.report.charts import front_charts
from pipeline.report.context import command_of
from pipeline.report.files import write_whole
from pipeline.report.points import sort_out
from pipeline.report.tables import write_front_csv
from pipeline.types import Row


def _studies() -> ModuleType:
    spec = importlib.util.spec_from_file_location("report_studies", Path(__file__).with_name("studies.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


studies = _studies()
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


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize(
    "objectives", [studies.OBJECTIVES, ("validation_error", "memory_bits"), ("validation_error",)]
)
def test_every_file_is_written_whatever_the_rows(
    name: str, objectives: tuple[str, ...], tmp_path: Path
) -> None:
    rows = AWKWARD[name]
    paths = report.write(rows, objectives, {"knee": 0}, tmp_path, studies.CONTEXT)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(
        path.name for path in paths if path.parent == tmp_path
    )
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["trials"] == len(rows)
    page = (tmp_path / "front.html").read_text()
    assert "<script>alert(1)" not in page
    ElementTree.parse(tmp_path / "front.svg")  # well formed
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_the_front_in_the_files_is_the_front_of_the_rows(tmp_path: Path) -> None:
    rows = studies.study(60, seed=3)
    picks = studies.picks(rows)
    report.write(rows, studies.OBJECTIVES, picks, tmp_path, studies.CONTEXT)
    members = {row.number: row for row in rows if row.on_front}
    table = list(csv.DictReader(io.StringIO((tmp_path / "front.csv").read_text())))
    assert {int(line["trial"]) for line in table} == set(members)
    for line in table:
        row = members[int(line["trial"])]
        assert float(line["energy_pj"]) == row.metrics["energy_pj"]  # exact: nothing is rounded in files
        assert line["compression.quantize_weights.bits"] == str(
            row.params["compression.quantize_weights.bits"]
        )
    accuracies = [float(line["validation_accuracy"]) for line in table]
    assert accuracies == sorted(accuracies, reverse=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [entry["trial"] for entry in summary["front"]] == [int(line["trial"]) for line in table]
    assert {name: entry["trial"] for name, entry in summary["picks"].items()} == picks
    assert sum(summary["states"].values()) == sum(summary["counts"].values()) == 60
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 61


def test_the_same_rows_write_the_same_bytes(tmp_path: Path) -> None:
    rows = studies.study(20)
    one, two = (
        report.write(rows, studies.OBJECTIVES, studies.picks(rows), tmp_path / name, studies.CONTEXT)
        for name in ("one", "two")
    )
    for left, right in zip(one, two, strict=True):
        assert left.read_bytes() == right.read_bytes(), left.name


def test_the_charts_are_valid_plotly_and_hold_every_drawable_trial() -> None:
    rows = studies.study(60)
    kinds = sort_out(rows, studies.OBJECTIVES)
    charts = front_charts(studies.OBJECTIVES, kinds, studies.picks(rows))
    assert [chart.name for chart in charts] == ["front-memory_bits", "front-energy_pj", "front-parallel"]
    for chart in charts:
        go.Figure(
            _without_roles({"data": chart.data, "layout": chart.layout})
        )  # plotly's own check of every key
        numbers = {number for trace in chart.data for number in trace.get("customdata", [])}
        assert numbers == {row.number for row in kinds.drawable}


def _without_roles(node: object) -> object:
    """The page's script replaces roles by colours; plotly's check wants colours."""
    if isinstance(node, str) and node.startswith("@"):
        return "#000000"
    if isinstance(node, dict):
        return {key: _without_roles(entry) for key, entry in node.items()}
    return [_without_roles(entry) for entry in node] if isinstance(node, list) else node


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    rows = studies.study(20)
    report.write(rows, studies.OBJECTIVES, studies.picks(rows), tmp_path, studies.CONTEXT)
    page = (tmp_path / "front.html").read_text()
    for outside in ('src="http', "src='http", 'href="http', "@import", "<link"):
        assert outside not in page.replace(report.page._plotly(), ""), outside  # type: ignore[attr-defined]
    assert "default-src 'none'" in page


def test_the_terminal_table_names_picks_and_leaves_out_what_nobody_measured() -> None:
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
    Console(file=stream, width=140).print(report.front_table(rows, picks))
    return stream.getvalue()


def test_a_row_is_reproduced_by_its_parameters_quoted_for_the_shell() -> None:
    row = Row(3, "complete", {"net.beta": 0.5, "net.sizes": [1, 2], "plan.mode": None, "data.augment": True})
    assert command_of(row, studies.CONTEXT) == (
        "python -m pipeline.run +experiment=quickstart study=single net.beta=0.5 'net.sizes=[1,2]' "
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


def test_objectives_are_required(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="objectives must name at least one metric"):
        report.write([], [], {}, tmp_path, studies.CONTEXT)
