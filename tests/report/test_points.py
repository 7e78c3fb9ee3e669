"""Rows are sorted out by what can be drawn of them, and intervals are those of the books."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.detail import interval, layers, sparsity, weight_bits
from pipeline.report.points import marks, shown_metric, sort_out, staircase, tally, value
from pipeline.types import Row

POINT = {"validation_error": 0.1, "memory_bits": 100.0}


def test_every_row_is_of_exactly_one_kind() -> None:
    rows = [
        Row(0, "complete", metrics=POINT, on_front=True),
        Row(1, "cached", metrics=POINT),
        Row(2, "complete", metrics=POINT, feasible=False),
        Row(3, "stopped:silent"),
        Row(4, "complete", metrics={**POINT, "memory_bits": math.nan}),
        Row(5, "running", metrics=POINT),
        Row(6, "complete", metrics={"memory_bits": 1.0}),
    ]
    kinds = sort_out(rows, ["validation_error", "memory_bits"])
    numbers = [
        [row.number for row in kind] for kind in (kinds.front, kinds.dominated, kinds.infeasible, kinds.ended)
    ]
    assert numbers == [[0], [1], [2], [3, 4, 5, 6]]
    assert list(tally(rows)) == ["cached", "complete", "running", "stopped:silent"]


def test_an_error_stands_for_its_accuracy_and_the_other_way_round() -> None:
    assert value(Row(0, "complete", metrics={"validation_error": 0.25}), "validation_accuracy") == 0.75
    assert value(Row(0, "complete", metrics={"test_accuracy": 0.75}), "test_error") == 0.25
    assert math.isnan(value(Row(0, "complete"), "test_accuracy"))
    assert shown_metric("validation_error") == "validation_accuracy"
    assert shown_metric("energy_pj") == "energy_pj"


def test_one_trial_chosen_by_two_selectors_has_both_marks() -> None:
    assert marks({"knee": 3, "cheapest": 3, "smallest": 1}) == {3: "knee, cheapest", 1: "smallest"}


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1)), max_size=30))
def test_the_staircase_only_rises_and_reaches_the_best(points: list[tuple[float, float]]) -> None:
    xs, ys = staircase([x for x, _ in points], [y for _, y in points])
    assert xs == sorted(xs)
    assert ys == sorted(ys)
    assert not points or ys[-1] == max(y for _, y in points)
    for x, y in points:
        assert max((h for at, h in zip(xs, ys, strict=True) if at <= x), default=-1) >= y


def test_wilsons_interval_by_hand() -> None:
    # 90 of 100: centre (0.9 + 3.8415/200) / (1 + 3.8415/100) = 0.88520, half-width 0.05961: [0.8256, 0.9448].
    spread = interval(Row(0, "complete", metrics={"test_accuracy": 0.9}), "test_accuracy", samples=100)
    assert spread is not None
    assert (spread.low, spread.high) == (pytest.approx(0.8256, abs=1e-4), pytest.approx(0.9448, abs=1e-4))
    assert spread.origin == "100 samples"


def test_over_seeds_the_mean_and_the_half_width_of_the_row_count() -> None:
    metrics = {
        "test_accuracy": 0.9,
        "test_accuracy_mean": 0.92,
        "test_accuracy_interval": 0.05,
        "finalist_seeds": 3.0,
    }
    spread = interval(Row(0, "complete", metrics=metrics), "test_accuracy", samples=100)
    assert spread is not None
    assert (spread.middle, spread.low, spread.high) == pytest.approx((0.92, 0.87, 0.97))
    assert spread.origin == "3 seeds"


def test_there_is_no_interval_without_samples_or_a_share() -> None:
    assert interval(Row(0, "complete", metrics={"test_accuracy": 0.9}), "test_accuracy") is None
    assert interval(Row(0, "complete", metrics={"loss": 3.0}), "loss", samples=10) is None
    assert interval(Row(0, "complete"), "test_accuracy", samples=10) is None


def test_detail_is_read_with_care() -> None:
    broken = Row(
        0, "complete", detail={"layers": [{"name": "fc1"}, "nonsense", {"bits": "four", "energy_pj": None}]}
    )
    assert [layer.name for layer in layers(broken)] == ["fc1", "layer 1"]
    assert weight_bits(broken) == ""
    mixed = Row(
        0,
        "complete",
        detail={"layers": [{"bits": 2, "energy_pj": 5.0}, {"bits": 8, "parts": {"dram": 3, "add": 1}}]},
    )
    assert weight_bits(mixed) == "2-8"
    assert [layer.energy_pj for layer in layers(mixed)] == [5.0, 4.0]
    assert layers(mixed)[0].parts == {"total": 5.0}
    asked = Row(
        0,
        "complete",
        params={"compression.quantize_weights.bits": 4, "compression.prune_weights.sparsity": 0.8},
    )
    assert (weight_bits(asked), sparsity(asked)) == ("4", 0.8)
