"""Tables of docs/ are what their commands write from the committed results: generated, never typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import gesture_docs
import gesture_records
import speed_docs
import tinysnn_docs
from docs_block import put


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
    assert made == page, f"run {gesture_docs.COMMAND}"


def test_exploration():
    page = tinysnn_docs.PAGE.read_text(encoding="utf-8")
    cells = json.loads(tinysnn_docs.RESULTS.read_text(encoding="utf-8"))["cells"]
    made = put(page, "searches", tinysnn_docs.COMMAND, tinysnn_docs.search_lines(cells))
    made = put(made, "significance", tinysnn_docs.COMMAND, tinysnn_docs.significance_lines(cells))
    assert made == page, f"run {tinysnn_docs.COMMAND}"
