import errno
import json
import logging
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from filelock import FileLock

from pipeline.data import store
from pipeline.data.recordings import Damaged, Recording
from pipeline.data.store import key_of, load_or_build
from pipeline.types import DataError


class Camera:
    """Turns a file with one number into frames of that number, and counts how often it is asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, path):
        self.calls += 1
        text = path.read_text()
        if not text.isdigit():
            raise Damaged(path, "is cut off", "no number.")
        return np.full((2, 2, 3, 3), int(text), np.uint8), 10, 1


@pytest.fixture
def recordings(tmp_path):
    found = []
    for number in range(6):
        path = tmp_path / f"{number}.txt"
        path.write_text(str(number))
        found.append(Recording(path, number % 2))
    return found[:3], found[3:5], found[5:]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "numbers"


def load(folder, recordings, camera, skip_bad=False, mapped=True, settings="s"):
    return load_or_build(folder, key_of(recordings, settings), recordings, camera, skip_bad, mapped)


@pytest.mark.parametrize("mapped", [True, False])
def test_frames_are_built_once_and_split(folder, recordings, mapped):
    camera = Camera()
    first = load(folder, recordings, camera, mapped=mapped)
    second = load(folder, recordings, camera, mapped=mapped)
    assert camera.calls == 6
    assert [split.x[:, 0, 0, 0, 0].tolist() for split in second.splits] == [[0, 1, 2], [3, 4], [5]]
    assert [split.y.tolist() for split in second.splits] == [[0, 1, 0], [1, 0], [1]]
    assert first.digest == second.digest
    assert second.splits[0].x.dtype == torch.uint8
    assert second.facts["events"] == 60
    assert second.facts["beyond_255"] == 6


def test_writing_into_a_mapped_sample_does_not_reach_the_file(folder, recordings):
    load(folder, recordings, Camera()).splits[0].x.fill_(9)
    assert load(folder, recordings, Camera()).splits[0].x.max() == 2


def truncate(folder):
    (folder / store.FRAMES).write_bytes((folder / store.FRAMES).read_bytes()[:-1])


def flip_a_bit(folder):
    raw = bytearray((folder / store.FRAMES).read_bytes())
    raw[20] ^= 1
    (folder / store.FRAMES).write_bytes(raw)


def other_version(folder):
    facts = json.loads((folder / store.FACTS).read_text())
    (folder / store.FACTS).write_text(json.dumps(facts | {"version": store.VERSION - 1}))


def wrong(name, value):
    """Facts that are JSON, but not what was written."""

    def damage(folder):
        facts = json.loads((folder / store.FACTS).read_text())
        (folder / store.FACTS).write_text(json.dumps(facts | {name: value}))

    return damage


def into_a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("not a folder")


def into_a_link_to_nowhere(folder):
    shutil.rmtree(folder)
    folder.symlink_to("gone")


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_a_bit,
        other_version,
        lambda f: (f / store.FACTS).unlink(),
        lambda f: (f / store.FRAMES).unlink(),
        lambda f: (f / store.FACTS).write_text('{"shape": [6, 2'),
        lambda f: (f / store.FACTS).write_text("[]"),
        wrong("shape", [6, 2, "2", 3, 3]),
        wrong("shape", []),
        wrong("labels", [None] * 6),
        wrong("sizes", [7, -3, 2]),
        wrong("skipped", [1]),
        wrong("seconds", None),
        into_a_file,
        into_a_link_to_nowhere,
    ],
)
def test_a_broken_cache_is_noticed_and_built_again(folder, recordings, damage, caplog):
    good = load(folder, recordings, Camera()).digest
    damage(folder)
    camera = Camera()
    with caplog.at_level(logging.WARNING):
        assert load(folder, recordings, camera).digest == good
    assert camera.calls == 6
    assert "is built again" in caplog.text


def test_a_run_killed_while_writing_leaves_nothing_that_is_taken_for_a_cache(folder, recordings):
    class Killed(BaseException):
        pass

    def dies(path):
        if path.name == "4.txt":
            raise Killed
        return Camera()(path)

    with pytest.raises(Killed):
        load(folder, recordings, dies)
    assert [p.name for p in folder.parent.iterdir() if not p.name.endswith(".lock")] == []
    (folder.parent / f"{folder.name}.1.tmp").mkdir()  # of a run that had no time to clean up
    camera = Camera()
    load(folder, recordings, camera)
    assert camera.calls == 6
    assert [p.name for p in folder.parent.iterdir() if p.name.endswith(".tmp")] == []


def test_what_killed_runs_left_of_other_caches_is_removed_unless_it_is_being_written(folder, recordings):
    dead, alive, foreign = (
        folder.parent / name for name in ("dead-0a.77.tmp", "alive-0b.78.tmp", "their.tmp")
    )
    for place in (dead, alive, foreign):
        place.mkdir(parents=True)
        (place / "frames.u8").write_bytes(b"x")
    with FileLock(folder.parent / "alive-0b.lock"):
        load(folder, recordings, Camera())
        assert sorted(folder.parent.glob("*.tmp")) == [alive, foreign]
    load(folder, recordings, Camera(), settings="other")
    assert list(folder.parent.glob("*.tmp")) == [foreign]


class SlowCamera(Camera):
    def __call__(self, path):
        time.sleep(0.02)
        return super().__call__(path)


def test_workers_that_need_the_same_frames_build_them_once(folder, recordings):
    """A lock of the file system: threads with a lock object each stand for processes."""
    cameras = [SlowCamera() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda camera: load(folder, recordings, camera), cameras))
    assert sorted(camera.calls for camera in cameras) == [0, 0, 6]
    assert len({stored.digest for stored in found}) == 1


def test_the_key_changes_with_files_and_settings(recordings):
    keys = {
        key_of(recordings, "a"),
        key_of(recordings, "b"),
        key_of((recordings[1], recordings[0], recordings[2]), "a"),
    }
    path = recordings[0][0].path
    os.utime(path, ns=(1, 1))
    keys.add(key_of(recordings, "a"))
    assert len(keys) == 4


def test_another_key_in_the_same_folder_is_built_again(folder, recordings):
    camera = Camera()
    load(folder, recordings, camera, settings="a")
    load(folder, recordings, camera, settings="b")
    assert camera.calls == 12


def test_a_damaged_recording_stops_the_build_and_says_how_to_go_on(folder, recordings):
    recordings[0][1].path.write_text("?")
    with pytest.raises(DataError, match=r"1\.txt is cut off: no number\. .*skip_bad=true"):
        load(folder, recordings, Camera())
    assert not folder.exists()


def test_skipping_counts_by_kind(folder, recordings, caplog):
    recordings[0][2].path.write_text("?")
    with caplog.at_level(logging.INFO, logger="pipeline.data.store"):
        stored = load(folder, recordings, Camera(), skip_bad=True)
    assert stored.splits[0].x[:, 0, 0, 0, 0].tolist() == [0, 1]
    assert stored.splits[0].y.tolist() == [0, 1]
    assert stored.facts["skipped"] == {"is cut off": 1}
    assert "5 recordings" in caplog.text
    assert "skipped: 1 is cut off" in caplog.text
    assert "events/s" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load(folder, recordings, Camera(), skip_bad=True)
    assert "skipped: 1 is cut off" in caplog.text, "from the cache, too"


@pytest.mark.parametrize("twin", [1, 3, 5])
def test_the_same_bytes_twice_are_refused_in_whatever_split(folder, recordings, twin):
    """In which splits two copies come to lie is drawn by seeds."""
    every = [each.path for part in recordings for each in part]
    every[twin].write_text("0")
    with pytest.raises(DataError, match=rf"{twin}\.txt is there twice: .*0\.txt holds the same bytes\."):
        load(folder, recordings, Camera())


def test_a_strict_run_does_not_use_what_a_permissive_run_left(folder, recordings):
    bad = recordings[0][2].path
    bad.write_text("?")
    load(folder, recordings, Camera(), skip_bad=True)
    camera = Camera()
    with pytest.raises(DataError, match=r"2\.txt is cut off: no number\. .*skip_bad=true"):
        load(folder, recordings, camera)
    assert camera.calls == 1, "only the first that was left out is looked at"
    assert len(load(folder, recordings, Camera(), skip_bad=True).splits[0]) == 2
    state = bad.stat()
    bad.write_text("2")  # mended, with the size and time it had: the key cannot tell
    os.utime(bad, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert len(load(folder, recordings, Camera()).splits[0]) == 3


def test_a_recording_that_is_gone_is_left_to_who_reads_it(folder, recordings):
    """A link to nowhere, or deleted between listing and building."""

    def gone(path):
        if not path.exists():
            raise Damaged(path, "cannot be read", "gone.")
        return Camera()(path)

    recordings[0][2].path.unlink()
    with pytest.raises(DataError, match=r"2\.txt cannot be read: gone\. .*skip_bad=true"):
        load(folder, recordings, gone)
    assert load(folder, recordings, gone, skip_bad=True).facts["skipped"] == {"cannot be read": 1}


def refuse(code):
    def refused(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return refused


def test_a_full_disk_names_the_cache_and_leaves_no_frames(private_cache, recordings, monkeypatch):
    folder = private_cache / "frames" / "numbers"
    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", refuse(errno.ENOSPC))
        with pytest.raises(DataError, match=r"frames cannot be written .*No space left.*set XDG_CACHE_HOME"):
            load(folder, recordings, Camera())
    assert [p.name for p in folder.parent.iterdir() if not p.name.endswith(".lock")] == []
    load(folder, recordings, Camera())


def test_a_cache_on_a_read_only_disk_is_used(folder, recordings, monkeypatch):
    load(folder, recordings, Camera())
    monkeypatch.setattr(store, "FileLock", refuse(errno.EROFS))
    monkeypatch.setattr(store.Path, "mkdir", refuse(errno.EROFS))
    camera = Camera()
    load(folder, recordings, camera)
    assert camera.calls == 0
    with pytest.raises(DataError, match=r"cache cannot be written .*Read-only file system"):
        load(folder, recordings, camera, settings="other")


def test_a_class_that_loses_everything_is_an_error(folder, recordings):
    """Training recordings of classes 0, 1 and 0."""
    recordings[0][1].path.write_text("?")
    with pytest.raises(DataError, match="the train split has no usable recording of class 1 "):
        load(folder, recordings, Camera(), skip_bad=True)
    assert not folder.exists()


def test_a_split_that_loses_everything_is_an_error(folder, recordings):
    recordings[2][0].path.write_text("?")
    with pytest.raises(DataError, match="the test split has no usable recording"):
        load(folder, recordings, Camera(), skip_bad=True)
