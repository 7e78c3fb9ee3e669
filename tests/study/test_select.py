import pytest

from pipeline.study.select import Budget, Knee, OneStandardError, Reward, Within, picks
from pipeline.types import Row


def member(number, accuracy, memory, energy=1.0, **more):
    metrics = {
        "validation_accuracy": accuracy,
        "validation_error": 1 - accuracy,
        "memory_bits": memory,
        "energy_pj": energy,
        **more,
    }
    return Row(number, "complete", metrics=metrics, on_front=True)


FRONT = [member(0, 0.97, 800, 80.0), member(1, 0.965, 400, 30.0), member(2, 0.90, 100, 10.0)]
FLOAT = member(-1, 0.972, 1600, 100.0)


def test_within_takes_the_cheapest_that_is_accurate_enough():
    assert Within(1.0).pick(FRONT, FLOAT).number == 1  # floor 96.2 %
    assert Within(0.5).pick(FRONT, FLOAT).number == 0  # floor 96.7 %
    assert Within(10.0).pick(FRONT, FLOAT).number == 2


def test_within_says_what_the_best_is_when_nothing_reaches_the_floor():
    pick = Within(0.0).pick(FRONT, FLOAT)
    assert pick.number is None
    assert "no candidate reaches 97.2%" in pick.why
    assert "best is 97.0% in trial 0" in pick.why


def test_budget_takes_the_most_accurate_inside_every_bound():
    assert Budget({"memory_bits": 500}).pick(FRONT, None).number == 1
    assert Budget({"memory_bits": 500, "energy_pj": 20}).pick(FRONT, None).number == 2
    assert Budget({"memory_bits": 50}).pick(FRONT, None).number is None


def test_reward_goes_from_most_accurate_to_smallest_as_mu_grows():
    # mu = 0: accuracy alone; mu = 10: R = 0.97 - 5, 0.965 - 2.5, 0.90 - 0.625.
    assert Reward(mu=0.0).pick(FRONT, FLOAT).number == 0
    assert Reward(mu=10.0).pick(FRONT, FLOAT).number == 2


def test_one_standard_error_uses_seeds_when_known_else_the_binomial():
    # sqrt(0.97 * 0.03 / 1000) = 0.54 points: 96.5 % is within it.
    front = [member(0, 0.97, 800, 80.0, validation_samples=1000.0), *FRONT[1:]]
    assert OneStandardError().pick(front, None).number == 1
    front = [member(0, 0.97, 800, 80.0, validation_standard_error=0.001), *FRONT[1:]]
    assert OneStandardError().pick(front, None).number == 0


def test_an_empty_front_gets_an_answer_from_every_selector():
    selectors = {
        "k": Knee(),
        "w": Within(),
        "b": Budget({"memory_bits": 1}),
        "r": Reward(),
        "o": OneStandardError(),
    }
    assert all(pick.number is None and pick.why for pick in picks([], FLOAT, selectors).values())


def test_negative_points_are_refused():
    with pytest.raises(ValueError, match="points must be >= 0 percentage points, but got -1"):
        Within(-1)
