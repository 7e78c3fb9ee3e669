"""Recordings of event cameras through tonic: N-MNIST and DVS128 Gesture, from an unpacked folder as it is.

The only file that imports tonic, and only when event data is asked for: tonic is an optional extra (GPL-3.0).
tonic reads the N-MNIST format, knows the archives and their md5, and brings the event transforms. Its data set
classes are not used: they download again whenever the archive is gone, even beside the unpacked folder.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import torch

from pipeline.data.augment import Augment
from pipeline.data.download import cache_folder
from pipeline.data.encode import Frames, require_timesteps
from pipeline.data.framing import Framing
from pipeline.data.recordings import (
    EVENT,
    GESTURE_CLASSES,
    GESTURE_FOLDERS,
    GESTURE_USERS,
    SKIP_HINT,
    Damaged,
    Recording,
    check_events,
    check_nmnist,
    find_gestures,
    find_nmnist,
    left_out,
    misnamed_nmnist,
    read_gesture,
    require_bin,
    require_classes,
    split_by_user,
    unreadable,
)
from pipeline.data.sources import Archive, obtain, search
from pipeline.data.split import count_of, stratified
from pipeline.data.store import Stored, key_of, load_or_build, skipped
from pipeline.types import DataError, Dataset, require

Parts = tuple[Sequence[Recording], Sequence[Recording], Sequence[Recording]]
logger = logging.getLogger(__name__)
FIGSHARE = "https://api.figshare.com/v2/file/download/"
"""figshare.com/ndownloader, which tonic asks, answers scripts with a page for browsers; this address does not."""


def api(address: str) -> str:
    """The address of figshare's API for a file that tonic names by its page."""
    return FIGSHARE + address.rsplit("/", 1)[1]


def tonic_part(name: str) -> ModuleType:
    """``tonic.NAME``, imported now; DataError that says how to install it."""
    try:
        return importlib.import_module(f"tonic.{name}")
    except ImportError as error:
        raise DataError(
            f"event data needs tonic, which cannot be imported ({error}): pip install 'snn-pipeline[events]'."
        ) from error


@dataclass(frozen=True)
class EventData(ABC):
    """What all event data sets share: where they are, how events become frames, how samples are split."""

    timesteps: int
    """Frames per recording, T."""
    framing: Framing
    root: str | None = None
    """Folder that holds the unpacked recordings (searched also one level down); None: download."""
    augment: Augment | None = None
    """Changes of training batches."""
    scale: float = 1.0
    """Input current of one event."""
    limit: int | None = None
    """Number of training recordings, stratified by class; None: all."""
    split_seed: int | None = 0
    """Chooses validation (and `limit`); None: follow the trial's seed."""
    skip_bad: bool = False
    """Leave out recordings that are damaged or not called as they must be, and users that are missing, and say so;
    False: stop there."""
    mapped: bool = True
    """Frames stay in the file system's cache, shared by all workers; False: each process holds its own."""

    name: ClassVar[str]
    sensor: ClassVar[int]
    classes: ClassVar[int]

    def __post_init__(self) -> None:
        require_timesteps(self.timesteps)
        self.framing.side(self.sensor)
        require(self.scale > 0, "scale", "be above 0", self.scale)
        require(
            self.limit is None or self.limit >= self.classes,
            "limit",
            f"be at least {self.classes}",
            self.limit,
        )
        labels = self.augment.flip_labels if self.augment else None
        rule = f"hold one label for each of the {self.classes} classes"
        require(labels is None or len(labels) == self.classes, "augment.flip_labels", rule, labels)

    def load(self, seed: int) -> Dataset:
        """[N, T, 2, side, side] uint8 splits; `seed` matters only where `split_seed` is None.

        The first call builds the frame cache (events/s and size are logged), later ones open it, and within a
        process it stays open. Raises DataError for recordings missing or damaged, naming the file.
        """
        cut = seed if self.split_seed is None else self.split_seed
        counts = dataclasses.replace(self.framing, values="count")  # one cache for all that is made of counts
        stored = _stored(dataclasses.replace(self, framing=counts, augment=None, scale=1.0), cut)
        side = self.framing.side(self.sensor)
        train, validation, test = stored.splits
        return Dataset(
            name=self.name, classes=self.classes, shape=(2, side, side), timesteps=self.timesteps,
            train=train, validation=validation, test=test,
            encode=Frames(self.timesteps, self.scale, self.framing.values), digest=stored.digest, augment=self.augment,
            skipped=skipped(stored.facts),
        )  # fmt: skip

    @abstractmethod
    def parts(self, seed: int) -> Parts:
        """The recordings of train, validation and test."""

    def left_out(self) -> Mapping[str, int]:
        """How often `parts` passes something over because of `skip_bad`, by reason."""
        return {}

    @abstractmethod
    def read(self, path: Path) -> np.ndarray:
        """The events (`recordings.EVENT`) of one recording; raises Damaged."""

    def reading(self) -> str:
        """What `read` does beyond the file, for the key of the frame cache."""
        return ""

    def frame(self, path: Path) -> tuple[np.ndarray, int, int]:
        """[T, 2, side, side] counts of one recording, events read, events beyond 255.

        Raises Damaged for a recording that cannot be used, DataError for a framing that cannot.
        """
        events = self.read(path)
        kept = self.framing.kept(events, self.sensor)
        if len(events) < self.timesteps:
            detail = f"{len(events)} for {self.timesteps} frames (data.timesteps)."
            raise Damaged(path, "holds too few events", detail)
        if len(kept) < self.timesteps:
            # the recording is good, and leaving out such would leave out real ones
            raise DataError(
                f"{path} keeps {len(kept)} of {len(events)} events, too few for data.timesteps={self.timesteps}: "
                f"{self.framing.shortening()} must leave more."
            )
        frames, lost = self.framing.frames(kept, self.sensor, self.timesteps)
        return frames, len(events), lost

    def limited(self, recordings: Sequence[Recording], seed: int) -> Sequence[Recording]:
        """At most `limit` of the recordings, with the classes in their shares."""
        if self.limit is None or self.limit >= len(recordings):
            return recordings
        labels = torch.tensor([recording.label for recording in recordings])
        return [recordings[i] for i in stratified(labels, (self.limit,), seed)[0].sort().values.tolist()]


@functools.lru_cache(maxsize=2)
def _stored(spec: EventData, seed: int) -> Stored:
    parts = spec.parts(seed)
    key = key_of(parts, (spec.name, spec.reading(), spec.framing, spec.framing.code(), spec.timesteps))
    folder = cache_folder() / "frames" / f"{spec.name}-{key[:16]}"
    return load_or_build(folder, key, parts, spec.frame, spec.skip_bad, spec.mapped, spec.left_out())


@dataclass(frozen=True)
class Nmnist(EventData):
    """N-MNIST (Orchard et al. 2015): MNIST seen by an ATIS camera in three saccades, 34x34, 10 digits.

    Official Train/Test folders; validation is cut from Train, stratified by digit.
    """

    validation: int | float = 0.15
    """Recordings cut from Train: a count, or a fraction."""
    first_saccade: bool = False
    """Keep the first of the three saccades (100 ms) only."""
    stabilize: bool = False
    """Undo the motion of the saccades, as tonic does."""

    name: ClassVar[str] = "nmnist"
    sensor: ClassVar[int] = 34
    classes: ClassVar[int] = 10

    def parts(self, seed: int) -> Parts:
        found = find_nmnist(self._folder(), self.skip_bad)
        recordings = found["train"]
        held_out = count_of(self.validation, len(recordings), "data.validation")
        labels = torch.tensor([recording.label for recording in recordings])
        validation, train = (
            [recordings[i] for i in chosen.sort().values.tolist()]
            for chosen in stratified(labels, (held_out, len(recordings) - held_out), seed)
        )
        return self.limited(train, seed), validation, found["test"]

    def left_out(self) -> Mapping[str, int]:
        return misnamed_nmnist(self._folder()) if self.skip_bad else {}

    def read(self, path: Path) -> np.ndarray:
        require_bin(path)
        reader = tonic_part("io").read_mnist_file
        try:
            events = reader(path, EVENT)
        except OSError as error:
            raise unreadable(path, error) from error
        check_nmnist(path, events, self.sensor, self.sensor)
        if self.first_saccade:
            events = events[events["t"] < 100_000]
        if self.stabilize:
            events = tonic_part("datasets.nmnist").stabilize(events)
        return events

    def reading(self) -> str:
        return f"first_saccade={self.first_saccade} stabilize={self.stabilize}"

    def _folder(self) -> Path:
        names = (".", "NMNIST", "nmnist", "nmnist/NMNIST", "nmnist-small/NMNIST")
        if found := search(self.root, names, ("Train", "Test"), "[0-9]/*.bin"):
            return found
        tonic = tonic_part("datasets").NMNIST
        archives = [
            Archive(tonic.train_filename, (tonic.train_url,), tonic.train_md5, "Train"),
            Archive(tonic.test_filename, (tonic.test_url,), tonic.test_md5, "Test"),
        ]
        return obtain(
            "nmnist", self.root, archives, "Train/<digit>/<sample>.bin and Test/<digit>/<sample>.bin"
        )


@dataclass(frozen=True)
class Gesture(EventData):
    """DVS128 Gesture (Amir et al. 2017): 11 gestures of 29 people in 5 lightings, 128x128.

    Official split by user: 1 to 23 train, 24 to 29 test; validation takes whole users from the 23, so that it
    asks what the test asks: does the network know a gesture by a person it never saw?
    """

    validation_users: int | tuple[int, ...] = 4
    """How many of the 23 (drawn by `split_seed`), or which."""

    name: ClassVar[str] = "dvs_gesture"
    sensor: ClassVar[int] = 128
    classes: ClassVar[int] = GESTURE_CLASSES

    def __post_init__(self) -> None:
        super().__post_init__()
        users, official = self.validation_users, GESTURE_USERS["train"]
        if isinstance(users, int):
            require(1 <= users < len(official), "validation_users", f"be in [1, {len(official) - 1}]", users)
        else:
            ok = 0 < len(set(users)) == len(users) < len(official) and set(users) <= set(official)
            require(ok, "validation_users", "be a count or different users from 1 to 23, not all", users)
        flips = self.augment is not None and self.augment.flip > 0
        labels = self.augment.flip_labels if self.augment else None
        rule = (
            "name each label's mirror image where augment.flip is above 0 (a right hand becomes a left one)"
        )
        require(not flips or labels is not None, "augment.flip_labels", rule, labels)

    def parts(self, seed: int) -> Parts:
        folder = self.folder()
        found = find_gestures(folder, self.skip_bad)
        present = sorted({recording.user for recording in found["train"]})
        train, validation = split_by_user(found["train"], self._chosen(present, seed))
        if not train or not validation:
            raise DataError(f"users {present} cannot be split into training and validation users.")
        require_classes(train, self.classes, f"{folder}: the training users")
        try:
            require_classes(validation, self.classes, f"{folder}: the validation users")
        except DataError as error:
            if not self.skip_bad:
                raise DataError(f"{error} {SKIP_HINT}") from error
            logger.warning("%s", error)
        return self.limited(train, seed), validation, found["test"]

    def left_out(self) -> Mapping[str, int]:
        return left_out(self.folder()) if self.skip_bad else {}

    def read(self, path: Path) -> np.ndarray:
        events = read_gesture(path)
        check_events(path, events, self.sensor, self.sensor)
        return events

    def folder(self) -> Path:
        """Where the recordings are: under root, else downloaded."""
        names = (".", "DVSGesture", "dvs-gesture", "dvs_gesture")
        if found := search(self.root, names, tuple(GESTURE_FOLDERS.values()), "user*_*/*.npy"):
            return found
        tonic = tonic_part("datasets").DVSGesture
        archives = [
            Archive(tonic.train_filename, (api(tonic.train_url),), tonic.train_md5, GESTURE_FOLDERS["train"]),
            Archive(tonic.test_filename, (api(tonic.test_url),), tonic.test_md5, GESTURE_FOLDERS["test"]),
        ]
        layout = "ibmGestureTrain/user<NN>_<lighting>/<0 to 10>.npy and ibmGestureTest/..."
        return obtain("dvs_gesture", self.root, archives, layout)

    def _chosen(self, present: Sequence[int], seed: int) -> Sequence[int]:
        """The validation users among those that are there. DataError: one that was named is not."""
        if not isinstance(self.validation_users, int):
            if absent := sorted(set(self.validation_users) - set(present)):
                numbers = ", ".join(map(str, absent))
                raise DataError(f"data.validation_users must be there, but users {numbers} are missing.")
            return self.validation_users
        order = torch.randperm(len(present), generator=torch.Generator().manual_seed(seed))
        return [present[i] for i in order[: self.validation_users].tolist()]
