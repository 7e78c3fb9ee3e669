import errno
import functools
import os
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from torch.nn.functional import avg_pool2d

from pipeline import exits
from pipeline.data import events as event_data
from pipeline.data import synthetic
from pipeline.data.compare import profile, real_clips, table
from pipeline.data.dvs import LIGHTS, SIDE, Light, Pixels, Scene, record
from pipeline.data.events import Gesture
from pipeline.data.framing import Framing
from pipeline.data.people import Beat, move, scene, user
from pipeline.data.recordings import check_events, find_gestures, read_gesture
from pipeline.data.synthetic import Simulation, SyntheticGesture, main, write
from pipeline.types import DataError

ROOT = os.environ.get("PIPELINE_DATA")
QUIET = Light("test", bandwidth_hz=1e6, noise_hz=0.0, flicker=0.0, side=0.0)
IDEAL = Pixels(
    theta_on=0.2, theta_off=0.2, mismatch=0.0, echo=0.0, rebound=(0.0, 0.0), spill=0.0, hot_pixels=0
)


def bar_scene(steps=200, speed=0.5, tone=1.0, start=30.0, background=0.0):
    """An upright bar, 12 wide and `tone` brighter, that moves right over a background of this log reflectance."""
    shapes = np.zeros((steps, 1, 6), np.float32)
    x = start + speed * np.arange(steps)
    shapes[:, 0, 0] = shapes[:, 0, 2] = x
    shapes[:, 0, 1], shapes[:, 0, 3] = 30, 90
    shapes[:, 0, 4:] = 6
    tones = np.array([[background + tone, 0.0, 0.0]], np.float32)
    return Scene(np.full((SIDE, SIDE), background, np.float32), shapes, tones, softness=2.0)


# --- the pixel


def test_nothing_moves_nothing_fires():
    assert len(record(bar_scene(speed=0.0), QUIET, IDEAL, 0, 0)) == 0


def test_a_rising_edge_makes_on_and_a_falling_edge_off():
    x, y, p, _ = record(bar_scene(), QUIET, IDEAL, 0, 0).T
    row = y == 60
    assert (p[row & (x > 40) & (x < 100)] == 1).any()
    # at one pixel in the middle of the way: first the bar arrives (ON), then it leaves (OFF)
    here = p[row & (x == 70)]
    assert here.tolist() == sorted(here.tolist(), reverse=True)
    assert set(here.tolist()) == {0, 1}


def test_the_number_of_events_is_the_change_over_the_threshold():
    # The bar is 1.0 brighter in log light (its rim 0.3 darker): 0.7 to 1.0 of change at theta 0.2 with an event
    # per step: the edge passes in about 2 / 0.1 = 20 steps, so nothing is lost to the refractory time.
    _, y, p, _ = (columns := record(bar_scene(steps=600, speed=0.1), QUIET, IDEAL, 0, 0)).T
    here = columns[(y == 60) & (columns[:, 0] == 50)]
    assert 3 <= (here[:, 2] == 1).sum() <= 5
    half = Pixels(**{**vars(IDEAL), "theta_on": 0.4, "theta_off": 0.4})
    fewer = record(bar_scene(steps=600, speed=0.1), QUIET, half, 0, 0)
    assert 0.3 < len(fewer) / len(columns) < 0.7
    assert p.mean() == pytest.approx(0.5, abs=0.2)


def test_less_light_is_slower_light():
    fast = record(bar_scene(), QUIET, IDEAL, 0, 0)
    dim = Light("dim", bandwidth_hz=5.0, noise_hz=0.0, flicker=0.0, side=0.0)
    slow = record(bar_scene(), dim, IDEAL, 0, 0)
    first = [events[(events[:, 0] == 70) & (events[:, 1] == 60), 3].min() for events in (fast, slow)]
    assert len(slow) < 0.8 * len(fast)
    assert first[1] > first[0]


def test_a_darker_place_is_slower_under_the_same_lamp():
    """The pixel's bandwidth is in proportion to its light: at log reflectance -2 it is that of 0 times about e^-2."""
    lamp = Light("lamp", bandwidth_hz=20.0, noise_hz=0.0, flicker=0.0, side=0.0)
    bright, dark = (record(bar_scene(background=level), lamp, IDEAL, 0, 0) for level in (0.0, -2.0))
    first = [events[(events[:, 0] == 70) & (events[:, 1] == 60), 3].min() for events in (bright, dark)]
    assert len(dark) < 0.8 * len(bright)
    assert first[1] >= first[0] + 5


def test_a_pixel_is_silent_for_the_refractory_time():
    """The bar's edges bring several events each within 4 ms; with 20 ms only the first of them is sent."""
    intervals, counts = [], []
    for refractory in (0, 20):
        x, y, _, t = record(
            bar_scene(), QUIET, Pixels(**{**vars(IDEAL), "refractory_ms": refractory}), 0, 0
        ).T
        order = np.lexsort((t, x, y))
        same = (np.diff(x[order]) == 0) & (np.diff(y[order]) == 0)
        intervals.append(np.diff(t[order])[same].min())
        counts.append(len(t))
    assert intervals[0] < 5
    assert intervals[1] >= 20
    assert counts[1] < 0.8 * counts[0]


def test_background_events_have_the_asked_rate_and_share():
    noisy = Light("noisy", 100.0, noise_hz=2.0, flicker=0.0, side=0.0)
    events = record(bar_scene(steps=1000, speed=0.0), noisy, IDEAL, 0, 0)
    # 2 Hz x 16,384 pixels x 1 s = 32,768 expected, standard deviation 181
    assert len(events) == pytest.approx(32_768, abs=5 * 181)
    assert events[:, 2].mean() == pytest.approx(0.35, abs=0.02)


def test_hot_pixels_stand_out_and_belong_to_the_chip():
    pixels = Pixels(**{**vars(IDEAL), "hot_pixels": 3, "hot_factor": 500.0})
    noisy = Light("noisy", 100.0, noise_hz=0.2, flicker=0.0, side=0.0)
    for seed in (1, 2):
        events = record(bar_scene(steps=500, speed=0.0), noisy, pixels, chip=7, seed=seed)
        counts = np.bincount(events[:, 1] * SIDE + events[:, 0], minlength=SIDE * SIDE)
        assert set(np.argsort(counts)[-3:]) == set(pixels.hot(7))


def test_mismatch_spreads_the_thresholds():
    thresholds = Pixels(mismatch=0.02).thresholds(0)
    assert thresholds.shape == (2, SIDE, SIDE)
    assert thresholds.std() == pytest.approx(0.02, rel=0.05)
    assert np.array_equal(thresholds, Pixels(mismatch=0.02).thresholds(0))
    assert Pixels(mismatch=0.5).thresholds(0).min() > 0


def test_echo_and_rebound_add_what_they_say():
    echo = Pixels(**{**vars(IDEAL), "echo": 1.0})
    plain, doubled = (record(bar_scene(), QUIET, pixels, 0, 0) for pixels in (IDEAL, echo))
    assert (doubled[:, 2] == 1).sum() == 2 * (plain[:, 2] == 1).sum()
    assert (doubled[:, 2] == 0).sum() == (plain[:, 2] == 0).sum()
    rebound = record(bar_scene(), QUIET, Pixels(**{**vars(IDEAL), "rebound": (0.0, 1.0)}), 0, 0)
    added = (rebound[:, 2] == 0).sum() - (plain[:, 2] == 0).sum()
    assert added == pytest.approx((plain[:, 2] == 1).sum(), rel=0.02)  # those of the last step come too late


def test_more_events_than_expected_are_all_kept():
    flicker = Light("strobe", 1e5, noise_hz=0.0, flicker=2.0, side=0.0)
    events = record(bar_scene(steps=60, speed=0.0), flicker, IDEAL, 0, 0)
    assert len(events) > 1 << 18
    assert events[-1, 3] >= 58


# --- people


@pytest.mark.parametrize("label", range(11))
def test_a_recording_is_a_good_recording(label, tmp_path):
    events = Simulation(seconds=0.6).recording(3, LIGHTS[label % 5], label)
    np.save(tmp_path / "r.npy", events)
    read = read_gesture(tmp_path / "r.npy")
    check_events(tmp_path / "r.npy", read, 128, 128)
    assert 5 < profile(events).rate_khz < 400


def test_the_seed_decides_and_every_recording_differs():
    short = Simulation(seconds=0.3)
    again = Simulation(seconds=0.3)
    first = short.recording(5, LIGHTS[0], 3)
    assert np.array_equal(first, again.recording(5, LIGHTS[0], 3))
    others = [
        Simulation(seed=1, seconds=0.3).recording(5, LIGHTS[0], 3),
        short.recording(6, LIGHTS[0], 3),
        short.recording(5, LIGHTS[1], 3),
        short.recording(5, LIGHTS[0], 4),
    ]
    assert not any(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("label", "side", "turn"), [(3, "right", -1), (4, "right", 1), (5, "left", -1), (6, "left", 1)]
)
def test_arms_turn_the_way_their_label_says(label, side, turn):
    """Clockwise for the person is counter-clockwise in the picture: with y downwards the angle then falls."""
    for number in range(1, 6):
        person = user(number, 0)
        rng = np.random.default_rng(number)
        path = getattr(move(label, Beat(1500, 1.0, rng), person, rng), side)
        x, y = (path - path.mean(0)).T
        turned = np.diff(np.unwrap(np.arctan2(y, x))).sum()
        assert np.sign(turned) == turn
        assert abs(turned) > 2 * np.pi * 0.7
        assert np.sign(path.mean(0)[0]) == (-1 if side == "right" else 1)


def test_mirrored_gestures_are_mirrored():
    """The same habits on the other side: what the label-swapping flip relies on."""
    rng = [np.random.default_rng(3) for _ in range(2)]
    person = user(1, 0)
    right, left = (move(label, Beat(800, 1.0, r), person, r) for label, r in zip((1, 2), rng, strict=True))
    assert right.right[:, 0].mean() < 0 < left.left[:, 0].mean()


def test_users_differ():
    people = [user(number, 0) for number in range(1, 30)]
    assert len(set(people)) == 29
    assert np.ptp([person.size for person in people]) > 0.2
    assert user(4, 0) == user(4, 0) != user(4, 1)
    assert scene(0, people[0], 5, 1).shapes.shape == (5, 8, 6)


# --- the data set


@pytest.fixture
def quick(monkeypatch, private_cache):
    """A simulation under one lighting in which everybody moves as user 1 does: 11 simulations, 319 files.

    The last event tells them apart: the same recording in two splits is refused.
    """
    simulate = Simulation.recording

    @functools.cache
    def of_user_1(self, label):
        return simulate(self, 1, LIGHTS[0], label)

    def of_user(self, number, light, label):
        events = of_user_1(self, label).copy()
        events[-1, 0] = number
        return events

    monkeypatch.setattr(Simulation, "recording", of_user)
    return Simulation(seconds=0.2, lightings=1)


def test_the_real_loader_reads_what_the_simulator_wrote(quick):
    spec = SyntheticGesture(timesteps=4, framing=Framing(size=16), simulation=quick)
    data = spec.load(0)
    assert data.name == "synthetic_gesture"
    assert len(data.train) + len(data.validation) == 23 * 11
    assert len(data.test) == 6 * 11
    assert data.test.y.bincount().tolist() == [6] * 11
    folder = spec.folder()
    assert sum(map(len, find_gestures(folder, False).values())) == 29 * 11
    event_data._stored.cache_clear()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    assert spec.load(0).digest == data.digest
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}


def test_what_the_command_wrote_is_used_where_it_is_of_the_same_simulation(quick, tmp_path, capsys, caplog):
    out = tmp_path / "out"
    assert main([str(out), "--seconds", "0.2", "--lightings", "1", "--people", "1"]) == 0
    assert SyntheticGesture(4, Framing(size=16), root=str(out), simulation=quick).folder() == out
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == [
        "ibmGestureTest",
        "ibmGestureTrain",
    ]
    other = SyntheticGesture(4, Framing(size=16), root=str(out), simulation=Simulation(1, 0.2, 1))
    assert other.folder() == out / "v3-seed1-0.2s-1"
    assert f"{out} holds another simulation" in caplog.text


def test_simulated_recordings_are_never_read_as_the_real_ones(quick, tmp_path):
    out = write(quick, tmp_path / "out")
    for root in (out, tmp_path):
        (tmp_path / "DVSGesture").unlink(missing_ok=True)
        if root == tmp_path:
            (tmp_path / "DVSGesture").symlink_to(out)
        with pytest.raises(
            DataError, match=r"holds simulated recordings, .*: data=synthetic_gesture data.root="
        ):
            Gesture(4, Framing(size=16), root=str(root)).parts(0)


def test_a_damaged_simulated_recording_says_how_to_make_it_again(quick, tmp_path):
    spec = SyntheticGesture(4, Framing(size=16), root=str(tmp_path), simulation=quick)
    bad = spec.folder() / "ibmGestureTest" / "user24_fluorescent" / "0.npy"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-7])
    with pytest.raises(
        DataError, match=r"0\.npy is cut off .* Delete it, and it is simulated again\. .*skip_bad"
    ):
        spec.load(0)
    bad.unlink()
    assert len(spec.load(0).test) == 66
    assert bad.read_bytes() == whole


def test_a_killed_simulation_goes_on_and_gives_the_same(quick, tmp_path, monkeypatch):
    whole = write(quick, tmp_path / "whole", threads=2)

    def dies(self, number, light, label):
        if number > 4:
            raise KeyboardInterrupt
        return recording(self, number, light, label)

    recording = Simulation.recording
    monkeypatch.setattr(Simulation, "recording", dies)
    with pytest.raises(KeyboardInterrupt):
        write(quick, tmp_path / "half", threads=1)
    monkeypatch.setattr(Simulation, "recording", recording)
    half = write(quick, tmp_path / "half", threads=2)
    names = sorted(path.relative_to(whole) for path in whole.rglob("*.npy"))
    assert names == sorted(path.relative_to(half) for path in half.rglob("*.npy"))
    assert len(names) == 319
    assert not list(half.rglob("*.part"))
    assert all((whole / name).read_bytes() == (half / name).read_bytes() for name in names)


def test_recordings_that_were_deleted_are_written_again(quick, tmp_path):
    out = write(quick, tmp_path / "out")
    gone = out / "ibmGestureTest" / "user24_fluorescent" / "0.npy"
    before = gone.read_bytes()
    gone.unlink()
    write(quick, out)
    assert gone.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "3", '{"simulation": 1}'])
def test_a_mark_that_says_nothing_is_named(quick, tmp_path, content):
    (tmp_path / "simulation.json").write_text(content)
    with pytest.raises(DataError, match=r"simulation\.json must say which simulation is here, .*delete it"):
        write(quick, tmp_path)


def test_a_whole_simulation_on_a_read_only_disk_is_used(quick, tmp_path, monkeypatch):
    out = write(quick, tmp_path / "out")

    def refused(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(synthetic, "FileLock", refused)
    monkeypatch.setattr(synthetic.Path, "mkdir", refused)
    assert write(quick, out) == out
    next(out.rglob("*.npy")).unlink()
    with pytest.raises(
        DataError, match=r"out cannot be written .*Read-only .*: free space or name another folder"
    ):
        write(quick, out)


def test_a_full_disk_names_the_folder_of_the_recordings(quick, private_cache, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(synthetic.np, "save", full)
    with pytest.raises(
        DataError, match=r"synthetic_gesture/v3-seed0-0\.2s-1 cannot .*No space.*XDG_CACHE_HOME"
    ):
        SyntheticGesture(timesteps=4, framing=Framing(size=16), simulation=quick).load(0)


def test_a_folder_of_other_recordings_is_left_alone(quick, tmp_path, gestures):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "simulation.json").write_text('{"simulation": {"seed": 9}, "complete": true}')
    with pytest.raises(DataError, match="holds another simulation"):
        write(quick, tmp_path / "other")
    with pytest.raises(DataError, match="no simulation wrote"):
        write(quick, gestures)


def test_the_command_writes_table_and_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("PIPELINE_DATA", raising=False)
    assert main([str(tmp_path / "out"), "--seconds", "0.3", "--preview", "--people", "2"]) == 0
    assert "| arm roll | simulated, 2 |" in capsys.readouterr().out
    image = matplotlib.image.imread(tmp_path / "out" / "gestures.png")
    assert image.shape[0] > 1400
    assert image[..., :3].std() > 0.1
    assert main([str(tmp_path / "out"), "--seconds", "99"]) == exits.BAD_CONFIG
    assert "seconds must be in [0.2, 30], but got 99.0." in capsys.readouterr().err


def test_the_command_needs_the_clips_only_when_they_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PIPELINE_DATA", str(tmp_path))
    words = [str(tmp_path / "out"), "--seconds", "0.2", "--preview", "--people", "1"]
    assert main(words) == 0
    assert main([*words, "--clips", str(tmp_path)]) == exits.BAD_DATA
    assert "dvsgesture10.npz is missing" in capsys.readouterr().err


@pytest.mark.parametrize("preview", [[], ["--preview"]])
def test_the_command_leaves_a_folder_of_real_recordings_as_it_is(gestures, capsys, preview):
    before = sorted(gestures.rglob("*"))
    assert main([str(gestures), "--seconds", "0.2", *preview]) == exits.BAD_DATA
    assert "no simulation wrote" in capsys.readouterr().err
    assert sorted(gestures.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--people", "0"], "people must be in [1, 29], but got 0."),
        (["--threads", "-1"], "threads must be at least 1, but got -1."),
        (["--threads", "0"], "threads must be at least 1, but got 0."),
    ],
)
def test_the_command_says_which_number_is_wrong(tmp_path, capsys, words, said):
    assert main([str(tmp_path / "out"), "--seconds", "0.2", *words]) == exits.BAD_CONFIG
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_cannot_write_into_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main([str(tmp_path / "file"), "--seconds", "0.2", "--people", "1"]) == exits.NO_ROOM
    assert f"{tmp_path / 'file'} must be a folder that can be written" in capsys.readouterr().err


@pytest.mark.skipif(
    not ROOT or not Path(ROOT, "dvs-gesture-clips").is_dir(), reason="PIPELINE_DATA has no real clips"
)
def test_simulated_recordings_resemble_the_real_clips():
    """Medians over people within a factor of the one real clip of each gesture; the bands are wide, as people are."""
    real = real_clips(Path(ROOT))
    assert sorted(real) == list(range(10))
    simulation = Simulation(seconds=0.8)
    ours = {label: [simulation.recording(n, LIGHTS[n % 5], label) for n in (1, 2, 3)] for label in (1, 4, 7)}
    for label, recordings in ours.items():
        there = profile(real[label])
        here = [profile(events) for events in recordings]
        middle = {name: float(np.median([getattr(p, name) for p in here])) for name in vars(there)}
        assert 0.3 < middle["rate_khz"] / there.rate_khz < 3
        assert middle["on_share"] == pytest.approx(there.on_share, abs=0.06)
        assert middle["same_polarity"] == pytest.approx(there.same_polarity, abs=0.1)
        assert 0.5 < middle["active"] / there.active < 2
        assert 0.5 < middle["spread_x"] / there.spread_x < 2
    assert table(real, ours).count("| real |") == 3


def test_missing_clips_are_said(tmp_path):
    with pytest.raises(DataError, match=r"dvsgesture10\.npz is missing"):
        real_clips(tmp_path)


def test_wrong_settings_are_named():
    for settings, message in (
        ({"seed": -1}, "^seed must be at least 0"),
        ({"seconds": 0.1}, r"^seconds must be in \[0.2, 30\]"),
        ({"lightings": 6}, r"^lightings must be in \[1, 5\]"),
    ):
        with pytest.raises(ValueError, match=message):
            Simulation(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"theta_on": 0}, "^theta_on must be above 0, but got 0"),
        ({"theta_off": -1}, "^theta_off must be above 0"),
        ({"mismatch": -1}, "^mismatch must be at least 0"),
        ({"refractory_ms": -5}, "^refractory_ms must be at least 0"),
        ({"hot_factor": -1}, "^hot_factor must be at least 0"),
        ({"echo": 3}, r"^echo must be in \[0, 1\], but got 3"),
        ({"spill": -1}, r"^spill must be in \[0, 1\]"),
        ({"rebound": (0.5, 1.5)}, r"^rebound must be two numbers in \[0, 1\]"),
        ({"rebound": (0.5,)}, r"^rebound must be two numbers"),
        ({"hot_pixels": 20_000}, r"^hot_pixels must be in \[0, 16384\], but got 20000"),
    ],
)
def test_a_camera_that_cannot_be_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Pixels(**settings)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sums_of_events_do_not_give_the_gesture_away(private_cache):
    """The best of several linear readouts of summed frames, on people it never saw: below 60 %, far above chance."""
    spec = SyntheticGesture(timesteps=20, framing=Framing(size=32), simulation=Simulation(lightings=2))
    data = spec.load(0)
    found = []
    for pool in (2, 4):
        for shape in (np.asarray, np.sqrt, np.log1p):
            train, test = (
                shape(avg_pool2d(split.x.sum(dim=1, dtype=torch.float32), pool).flatten(1).numpy() * pool**2)
                for split in (data.train, data.test)
            )
            mean, scale = train.mean(0), train.std()
            for alpha in (1e2, 1e3, 1e4):
                readout = RidgeClassifier(alpha=alpha).fit((train - mean) / scale, data.train.y)
                found.append(readout.score((test - mean) / scale, data.test.y))
    assert 0.3 < max(found) < 0.6


def test_a_full_disk_and_ctrl_c_end_the_command_by_their_codes(tmp_path, capsys, monkeypatch):
    words = [str(tmp_path / "out"), "--seconds", "0.2", "--people", "1"]

    def stopped(*_):
        raise KeyboardInterrupt

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(synthetic, "_write_all", full)
    assert main(words) == exits.NO_ROOM
    assert f"{tmp_path / 'out'} cannot be written" in capsys.readouterr().err
    monkeypatch.setattr(synthetic, "_write_all", stopped)
    assert main(words) == exits.INTERRUPTED
    assert "The same command goes on" in capsys.readouterr().err
