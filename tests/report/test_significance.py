"""What a width loses alone, read off the trials that differ in nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.report.significance import (
    draw_panels,
    draw_significance,
    significance,
    significance_charts,
    significance_table,
    write_significance_csv,
)
from pipeline.types import Row

BITS, MEMBRANE = "compression.quantize_weights.bits", "compression.quantize_neurons.membrane"


def row(number: int, accuracy: float, bits: int, membrane: int, rounding: str = "nearest") -> Row:
    params = {BITS: bits, MEMBRANE: membrane, "rounding": rounding, "net.hidden": 64}
    return Row(number, "complete", params, {"validation_accuracy": accuracy})


# Weights are lowered at 16-bit membranes (8, 5, 3, and 3 again with another rounding), membranes at 5-bit weights.
ROWS = [
    row(0, 0.90, 8, 16),
    row(1, 0.89, 5, 16),
    row(2, 0.70, 3, 16),
    row(3, 0.85, 3, 16, "stochastic"),
    row(4, 0.885, 5, 10),
    row(5, 0.89, 5, 13),
    row(6, 0.40, 5, 6),
    Row(7, "failed:nan", {BITS: 2, MEMBRANE: 16, "rounding": "nearest", "net.hidden": 64}),
]


def test_lost_is_counted_from_the_widest_of_the_trials_that_differ_in_nothing_else() -> None:
    lost = significance(ROWS)
    assert list(lost) == ["weights", "membrane"]
    assert lost["weights"] == pytest.approx({3: 0.20, 5: 0.01, 8: 0.0})
    assert lost["membrane"] == pytest.approx({6: 0.49, 10: 0.005, 13: 0.0, 16: 0.0})


def test_widths_that_an_isolated_plan_leaves_out_lose_nothing_and_are_not_counted() -> None:
    """Masks alone: floats, whatever width was suggested."""
    alone = [
        Row(
            n,
            "complete",
            {BITS: bits, "plan.scheme": "isolated", "plan.order": order},
            {"validation_accuracy": 0.9},
        )
        for order in ("prune_first", "quantize_first")
        for n, bits in enumerate((2, 4, 8))
    ]
    assert significance(alone[:3]) == {}
    assert list(significance(alone)) == ["weights"]


def test_a_study_without_such_trials_has_no_picture(tmp_path: Path) -> None:
    lost = significance(ROWS[:2] + ROWS[3:4])
    assert lost == {}
    assert draw_significance(lost) is None
    assert significance_charts(lost) == []
    assert significance_table(lost) == ""
    stale = tmp_path / "significance.csv"
    stale.write_text("old")
    assert write_significance_csv(lost, stale) == []
    assert not stale.exists()


def test_page_paper_and_file_say_the_same(tmp_path: Path) -> None:
    lost = significance(ROWS)
    (chart,) = significance_charts(lost)
    assert [trace["name"] for trace in chart.data] == ["weights", "membrane"]
    assert chart.data[0]["x"] == [3, 5, 8]
    assert chart.data[0]["y"] == pytest.approx([20, 1, 0])
    figure = draw_significance(lost)
    assert figure is not None
    drawn = [line for line in figure.axes[0].lines if line.get_label() == "weights"]
    assert list(drawn[0].get_ydata()) == pytest.approx([20, 1, 0])
    assert "<td>20.00</td>" in significance_table(lost)
    (path,) = write_significance_csv(lost, tmp_path / "significance.csv")
    assert "weights,3,20.0000\n" in path.read_text()


def test_a_group_looks_alike_in_every_panel() -> None:
    lost = significance(ROWS)
    figure = draw_panels({"one": lost, "other": {"membrane": lost["membrane"]}})
    colours = [
        [line.get_color() for line in ax.lines if line.get_label() == "membrane"] for ax in figure.axes
    ]
    assert colours[0] == colours[1] != []
