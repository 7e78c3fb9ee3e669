"""What happened while the study ran: the mark where compression begins, and ticks that are whole numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.report.curves import (
    curve_charts,
    draw_curves,
    draw_states,
    learning_words,
    meaning,
    states_charts,
)
from pipeline.study import attempt
from pipeline.types import STORED, Row, TrialEnded


def row(number: int, float_epochs: int, epochs: int, stored: bool = True) -> Row:
    """A trial whose float model took `float_epochs` of its epochs."""
    history = tuple(
        (
            step,
            {"validation_accuracy": 0.1 * step, **({STORED: 1.0} if stored and step <= float_epochs else {})},
        )
        for step in range(1, epochs + 1)
    )
    return Row(number, "complete", history=history)


def seams(rows: list[Row]) -> list[float]:
    (chart,) = curve_charts(rows, {})
    return [shape["x0"] for shape in chart.layout["shapes"]]  # type: ignore[attr-defined]


def test_a_line_stands_between_the_last_float_epoch_and_the_first_compressed_one() -> None:
    assert seams([row(0, 2, 4), row(1, 2, 5)]) == [2.5]
    assert seams([row(0, 2, 4), row(1, 3, 5)]) == [2.5, 3.5], "the epochs of the float model were searched"
    assert seams([row(0, 2, 4, stored=False), row(1, 2, 4)]) == [2.5], (
        "who trained the model has no mark of its own"
    )
    assert "Dotted" in learning_words([row(0, 2, 4)])


def test_trials_without_a_stored_model_or_without_epochs_after_it_have_none() -> None:
    for rows in ([row(0, 0, 4)], [row(0, 4, 4)]):
        assert seams(rows) == []
        assert "Dotted" not in learning_words(rows)


def test_what_is_counted_has_no_tick_between_whole_numbers() -> None:
    rows = [row(0, 1, 3)]
    (learning,), (states,) = curve_charts(rows, {}), states_charts(rows)
    assert learning.layout["xaxis"]["dtick"] == states.layout["xaxis"]["dtick"] == 1  # type: ignore[index]
    for figure in (draw_curves(rows, {}), draw_states(rows)):
        assert figure is not None
        assert all(tick == round(tick) for tick in figure.axes[0].get_xticks())
    (many,) = curve_charts([row(0, 1, 40)], {})
    assert "dtick" not in many.layout["xaxis"]  # type: ignore[operator]


def endings(kind: type[TrialEnded]) -> Iterator[str]:
    """The states of all errors that end a trial by name."""
    for below in kind.__subclasses__():
        if below.__module__.startswith("pipeline."):
            yield below.state
        yield from endings(below)


OTHERS = ("complete", "cached", "running", "lost", "failed:memory", "failed:killed", "failed:KeyError")


@pytest.mark.parametrize("state", sorted({*endings(TrialEnded), *OTHERS, *attempt.REPEATABLE}))
def test_every_state_that_a_trial_can_have_is_explained(state: str) -> None:
    assert meaning(state)
    (chart,) = states_charts([Row(0, state)])
    assert chart.data[0]["hovertext"] != [f"{state}: "]  # type: ignore[index]
