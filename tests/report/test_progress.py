"""What a study says while it runs: counts, and the time left from the pace of its last trials."""

import io

import pytest
from rich.console import Console

from pipeline.report import progress
from pipeline.report.progress import StudyProgress, clock, counted
from pipeline.types import Row


def row(number, state="complete"):
    return Row(number, state, {}, {"validation_accuracy": 0.9}, feasible=True)


@pytest.fixture
def shown(monkeypatch):
    """A study of 40 trials on a clock that the test sets; `at` is told (second, trials ended) and gives the line."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    study = StudyProgress("digits", 40, Console(file=out, width=200, force_terminal=False))

    def at(second, ended):
        now[0] = 1000.0 + second
        study.update([row(n) for n in range(ended)])
        return out.getvalue().splitlines()[-1]

    return at


def test_the_first_trial_does_not_count_for_the_pace(shown):
    """The first takes 60 s (it trains the float model), the others 5 s each: with 4 done, 36 x 5 s = 3:00 are left."""
    assert "0:00 spent" in shown(0, 0)
    assert "1:00 spent" in shown(60, 1)
    assert "1:05 spent" in shown(65, 2)
    assert "about 3:05 left" in shown(70, 3)
    assert "about 3:00 left" in shown(75, 4)


def test_a_change_of_pace_is_noticed_within_twenty_trials(shown):
    """10 trials of 10 s, then 20 of 6 s: the 10 left take 60 s, not the 73 of the mean of all."""
    for n in range(11):
        shown(10 * n, n)
    for n in range(11, 30):
        shown(100 + 6 * (n - 10), n)
    assert "about 1:00 left" in shown(100 + 6 * 20, 30)


def test_what_an_earlier_run_finished_is_not_this_runs_pace(shown):
    """Resumed with 30 done: 31 after 50 s, then 5 s each; at 33 there are 7 x 5 s left."""
    assert "0:00 spent" in shown(0, 30)
    shown(50, 31)
    shown(55, 32)
    assert "about 0:35 left" in shown(60, 33)


def test_the_end_says_what_was_spent(shown):
    shown(0, 38)
    assert "2:05 spent" in shown(125, 40)


def test_hours_are_shown_where_there_are_any():
    assert [clock(s) for s in (65, 7384, -3)] == ["1:05", "2:03:04", "0:00"]


def test_what_follows_the_search_is_counted_too(monkeypatch):
    """Plain lines: none within five seconds, none twice."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with counted("finalists", Console(file=out, width=80, force_terminal=False)) as say:
        for second, done in ((0, 0), (3, 1), (6, 2), (8, 3), (14, 3), (20, 3)):
            now[0] = 1000.0 + second
            say(done, 9)
    assert [line for line in out.getvalue().splitlines() if "/" in line] == [
        "finalists: 2/9",
        "finalists: 3/9",
    ]
