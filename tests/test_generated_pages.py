"""Tables of docs/ are what their commands write from the committed results: generated, never typed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import fspinn_docs
import gesture_docs
import gesture_layers
import gesture_records
import simulator_docs
import speed_docs
import tinysnn_docs
from docs_block import put

from pipeline.data.compare import real_clips, table


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])


def test_a_block_is_replaced_and_nothing_else():
    page = "before\n<!-- a: written by `x` -->\nold\n<!-- a end -->\nafter"
    assert put(page, "a", "x", ["one", "two"]) == page.replace("old", "one\ntwo")
    with pytest.raises(SystemExit, match="once"):
        put(page, "b", "x", [])


@pytest.mark.parametrize("name", speed_docs.BLOCKS)
def test_speed(name):
    path, lines = speed_docs.BLOCKS[name]
    page = path.read_text(encoding="utf-8")
    assert put(page, name, speed_docs.COMMAND, lines()) == page, f"run {speed_docs.COMMAND}"


@pytest.mark.parametrize("data", gesture_docs.TITLES)
def test_gestures(data):
    page = gesture_docs.PAGE.read_text(encoding="utf-8")
    book = gesture_records.Book(gesture_docs.RESULTS)
    made = put(page, data, gesture_docs.COMMAND, gesture_docs.table(book, data))
    made = put(made, f"{data}-layers", gesture_docs.COMMAND, gesture_docs.layers(book, data))
    made = put(made, "counted", gesture_docs.COMMAND, gesture_docs.counted())
    assert made == page, f"run {gesture_docs.COMMAND}"


def test_the_front_of_a_method_is_what_no_other_of_it_beats():
    spots = [(3.0, 90.0), (1.0, 50.0), (2.0, 80.0), (2.0, 70.0), (4.0, 85.0)]
    assert gesture_docs.front(spots) == [(1.0, 50.0), (2.0, 80.0), (3.0, 90.0)]
    assert gesture_docs.stairs(spots) == ([1.0, 2.0, 2.0, 3.0, 3.0], [50.0, 50.0, 80.0, 80.0, 90.0])


def test_the_parts_of_an_energy_are_all_of_it():
    found = gesture_layers.energy()
    for name, pieces in gesture_layers.parts(found).items():
        assert sum(pieces.values()) == pytest.approx(found["networks"][name]["energy_pj"] / 1e6)


def test_fspinn():
    page = fspinn_docs.PAGE.read_text(encoding="utf-8")
    assert fspinn_docs.page(page, *fspinn_docs.read()) == page, f"run {fspinn_docs.COMMAND}"


def test_exploration():
    page = tinysnn_docs.PAGE.read_text(encoding="utf-8")
    cells = json.loads(tinysnn_docs.RESULTS.read_text(encoding="utf-8"))["cells"]
    made = put(page, "searches", tinysnn_docs.COMMAND, tinysnn_docs.search_lines(cells))
    made = put(made, "significance", tinysnn_docs.COMMAND, tinysnn_docs.significance_lines(cells))
    assert made == page, f"run {tinysnn_docs.COMMAND}"


CLIPS = os.environ.get("PIPELINE_DATA")
NO_CLIPS = pytest.mark.skipif(
    not CLIPS or not Path(CLIPS, "dvs-gesture-clips").is_dir(), reason="PIPELINE_DATA has no real clips"
)


@NO_CLIPS
def test_the_simulator_as_its_page_says():
    """One gesture of the table, both lines; all of them take half a minute (below)."""
    page = simulator_docs.PAGE.read_text(encoding="utf-8")
    label = 9
    real = real_clips(Path(CLIPS or ""))
    lines = table({label: real[label]}, {label: simulator_docs.recordings(label)}).splitlines()
    assert all(line in page for line in lines if line), f"run {simulator_docs.COMMAND}"
    assert simulator_docs.PICTURE.stat().st_size > 100_000


@NO_CLIPS
@pytest.mark.slow
def test_the_whole_page_of_the_simulator():
    page = simulator_docs.PAGE.read_text(encoding="utf-8")
    real = real_clips(Path(CLIPS or ""))
    simulated = {label: simulator_docs.recordings(label) for label in range(11)}
    made = put(page, "simulator", simulator_docs.COMMAND, simulator_docs.summary(real, simulated))
    lines = table(real, simulated).splitlines()
    assert put(made, "simulator-gestures", simulator_docs.COMMAND, lines) == page
