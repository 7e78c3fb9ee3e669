import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.encode import Direct, Frames, Latency, Rate


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*values: int) -> torch.Tensor:
    """A batch of one-pixel images."""
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1)


def test_direct_current_is_the_intensity_at_every_step():
    x = Direct(3)(images(0, 64, 255), seeded())
    assert x.shape == (3, 3, 1, 1, 1)
    assert x.dtype == torch.float32
    assert torch.equal(x.view(3, 3), torch.tensor([[0, 0.25, 0.99609375]] * 3))  # exact: 8 fraction bits
    assert torch.allclose(Direct(1, white=255)(images(51, 255), seeded()).view(2), torch.tensor([0.2, 1.0]))


def test_direct_current_costs_the_memory_of_one_step():
    x = Direct(1000)(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), seeded())
    assert x.untyped_storage().nbytes() == 2 * 28 * 28 * 4


@pytest.mark.parametrize("draw", ["bernoulli", "poisson"])
def test_rate_of_spikes_is_proportional_to_intensity(draw):
    # mean 0.5 * 102 / 255 = 0.2 per step; 20,000 draws: standard error below sqrt(0.2 / 20000) = 0.0032
    x = Rate(20, max_rate=0.5, draw=draw)(images(*[102] * 1000), seeded())
    assert x.mean().item() == pytest.approx(0.2, abs=4 * 0.0032)
    assert torch.equal(x, x.round())
    assert x.max() >= 1


def test_black_never_fires_and_white_at_full_rate_always_does():
    x = Rate(50)(images(0, 255), seeded())
    assert x[:, 0].sum() == 0
    assert x[:, 1].sum() == 50


def test_rate_coding_follows_the_generator():
    x = images(*range(0, 250, 5))
    assert torch.equal(Rate(9)(x, seeded(4)), Rate(9)(x, seeded(4)))
    assert not torch.equal(Rate(9)(x, seeded(4)), Rate(9)(x, seeded(5)))


def test_latency_by_hand():
    # T = 5: white waits 0 of 4 steps; 128 waits 127 / 254 * 4 = 2 steps; 1 waits all 4; black never fires
    x = Latency(5)(images(255, 128, 1, 0), seeded()).view(5, 4)
    expected = torch.zeros(5, 4)
    expected[0, 0] = expected[2, 1] = expected[4, 2] = 1
    assert torch.equal(x, expected)


@given(st.integers(1, 40), st.integers(1, 254), st.lists(st.integers(0, 255), min_size=2, max_size=20))
def test_latency_fires_once_at_most_and_brighter_is_never_later(timesteps, darkest, values):
    x = Latency(timesteps, darkest)(images(*values), seeded()).view(timesteps, len(values))
    assert x.sum(0).tolist() == [float(v >= darkest) for v in values]
    fired = sorted((v, int(x[:, i].argmax())) for i, v in enumerate(values) if v >= darkest)
    steps = [step for _, step in fired]
    assert steps == sorted(steps, reverse=True)


def test_frames_put_time_first_and_keep_counts():
    stored = torch.arange(2 * 3 * 2 * 4 * 4).view(2, 3, 2, 4, 4).to(torch.uint8)
    x = Frames(3, scale=0.5)(stored, seeded())
    assert x.shape == (3, 2, 2, 4, 4)
    assert torch.equal(x[1, 0], stored[0, 1].float() / 2)


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        ("count", [0, 1, 2, 3, 6, 7, 12, 13, 100, 255]),
        ("root", [0, 1, 1, 2, 2, 3, 3, 4, 10, 16]),  # 1.41, 1.73, 2.45, 2.65, 3.46, 3.61, 10, 15.97
        ("binary", [0] + [1] * 9),
    ],
)
def test_what_a_network_sees_of_counts(values, seen):
    stored = torch.tensor([0, 1, 2, 3, 6, 7, 12, 13, 100, 255], dtype=torch.uint8).view(1, 1, 1, 1, 10)
    before = stored.clone()
    assert Frames(1, 0.25, values)(stored, seeded()).flatten().tolist() == [x / 4 for x in seen]
    assert torch.equal(stored, before)


def test_every_root_is_the_nearest_whole_number():
    stored = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 16, 16)
    roots = Frames(1, values="root")(stored, seeded()).flatten().tolist()
    # r is the nearest to the root of n where r^2 - r < n <= r^2 + r (n = (r + 1/2)^2 is no whole number)
    assert all(r * r - r < n <= r * r + r for n, r in enumerate(map(int, roots)) if n)
    assert roots[0] == 0


def test_frames_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"x must be \[B, 4, C, H, W\]"):
        Frames(4)(torch.zeros(1, 3, 2, 4, 4, dtype=torch.uint8), seeded())


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_frames_of_another_type_are_refused(dtype):
    """A count of 300, which int16 may hold, has no place in the table of what networks see."""
    with pytest.raises(ValueError, match=r"x must be uint8 counts, but got torch\."):
        Frames(4)(torch.full((1, 4, 2, 4, 4), 300, dtype=dtype), seeded())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Direct(0), r"^timesteps must be in \[1, 1000\], but got 0"),
        (lambda: Rate(4, max_rate=1.5), r"^max_rate must be in \(0, 1\], but got 1.5"),
        (lambda: Rate(4, draw="normal"), "^draw must be bernoulli or poisson, but got 'normal'"),
        (lambda: Latency(4, darkest=0), r"^darkest must be in \[1, 254\]"),
        (lambda: Frames(4, scale=0), "^scale must be above 0"),
        (lambda: Frames(4, values="mean"), "^values must be one of count, root, binary, but got 'mean'"),
    ],
)
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
