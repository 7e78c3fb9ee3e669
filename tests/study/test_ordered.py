from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import ClassVar

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.study import database
from pipeline.study.ordered import NoCandidate, Ordered, Search, fewest, significance
from pipeline.study.search import Outcome, Worker
from pipeline.study.spec import Study

BITS = {"w.bits": (2, 12), "n.mem": (4, 16), "n.thr": (2, 8)}
CHOICES = {"scheme": ["ptq", "itq"], "rounding": ["nearest", "stochastic", "truncation"]}


def model(need, bonus):
    """Accuracy 0.9 while every width is at least what it needs; each missing bit costs 3 points."""

    def ask(point):
        combination = (point.get("scheme"), point.get("rounding"))
        short = max(0, need["w.bits"] - bonus.get(combination, 0) - point["w.bits"])
        short += sum(max(0, need[path] - point[path]) for path in ("n.mem", "n.thr"))
        return 0.9 - 0.03 * short

    return ask


def counted(ask):
    asked = []

    def count(point):
        asked.append(dict(point))
        return ask(point)

    return count, asked


@settings(max_examples=60)
@given(
    st.tuples(st.integers(4, 12), st.integers(4, 16), st.integers(2, 8)),
    st.dictionaries(
        st.sampled_from(list(itertools.product(*CHOICES.values()))), st.integers(1, 2), max_size=6
    ),
)
def test_finds_the_fewest_bits_of_the_best_combination(widths, bonus) -> None:
    need = dict(zip(BITS, widths, strict=True))
    ask, asked = counted(model(need, bonus))
    found = Search(BITS, CHOICES, points=1.0).run(ask)
    assert found.params["w.bits"] == need["w.bits"] - max(bonus.values(), default=0)
    assert found.params["n.mem"] == need["n.mem"]
    assert found.params["n.thr"] == need["n.thr"]
    assert found.accuracy >= found.floor
    assert found.broken == ()
    # One for the reference, a bisection per width, and at most a bisection more per further combination.
    logs = [math.ceil(math.log2(high - low + 1)) for low, high in BITS.values()]
    # and one check of the assumption per width.
    assert len(asked) <= 1 + sum(logs) + 5 * 2 + 2 * sum(bonus.values()) + 3
    assert len({str(sorted(p.items())) for p in asked}) == len(asked), "a point was paid for twice"


def test_a_combination_that_is_no_better_costs_two_evaluations_at_most() -> None:
    ask, asked = counted(model({"w.bits": 5, "n.mem": 4, "n.thr": 2}, {}))
    Search({"w.bits": (2, 12)}, CHOICES).run(lambda p: ask({**p, "n.mem": 16, "n.thr": 8}))
    # 1 reference + 4 for the bisection of 11 widths + 5 combinations x (one bit fewer, and the same) + 1 check.
    assert len(asked) <= 1 + 4 + 5 * 2 + 1


def test_a_floor_that_nothing_reaches_is_answered_after_the_reference() -> None:
    ask, asked = counted(model({"w.bits": 2, "n.mem": 4, "n.thr": 2}, {}))
    with pytest.raises(NoCandidate, match=r"no candidate reaches 95\.0%: best is 90\.0% at bits=12, mem=16"):
        Search(BITS, {"rounding": ["nearest"]}, floor=0.95).run(ask)
    assert len(asked) == 1


def test_a_broken_assumption_is_found_and_said() -> None:
    # Bisection of [2, 9] asks 5 (fails), 7 (reaches), 6 (fails) and ends at 7; the check asks 5, which fails, too.
    assert fewest(lambda b: {5: 0.5, 6: 0.5}.get(b, 0.9), 2, 9, 0.8) == 7
    # Here 6 fails although 5 and 4 do not: of [3, 10] it asks 6 (fails), 8, 7 and ends at 7; the check finds 5, then 4.
    values = {6: 0.5, 3: 0.5}
    found = Search({"w.bits": (3, 10)}, {}).run(lambda p: values.get(p["w.bits"], 0.9))
    assert found.params == {"w.bits": 4}
    assert found.broken == ("w.bits: 5 bits reach the floor, 6 do not",)
    blind = Search({"w.bits": (3, 10)}, {}, check=False).run(lambda p: values.get(p["w.bits"], 0.9))
    assert blind.params == {"w.bits": 7}


class TestAsASampler:
    SPACE: ClassVar = {
        "w.bits": {"low": 2, "high": 12},
        "n.mem": {"low": 4, "high": 16},
        "rounding": {"choices": ["nearest", "stochastic"]},
    }

    def run(self, trials: int, folder: Path) -> optuna.Study:
        ask = model({"w.bits": 5, "n.mem": 9, "n.thr": 2}, {(None, "stochastic"): 1})
        spec = Study(trials, ("validation_error",), self.SPACE)
        ordered = Ordered({"w.bits": (2, 12), "n.mem": (4, 16)}, {"rounding": ["nearest", "stochastic"]})
        study = database.create(database.connect(f"sqlite:///{folder}/study.db"), "s", spec, {"config": 1})
        study.sampler = ordered.build(0)
        self.asked = 0

        def evaluate(params, report, number):
            self.asked += 1
            accuracy = ask({**params, "n.thr": 8})
            return Outcome({"validation_accuracy": accuracy, "validation_error": 1 - accuracy})

        Worker(spec, study, evaluate, lambda params: str(sorted(params.items()))).run()
        return study

    def test_the_study_finds_it_and_then_costs_nothing(self, tmp_path) -> None:
        study = self.run(40, tmp_path)
        last = study.get_trials()[-1].params
        assert last == {"w.bits": 4, "n.mem": 9, "rounding": "stochastic"}
        assert self.asked <= 18

    def test_it_resumes(self, tmp_path) -> None:
        self.run(6, tmp_path)
        study = self.run(40, tmp_path)
        assert study.get_trials()[-1].params == {"w.bits": 4, "n.mem": 9, "rounding": "stochastic"}
        assert self.asked <= 12


def test_significance_changes_one_width_at_a_time() -> None:
    ask = model({"w.bits": 5, "n.mem": 8, "n.thr": 3}, {})
    table = significance(ask, {"w.bits": 12, "n.mem": 16, "n.thr": 8}, {"w.bits": [6, 4], "n.mem": [8, 6]})
    assert table["w.bits"] == pytest.approx({6: 0.0, 4: 0.03})
    assert table["n.mem"] == pytest.approx({8: 0.0, 6: 0.06})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bits": {}}, "bits must name at least one width"),
        ({"bits": {"a": (8, 2)}}, r"bits\.a must have low <= high"),
        ({"points": -1.0}, "points must be >= 0"),
        ({"floor": 95.0}, r"floor must be in \(0, 1\)"),
    ],
)
def test_bad_values_name_the_field(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        Search(**{"bits": {"a": (2, 8)}, "choices": {}, **wrong})
