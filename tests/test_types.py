import pytest
import torch

from pipeline.data.encode import Direct, Frames, Latency, Rate
from pipeline.types import Batch, Dataset, Split, require, samples_at_once


def test_require_states_the_rule_and_what_came():
    with pytest.raises(ValueError, match=r"^bits must be in \[2, 32\], but got 1\.$"):
        require(False, "bits", "be in [2, 32]", 1)


def test_batches_are_the_same_for_the_same_seed_and_cover_every_sample_once():
    split = Split(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), torch.arange(10))
    data = Dataset(
        "ten", 10, (1, 1, 1), 2, split, split, split,
        encode=lambda x, generator: x.float().unsqueeze(0).expand(2, *x.shape), digest="",
    )  # fmt: skip
    first = list(data.batches("train", 4, seed=1, shuffle=True))
    again = list(data.batches("train", 4, seed=1, shuffle=True))
    assert [b.x.shape[1] for b in first] == [4, 4, 2]
    assert all(torch.equal(a.y, b.y) and torch.equal(a.x, b.x) for a, b in zip(first, again, strict=True))
    labels = torch.cat([Batch(*b).y for b in first])
    assert not torch.equal(labels, torch.arange(10))
    assert torch.equal(labels.sort().values, torch.arange(10))


@pytest.mark.parametrize("name", ["train", "validation", "test"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_only_shuffled_training_batches_are_augmented(name, shuffle):
    """Nothing but training sees changed samples, in whatever order the others are asked for."""
    split = Split(torch.zeros(6, 2, 1, 2, 2, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64))
    data = Dataset("six", 1, (1, 2, 2), 2, split, split, split, Frames(2), "", lambda x, y, _: (x + 1, y))
    seen = torch.cat([batch.x for batch in data.batches(name, 4, seed=0, shuffle=shuffle)], dim=1)
    assert bool(seen.any()) == (shuffle and name == "train")


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("encode", [Direct(3), Frames(3, 0.5), Latency(3), Rate(3)])
def test_a_small_split_encoded_at_once_gives_the_batches_of_a_large_one(encode, shuffle, monkeypatch):
    """What draws (Rate) is never encoded at once: its numbers come batch by batch."""
    each = (3, 2, 4, 5) if isinstance(encode, Frames) else (2, 4, 5)
    x = torch.randint(0, 255, (11, *each), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split, calls = Split(x, torch.arange(11)), []

    def counted(x, generator):
        calls.append(len(x))
        return encode(x, generator)

    counted.by_sample = getattr(encode, "by_sample", False)
    data = Dataset("few", 11, (2, 4, 5), 3, split, split, split, counted, "")
    few = list(data.batches("train", 4, seed=5, shuffle=shuffle))
    assert calls == ([11] if isinstance(encode, Direct | Frames) else [4, 4, 3])
    monkeypatch.setattr("pipeline.types._FEW", 0)
    monkeypatch.setattr("pipeline.types._SMALL", 0)
    many = list(data.batches("train", 4, seed=5, shuffle=shuffle))
    assert [len(b.y) for b in few] == [len(b.y) for b in many] == [4, 4, 3]
    for one, other in zip(few, many, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.y, other.y)
        assert (one.x.stride(0) == 0) == (other.x.stride(0) == 0), "constant input stays one copy"


def test_a_batch_of_an_evaluation_fits_a_small_machine():
    """28 x 28 in 25 steps: 256 together; 20 steps of 2 x 128 x 128: 2^24 / 655,360 = 25; never less than one."""
    assert samples_at_once(25 * 28 * 28) == 256
    assert samples_at_once(20 * 2 * 128 * 128) == 25
    assert samples_at_once(1 << 30) == 1
