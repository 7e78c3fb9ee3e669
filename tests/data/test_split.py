import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.split import count_of, digest_of, stratified
from pipeline.types import Split


@given(st.lists(st.integers(0, 4), min_size=10, max_size=200), st.floats(0.1, 0.9), st.integers(0, 99))
def test_parts_are_disjoint_and_hold_the_classes_in_their_shares(labels, share, seed):
    y = torch.tensor(labels)
    first = max(1, int(share * len(y)))
    a, b = stratified(y, (first, len(y) - first), seed)
    assert sorted(torch.cat([a, b]).tolist()) == list(range(len(y)))
    for label in y.unique():
        exact = (y == label).sum().item() * first / len(y)
        assert abs((y[a] == label).sum().item() - exact) <= 5  # one per class at the seam


def test_shares_by_hand():
    y = torch.tensor([0] * 60 + [1] * 40)
    a, b = stratified(y, (50, 10), seed=3)
    assert y[a].bincount().tolist() == [30, 20]
    assert y[b].bincount().tolist() == [6, 4]


def test_the_seed_decides():
    y = torch.arange(300) % 10
    assert torch.equal(stratified(y, (40,), 1)[0], stratified(y, (40,), 1)[0])
    assert not torch.equal(stratified(y, (40,), 1)[0], stratified(y, (40,), 2)[0])


def test_more_samples_than_there_are_is_refused():
    with pytest.raises(ValueError, match="sum to at most 5 samples"):
        stratified(torch.zeros(5), (4, 2), 0)


def test_amounts_are_counts_or_fractions():
    assert count_of(7, 100, "validation") == 7
    assert count_of(0.25, 100, "validation") == 25
    for wrong in (0, 100, 1.0, -3):
        with pytest.raises(ValueError, match=r"^validation must be a fraction in \(0, 1\) or a count"):
            count_of(wrong, 100, "validation")


def test_the_digest_sees_samples_labels_shapes_and_order():
    x, y = torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2), torch.tensor([0, 1])
    base = Split(x, y)
    others = [
        [Split(x, y.flip(0))],
        [Split(x.flip(0), y)],
        [Split(x.view(2, 1, 4, 1), y)],
        [base, base],
    ]
    digests = {digest_of(splits) for splits in [[base], *others]}
    assert len(digests) == 5
    assert digest_of([Split(x.clone(), y.clone())]) == digest_of([base])
