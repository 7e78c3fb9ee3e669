import hypothesis.strategies as st
from hypothesis import given

from pipeline.study.stopping import Median, Never, NonDominatedRank, epsilon_net_order


def errors(*values):
    return [{"validation_error": v} for v in values]


def test_rank_keeps_the_best_third_at_each_rung():
    rule = NonDominatedRank(eta=3)
    rivals = errors(0.1, 0.2, 0.3, 0.4, 0.5)  # with `now` six trials: two go on
    assert not rule.hopeless({"validation_error": 0.15}, rivals)
    assert rule.hopeless({"validation_error": 0.25}, rivals)
    assert rule.hopeless({"validation_error": 0.9}, rivals)


def test_rungs_by_epoch_and_by_images():
    rule = NonDominatedRank(eta=3)
    assert [rule.mark(step - 1, step) for step in (1, 2, 3, 4, 9)] == [1, None, 3, None, 9]
    images = NonDominatedRank(eta=3, first=1000, by="images", last=3000)
    assert images.mark(0, 900) is None
    assert images.mark(900, 1100) == 1000
    assert images.mark(900, 3200) == 3000, "of several rungs between two reports the last one counts"
    assert images.mark(8000, 9500) is None, "no rung after `last`"
    assert [Median(first=2).mark(step - 1, step) for step in (1, 2, 3)] == [None, 2, 3]
    assert [Median(first=500, every=500).mark(a, b) for a, b in ((0, 499), (0, 700), (700, 900))] == [
        None,
        500,
        None,
    ]


def test_rank_lets_the_first_at_a_rung_go_on():
    assert not NonDominatedRank(eta=3).hopeless({"validation_error": 0.9}, errors(0.1))


def test_rank_with_two_objectives_keeps_both_ends_of_a_front():
    rule = NonDominatedRank(objectives=("validation_error", "energy_pj"), eta=2)
    rivals = [{"validation_error": e, "energy_pj": p} for e, p in ((0.1, 9.0), (0.5, 8.0), (0.6, 9.5))]
    assert not rule.hopeless({"validation_error": 0.4, "energy_pj": 1.0}, rivals)


def test_a_trial_that_no_rival_dominates_is_spared_unless_the_paper_is_followed():
    """Nine cheaper networks on a falling line: all ten are the front, and a third of ten are three places."""
    names = ("validation_error", "energy_pj")
    rivals = [{"validation_error": 0.1 * i, "energy_pj": 10.0 - i} for i in range(10) if i != 3]
    third = {"validation_error": 0.3, "energy_pj": 7.0}
    assert not NonDominatedRank(objectives=names).hopeless(third, rivals)
    assert NonDominatedRank(objectives=names, spare=False).hopeless(third, rivals)
    beaten = {"validation_error": 0.31, "energy_pj": 7.5}
    assert NonDominatedRank(objectives=names).hopeless(beaten, [*rivals, third])
    broken = {"validation_error": float("nan"), "energy_pj": 7.0}
    assert NonDominatedRank(objectives=names).hopeless(broken, [*rivals, third])


def test_median_needs_rivals_and_stops_the_worse_half():
    rule = Median(least_rivals=3)
    assert not rule.hopeless({"validation_error": 0.9}, errors(0.1, 0.2))
    assert rule.hopeless({"validation_error": 0.9}, errors(0.1, 0.2, 0.3))
    assert not rule.hopeless({"validation_error": 0.2}, errors(0.1, 0.2, 0.3))


def test_never_never_stops():
    assert not Never().hopeless({"validation_error": 1.0}, errors(0.0) * 50)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12))
def test_epsilon_net_order_is_a_permutation_with_ranks_rising(points):
    order = epsilon_net_order(points)
    assert sorted(order) == list(range(len(points)))


def test_a_rival_without_the_metric_does_not_break_the_order():
    assert epsilon_net_order([(0.1, float("inf")), (0.2, 0.5), (0.1, 0.4)])[0] == 2
