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
from pipeline.study.ordered import NoCandidate, Search, fewest, significance
from pipeline.study.ordered_sampler import Ordered
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
    # and one check of the assumption per width, one evaluation of its fewest bits and one try to stay there.
    assert len(asked) <= 1 + sum(logs) + 5 * 2 + 2 * sum(bonus.values()) + 3 + 2 * 2
    assert len(asked) == found.evaluations
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

    def run(self, trials: int, folder: Path, **given) -> optuna.Study:
        ask = model({"w.bits": 5, "n.mem": 9, "n.thr": 2}, {(None, "stochastic"): 1})
        spec = Study(trials, ("validation_error",), self.SPACE)
        ordered = Ordered(self.SPACE, "w.bits", ["rounding"], **given)
        study = database.create(database.connect(f"sqlite:///{folder}/study.db"), "s", spec, {"config": 1})
        study.sampler = ordered.build(0)
        self.asked = 0

        def evaluate(params, report, number):
            self.asked += 1
            accuracy = ask({**params, "n.thr": 8})
            return Outcome({"validation_accuracy": accuracy, "validation_error": 1 - accuracy})

        Worker(spec, study, evaluate, lambda params: str(sorted(params.items()))).run()
        self.said = ordered.ended(study)
        return study

    def test_the_study_ends_when_the_search_does(self, tmp_path) -> None:
        study = self.run(40, tmp_path)
        assert "90.0% at bits=4, mem=9, rounding=stochastic (floor 89.0%)" in self.said
        assert self.asked == len(study.get_trials()) <= 18

    def test_it_resumes(self, tmp_path) -> None:
        self.run(6, tmp_path)
        assert self.said is None
        self.run(40, tmp_path)
        assert "bits=4, mem=9, rounding=stochastic" in self.said
        assert self.asked <= 12

    def test_a_floor_that_nothing_reaches_ends_the_study_after_the_widest_formats(self, tmp_path) -> None:
        self.run(40, tmp_path, floor=0.95)
        assert self.asked == 2  # both roundings
        assert self.said == "no candidate reaches 95.0%: best is 90.0% at bits=12, mem=16, rounding=nearest"

    def test_idle_workers_go_on_as_if_the_points_at_work_reached_the_floor(self, tmp_path) -> None:
        study = self.run(6, tmp_path)
        spec = Study(40, ("validation_error",), self.SPACE)
        points = []
        for _ in range(3):  # three workers that ask before any of them has told
            points.append(spec.axes.suggest(study.ask()))
        assert len({str(sorted(point.items())) for point in points}) == 3

    def test_layers_are_lowered_together_and_then_one_by_one(self) -> None:
        need = {"w.bits.a": 4, "w.bits.b": 6, "n.mem": 7}

        def ask(point):
            short = sum(max(0, bits - point[path]) for path, bits in need.items())
            return 0.9 - 0.03 * short + 0.001 * (point["decay"] == "shift")

        space = {
            "n.mem": {"low": 4, "high": 16}, "w.bits.a": {"low": 2, "high": 8}, "w.bits.b": {"low": 2, "high": 8},
            "rounding": {"choices": ["nearest", "stochastic"]}, "decay": {"choices": ["fixed_point", "shift"]},
        }  # fmt: skip
        search = Ordered(space, "w.bits", ["rounding"]).search
        assert list(search.bits) == ["w.bits.a", "w.bits.b", "n.mem"]
        found = search.run(ask)
        assert found.params == {**need, "rounding": "nearest", "decay": "shift"}
        assert found.significance == pytest.approx({"n.mem": 0.09})

    def test_choices_that_optuna_knows_by_labels_are_searched_as_well(self, tmp_path) -> None:
        space = {"w.bits": {"low": 2, "high": 4}, "later": {"choices": [None, [2, 1], 25]}}
        spec = Study(20, ("validation_error",), space)
        ordered = Ordered(space, "w.bits", [])
        study = database.create(database.connect(f"sqlite:///{tmp_path}/study.db"), "s", spec, {"config": 1})
        study.sampler = ordered.build(0)
        seen = []

        def evaluate(params, report, number):
            seen.append(params["later"])
            accuracy = 0.9 + 0.01 * (params["later"] == [2, 1])
            return Outcome({"validation_accuracy": accuracy, "validation_error": 1 - accuracy})

        Worker(spec, study, evaluate, lambda params: str(sorted(params.items()))).run()
        assert {trial.state.name for trial in study.get_trials()} == {"COMPLETE"}
        assert seen[0] is None
        assert "91.0% at bits=2, later=[2, 1]" in ordered.ended(study)

    @pytest.mark.parametrize(
        ("space", "message"),
        [
            ({"w.bits": {"low": 2, "high": 8, "when": {"a": [1]}}}, r"space\.w\.bits must have no `when`"),
            ({"w.bits": {"low": 0.1, "high": 0.9}}, r"space\.w\.bits must be whole numbers or choices"),
            (
                {"w.bits": {"low": 2, "high": 16, "step": 2}},
                r"space\.w\.bits\.step must be 1 with sampler=ordered: it bisects, but got 2",
            ),
            ({"net.hidden": {"low": 2, "high": 8}}, "weights must begin a width of the study's space"),
        ],
    )
    def test_a_space_that_it_cannot_search_is_refused(self, space, message) -> None:
        with pytest.raises(ValueError, match=message):
            Ordered(space, "w.bits", [])


def test_the_least_significant_width_is_lowered_first_and_at_once() -> None:
    ask, asked = counted(model({"w.bits": 5, "n.mem": 9, "n.thr": 2}, {}))
    found = Search(BITS, {}).run(ask)
    assert found.significance == pytest.approx({"n.mem": 0.15, "n.thr": 0.0})
    order = [path for point in asked for path in ("n.mem", "n.thr") if point[path] not in (16, 8)]
    assert order[:2] == ["n.mem", "n.thr"]  # what each loses alone
    assert order[2] == "n.mem"  # n.thr is at its 2 bits already
    plain, as_given = counted(model({"w.bits": 5, "n.mem": 9, "n.thr": 2}, {}))
    assert Search(BITS, {}, by_significance=False).run(plain).params == found.params
    assert len(asked) <= len(as_given) + 1


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
        ({"together": 2}, r"together must be in \[1, 1\]"),
    ],
)
def test_bad_values_name_the_field(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        Search(**{"bits": {"a": (2, 8)}, "choices": {}, **wrong})
