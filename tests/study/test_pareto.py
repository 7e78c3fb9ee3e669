import hypothesis.strategies as st
import pytest
from hypothesis import given

from pipeline.study import pareto

points_2d = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20)


@given(points_2d)
def test_front_is_what_dominance_says(points):
    members = pareto.front(points)
    values = {points[i] for i in members}
    for p in points:
        beaten = any(pareto.dominates(q, p) for q in points)
        assert (p in values) == (not beaten)
    assert len(values) == len(members), "equal points keep one member"


@given(points_2d)
def test_rank_zero_is_the_front_and_ranks_are_ordered(points):
    ranks = pareto.ranks(points)
    for p, r in zip(points, ranks, strict=True):
        above = [s for q, s in zip(points, ranks, strict=True) if pareto.dominates(q, p)]
        assert r == (max(above) + 1 if above else 0)


def test_nan_is_never_on_the_front():
    assert pareto.front([(float("nan"), 0.0), (1.0, 1.0)]) == [1]


def test_hypervolume_by_hand():
    # In units of the reference (10, 10): points (.2, .5) and (.6, .1).
    # (1 - .2) * (1 - .5) + (1 - .6) * (.5 - .1) = .4 + .16
    assert pareto.hypervolume([(2, 5), (6, 1)], (10, 10)) == pytest.approx(0.56)
    assert pareto.hypervolume([(2, 5), (6, 1), (7, 6), (11, 0)], (10, 10)) == pytest.approx(0.56)
    assert pareto.hypervolume([], (10, 10)) == 0.0
    assert pareto.hypervolume([(1, 1, 1)], (2, 2, 2)) == pytest.approx(0.125)


def test_knee_of_a_bent_front_is_the_bend():
    assert pareto.knee([(0.0, 10.0), (1.0, 2.0), (10.0, 0.0)]) == 1
    assert pareto.knee([]) is None
