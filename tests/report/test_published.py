"""The papers' own points: as published, with their source, drawn beside a study's front."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest

from pipeline.nets.stdp_counts import memory
from pipeline.report.charts import front_charts
from pipeline.report.front import Scene, caption, draw, panels
from pipeline.report.published import load, tables
from pipeline.report.sweeps import sweep


def test_every_table_names_its_source_and_has_points() -> None:
    assert tables()
    for name in tables():
        table = load(name)
        assert table is not None
        assert table.source
        assert table.note
        for point in table.points:
            assert 0 < point.metrics["test_accuracy"] <= 1


def test_the_gesture_table_is_the_published_one() -> None:
    table = load("dvs_gesture_schaefer_2023")
    assert table is not None
    joint = {point.name: point.metrics for point in table.points if point.name.startswith("joint")}
    assert (len(joint), len(table.points)) == (40, 75)
    ratio = joint["joint, 8 bit, 80% zeros"]["energy_pj"] / joint["joint, 2 bit, 0% zeros"]["energy_pj"]
    assert ratio == pytest.approx(1.457, abs=5e-4)  # the abstract's 45 % more energy: 13.977 / 9.593
    assert joint["joint, 4 bit, 95% zeros"]["test_accuracy"] == 0.8576


def test_the_memory_of_the_mnist_table_is_what_the_model_of_memory_says() -> None:
    """n = 100: 784 x 100 weights of 32 bits, four shared numbers, and per neuron theta, twice 32 + 3 bits."""
    table = load("mnist_diehl_cook_2015")
    assert table is not None
    first = table.points[0].metrics
    assert first["memory_bits"] == 784 * 100 * 32 + 4 * 32 + 100 * (32 + 2 * (32 + 3))
    assert first["dense_memory_bits"] == (784 * 100 + 2 * 100 * 100) * 32
    for neurons, point in zip((100, 400, 1600, 6400), table.points, strict=True):
        held = memory(784, neurons, True, 5, {})
        assert (point.metrics["memory_bits"], point.metrics["dense_memory_bits"]) == (
            held.stored_bits,
            held.dense_bits,
        )


def test_an_unknown_table_is_refused_with_the_known_ones() -> None:
    assert load("") is None
    with pytest.raises(ValueError, match="published must be one of dvs_gesture_schaefer_2023"):
        load("nature_2030")


def test_only_points_with_both_coordinates_are_drawn(studies: ModuleType) -> None:
    rows = studies.study(30)
    context = replace(studies.CONTEXT, published="dvs_gesture_schaefer_2023")
    scene = Scene.of(rows, studies.OBJECTIVES, studies.picks(rows), context)
    published = {
        chart.name: [len(trace["x"]) for trace in chart.data if trace.get("name") == "published"]  # type: ignore[arg-type]
        for chart in front_charts(scene)
    }
    assert published == {"front-memory_bits": [], "front-energy_pj": [40]}  # memory was not published
    figure = draw(rows, studies.OBJECTIVES, studies.picks(rows), context)
    assert any("published" in str(ax.get_legend_handles_labels()[1]) for ax in figure.axes)


def test_the_costs_of_another_network_are_in_no_picture_and_squeeze_none(studies: ModuleType) -> None:
    """Points at 10 mJ beside a study of 0.3 mJ left a tenth of the axis to the study."""
    rows, picks = studies.study(30), studies.picks(studies.study(30))
    alone = Scene.of(rows, studies.OBJECTIVES, picks, studies.CONTEXT)
    other = replace(studies.CONTEXT, published="dvs_gesture_schaefer_2023", published_alike=False)
    beside = Scene.of(rows, studies.OBJECTIVES, picks, other)
    assert front_charts(beside) == front_charts(alone)
    assert panels(beside) == panels(alone)
    assert "Schaefer" not in caption(rows, studies.OBJECTIVES, picks, other)
    shown = sweep(beside, "sparsity")
    assert shown is not None
    assert [line.name for line in shown.lines if line.published]
    assert "other data or another network" in shown.source
