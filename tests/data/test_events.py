import dataclasses
import errno
import hashlib
import importlib
import io
import logging
import os
import pickle
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data import events as event_data
from pipeline.data.augment import Augment
from pipeline.data.dvs import LIGHTS
from pipeline.data.encode import Direct
from pipeline.data.events import Gesture, Nmnist
from pipeline.data.framing import Framing
from pipeline.data.mnist import Mnist
from pipeline.data.recordings import GESTURE_LIGHTINGS, LATEST_MS, find_gestures, find_nmnist, read_gesture
from pipeline.types import DataError

tonic = pytest.importorskip("tonic")
SMALL = Path(os.environ.get("PIPELINE_DATA", "/nowhere"), "nmnist-small", "NMNIST")
needs_nmnist = pytest.mark.skipif(not SMALL.is_dir(), reason="PIPELINE_DATA has no nmnist-small")
pytestmark = pytest.mark.usefixtures("private_cache")


def gesture(root, **changes):
    return Gesture(**{"timesteps": 4, "framing": Framing(size=32), "root": root and str(root)} | changes)


def nmnist(root, **changes):
    return Nmnist(**{"timesteps": 4, "framing": Framing(), "root": root and str(root)} | changes)


# --- gestures


def test_gestures_split_by_user_as_the_authors_did(gestures):
    parts = gesture(gestures).parts(seed=0)
    users = [sorted({recording.user for recording in part}) for part in parts]
    assert users[2] == [24, 25, 26, 27, 28, 29]
    assert sorted(users[0] + users[1]) == list(range(1, 24))
    assert len(users[1]) == 4
    assert [len(part) for part in parts] == [19 * 11, 4 * 11, 6 * 11]


def test_validation_users_can_be_named_and_are_drawn_by_seed(gestures):
    named = gesture(gestures, validation_users=(3, 8)).parts(0)[1]
    assert {recording.user for recording in named} == {3, 8}
    drawn = {tuple(sorted({r.user for r in gesture(gestures).parts(seed)[1]})) for seed in range(5)}
    assert len(drawn) > 1


def test_a_loaded_gesture_set_has_the_frames_of_its_files(gestures):
    data = gesture(gestures).load(0)
    assert data.shape == (2, 32, 32)
    assert data.train.x.shape == (19 * 11, 4, 2, 32, 32)
    first = gesture(gestures).parts(0)[0][0]
    frames, _ = Framing(size=32).frames(read_gesture(first.path), 128, 4)
    assert torch.equal(data.train.x[0], torch.from_numpy(frames))
    batch = next(data.batches("test", 8, seed=0))
    assert batch.x.shape == (4, 8, 2, 32, 32)
    assert batch.x.sum() == 8 * 120


def test_scale_and_augmentation_share_one_cache(gestures, private_cache):
    plain = gesture(gestures).load(0)
    changed = gesture(
        gestures, scale=0.5, augment=Augment(flip=1, flip_labels=(0, 2, 1, 6, 5, 4, 3, 7, 8, 9, 10))
    )
    flipped = changed.load(0)
    assert len([p for p in (private_cache / "frames").iterdir() if p.is_dir()]) == 1
    assert flipped.digest == plain.digest
    x, y = next(flipped.batches("train", 300, seed=0, shuffle=True))
    assert y.sort().values.tolist() == sorted(plain.train.y.tolist())
    assert x.max() <= 255 / 2
    x_test, _ = next(flipped.batches("test", 300, seed=0))
    assert torch.equal(x_test * 2, next(plain.batches("test", 300, seed=0)).x)


def test_counts_roots_and_ones_are_made_of_the_same_stored_counts(gestures, private_cache):
    counts, roots, ones = (
        gesture(gestures, framing=Framing(size=4, values=values)).load(0)
        for values in ("count", "root", "binary")
    )
    assert len([p for p in (private_cache / "frames").iterdir() if p.is_dir()]) == 1
    x = next(counts.batches("test", 300, seed=0)).x
    assert x.max() > 2
    assert torch.equal(next(roots.batches("test", 300, seed=0)).x, x.sqrt().round())
    assert torch.equal(next(ones.batches("test", 300, seed=0)).x, (x > 0).float())


def test_limit_keeps_all_classes(gestures):
    data = gesture(gestures, limit=22).load(0)
    assert data.train.y.bincount().tolist() == [2] * 11
    assert len(data.validation) == 44


def test_files_are_read_as_tonic_reads_them(gestures, tmp_path, monkeypatch):
    (tmp_path / "DVSGesture").symlink_to(gestures)
    monkeypatch.setattr(tonic.datasets.DVSGesture, "_check_exists", lambda self: True)
    theirs = tonic.datasets.DVSGesture(str(tmp_path), train=False)
    found = {str(recording.path): recording for recording in find_gestures(gestures, False)["test"]}
    assert len(theirs) == len(found) == 66
    for index in (0, 40):
        events, label = theirs[index]
        path = theirs.data[index].replace(str(tmp_path / "DVSGesture"), str(gestures))
        ours = read_gesture(Path(path))
        assert found[path].label == label
        assert all(np.array_equal(ours[axis], events[axis]) for axis in "xytp")


def save(change):
    """A damage that loads a recording, changes its columns and saves it again."""

    def damage(path):
        np.save(path, change(np.load(path)))

    return damage


def put(row, column, value):
    def change(columns):
        columns[row, column] = value
        return columns

    return save(change)


def header(text):
    """A damage that puts another header, Python text, before the values."""

    def damage(path):
        said = text.encode().ljust(117) + b"\n"
        path.write_bytes(
            b"\x93NUMPY\x01\x00" + len(said).to_bytes(2, "little") + said + path.read_bytes()[128:]
        )

    return damage


BAD = [
    (lambda p: p.write_bytes(p.read_bytes()[:-40]), "is cut off or damaged"),
    (lambda p: p.write_bytes(p.read_bytes()[:30]), "is cut off or damaged"),
    (lambda p: p.write_bytes(b""), "is cut off or damaged"),
    (save(lambda c: c[:0]), "holds no events"),
    (save(lambda c: c[:3]), r"holds too few events: 3 for 4 frames \(data\.timesteps\)"),
    (put(5, 0, 128), "has coordinates outside the sensor: x spans .* to 128, but must lie in 0 to 127"),
    (put(5, 1, -1), "has coordinates outside the sensor: y spans -1"),
    (put(5, 2, 2), "has polarities outside the sensor: p spans 0 to 2"),
    (put(50, 3, 0), r"has times that run backwards: event 50 is at 0 us"),
    (put(0, 3, -4), "has times that run backwards: the first event is at -4000 us"),
    (save(lambda c: c[:, :3]), r"has the wrong form: an array \[N, 4\]"),
    (save(lambda c: c.astype(float) * np.nan), "has the wrong form: values of type float64"),
    (save(lambda c: np.array([[{}, 1, 2, 3]], dtype=object)), "is cut off or damaged: numpy says"),
    (lambda p: p.write_bytes(b"PK\3\4 an archive"), r"is no \.npy file: it begins with b'PK"),
    (lambda p: p.write_bytes(pickle.dumps([1])), r"is no \.npy file"),
    (
        header("{'descr': '<i4', 'fortran_order': False, 'shape': (9000000000000, 4), }"),
        "is cut off or damaged",
    ),
    (header("{'descr': '<i4', 'fortran_order': False, 'shape': (-1, 4), }"), "is cut off or damaged"),
    (header("{'descr': '<i4', 'shape': ("), "is cut off or damaged"),
    (header("{'descr': '<i4'\n  'shape'\n '''"), "is cut off or damaged"),
    (
        save(lambda c: c.astype(np.int64) + np.array((0, 0, 0, LATEST_MS))),
        "has times beyond measure: t spans 9007",
    ),
    (
        save(lambda c: np.stack([*c.T[:3], np.linspace(0, 1_450_000, len(c))], 1)),  # 1.45 s in microseconds
        "has times that look like microseconds: t spans 1450000 ms, more than five minutes",
    ),
    (save(lambda c: c * (1, 1, 1, 0.001)), "has times that look like seconds: t spans 0.5"),
    (save(lambda c: c * (1, 1, 1, 0)), "has times that look like seconds: t spans 0 ms"),
    (save(lambda c: c.astype(np.float16)), "has the wrong form: values of type float16"),
    (save(lambda c: c.astype(bool)), "has the wrong form: values of type bool"),
    (lambda p: p.write_bytes(p.read_bytes()[:3]), r"is cut off or damaged: it begins with b'.x93NU'"),
    (save(lambda c: c + np.array((0, 0, 0, 1e300))), "has times beyond measure: t spans 1e.300"),
    (
        save(lambda c: c / (128, 128, 1, 1)),
        r"has values that are not whole: x of event 0 is 0\..* \(1\d\d such events\)",
    ),
    (
        save(lambda c: c + np.array((0, 0.5, 0, 0))),
        r"has values that are not whole: y of event 0 .* \(120 such events\)",
    ),
    (save(lambda c: c * (1, 1, 0.5, 1) + (0, 0, 0.3, 0)), "has values that are not whole: p of event"),
    (
        lambda p: p.write_bytes(p.read_bytes() + b"junk"),
        "holds more than one array: 4 bytes follow the first",
    ),
    (lambda p: p.write_bytes(p.read_bytes() * 2), "holds more than one array: 2048 bytes follow"),
    (lambda p: (p.unlink(), p.symlink_to("gone")), "cannot be read: No such file"),
    (lambda p: (p.unlink(), p.mkdir()), "cannot be read: Is a directory"),
]


@pytest.mark.parametrize(("damage", "problem"), BAD)
def test_a_damaged_gesture_is_named_with_its_problem(gestures, damage, problem):
    path = gestures / "ibmGestureTrain" / "user05_led" / "7.npy"
    damage(path)
    with pytest.raises(DataError, match=rf"user05_led/7\.npy {problem}.*skip_bad"):
        gesture(gestures).load(0)


def test_times_keep_their_fractions_of_milliseconds(tmp_path):
    columns = np.array([[1, 2, 0, 0.25], [3, 4, 1, 0.7], [5, 6, 1, 1.234]])
    for kind in (np.float64, np.float32):
        np.save(tmp_path / "0.npy", columns.astype(kind))
        assert read_gesture(tmp_path / "0.npy")["t"].tolist() == [250, 700, 1234]


def test_damaged_gestures_are_skipped_and_counted_when_allowed(gestures, caplog):
    BAD[0][0](gestures / "ibmGestureTrain" / "user05_led" / "7.npy")
    BAD[3][0](gestures / "ibmGestureTest" / "user25_led" / "0.npy")
    with caplog.at_level(logging.INFO, logger="pipeline.data.store"):
        data = gesture(gestures, skip_bad=True).load(0)
    assert len(data.train) + len(data.validation) + len(data.test) == 29 * 11 - 2
    assert "1 is cut off or damaged" in caplog.text
    assert "1 holds no events" in caplog.text


def test_all_that_is_left_out_is_counted_by_reason(gestures, caplog):
    for user in (7, 9):
        shutil.rmtree(gestures / "ibmGestureTrain" / f"user{user:02d}_led")
    for label in range(3):
        path = gestures / "ibmGestureTest" / "user25_led" / f"{label}.npy"
        path.rename(path.with_name(f"{label}_.npy"))
    BAD[0][0](gestures / "ibmGestureTrain" / "user05_led" / "7.npy")
    spec = gesture(gestures, skip_bad=True)
    counted = {"is cut off or damaged": 1, "has a wrong name": 3, "missing users": 2}
    for _ in range(2):  # built, and from the cache
        assert spec.load(0).skipped == counted
        assert "skipped: 1 is cut off or damaged, 2 missing users, 3 has a wrong name" in caplog.text
        event_data._stored.cache_clear()
        caplog.clear()


def played(monkeypatch, folder):
    """As root of the machine reads everything, the system's refusal to list a folder is played."""
    listdir, scandir = os.listdir, os.scandir

    def refuse(function):
        def refused(path="."):
            if Path(os.fspath(path)) == folder:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return function(path)

        return refused

    monkeypatch.setattr(os, "listdir", refuse(listdir))
    monkeypatch.setattr(os, "scandir", refuse(scandir))


@pytest.mark.parametrize("place", ["ibmGestureTrain", "ibmGestureTest/user24_led"])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_folder_of_gestures_that_may_not_be_read_is_named(gestures, place, skip_bad, monkeypatch):
    played(monkeypatch, gestures / place)
    with pytest.raises(
        DataError, match=rf"{place} cannot be read: Permission denied\. .*change its permissions"
    ):
        gesture(gestures, skip_bad=skip_bad).parts(0)


def test_missing_users_classes_and_splits_are_named(gestures, caplog):
    shutil.rmtree(gestures / "ibmGestureTrain" / "user09_led")
    shutil.rmtree(gestures / "ibmGestureTrain" / "user23_led")
    with pytest.raises(DataError, match=r"ibmGestureTrain has no recordings of users 9, 23\."):
        gesture(gestures).load(0)
    with caplog.at_level(logging.WARNING):
        assert len(gesture(gestures, skip_bad=True).load(0).train) == 17 * 11
    assert "2 train users are missing" in caplog.text
    assert "ibmGestureTrain: 9, 23." in caplog.text
    for path in (gestures / "ibmGestureTest").rglob("3.npy"):
        path.unlink()
    event_data._stored.cache_clear()
    with pytest.raises(DataError, match="ibmGestureTest holds no recordings of the classes 3"):
        gesture(gestures, skip_bad=True).load(0)
    shutil.rmtree(gestures / "ibmGestureTest")
    event_data._stored.cache_clear()
    with pytest.raises(DataError, match="but no folder ibmGestureTest"):
        gesture(gestures).load(0)


@pytest.mark.parametrize(
    "name",
    [
        "user24_led/11",
        "user24_led/00",
        "user24_led/0 copy",
        "user24_led/\u00b2",
        "user24_led/-1",
        "user024_led/0",
        "user24_led_copy/0",
        "user24_x/0",
    ],
)
def test_a_file_that_is_not_called_as_a_recording_is_named_or_left_out(gestures, name, caplog):
    """00.npy would count 0.npy twice; a superscript two is a digit to Python, but no number."""
    path = gestures / "ibmGestureTest" / f"{name}.npy"
    path.parent.mkdir(exist_ok=True)
    shutil.copy(gestures / "ibmGestureTest" / "user24_led" / "0.npy", path)
    with pytest.raises(DataError, match=rf"{path.name} has a wrong name: .*skip_bad=true"):
        gesture(gestures).parts(0)
    assert len(gesture(gestures, skip_bad=True).parts(0)[2]) == 66
    assert f"{path} has a wrong name" in caplog.text


def test_the_lightings_are_those_of_the_simulator():
    assert tuple(light.name for light in LIGHTS) == GESTURE_LIGHTINGS


def test_the_files_that_macos_adds_are_no_recordings(gestures):
    before = gesture(gestures).parts(0)
    for name in ("._0.npy", "._user24_led.npy"):
        (gestures / "ibmGestureTest" / "user24_led" / name).write_bytes(b"\0\5\x16\7" + bytes(4092))
    assert gesture(gestures).parts(0) == before


@pytest.mark.parametrize(
    ("here", "user", "rule"),
    [
        ("Test", "01", "24 to 29"),
        ("Train", "24", "1 to 23"),
        ("Train", "99", "1 to 23"),
        ("Test", "00", "24 to 29"),
    ],
)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_user_of_the_other_split_is_never_taken(gestures, here, user, rule, skip_bad):
    shutil.copytree(
        gestures / "ibmGestureTrain" / "user05_led", gestures / f"ibmGesture{here}" / f"user{user}_lab"
    )
    with pytest.raises(
        DataError, match=rf"ibmGesture{here}/user{user}_lab must not be here: .* {rule}, .* {int(user)}"
    ):
        gesture(gestures, skip_bad=skip_bad).parts(0)


def test_training_and_validation_users_must_show_every_class(gestures, caplog):
    for user in (3, 8):
        (gestures / "ibmGestureTrain" / f"user{user:02d}_led" / "7.npy").unlink()
    named = {"validation_users": (3, 8)}
    with pytest.raises(
        DataError, match=r"the validation users have no recordings of the classes 7\. .*skip_bad"
    ):
        gesture(gestures, **named).parts(0)
    assert len(gesture(gestures, skip_bad=True, **named).parts(0)[1]) == 20
    assert "the validation users have no recordings of the classes 7" in caplog.text
    others = tuple(sorted(set(range(1, 24)) - {3, 8}))
    with pytest.raises(DataError, match=r"the training users have no recordings of the classes 7\."):
        gesture(gestures, skip_bad=True, validation_users=others).parts(0)


def test_validation_users_that_were_named_must_be_there(gestures):
    for user in (8, 9):
        shutil.rmtree(gestures / "ibmGestureTrain" / f"user{user:02d}_led")
    with pytest.raises(
        DataError, match=r"^data\.validation_users must be there, but users 8, 9 are missing\."
    ):
        gesture(gestures, skip_bad=True, validation_users=(3, 8, 9)).parts(0)
    assert len(gesture(gestures, skip_bad=True, validation_users=(3,)).parts(0)[1]) == 11


# --- where they are


@pytest.mark.parametrize("place", ["ibmGestureTrain", "ibmGestureTest", "ibmGestureTest/user24_led"])
def test_a_root_inside_of_the_recordings_names_the_right_one(gestures, place, monkeypatch):
    monkeypatch.setattr(event_data, "obtain", None)
    with pytest.raises(
        DataError, match=rf"holds ibmGestureTrain and ibmGestureTest, but .*set it to {gestures}\."
    ):
        gesture(gestures / place).parts(0)


def test_a_root_above_the_recordings_names_the_right_one(gestures, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(event_data, "obtain", lambda *a: asked.append(a) or gestures)
    deep = tmp_path / "one" / "two" / "three"
    shutil.copytree(gestures, deep)
    for root in (deep.parent, deep.parent.parent):
        with pytest.raises(DataError, match=rf"but got {root}: set it to {deep}\."):
            gesture(root).parts(0)
    (deep / "simulation.json").write_text("{}")
    gesture(deep.parent).parts(0)
    assert len(asked) == 1, "simulated recordings are not offered as the real ones"


def test_whole_recordings_win_over_partial_and_empty_folders_before_them(gestures, digits, tmp_path):
    place = tmp_path / "data"
    (place / "DVSGesture" / "ibmGestureTrain").mkdir(parents=True)
    (place / "Train").mkdir()
    rule = r"incomplete: .*/DVSGesture has ibmGestureTrain, but no folder ibmGestureTest"
    with pytest.raises(DataError, match=rule):
        gesture(place).parts(0)
    with pytest.raises(DataError, match=r"incomplete: .* has Train, but no folder Test"):
        nmnist(place).parts(0)
    (place / "Test").mkdir()
    with pytest.raises(DataError, match=r"Train holds no recordings\."):
        nmnist(place).parts(0)
    (place / "dvs-gesture").symlink_to(gestures)
    (place / "NMNIST").symlink_to(digits)
    assert len(gesture(place).parts(0)[2]) == 66
    assert len(nmnist(place).parts(0)[2]) == 20


def test_a_root_that_cannot_be_read_is_said_of_the_root(tmp_path, monkeypatch):
    """As root of the machine reads everything, the system's refusal is played."""

    def refused(self):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_dir", refused)
    for spec in (gesture(tmp_path), nmnist(tmp_path), Mnist(4, Direct(), root=str(tmp_path))):
        with pytest.raises(
            DataError, match=rf"^data\.root = {tmp_path} .* cannot be read: .*Permission denied"
        ):
            spec.load(0)


def test_digits_one_level_off_name_the_right_folder_and_others_folders_do_not(digits, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=rf"holds Train and Test, but .*set it to {digits}\."):
        nmnist(digits / "Train").parts(0)
    shutil.copytree(digits, tmp_path / "one" / "two" / "three")
    with pytest.raises(DataError, match=rf"but got {tmp_path / 'one'}: set it to {tmp_path}/one/two/three\."):
        nmnist(tmp_path / "one").parts(0)
    for split in ("Train", "Test"):  # another data set with such folders
        (tmp_path / "deep" / "signs" / split / "00001").mkdir(parents=True)
    monkeypatch.setattr(event_data, "obtain", lambda *_: digits)
    assert len(nmnist(tmp_path / "deep").parts(0)[2]) == 20


# --- transforms


KEEPING = """
from dataclasses import dataclass


@dataclass
class Keeping:
    def __call__(self, events):
        return events[events["p"] {} 1]
"""


@pytest.mark.parametrize("composed", [False, True])
def test_a_transform_that_was_edited_has_frames_of_its_own(gestures, tmp_path, monkeypatch, composed):
    """Its words stay what they were. Two modules here, where a user's next run reads the edited one."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    seen = []
    for sign in ("==", "!="):
        (tmp_path / "edited_transform.py").write_text(KEEPING.format(sign))
        monkeypatch.delitem(sys.modules, "edited_transform", raising=False)
        importlib.invalidate_caches()
        keeping = importlib.import_module("edited_transform").Keeping()
        transform = tonic.transforms.Compose([keeping]) if composed else keeping
        event_data._stored.cache_clear()
        data = gesture(gestures, framing=Framing(size=32, transforms=(transform,))).load(0)
        seen.append(data.train.x.sum((0, 1, 3, 4)).tolist())
    assert seen[0][0] == seen[1][1] == 0
    assert min(seen[0][1], seen[1][0]) > 0


@dataclasses.dataclass
class Choosy:
    def __call__(self, events):
        raise ValueError("too many")


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (Choosy(), r"Choosy\(\) does not take a recording of 120 events: ValueError: too many"),
        (tonic.transforms.Decimation(0), r"Decimation\(n=0\) does not take a recording of 120 events: "),
    ],
)
def test_a_transform_that_fails_is_named_with_its_key(gestures, transform, said):
    with pytest.raises(DataError, match=rf"^data\.framing\.transforms: {said}"):
        gesture(gestures, framing=Framing(size=32, transforms=(transform,)), skip_bad=True).load(0)


def test_a_config_that_leaves_too_few_events_is_named_and_not_the_recording(gestures):
    """With skip_bad, too: leaving out good recordings would hide what is wrong."""
    for skip_bad in (False, True):
        with pytest.raises(
            DataError,
            match=r"npy keeps \d of 120 events, .*data\.timesteps=4: data\.framing\.denoise_ms must leave more",
        ):
            gesture(gestures, framing=Framing(size=32, denoise_ms=0.001), skip_bad=skip_bad).load(0)


@pytest.mark.parametrize(
    ("transform", "left"),
    [
        (tonic.transforms.CropTime(max=300_000), "t"),
        (tonic.transforms.CenterCrop(sensor_size=(128, 128, 2), size=(126, 126)), "x"),
        (tonic.transforms.TimeAlignment(), "t"),
    ],
)
def test_transforms_without_a_hash_frame_and_are_remembered(gestures, transform, left):
    spec = gesture(gestures, framing=Framing(transforms=(transform,)))
    data = spec.load(0)
    events = transform(read_gesture(spec.parts(0)[0][0].path))
    assert data.train.x[0].sum() == len(events)
    assert spec.load(0).train.x is data.train.x
    assert gesture(gestures).load(0).digest != data.digest or left == "t"


class Cut:
    def __repr__(self):
        return "Cut()"

    def __call__(self, events):
        return events["x"] if self.form else np.sort(events, order="x")

    def __init__(self, form):
        self.form = form


@pytest.mark.parametrize(
    ("transform", "problem"),
    [
        (tonic.transforms.Downsample(spatial_factor=9.0), "coordinates outside the sensor: x spans"),
        (tonic.transforms.ToFrame((128, 128, 2), n_event_bins=3), r"is int16 \[3, 2, 128, 128\]"),
        (tonic.transforms.NumpyAsType(np.int64), r"is int64 \[120, 4\]"),
        (Cut(True), r"Cut\(\) makes of a recording is int16 \[120\]"),
        (Cut(False), "times that run backwards"),
    ],
)
@pytest.mark.parametrize("denoise", [None, 10.0])
def test_transforms_that_give_no_events_on_the_sensor_are_named(gestures, transform, problem, denoise):
    framing = Framing(transforms=(transform,), denoise_ms=denoise)
    with pytest.raises(DataError, match=rf"^data\.framing\.transforms must .*{problem}"):
        gesture(gestures, framing=framing, skip_bad=True).load(0)


# --- downloads


def tar_of(folder):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(folder, folder.name)
    return packed.getvalue()


def test_gestures_are_downloaded_resumed_checked_and_unpacked(gestures, server, private_cache, monkeypatch):
    official = tonic.datasets.DVSGesture
    body = {s: tar_of(gestures / f) for s, f in (("train", "ibmGestureTrain"), ("test", "ibmGestureTest"))}
    server.files = {"/38022171": body["train"], "/38020584": body["test"]}
    server.break_after = [20_000]
    monkeypatch.setattr(event_data, "FIGSHARE", server.address.replace("file", ""))
    for split in body:
        monkeypatch.setattr(official, f"{split}_md5", hashlib.md5(body[split]).hexdigest())
    data = gesture(None).load(0)
    assert data.digest == gesture(gestures).load(0).digest
    assert server.ranges == [None, "bytes=20000-", None]
    asked = len(server.ranges)
    event_data._stored.cache_clear()
    gesture(None).load(0)
    assert len(server.ranges) == asked
    assert not list((private_cache / "dvs_gesture").glob("*.tar.gz"))


def test_an_archive_beside_the_config_is_unpacked_not_downloaded(
    gestures, tmp_path, private_cache, monkeypatch
):
    own = tmp_path / "archives"
    own.mkdir()
    for name, folder in (("train", "ibmGestureTrain"), ("test", "ibmGestureTest")):
        body = tar_of(gestures / folder)
        (own / f"{folder}.tar.gz").write_bytes(body)
        monkeypatch.setattr(tonic.datasets.DVSGesture, f"{name}_md5", hashlib.md5(body).hexdigest())
    assert gesture(own).load(0).digest == gesture(gestures).load(0).digest
    (own / "ibmGestureTest.tar.gz").write_bytes(b"something else")
    shutil.rmtree(private_cache / "dvs_gesture")
    with pytest.raises(DataError, match=r"ibmGestureTest\.tar\.gz is not the official"):
        gesture(own).parts(0)


def test_an_archive_that_lies_in_the_cache_is_checked_and_stays(gestures, private_cache, monkeypatch):
    home = private_cache / "dvs_gesture"
    home.mkdir(parents=True)
    for name, folder in (("train", "ibmGestureTrain"), ("test", "ibmGestureTest")):
        body = tar_of(gestures / folder)
        (home / f"{folder}.tar.gz").write_bytes(body)
        monkeypatch.setattr(tonic.datasets.DVSGesture, f"{name}_md5", hashlib.md5(body).hexdigest())
    whole = (home / "ibmGestureTest.tar.gz").read_bytes()
    (home / "ibmGestureTest.tar.gz").write_bytes(whole[:1000])
    with pytest.raises(
        DataError, match=r"Test\.tar\.gz is not the official .* its md5 is .*Delete .* to have it"
    ):
        gesture(None).parts(0)
    assert (home / "ibmGestureTest.tar.gz").stat().st_size == 1000
    assert not (home / "ibmGestureTest").exists()
    (home / "ibmGestureTest.tar.gz").write_bytes(whole)
    assert gesture(None).load(0).digest == gesture(gestures).load(0).digest
    assert sorted(path.name for path in home.glob("*.tar.gz")) == [
        "ibmGestureTest.tar.gz",
        "ibmGestureTrain.tar.gz",
    ]


def test_with_neither_folder_nor_network_the_error_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr(event_data, "FIGSHARE", "http://127.0.0.1:9/")
    with pytest.raises(
        DataError, match=r"Put the unpacked recordings \(ibmGestureTrain/user<NN>_<lighting>.*PIPELINE"
    ):
        gesture(tmp_path).load(0)
    monkeypatch.setattr(tonic.datasets.NMNIST, "train_url", "http://127.0.0.1:9/")
    with pytest.raises(DataError, match=r"Put the unpacked recordings \(Train/<digit>/<sample>\.bin"):
        nmnist(tmp_path).load(0)


def test_without_tonic_the_error_says_how_to_install_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tonic", None)
    monkeypatch.delitem(sys.modules, "tonic.io", raising=False)
    with pytest.raises(DataError, match=r"pip install 'snn-pipeline\[events\]'"):
        event_data.tonic_part("io")


# --- N-MNIST


def encoded(x, y, p, t):
    """The 5 bytes of each event: x, y, then one bit of polarity and 23 of time."""
    x, y, p, t = (np.asarray(a) for a in (x, y, p, t))
    return np.stack([x, y, (p << 7) | (t >> 16), (t >> 8) & 255, t & 255], axis=1).astype(np.uint8).tobytes()


def moving_dot(digit, seed):
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, 300_000, 80))
    t[-1] = 300_000
    return encoded(rng.integers(0, 34, 80), np.full(80, 3 * digit), rng.integers(0, 2, 80), t)


@pytest.fixture
def digits(tmp_path):
    root = tmp_path / "NMNIST"
    for split, count in (("Train", 6), ("Test", 2)):
        for digit in range(10):
            (root / split / str(digit)).mkdir(parents=True)
            for k in range(count):
                seed = 10 * digit + k + (100 if split == "Test" else 0)
                (root / split / str(digit) / f"{k:05d}.bin").write_bytes(moving_dot(digit, seed))
    return root


def test_nmnist_from_the_official_layout(digits, tmp_path):
    data = nmnist(tmp_path, validation=10).load(0)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [50, 10, 20]
    assert data.train.y.bincount().tolist() == [5] * 10
    assert data.shape == (2, 34, 34)
    rows = data.train.x.sum(dim=(1, 2, 4)).argmax(1)
    assert torch.equal(rows, 3 * data.train.y)  # the dot of digit d runs in row 3 d


def test_a_recording_that_is_there_twice_is_named_with_both_places(digits):
    """What is tested would have been learned. Under another name and digit, too: the bytes tell."""
    leaked = digits / "Test" / "4" / "99999.bin"
    shutil.copy(digits / "Train" / "3" / "00001.bin", leaked)
    with pytest.raises(DataError, match=r"Test/4/99999\.bin is there twice: .*Train/3/00001\.bin holds"):
        nmnist(digits, validation=10).load(0)
    assert nmnist(digits, validation=10, skip_bad=True).load(0).skipped == {"is there twice": 1}


def test_settings_that_give_other_frames_have_caches_of_their_own(digits, private_cache):
    """Each with its frames, also where the other one's cache is there already."""
    settings = [
        {},
        {"timesteps": 5},
        {"first_saccade": True},
        {"stabilize": True},
        {"framing": Framing(size=17)},
    ]
    specs = [nmnist(digits, **each) for each in settings]
    found = [spec.load(0) for spec in specs]
    assert len([place for place in (private_cache / "frames").iterdir() if place.is_dir()]) == len(specs)
    for spec, data in zip(specs, found, strict=True):
        events = spec.read(spec.parts(0)[0][0].path)
        frames, _ = spec.framing.frames(events, 34, spec.timesteps)
        assert torch.equal(data.train.x[0], torch.from_numpy(frames))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-2]), "is cut off: its 398 bytes are not a whole number"),
        (
            lambda p: p.write_bytes(p.read_bytes()[:200]),
            "is cut off: it ends at .* ms, but the third saccade lasts to about 300 ms",
        ),
        (
            lambda p: p.write_bytes(encoded([3] * 4, [3] * 4, [0] * 4, [0, 90_000, 190_000, 269_000])),
            "is cut off: it ends at 269 ms, but the third saccade lasts",
        ),
        (lambda p: p.write_bytes(b""), "holds no events"),
        (
            lambda p: p.write_bytes(encoded([34], [3], [0], [250_000])),
            "has coordinates outside the sensor: x",
        ),
        (
            lambda p: p.write_bytes(encoded([3], [200], [0], [250_000])),
            "has coordinates outside the sensor: y",
        ),
        (
            lambda p: p.write_bytes(encoded([3], [240], [0], [250_000])),
            "has coordinates outside the sensor: y of event 0 is 240",
        ),
        (
            lambda p: p.write_bytes(encoded([3] * 5, [3] * 5, [0] * 5, [60_000 * k for k in range(1, 6)])),
            "lacks a part: no event comes for 60 ms before event 0",
        ),
        (
            lambda p: p.write_bytes(
                encoded([3] * 6, [3] * 6, [0] * 6, [0, 40_000, 80_000, 200_000, 240_000, 280_000])
            ),
            "lacks a part: no event comes for 120 ms before event 3",
        ),
        (
            lambda p: p.write_bytes(encoded([3] * 2, [3] * 2, [0] * 2, [260_000, 250_000])),
            "has times that run back",
        ),
    ],
)
def test_a_damaged_digit_is_named_with_its_problem(digits, damage, problem):
    damage(digits / "Train" / "4" / "00002.bin")
    with pytest.raises(DataError, match=rf"Train/4/00002\.bin {problem}"):
        nmnist(digits).load(0)
    assert len(nmnist(digits, skip_bad=True).load(0).test) == 20


def test_a_digit_that_cannot_be_read_is_named_or_left_out_and_macos_files_are_none(digits):
    bad = digits / "Train" / "4" / "00002.bin"
    (bad.parent / "._x.bin").write_bytes(b"\0\5\x16\7" + bytes(171))
    bad.unlink()
    bad.symlink_to("gone")
    with pytest.raises(DataError, match=r"00002\.bin cannot be read: No such file.*skip_bad"):
        nmnist(digits).load(0)
    data = nmnist(digits, skip_bad=True).load(0)
    assert len(data.train) + len(data.validation) == 59


@pytest.mark.parametrize(
    "name", ["Train/4/00002.BIN", "Train/4/00002.bin.gz", "Train/00002.bin", "Train/10/00002.bin"]
)
def test_a_digit_under_a_wrong_name_is_named_or_counted(digits, name):
    moved = digits / name
    moved.parent.mkdir(exist_ok=True)
    (digits / "Train" / "4" / "00002.bin").rename(moved)
    with pytest.raises(DataError, match=rf"{name} has a wrong name: .*<digit>/<sample>\.bin.*skip_bad"):
        nmnist(digits).load(0)
    data = nmnist(digits, skip_bad=True).load(0)
    assert data.skipped == {"has a wrong name": 1}
    assert len(data.train) + len(data.validation) == 59


@pytest.mark.parametrize(
    "name", ["user05_led/7.NPY", "user05_led/7.npz", "user05_led/7.npy.gz", "User05-led/7.npy"]
)
def test_a_gesture_under_a_wrong_name_is_named_or_counted(gestures, name):
    moved = gestures / "ibmGestureTrain" / name
    moved.parent.mkdir(exist_ok=True)
    (gestures / "ibmGestureTrain" / "user05_led" / "7.npy").rename(moved)
    with pytest.raises(DataError, match=rf"{name} has a wrong name: .*skip_bad"):
        gesture(gestures).load(0)
    assert gesture(gestures, skip_bad=True).load(0).skipped == {"has a wrong name": 1}


def test_a_digit_without_recordings_is_named(digits):
    shutil.rmtree(digits / "Test" / "6")
    with pytest.raises(DataError, match=r"Test holds no recordings of the classes 6"):
        nmnist(digits).load(0)
    shutil.rmtree(digits / "Test")
    (digits / "Test").mkdir()
    with pytest.raises(DataError, match=r"Test holds no recordings\."):
        nmnist(digits).load(0)


def test_nmnist_is_downloaded_and_unpacked(digits, server, monkeypatch):
    official = tonic.datasets.NMNIST
    for split, folder in (("train", "Train"), ("test", "Test")):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for path in (digits / folder).rglob("*.bin"):
                archive.write(path, path.relative_to(digits))
        server.files[f"/{split}"] = packed.getvalue()
        monkeypatch.setattr(official, f"{split}_url", server.address.replace("file", split))
        monkeypatch.setattr(official, f"{split}_md5", hashlib.md5(packed.getvalue()).hexdigest())
    assert nmnist(None).load(0).digest == nmnist(digits).load(0).digest


@pytest.mark.parametrize("place", ["Train/3", "Test/0"])
def test_a_folder_of_digits_that_may_not_be_read_is_named(digits, place, monkeypatch):
    played(monkeypatch, digits / place)
    with pytest.raises(
        DataError, match=rf"{place} cannot be read: Permission denied\. .*change its permissions"
    ):
        nmnist(digits).parts(0)


@needs_nmnist
def test_real_nmnist_loads_whole():
    data = nmnist(SMALL.parent.parent, timesteps=8).load(0)
    assert len(data.test) == 196
    assert len(data.train) + len(data.validation) == 804
    events = sum(int(split.x.sum()) for split in (data.train, data.validation, data.test))
    total = sum(
        recording.path.stat().st_size // 5 for part in find_nmnist(SMALL).values() for recording in part
    )
    assert events == total  # no event is lost on the way


@needs_nmnist
def test_real_nmnist_reads_as_tonic_reads_it(tmp_path, monkeypatch):
    (tmp_path / "NMNIST").symlink_to(SMALL)
    monkeypatch.setattr(tonic.datasets.NMNIST, "_check_exists", lambda self: True)
    for changes in ({}, {"first_saccade": True}, {"stabilize": True}):
        renamed = {{"first_saccade": "first_saccade_only"}.get(k, k): v for k, v in changes.items()}
        theirs = tonic.datasets.NMNIST(str(tmp_path), train=False, **renamed)
        events, _ = theirs[17]
        ours = nmnist(SMALL, **changes).read(Path(theirs.data[17]))
        assert all(np.array_equal(ours[axis], events[axis]) for axis in "xytp")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gesture("x", validation_users=23), r"^validation_users must be in \[1, 22\], but got 23"),
        (
            lambda: gesture("x", validation_users=(3, 24)),
            r"^validation_users must be a count or different users",
        ),
        (lambda: gesture("x", limit=5), r"^limit must be at least 11"),
        (lambda: gesture("x", framing=Framing(size=129)), r"^framing\.size must be null or in \[1, 128\]"),
        (
            lambda: gesture("x", augment=Augment(flip_labels=(1, 0))),
            r"^augment.flip_labels must hold one label",
        ),
        (
            lambda: gesture("x", augment=Augment(flip=0.5)),
            r"^augment.flip_labels must name each label's mirror image .*, but got None",
        ),
        (lambda: nmnist("x", scale=0), r"^scale must be above 0"),
        (lambda: nmnist("/no/folder").load(0), r"data\.root = /no/folder"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises((ValueError, DataError), match=message):
        make()
