import json
import logging
import os

import numpy as np
import pytest
import torch

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
    assert not folder.exists()
    camera = Camera()
    load(folder, recordings, camera)
    assert camera.calls == 6
    assert [p.name for p in folder.parent.iterdir() if p.name.endswith(".tmp")] == []


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
