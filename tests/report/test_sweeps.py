"""Accuracy over bits and over sparsity: the best of each method at each value, by hand."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest

from pipeline.report.context import Context
from pipeline.report.front import Scene
from pipeline.report.sweeps import draw_front_by_method, draw_sweep, method_of, sweep, sweep_charts
from pipeline.types import Row

OBJECTIVES = ("validation_error", "energy_pj")
BITS, SPARSITY = "compression.quantize_weights.bits", "compression.prune_weights.sparsity"


def row(number: int, accuracy: float, bits: int, sparsity: float, mode: str = "joint", **plan: object) -> Row:
    params = {BITS: bits, SPARSITY: sparsity, "plan.scheme": "qat", "plan.mode": mode, **plan}
    metrics = {"validation_error": 1 - accuracy, "energy_pj": 10.0 * bits + number}
    return Row(number, "complete", params, metrics, on_front=number == 0)


ROWS = [
    row(0, 0.95, 2, 0.0),
    row(1, 0.90, 2, 0.9),
    row(2, 0.97, 8, 0.0),
    row(3, 0.80, 8, 0.9, "cumulative"),
    row(4, 0.96, 8, 0.5, "isolated", **{"plan.order": "quantize_first"}),
    row(5, 0.85, 4, 0.9, "isolated", **{"plan.order": "prune_first"}),
    replace(row(6, 0.40, 2, 0.0), params={BITS: 2, SPARSITY: 0.0, "plan.scheme": "ptq"}),
]


def scene(published: str = "") -> Scene:
    return Scene.of(ROWS, OBJECTIVES, {}, Context("made-up", "", "", published=published))


def lines(knob: str, published: str = "") -> dict[str, tuple[list[float], list[float]]]:
    shown = sweep(scene(published), knob)
    assert shown is not None
    return {line.name: line.best for line in shown.lines}


def test_each_line_joins_the_best_of_its_method() -> None:
    found = lines("bits")
    assert list(found) == ["post-training", "isolated", "cumulative", "joint"]
    assert found["joint"] == ([2, 8], [pytest.approx(95), pytest.approx(97)])  # not the 90 % at 2 bit
    assert found["post-training"] == ([2], [pytest.approx(40)])


def test_isolated_trials_count_only_for_the_knob_that_acted() -> None:
    assert lines("bits")["isolated"] == ([8], [pytest.approx(96)])  # trial 5 pruned and did not quantize
    assert lines("sparsity")["isolated"] == ([pytest.approx(90)], [pytest.approx(85)])


def test_sparsities_are_percent_and_rise() -> None:
    zeros, heights = lines("sparsity")["joint"]
    assert zeros == [0, pytest.approx(90)]
    assert heights == [pytest.approx(97), pytest.approx(90)]


def test_published_series_lie_beside_their_own_kind() -> None:
    found = lines("bits", "dvs_gesture_schaefer_2023")
    bits, heights = found["published: joint"]
    assert bits == [2, 3, 4, 6, 8]
    assert heights[0] == pytest.approx(97.57)
    zeros, low = lines("sparsity", "dvs_gesture_schaefer_2023")["published: cumulative"]
    assert zeros[-1] == pytest.approx(97.5)
    assert low[-1] < low[0]


def test_a_method_looks_the_same_in_every_picture_whichever_others_a_study_tried() -> None:
    only = ("joint", "cumulative")
    few = [each for each in ROWS if method_of(each) in only]
    looks: dict[str, set[object]] = {name: set() for name in only}
    for rows in (ROWS, few):
        context = Context("made-up", "", "", published="dvs_gesture_schaefer_2023")
        for chart in sweep_charts(Scene.of(rows, OBJECTIVES, {}, context)):
            for trace in chart.data:
                if trace["name"] in only and trace["mode"] == "lines+markers":
                    looks[trace["name"]].add((trace["marker"]["color"], trace["marker"]["symbol"]))  # type: ignore[index]
    assert {name: len(found) for name, found in looks.items()} == {"joint": 1, "cumulative": 1}
    assert looks["joint"] != looks["cumulative"]


def test_a_published_series_has_the_hollow_symbol_of_its_method() -> None:
    for chart in sweep_charts(scene("dvs_gesture_schaefer_2023"))[:2]:
        signs = {trace["name"]: trace["marker"]["symbol"] for trace in chart.data}  # type: ignore[index]
        for method in ("joint", "cumulative"):
            assert signs[f"published: {method}"] == f"{signs[method]}-open"


def test_page_and_paper_show_the_same_and_every_trial_can_be_opened() -> None:
    charts = {chart.name: chart for chart in sweep_charts(scene())}
    assert set(charts) == {"accuracy-over-bits", "accuracy-over-sparsity", "front-methods"}
    numbers = {n for trace in charts["front-methods"].data for n in trace.get("customdata", ())}  # type: ignore[attr-defined]
    assert numbers == {row.number for row in ROWS}
    assert draw_sweep(scene(), "bits") is not None
    assert draw_front_by_method(scene()) is not None


def test_the_fronts_of_methods_have_the_papers_points_beside_them() -> None:
    with_paper = scene("dvs_gesture_schaefer_2023")
    (chart,) = (chart for chart in sweep_charts(with_paper) if chart.name == "front-methods")
    *_, last = chart.data
    assert last["name"] == "published: joint"
    assert len(last["x"]) == 40, "the joint networks: the paper tells no energies of the others"  # type: ignore[arg-type]
    figure = draw_front_by_method(with_paper)
    assert figure is not None
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert "published: joint" in [text.get_text() for text in legend.get_texts()]
    named = [str(trace["name"]) for chart in sweep_charts(scene()) for trace in chart.data]
    assert not [name for name in named if name.startswith("published")]


def test_members_of_a_methods_front_are_opaque_and_in_the_legend_with_their_symbol() -> None:
    figure = draw_front_by_method(scene())
    assert figure is not None
    drawn = {line.get_label(): line for line in figure.axes[0].get_lines() if line.get_alpha() is None}
    assert set(drawn) == {"post-training", "isolated", "cumulative", "joint"}
    assert list(drawn["joint"].get_ydata()) == [
        pytest.approx(95),
        pytest.approx(97),
    ]  # trial 1 is beaten: faint
    assert len(drawn["cumulative"].get_xdata()) == 1, "a single trial is a member, and is seen"
    assert all(line.get_marker() != "None" for line in drawn.values())


def test_trials_that_ended_without_a_result_are_counted_by_state_under_the_pictures() -> None:
    """They would have been low, or at nothing: a line that is silent about them looks better than its method."""
    silent = [replace(row(7 + n, 0.0, 2, 0.975), state="stopped:silent", metrics={}) for n in range(2)]
    unused = replace(
        row(9, 0.0, 2, 0.9, "isolated", **{"plan.order": "prune_first"}), state="failed:nan", metrics={}
    )
    told = Scene.of([*ROWS, *silent, unused], OBJECTIVES, {}, Context("made-up", "", ""))
    words = {chart.name: chart.words for chart in sweep_charts(told)}
    assert words["accuracy-over-bits"].endswith("Not drawn, without a result: 2 stopped:silent.")
    for name in ("accuracy-over-sparsity", "front-methods"):
        assert words[name].endswith("Not drawn, without a result: 1 failed:nan, 2 stopped:silent.")
    assert not [chart.words for chart in sweep_charts(scene()) if "Not drawn" in chart.words]


def test_a_study_without_widths_methods_or_finished_trials_has_none_of_it() -> None:
    bare = [replace(each, params={"net.hidden": 10 * each.number}) for each in ROWS]
    for rows in (bare, []):
        empty = Scene.of(rows, OBJECTIVES, {}, Context("made-up", "", ""))
        assert sweep_charts(empty) == []
        assert draw_sweep(empty, "bits") is None
        assert draw_front_by_method(empty) is None


def test_methods_are_named_by_the_plan(studies: ModuleType) -> None:
    assert {method_of(row) for row in studies.study()} == {"post-training", "fine-tuned"}
    assert method_of(Row(0, "complete", {"plan.scheme": "in_training"})) == "in training"
    assert method_of(Row(0, "complete", {"plan.scheme": "cumulative"})) == "cumulative", (
        "one axis for all of it"
    )
    assert method_of(Row(0, "complete")) == ""
