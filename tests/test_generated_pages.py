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

from pipeline.data.compare import real_clips


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


def test_gestures():
    page = made = gesture_docs.PAGE.read_text(encoding="utf-8")
    for name, lines in gesture_docs.blocks(gesture_records.Book(gesture_docs.RESULTS)).items():
        made = put(made, name, gesture_docs.COMMAND, lines)
    assert made == page, f"run {gesture_docs.COMMAND}"


def result(accuracy, energy, **more):
    prices = {
        "energy_pj": energy,
        "worst_energy_pj": 1.1 * energy,
        "latency_us": 2500.0,
        "memory_bits": 16384.0,
    }
    return {"test_accuracy": accuracy, "sparsity": 0.5, "zeros": {"conv1": 0.5}, **prices, **more}


@pytest.fixture
def recorded(tmp_path):
    """A book as `--data dvs_gesture` leaves it after six cells, one of them silent."""
    book = gesture_records.Book(tmp_path / "cells.json")
    parts = {"conv1": {"dram": 1.5e6, "pads": 0.2e6}, "fc1": {"dram": 0.3e6}}
    for seed, method, bits, level, found in (
        (0, "isolated", 8, 0.0, result(0.97, 2e6, parts=parts)),
        (0, "isolated", 2, 0.0, result(0.95, 1e6)),
        (0, "joint", 8, 0.8, result(0.96, 1.5e6)),
        (1, "joint", 8, 0.8, result(0.94, 1.5e6)),
        (0, "joint", 8, 0.975, {"ended": "silent: lif1 does not fire"}),
        (2, "joint", 8, 0.8, {"ended": "silent: lif1 does not fire"}),
    ):  # fmt: skip
        cell = gesture_records.Cell("dvs_gesture", seed, method, bits, level)
        book.add(cell, {**vars(cell), **found})
    return book


def test_the_grid_of_widths_and_zeros_has_a_line_per_width(recorded):
    """8 bit: 97 % with none pruned; 96, 94 % and silence at 80 %: 95.0 +- 1.4. 1.5 of 2 uJ are 0.750 of them."""
    lines = gesture_docs.grids(recorded, "dvs_gesture")
    assert "Test accuracy, %, joint, over zeros asked for (1 to 3 seeds):" in lines
    assert "| 8 | 97.0 |  | 95.0 ± 1.4, 1 silent |  |  |  |  | silent |" in lines
    assert "| 2 | 95.0 |  |  |  |  |  |  |  |" in lines
    assert "| 8 | 1.000 |  | 0.750 |  |  |  |  |  |" in lines
    assert gesture_docs.present(recorded) == {"dvs_gesture": "DVS Gesture"}
    assert (
        gesture_docs.grids(recorded, "nmnist")
        == gesture_docs.table(recorded, "nmnist")
        == [gesture_docs.NONE]
    )


def test_the_table_has_the_prices_of_each_network(recorded):
    """2e6 pJ are 2.0 uJ, 2.2 at worst; 2,500 us are 2.50 ms; 16,384 bits are 2.0 KiB."""
    lines = gesture_docs.table(recorded, "dvs_gesture")
    assert "| fine-tuned, widths alone | 8 | 0 % | 50.0 % | 97.0 | 2.0 | 2.2 | 2.50 | 2.0 | 1 |" in lines


def test_recordings_get_a_row_of_pictures_of_their_own(recorded):
    drawn = gesture_layers.draw(recorded, gesture_docs.present(recorded))
    left, right = drawn.axes
    assert left.get_ylabel() == "DVS Gesture: energy of an inference (µJ)"
    # dram of both layers, buffer, pads, arithmetic, metadata, leakage
    assert [bar.get_height() for bar in left.patches] == pytest.approx([1.8, 0.0, 0.2, 0.0, 0.0, 0.0])
    assert right.get_ylabel() == "DVS Gesture: zeros (%)"
    assert len(gesture_docs.draw(recorded).axes) == 3


def words_of(figure):
    return " ".join(figure.texts[0].get_text().split())


def test_the_captions_say_how_much_larger_the_published_network_is_than_each_that_is_drawn(recorded):
    """1,831,296 weights; 112,184 are a 16th of them and 12 x 50 + 32 x 300 + 10 x 800 = 18,200 a 101st."""
    assert [gesture_docs.weights(data) for data in ("gesture", "nmnist")] == [112_184, 18_200]
    said = (
        "a network 16 times as large as that of simulated gestures, 101 times as that of N-MNIST, 50 epochs"
    )
    assert said in words_of(gesture_docs.draw(gesture_records.Book(gesture_docs.RESULTS)))
    assert "joint (50 epochs" in words_of(gesture_docs.draw(recorded)), "its own row is the published size"


def test_the_bars_say_that_h10_counts_the_metadata_in_dram_as_dram(recorded):
    """8 bit: 1.8 of 2.0 uJ are the DRAM's own, 92 % with its metadata."""
    cell = gesture_records.Cell("dvs_gesture", 0, "isolated", 8)
    recorded.add(cell, recorded.found[cell.key] | {"dram_share": 0.92})
    drawn = words_of(gesture_layers.draw(recorded, gesture_docs.present(recorded)))
    assert (
        "in claim H10 what of it moves in DRAM is DRAM's: of DVS Gesture, 8 bit, it takes 90 % here, 92 % there."
        in drawn
    )
    book = gesture_records.Book(gesture_docs.RESULTS)
    drawn = words_of(gesture_layers.draw(book, gesture_docs.present(book)))
    assert "of simulated gestures, 8 bit, it takes 75 % here, 88 % there." in drawn


def test_the_front_of_a_method_is_what_no_other_of_it_beats():
    spots = [(3.0, 90.0), (1.0, 50.0), (2.0, 80.0), (2.0, 70.0), (4.0, 85.0)]
    assert gesture_docs.front(spots) == [(1.0, 50.0), (2.0, 80.0), (3.0, 90.0)]
    assert gesture_docs.stairs(spots) == ([1.0, 2.0, 2.0, 3.0, 3.0], [50.0, 50.0, 80.0, 80.0, 90.0])


def test_the_parts_of_an_energy_are_all_of_it():
    kept = [cell for cell in gesture_records.Book(gesture_docs.RESULTS).found.values() if "parts" in cell]
    assert kept
    for cell in kept:
        whole = sum(sum(pieces.values()) for pieces in cell["parts"].values())
        assert whole == pytest.approx(cell["energy_pj"])


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
    lines = simulator_docs.gestures({label: real[label]}, {label: simulator_docs.recordings(label)})
    assert lines[0].startswith("rate_khz: events per ms"), "what the columns are is said before the table"
    assert "| |" not in "".join(lines)
    assert all(line in page for line in lines if line), f"run {simulator_docs.COMMAND}"
    assert simulator_docs.PICTURE.stat().st_size > 100_000


def test_how_hard_simulated_gestures_are_as_the_page_says():
    page = simulator_docs.PAGE.read_text(encoding="utf-8")
    made = simulator_docs.difficulty()
    assert put(page, "simulator-difficulty", simulator_docs.COMMAND, made) == page
    linear, *spiking = [float(line.split("|")[2].split("±")[0]) for line in made[2:]]
    assert linear < 60 < 90 < min(spiking)
    assert max(spiking) > 95


@NO_CLIPS
@pytest.mark.slow
def test_the_whole_page_of_the_simulator():
    page = simulator_docs.PAGE.read_text(encoding="utf-8")
    real = real_clips(Path(CLIPS or ""))
    simulated = {label: simulator_docs.recordings(label) for label in range(11)}
    made = put(page, "simulator", simulator_docs.COMMAND, simulator_docs.summary(real, simulated))
    lines = simulator_docs.gestures(real, simulated)
    assert put(made, "simulator-gestures", simulator_docs.COMMAND, lines) == page
