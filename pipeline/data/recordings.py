"""Event recordings on disk: which files belong to which user, class and split, and what can be wrong with them.

Layouts, both official and unpacked:
    N-MNIST   Train/<digit>/<sample>.bin and Test/...: 5-byte events (Orchard et al. 2015)
    gestures  ibmGestureTrain/user<NN>_<lighting>/<label>.npy and ibmGestureTest/...: [N, 4] columns
              x, y, p, t in milliseconds (Amir et al. 2017, cut into one file per gesture as tonic ships it)
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.types import DataError

EVENT = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", np.bool_)])
"""One event as tonic lays it out: column, row, time in microseconds, polarity (True: brighter)."""
NMNIST_LAST_SACCADE_US = 210_000
"""The third and last saccade begins here; a recording that ends before it was cut off."""
GESTURE_FOLDERS = {"train": "ibmGestureTrain", "test": "ibmGestureTest"}
GESTURE_USERS = {"train": range(1, 24), "test": range(24, 30)}
"""The official split by user: 23 train, 6 test."""
GESTURE_CLASSES = 11
logger = logging.getLogger(__name__)
GESTURE_FOLDER = re.compile(r"user(\d+)_(\w+)")


@dataclass(frozen=True, order=True)
class Recording:
    """One file with one gesture or digit."""

    path: Path
    label: int
    user: int = 0
    """1 to 29 for gestures; 0 where the data set names no users."""
    lighting: str = ""


class Damaged(DataError):
    """A recording that cannot be used. `kind` is the problem in a few words, for counting."""

    def __init__(self, path: Path, kind: str, detail: str) -> None:
        super().__init__(f"{path} {kind}: {detail}")
        self.kind, self.detail = kind, detail


def find_nmnist(folder: Path) -> dict[str, list[Recording]]:
    """Recordings of Train and Test in a fixed order. DataError: a split or a digit has none."""
    found = {}
    for split, name in {"train": "Train", "test": "Test"}.items():
        recordings = [
            Recording(path, digit)
            for digit in range(10)
            for path in sorted((folder / name / str(digit)).glob("*.bin"))
        ]
        require_classes(recordings, 10, folder / name)
        found[split] = recordings
    return found


def find_gestures(folder: Path, allow_missing: bool) -> dict[str, list[Recording]]:
    """Recordings of the official training and test users in a fixed order; missing users are logged.

    DataError: a folder, a class or (unless `allow_missing`) a user is missing, a file name is not a label.
    """
    found = {}
    for split, name in GESTURE_FOLDERS.items():
        recordings = []
        for path in sorted((folder / name).glob("user*_*/*.npy"), key=lambda p: (p.parent.name, p.name)):
            match = GESTURE_FOLDER.fullmatch(path.parent.name)
            if match is None or not path.stem.isdigit() or not 0 <= int(path.stem) < GESTURE_CLASSES:
                rule = f"user<number>_<lighting>/<0 to {GESTURE_CLASSES - 1}>.npy"
                raise Damaged(path, "has a wrong name", f"a recording is called {rule}.")
            recordings.append(Recording(path, int(path.stem), int(match[1]), match[2]))
        require_classes(recordings, GESTURE_CLASSES, folder / name)
        absent = sorted(set(GESTURE_USERS[split]) - {recording.user for recording in recordings})
        if absent and not allow_missing:
            numbers = ", ".join(map(str, absent))
            raise DataError(f"{folder / name} has no recordings of users {numbers}. {SKIP_HINT}")
        if absent:
            logger.warning("%d %s users are missing from %s.", len(absent), split, folder / name)
        found[split] = recordings
    return found


SKIP_HINT = "Complete the folder, or set data.skip_bad=true to go on without them."


def require_classes(recordings: Iterable[Recording], classes: int, folder: Path) -> None:
    """Raise DataError that names every class of which there is no recording."""
    absent = sorted(set(range(classes)) - {recording.label for recording in recordings})
    if len(absent) == classes:
        raise DataError(f"{folder} holds no recordings.")
    if absent:
        raise DataError(f"{folder} holds no recordings of the classes {', '.join(map(str, absent))}.")


def split_by_user(
    recordings: Sequence[Recording], chosen: Iterable[int]
) -> tuple[list[Recording], list[Recording]]:
    """(recordings of the other users, recordings of the chosen users), each in the given order."""
    users = set(chosen)
    return (
        [recording for recording in recordings if recording.user not in users],
        [recording for recording in recordings if recording.user in users],
    )


def require_bin_length(path: Path) -> None:
    """Raise Damaged unless a .bin file holds whole 5-byte events, at least one."""
    size = path.stat().st_size
    if size % 5:
        raise Damaged(path, "is cut off", f"its {size} bytes are not a whole number of 5-byte events.")
    if size == 0:
        raise Damaged(path, "holds no events", "the file is empty.")


def read_gesture(path: Path) -> np.ndarray:
    """The events of one gesture file, times turned into microseconds. Raises Damaged."""
    try:
        columns = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Damaged(path, "is cut off or damaged", f"numpy says: {error}") from error
    if not isinstance(columns, np.ndarray) or columns.ndim != 2 or columns.shape[1] != 4:
        shape = getattr(columns, "shape", None)
        raise Damaged(
            path, "has the wrong form", f"an array [N, 4] of x, y, p, t is needed, but got {shape}."
        )
    if columns.dtype.kind not in "biuf" or not np.isfinite(columns).all():
        raise Damaged(path, "has the wrong form", f"values of type {columns.dtype} that are no numbers.")
    for axis, limit in zip("xyp", (128, 128, 2), strict=True):
        # before int16 could wrap a wrong value around into a right one
        column = columns[:, "xyp".index(axis)]
        if len(column) and not (column.min() >= 0 and column.max() < limit):
            raise _outside(path, axis, column.min(), column.max(), limit)
    events = np.empty(len(columns), EVENT)
    events["x"], events["y"], events["p"] = columns[:, 0], columns[:, 1], columns[:, 2]
    events["t"] = columns[:, 3].astype(np.int64) * 1000
    return events


def check_events(path: Path, events: np.ndarray, width: int, height: int) -> None:
    """Raise Damaged for no events, coordinates outside the sensor, or times that run backwards."""
    if len(events) == 0:
        raise Damaged(path, "holds no events", "a recording needs at least one.")
    for axis, limit in (("x", width), ("y", height)):
        low, high = events[axis].min(), events[axis].max()
        if low < 0 or high >= limit:
            raise _outside(path, axis, low, high, limit)
    t = events["t"]
    back = np.flatnonzero(t[1:] < t[:-1])
    if len(back):
        first = int(back[0]) + 1
        detail = (
            f"event {first} is at {t[first]} us, after one at {t[first - 1]} us ({len(back)} such places)."
        )
        raise Damaged(path, "has times that run backwards", detail)
    if t[0] < 0:
        raise Damaged(path, "has times that run backwards", f"the first event is at {t[0]} us, before 0.")


def _outside(path: Path, axis: str, low: object, high: object, limit: int) -> Damaged:
    what = "polarities" if axis == "p" else "coordinates"
    detail = f"{axis} spans {low} to {high}, but must lie in 0 to {limit - 1}."
    return Damaged(path, f"has {what} outside the sensor", detail)
