import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.framing import Framing
from pipeline.data.recordings import EVENT

tonic = pytest.importorskip("tonic")
CLIPS = Path(os.environ.get("PIPELINE_DATA", ""), "dvs-gesture-clips", "dvsgesture10.npz")


def events_of(rows):
    """Structured events from (x, y, t in us, p)."""
    return np.array([tuple(row) for row in rows], EVENT)


def random_events(seed, count, side=16, rate_us=300):
    rng = np.random.default_rng(seed)
    events = np.empty(count, EVENT)
    events["x"], events["y"] = rng.integers(0, side, (2, count))
    events["p"] = rng.integers(0, 2, count)
    events["t"] = np.cumsum(rng.integers(0, rate_us, count))
    return events


def test_equal_counts_by_hand():
    # 5 events, T = 2: 5 // 2 = 2 in the first frame, the remainder (3) in the last
    events = events_of([(0, 0, 0, 0), (0, 0, 1, 0), (1, 0, 2, 1), (1, 1, 3, 1), (1, 1, 900, 1)])
    frames, lost = Framing().frames(events, sensor=2, timesteps=2)
    assert frames[0].tolist() == [[[2, 0], [0, 0]], [[0, 0], [0, 0]]]
    assert frames[1].tolist() == [[[0, 0], [0, 0]], [[0, 1], [0, 2]]]
    assert lost == 0


def test_equal_times_by_hand():
    # 0 to 900 us in 3 windows of 300 us: 0, 1, 2, 3 | nothing | 900 (the last window holds its end)
    events = events_of([(0, 0, 0, 0), (0, 0, 1, 0), (1, 0, 2, 1), (1, 1, 3, 1), (1, 1, 900, 1)])
    frames, _ = Framing(slicing="time").frames(events, sensor=2, timesteps=3)
    assert frames.sum(axis=(1, 2, 3)).tolist() == [4, 0, 1]


@pytest.mark.parametrize("values", ["count", "root", "binary"])
def test_frames_are_counts_whatever_a_network_sees_of_them(values):
    """Events are dropped from what is stored: a root of 10 no longer says which of its 91 to 110 events went."""
    events = events_of([(0, 0, 0, 0)] * 7 + [(1, 1, 1, 1)] * 100 + [(1, 0, 2, 1)])
    frames, _ = Framing(values=values).frames(events, 2, 1)
    assert frames[0].tolist() == [[[7, 0], [0, 0]], [[0, 1], [0, 100]]]
    assert frames.dtype == np.uint8


def test_crop_takes_the_middle_and_size_adds_neighbours_up():
    # sensor 8, crop 4: pixels 2..5 remain; size 2: 2..3 -> 0, 4..5 -> 1
    events = events_of([(1, 3, 0, 1), (2, 2, 1, 1), (3, 3, 2, 1), (5, 2, 3, 1), (6, 3, 4, 1), (4, 5, 5, 0)])
    frames, _ = Framing(crop=4, size=2).frames(events, 8, 1)
    assert frames[0, 1].tolist() == [[2, 1], [0, 0]]
    assert frames[0, 0].tolist() == [[0, 0], [0, 1]]


def test_counts_stop_at_255_and_the_rest_is_counted():
    frames, lost = Framing().frames(events_of([(0, 0, t, 1) for t in range(300)]), 2, 1)
    assert frames.max() == 255
    assert lost == 45


def test_duration_keeps_the_beginning():
    events = events_of([(0, 0, t, 1) for t in (5000, 6000, 14_999, 15_000, 90_000)])
    assert Framing(duration_ms=10).kept(events, 16)["t"].tolist() == [5000, 6000, 14_999]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 40))
def test_frames_equal_tonics(seed, timesteps, per_frame):
    events = random_events(seed, timesteps * per_frame)
    ours, _ = Framing().frames(events, 16, timesteps)
    theirs = tonic.transforms.ToFrame((16, 16, 2), n_event_bins=timesteps)(events)
    assert np.array_equal(ours, theirs)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_time_frames_equal_tonics_but_for_the_last_moment(seed, timesteps):
    events = random_events(seed, 200)
    ours, _ = Framing(slicing="time").frames(events, 16, timesteps)
    theirs = tonic.transforms.ToFrame((16, 16, 2), n_time_bins=timesteps)(events)
    assert np.array_equal(ours[:-1], theirs[:-1])
    assert ours.sum() == 200  # tonic drops the events of the remainder


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 200), st.integers(50, 5000))
def test_denoising_equals_tonics(seed, count, filter_us):
    events = random_events(seed, count)
    theirs = tonic.transforms.Denoise(filter_us)(events)
    assert np.array_equal(Framing(denoise_ms=filter_us / 1000).kept(events, 16), theirs)


def test_any_transform_of_tonic_can_be_named():
    events = random_events(1, 500)
    transform = tonic.transforms.RefractoryPeriod(delta=20_000)
    assert np.array_equal(Framing(transforms=(transform,)).kept(events, 16), transform(events))


def test_a_transform_whose_words_differ_from_process_to_process_is_refused():
    """The words are in the key of the frame cache."""
    with pytest.raises(
        ValueError, match=r"^transforms must say the same in every process \(make it a dataclass\)"
    ):
        Framing(transforms=(lambda events: events,))


def test_arrays_in_a_transform_are_in_its_words_whole_and_short_words_stay():
    """The words are in the key of the frame cache; those of scalars and lists must not change."""
    pixels = np.arange(4096).reshape(2048, 2)
    other = pixels.copy()
    other[1000:1100] = 7
    one, two = (Framing(transforms=(tonic.transforms.DropPixel(coordinates=c),)) for c in (pixels, other))
    assert one != two
    assert repr(one) != repr(two)
    near = np.array([[0.123456789, 1.0]]), np.array([[0.123456788, 1.0]])
    assert len({Framing(transforms=(tonic.transforms.DropPixel(c),)) for c in near}) == 2
    assert repr(Framing(size=8, transforms=(tonic.transforms.DropPixel([[1, 2]], 60),))) == (
        "Framing(slicing='count', values='count', crop=None, size=8, denoise_ms=None, duration_ms=None, "
        "transforms=(DropPixel(coordinates=[[1, 2]], hot_pixel_frequency=60),))"
    )
    with pytest.raises(ValueError, match=r"^transforms must tell all their values \(as lists\)"):
        Framing(transforms=(tonic.transforms.DropPixel(torch.arange(4000).view(-1, 2)),))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("RandomFlipLR", {"sensor_size": (128, 128, 2)}), ("RandomFlipPolarity", {"p": 0.001}),
        ("RandomTimeReversal", {"p": 0.999}), ("DropEvent", {"p": 0.001}), ("DropEvent", {"p": (0.0, 0.5)}),
        ("DropEventByTime", {}), ("DropEventByArea", {"sensor_size": (128, 128, 2)}), ("TimeJitter", {"std": 1.0}),
        ("EventDrop", {"sensor_size": (128, 128, 2)}), ("RandomDropPixel", {"p": 0.01, "sensor_size": (34, 34, 2)}),
        ("RandomCrop", {"sensor_size": (128, 128, 2), "target_size": (64, 64)}),
        ("SpatialJitter", {"sensor_size": (34, 34, 2)}),
        ("UniformNoise", {"sensor_size": (34, 34, 2), "n": 1}), ("TimeSkew", {"coefficient": (0.9, 1.1)}),
        ("RefractoryPeriod", {"delta": (0, 1000)}),
    ],
)  # fmt: skip
def test_a_transform_that_draws_random_numbers_is_refused(name, words):
    """It would change validation and test frames, otherwise in every cache."""
    state = np.random.get_state()[2]  # noqa: NPY002
    transform = getattr(tonic.transforms, name)(**words)
    for each in (transform, tonic.transforms.Compose([transform])):
        with pytest.raises(ValueError, match=r"^transforms must draw no random numbers: .*data\.augment"):
            Framing(transforms=(each,))
    assert np.random.get_state()[2] == state  # noqa: NPY002


@dataclass
class Locked:
    lock: object = field(default_factory=threading.Lock, repr=False)

    def __call__(self, events):
        return events


def test_a_transform_that_cannot_be_copied_is_refused_before_anything_is_framed():
    with pytest.raises(ValueError, match=r"^transforms must let itself be copied .*, but got Locked\(\)"):
        Framing(transforms=(Locked(),))


@pytest.mark.parametrize(
    "transform",
    [
        tonic.transforms.RandomFlipLR((128, 128, 2), p=1.0), tonic.transforms.RandomFlipPolarity(p=1),
        tonic.transforms.CropTime(max=10), tonic.transforms.Denoise(1000), tonic.transforms.Decimation(3),
        tonic.transforms.DropPixel([[1, 2]]), tonic.transforms.DropPixel(hot_pixel_frequency=60),
        tonic.transforms.TimeSkew(1.5, 7), tonic.transforms.RefractoryPeriod(1000), tonic.transforms.MergePolarities(),
        tonic.transforms.CenterCrop((128, 128, 2), 64), tonic.transforms.Downsample(spatial_factor=0.5),
    ],
    ids=repr,
)  # fmt: skip
def test_a_transform_that_decides_nothing_by_chance_is_taken(transform):
    assert Framing(transforms=(transform,)).transforms == (transform,)


def test_what_a_transform_found_in_one_recording_stays_there():
    """tonic's CropTime without an end takes that of the first recording for all, and its words change."""
    framing = Framing(
        transforms=(tonic.transforms.CropTime(), tonic.transforms.DropPixel(hot_pixel_frequency=10_000))
    )
    before = repr(framing)
    short, long = random_events(0, 100), random_events(1, 300)
    framing.kept(short, 16)
    assert len(framing.kept(long, 16)) == 300
    assert repr(framing) == before


@pytest.mark.skipif(not CLIPS.is_file(), reason="PIPELINE_DATA has no dvs-gesture-clips")
def test_a_real_clip_frames_as_tonic_frames_it():
    packed = np.load(CLIPS, allow_pickle=False)
    stop = int(packed["offsets"][1])
    events = np.empty(stop, EVENT)
    events["x"], events["y"] = packed["x"][:stop], packed["y"][:stop]
    events["p"] = np.unpackbits(packed["p"])[:stop]
    events["t"] = np.cumsum(packed["dt"][:stop], dtype=np.int64)
    events = events[: stop // 20 * 20]
    ours, lost = Framing().frames(events, 128, 20)
    assert lost == 0
    assert np.array_equal(ours, tonic.transforms.ToFrame((128, 128, 2), n_event_bins=20)(events))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Framing(slicing="space"), r"^slicing must be count or time, but got 'space'"),
        (lambda: Framing(values="mean"), r"^values must be one of count, root, binary"),
        (lambda: Framing(denoise_ms=0), r"^denoise_ms must be null or above 0"),
        (lambda: Framing(size=35).side(34), r"^framing\.size must be null or in \[1, 34\], but got 35"),
        (
            lambda: Framing(crop=16, size=32).side(34),
            r"^framing\.size must be null or in \[1, 16\] \(framing\.crop\)",
        ),
        (lambda: Framing(duration_ms=1e18), "^duration_ms must be null or above 0, and at most 300000"),
        (lambda: Framing(crop=0).side(34), r"^framing\.crop must be null or in \[1, 34\]"),
        (
            lambda: Framing().frames(events_of([(0, 0, 0, 0)]), 2, 3),
            r"^events must be at least one per frame \(3\)",
        ),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
