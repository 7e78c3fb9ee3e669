import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compiled import random_bits
from pipeline.data.augment import Augment, _moved, _thin
from pipeline.data.encode import Frames
from pipeline.types import Dataset, Split

GESTURES = (0, 2, 1, 6, 5, 4, 3, 7, 8, 9, 10)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def frames(batch=4, steps=3, side=8, seed=0):
    return torch.randint(0, 6, (batch, steps, 2, side, side), generator=seeded(seed), dtype=torch.uint8)


def test_a_flip_mirrors_columns_and_swaps_the_labels_it_must_swap():
    x, y = frames(batch=11), torch.arange(11)
    flipped, labels = Augment(flip=1, flip_labels=GESTURES)(x, y, seeded())
    assert torch.equal(flipped, x.flip(-1))
    # right and left wave trade places; clockwise right becomes counter-clockwise left; clapping stays clapping
    assert labels.tolist() == [0, 2, 1, 6, 5, 4, 3, 7, 8, 9, 10]


def test_only_flipped_samples_change_their_label():
    x, y = frames(batch=200, steps=1), torch.full((200,), 3)
    out, labels = Augment(flip=0.5, flip_labels=GESTURES)(x, y, seeded())
    was_flipped = torch.tensor([torch.equal(o, i.flip(-1)) for o, i in zip(out, x, strict=True)])
    assert 70 < was_flipped.sum() < 130
    assert torch.equal(labels, torch.where(was_flipped, 6, 3))


def test_a_shift_moves_every_frame_of_a_sample_alike_and_fills_with_nothing():
    x = torch.zeros(50, 2, 1, 9, 9, dtype=torch.uint8)
    x[:, :, :, 4, 4] = 7
    out, _ = Augment(shift=3)(x, torch.zeros(50, dtype=torch.int64), seeded())
    assert (out.sum(dim=(2, 3, 4)) == 7).all()
    assert torch.equal(out[:, 0], out[:, 1])
    places = {tuple(p) for p in out[:, 0, 0].nonzero()[:, 1:].tolist()}
    assert len(places) > 20
    assert all(1 <= row <= 7 and 1 <= column <= 7 for row, column in places)


def test_a_quarter_turn_is_a_quarter_turn():
    x = frames(batch=3)
    still = torch.zeros(3, 2, dtype=torch.int64)
    turned = _moved(x, torch.zeros(3, dtype=torch.bool), torch.full((3,), torch.pi / 2), still)
    assert torch.equal(turned, torch.rot90(x, 1, dims=(-2, -1)))


def test_small_rotations_keep_the_middle():
    x = torch.zeros(20, 1, 1, 31, 31, dtype=torch.uint8)
    x[..., 14:17, 14:17] = 9
    out, _ = Augment(rotate=10)(x, torch.zeros(20, dtype=torch.int64), seeded())
    assert torch.equal(out[..., 15, 15], x[..., 15, 15])
    assert ((out.sum(dim=(1, 2, 3, 4)) - 81).abs() <= 36).all()


def test_dropping_takes_each_event_alone():
    # share drawn from [0, 0.5]: mean 0.25, so 0.75 of the events remain on average
    x = torch.full((400, 1, 2, 8, 8), 4, dtype=torch.uint8)
    out, _ = Augment(drop=0.5)(x, torch.zeros(400, dtype=torch.int64), seeded())
    assert out.float().mean().item() / 4 == pytest.approx(0.75, abs=0.04)
    assert len(out[0].unique()) > 1


@pytest.mark.parametrize(
    ("values", "events", "seen"),
    [
        ("count", 100, 75.0),  # s is drawn from [0, 0.5]: 100 (1 - E[s])
        ("root", 100, 8.62),  # 10 E[sqrt(1 - s)] = 10 * 2/3 * (1 - 0.5^1.5) / 0.5
        ("binary", 1, 0.75),  # 1 - E[s]
        ("binary", 2, 0.917),  # 1 - E[s^2] = 1 - 1/12: a pixel of two events is off where both went
    ],
)
def test_events_are_dropped_before_roots_and_ones_are_made_of_them(values, events, seen):
    samples = 8000
    split = Split(torch.full((samples, 1, 1, 1, 1), events, dtype=torch.uint8), torch.zeros(samples).long())
    encode, augment = Frames(1, 1.0, values), Augment(drop=0.5)
    data = Dataset("one", 1, (1, 1, 1), 1, split, split, split, encode, "", augment)
    x = torch.cat([batch.x.flatten() for batch in data.batches("train", 500, seed=0, shuffle=True)])
    assert x.mean().item() == pytest.approx(seen, rel=0.015)


def test_thinning_is_one_draw_per_event_in_the_order_of_places():
    """Rows longer than what is listed at once (1,024 places), and not a multiple of it."""
    before = np.random.default_rng(0).integers(0, 4, (3, 2500), dtype=np.uint8)
    bars = (np.array([0.1, 0.6, 1.0]) * 2.0**53).astype(np.uint64)
    rng = np.array([7], np.uint64)
    wanted = [
        [sum(random_bits(rng) < bar for _ in range(n)) for n in x]
        for x, bar in zip(before, bars, strict=True)
    ]
    seed, found = np.array([7], np.uint64), before.copy()
    _thin(found, bars, seed)
    assert np.array_equal(found, np.array(wanted))
    assert seed == rng, "the next call goes on with other numbers"


@given(st.floats(0, 1), st.integers(0, 5), st.floats(0, 180), st.floats(0, 0.9), st.integers(0, 1000))
def test_events_are_never_invented_and_the_input_stays_as_it_is(flip, shift, rotate, drop, seed):
    x = frames(seed=seed)
    before = x.clone()
    augment = Augment(flip=flip, shift=shift, rotate=rotate, drop=drop)
    out, labels = augment(x, torch.arange(4), seeded(seed))
    again, _ = augment(x, torch.arange(4), seeded(seed))
    assert torch.equal(x, before)
    assert torch.equal(out, again)
    assert out.dtype == torch.uint8
    assert out.shape == x.shape
    assert out.max() <= x.max()
    assert labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": 1.5}, r"^flip must be in \[0, 1\], but got 1.5"),
        ({"shift": -1}, r"^shift must be at least 0"),
        ({"rotate": 181}, r"^rotate must be in \[0, 180\] degrees"),
        ({"drop": 1}, r"^drop must be in \[0, 1\)"),
        ({"flip_labels": (1, 2, 0)}, r"^flip_labels must pair labels so that two flips give the label back"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Augment(**settings)
