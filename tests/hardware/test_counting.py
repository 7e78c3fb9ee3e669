"""Which samples prices are about: drawn once, as stored, bounded."""

import pytest
import torch

from pipeline.hardware.counting import Counting
from pipeline.types import Dataset, Split


def numbered(count: int, begin: int) -> Split:
    x = torch.arange(begin, begin + count, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Split(x, torch.arange(count))


def doubled(x, y, generator):
    return x * 2, y


DATA = Dataset(
    "numbers", 50, (1, 1, 1), 1, numbered(50, 0), numbered(20, 100), numbered(10, 200),
    encode=lambda x, generator: x.float().unsqueeze(0), digest="", augment=doubled,
)  # fmt: skip


def seen(counting: Counting) -> list[float]:
    """The samples of a shuffled pass, which would change those of the training split."""
    batches = counting.of(DATA).batches(counting.split, 7, seed=3, shuffle=True)
    return sorted(float(value) for batch in batches for value in batch.x.flatten())


def test_training_samples_are_counted_as_they_are_stored() -> None:
    assert seen(Counting("train")) == list(range(50))
    assert seen(Counting("validation")) == list(range(100, 120))


def test_a_bound_draws_the_same_samples_for_every_trial_and_not_the_first_ones() -> None:
    drawn = seen(Counting("train", 10))
    assert drawn == seen(Counting("train", 10))
    assert len(set(drawn)) == 10
    assert drawn != list(range(10)), "recordings may lie sorted by class"
    assert seen(Counting("train", 51)) == list(range(50))


def test_only_a_pass_over_the_whole_split_has_counted_all() -> None:
    assert Counting().every("validation")
    assert not Counting(samples=3).every("validation")
    assert not Counting("train").every("validation")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"split": "test"}, r"^split must be one of validation, train, but got 'test'"),
        ({"samples": 0}, r"^samples must be at least 1, or null for all, but got 0"),
    ],
)
def test_the_test_split_and_no_samples_are_refused(fields, said) -> None:
    with pytest.raises(ValueError, match=said):
        Counting(**fields)
