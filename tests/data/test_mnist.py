import gzip
import os
import shutil
import struct
import time
from pathlib import Path

import pytest
import torch

from pipeline.data import mnist
from pipeline.data.encode import Direct
from pipeline.data.idx import read_idx
from pipeline.data.mnist import Mnist
from pipeline.types import DataError

ROOT = os.environ.get("PIPELINE_DATA")
needs_files = pytest.mark.skipif(
    not ROOT or not Path(ROOT, "mnist").is_dir(), reason="PIPELINE_DATA names no folder with the idx files"
)


def spec(**changes):
    return Mnist(**{"timesteps": 4, "encoding": Direct(), "root": ROOT} | changes)


@pytest.fixture
def copied(tmp_path):
    """A folder with a copy of the four MNIST files that a test may damage."""
    for file in Path(ROOT, "mnist").glob("*.gz"):
        shutil.copy(file, tmp_path)
    mnist._read.cache_clear()
    mnist._cut.cache_clear()
    return tmp_path


@needs_files
@pytest.mark.parametrize("which", ["mnist", "fashion_mnist"])
def test_official_split_sizes_and_known_first_labels(which):
    data = spec(which=which, limit=1000).load(0)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [1000, 5000, 10000]
    assert data.train.x.shape[1:] == data.shape == (1, 28, 28)
    first = {"mnist": [7, 2, 1, 0, 4], "fashion_mnist": [9, 2, 1, 1, 6]}[which]
    assert data.test.y[:5].tolist() == first
    assert data.train.y.bincount().min() >= 85


@needs_files
def test_limit_takes_from_training_only_and_keeps_validation():
    small, large = spec(limit=500).load(0), spec(limit=5000).load(0)
    assert torch.equal(small.validation.x, large.validation.x)
    assert torch.equal(small.train.x, large.train.x[:500])
    assert len(spec(validation=0.1).load(0).train) == 54000


@needs_files
def test_loading_again_is_free():
    spec(limit=1000).load(0)
    start = time.perf_counter()
    for timesteps in range(1, 11):
        spec(limit=1000, timesteps=timesteps).load(timesteps)
    assert time.perf_counter() - start < 0.1


@needs_files
def test_plain_files_are_read_and_so_is_torchvisions_layout(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file in Path(ROOT, "mnist").glob("*.gz"):
        (folder / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    assert spec(root=str(tmp_path)).load(0).digest == spec().load(0).digest


def cut_gzip(path):
    path.write_bytes(path.read_bytes()[:-100_000])


def flip_byte_of_gzip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)


def rewritten(change):
    def damage(path):
        path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes())), 1))

    return damage


@needs_files
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (cut_gzip, "is cut off: the gzip stream does not end"),
        (flip_byte_of_gzip, "is (damaged|not the official file)"),
        (rewritten(lambda b: b[:-1]), "is cut off: 7840015 bytes unpacked instead of 7840016"),
        (rewritten(lambda b: b + b"x"), "is too long"),
        (rewritten(lambda b: b"\0\0\x0d\x03" + b[4:]), "magic number 00000d03, .* 00000803"),
        (rewritten(lambda b: b[:4] + struct.pack(">I", 9999) + b[8:-784]), "holds 9999 x 28 x 28 values"),
        (rewritten(lambda b: b[:-1] + b"\x07"), "not the official file: unpacked, its sha256 begins"),
        (rewritten(lambda b: b[:2]), "hold no idx header"),
        (rewritten(lambda b: b[:9]), "cut off within its header"),
        (lambda p: p.write_bytes(b"<html>Not found</html>"), "magic number 3c68746d"),
        (lambda p: p.write_bytes(b""), "hold no idx header"),
    ],
)
def test_a_damaged_file_is_named_with_its_problem(copied, damage, problem):
    damage(copied / "t10k-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match=rf"t10k-images-idx3-ubyte\.gz.*{problem}"):
        spec(root=str(copied)).load(0)


@needs_files
def test_a_missing_file_is_named(copied):
    (copied / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="but not train-labels-idx1-ubyte"):
        spec(root=str(copied)).load(0)


def test_a_root_that_does_not_exist_is_said_before_any_download():
    with pytest.raises(DataError, match=r"/no/such/folder.*is not a folder"):
        spec(root="/no/such/folder").load(0)


def test_without_files_and_network_the_error_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(mnist.ADDRESSES, "mnist", ("http://127.0.0.1:9/",))  # nothing listens there
    with pytest.raises(
        DataError, match=r"(?s)Put the files train-images-idx3-ubyte, .*\$PIPELINE_DATA.*127\.0\.0\.1"
    ):
        spec(root=str(tmp_path)).load(0)


def test_an_idx_file_of_our_own(tmp_path):
    path = tmp_path / "tiny"
    data = struct.pack(">HBB2I", 0, 8, 2, 2, 3) + bytes(range(6))
    path.write_bytes(data)
    import hashlib

    array = read_idx(path, (2, 3), hashlib.sha256(data).hexdigest())
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"^limit must be in \[1, 55000\]"):
        spec(limit=55_001)
    with pytest.raises(ValueError, match=r"^which must be one of mnist, fashion_mnist, but got 'kmnist'"):
        spec(which="kmnist")
    with pytest.raises(ValueError, match=r"^validation must be a fraction"):
        spec(validation=60_000)
