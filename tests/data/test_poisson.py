"""Event-driven Poisson trains: the right rate, the right intervals, and one form equal to the other."""

import numpy as np
import pytest
import torch

from pipeline.data.poisson import Poisson


def image(*levels):
    return torch.tensor(levels, dtype=torch.uint8).reshape(1, 1, 1, -1)


def trains(encoding, level, count, seed=0):
    """[T, count] spikes of `count` pixels of one intensity."""
    x = torch.full((1, 1, 1, count), level, dtype=torch.uint8)
    return encoding(x, torch.Generator().manual_seed(seed)).reshape(encoding.timesteps, count).numpy()


@pytest.mark.parametrize("intervals", ["geometric", "poisson"])
@pytest.mark.parametrize("level", [51, 255])
def test_mean_rate_is_proportional_to_intensity(intervals, level):
    """100 Hz at 1 ms steps: level 51 spikes with 0.02 per step, 255 with 0.1."""
    spikes = trains(Poisson(400, max_rate_hz=100.0, intervals=intervals), level, 3000)
    assert spikes[100:].mean() == pytest.approx(0.1 * level / 255, rel=0.05)


def test_geometric_trains_are_a_coin_at_every_step():
    """No memory: P(spike | spike before) = P(spike); every step alike."""
    spikes = trains(Poisson(200, max_rate_hz=200.0, intervals="geometric"), 255, 4000)
    after = spikes[1:][spikes[:-1] > 0].mean()
    assert after == pytest.approx(0.2, abs=0.005)
    assert spikes.mean(1) == pytest.approx(np.full(200, 0.2), abs=0.03)


def test_poisson_intervals_have_bindsnets_distribution():
    """Intervals are max(1, Poisson(5)) at 200 Hz: mean 5 + e^-5, P(1) = e^-5 + 5 e^-5."""
    spikes = trains(Poisson(1000, max_rate_hz=200.0), 255, 300)
    gaps = np.concatenate([np.diff(np.flatnonzero(train)) for train in spikes.T])
    assert gaps.mean() == pytest.approx(5 + np.exp(-5), rel=0.01)
    assert (gaps == 1).mean() == pytest.approx(6 * np.exp(-5), rel=0.1)
    assert gaps.var() == pytest.approx(5, rel=0.05)


def test_black_is_silent_and_white_at_the_highest_rate_never_rests():
    encoding = Poisson(20, max_rate_hz=1000.0, intervals="geometric")
    out = encoding(image(0, 255), torch.Generator().manual_seed(0)).reshape(20, 2)
    assert out[:, 0].sum() == 0
    assert out[:, 1].sum() == 20


def test_events_are_the_dense_spikes_in_order_and_do_not_depend_on_the_batch():
    x = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    encoding = Poisson(30)
    starts, pixels = encoding.events(x, 77)
    assert len(starts) == 5 * 30 + 1
    assert starts[-1] == len(pixels)
    late = encoding.events(x[3:], 80)
    np.testing.assert_array_equal(pixels[starts[90] :], late[1])
    seed = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(9)))
    dense = encoding(x, torch.Generator().manual_seed(9)).reshape(30, 5, 16).numpy()
    starts, pixels = encoding.events(x, seed)
    for s in range(5):
        for t in range(30):
            here = pixels[starts[s * 30 + t] : starts[s * 30 + t + 1]]
            np.testing.assert_array_equal(here, np.flatnonzero(dense[t, s]))


def test_gain_multiplies_the_rates():
    x = torch.full((50, 1, 4, 4), 100, dtype=torch.uint8)
    one, two = (len(Poisson(200).events(x, 0, gain)[1]) for gain in (1.0, 2.0))
    assert two / one == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_rate_hz": 0.0}, "max_rate_hz must be in"),
        ({"max_rate_hz": 600.0, "dt_ms": 2.0}, r"max_rate_hz must be in \(0, 500\] Hz, but got 600.0"),
        ({"intervals": "regular"}, "intervals must be geometric or poisson"),
        ({"timesteps": 0}, "timesteps must be in"),
    ],
)
def test_settings_out_of_range_say_the_rule(change, said):
    with pytest.raises(ValueError, match=said):
        Poisson(**{"timesteps": 10, **change})
