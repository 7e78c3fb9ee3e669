"""What every data set owes, wherever its samples come from. A new data set is one more entry in SPECS."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.augment import Augment
from pipeline.data.digits import Digits
from pipeline.data.encode import Direct, Latency, Rate
from pipeline.data.events import Gesture, Nmnist
from pipeline.data.framing import Framing
from pipeline.data.mnist import Mnist
from pipeline.data.recordings import GESTURE_CLASSES, GESTURE_FOLDERS, GESTURE_USERS
from pipeline.types import DataSpec, SplitName

ROOT = os.environ.get("PIPELINE_DATA")
NAMES: tuple[SplitName, ...] = ("train", "validation", "test")


def real(folder: str) -> str:
    if not ROOT or not Path(ROOT, folder).is_dir():
        pytest.skip(f"PIPELINE_DATA has no {folder}")
    return ROOT


def gestures(tmp_path: Path) -> DataSpec:
    rng = np.random.default_rng(0)
    for split, folder in GESTURE_FOLDERS.items():
        for user in GESTURE_USERS[split]:
            place = tmp_path / folder / f"user{user:02d}_lab"
            place.mkdir(parents=True)
            for label in range(GESTURE_CLASSES):
                columns = rng.integers(0, (128, 128, 2, 500), (60, 4), dtype=np.int32)
                columns[:, 3].sort()
                np.save(place / f"{label}.npy", columns)
    return Gesture(5, Framing(size=16, slicing="time"), root=str(tmp_path))


SPECS: dict[str, Callable[[Path], DataSpec]] = {
    "digits": lambda _: Digits(6, Direct()),
    "digits, rate": lambda _: Digits(6, Rate(draw="poisson")),
    "digits, split by the trial's seed": lambda _: Digits(3, Latency(), split_seed=None),
    "mnist": lambda _: Mnist(4, Direct(), root=real("mnist"), limit=300, validation=200),
    "fashion_mnist": lambda _: Mnist(4, Rate(), "fashion_mnist", real("fashion-mnist"), 300, 200),
    "nmnist": lambda _: Nmnist(
        8, Framing(), root=real("nmnist-small"), limit=100, augment=Augment(shift=2, rotate=9.0, drop=0.3)
    ),
    "dvs_gesture": gestures,
}


@pytest.fixture(params=SPECS.values(), ids=SPECS.keys())
def spec(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSpec:
    pytest.importorskip("tonic")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made: DataSpec = request.param(tmp_path)
    return made


class TestEveryDataSpec:
    def test_stored_samples_are_bytes_and_labels_fit(self, spec: DataSpec) -> None:
        data = spec.load(0)
        for name in NAMES:
            split = data.split(name)
            assert split.x.dtype == torch.uint8
            assert split.x.shape[-3:] == data.shape
            assert split.y.dtype == torch.int64
            assert len(split.x) == len(split.y) == len(split) > 0
            assert split.y.min() >= 0
            assert split.y.max() < data.classes
        assert len(data.train.y.unique()) == data.classes

    def test_batches_are_time_first_and_not_negative(self, spec: DataSpec) -> None:
        data = spec.load(0)
        for name in NAMES:
            batch = next(data.batches(name, 7, seed=1, shuffle=name == "train"))
            assert batch.x.shape == (data.timesteps, 7, *data.shape)
            assert batch.x.dtype == torch.float32
            assert batch.y.shape == (7,)
            assert batch.x.min() >= 0
            assert batch.x.isfinite().all()
            assert batch.x.sum() > 0

    def test_the_same_seed_gives_the_same_batches(self, spec: DataSpec) -> None:
        first, again = (list(spec.load(3).batches("train", 50, seed=5, shuffle=True)) for _ in range(2))
        assert all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in zip(first, again, strict=True))
        other = next(spec.load(3).batches("train", 50, seed=6, shuffle=True))
        assert not torch.equal(other.y, first[0].y)

    def test_an_epoch_shows_every_sample_once(self, spec: DataSpec) -> None:
        data = spec.load(0)
        labels = torch.cat([batch.y for batch in data.batches("train", 64, seed=2, shuffle=True)])
        assert labels.bincount(minlength=data.classes).tolist() == data.train.y.bincount().tolist()

    def test_the_test_split_does_not_follow_the_seed(self, spec: DataSpec) -> None:
        first, other = spec.load(0), spec.load(1)
        assert torch.equal(first.test.x, other.test.x)
        assert torch.equal(first.test.y, other.test.y)

    def test_an_epoch_leaves_the_stored_samples_as_they_are(self, spec: DataSpec) -> None:
        data = spec.load(0)
        before = data.train.x.clone()
        for batch in data.batches("train", 64, seed=2, shuffle=True):
            batch.x.sum()
        assert torch.equal(data.train.x, before)
        assert spec.load(0).digest == data.digest
