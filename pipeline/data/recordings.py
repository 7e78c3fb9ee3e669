"""Event recordings on disk: which files belong to which user, class and split, and what can be wrong with them.

Layouts, both official and unpacked:
    N-MNIST   Train/<digit>/<sample>.bin and Test/...: 5-byte events (Orchard et al. 2015)
    gestures  ibmGestureTrain/user<NN>_<lighting>/<label>.npy and ibmGestureTest/...: [N, 4] columns
              x, y, p, t in milliseconds (Amir et al. 2017, cut into one file per gesture as tonic ships it)
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from pipeline.types import DataError

EVENT = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", np.bool_)])
"""One event as tonic lays it out: column, row, time in microseconds, polarity (True: brighter)."""
NMNIST_END_US = 270_000
"""A recording that ends before was cut off: the third and last saccade lasts from 210 to about 300 ms, and of 1,000
official recordings none ends before 296.8 ms. The rest is room for a quiet end."""
CLOCK_ROW = 240
"""The y by which this camera says that its clock ran over, which no recording of 0.3 s needs."""
NMNIST_PAUSE_US = 50_000
"""A longer one, before the first event or between two, was cut out: the 1,000 begin by 7.4 ms and pause for 9.5 ms at
most."""
NMNIST_FOLDERS = {"train": "Train", "test": "Test"}
NMNIST_NAME = re.compile(r"\d/.+\.bin", re.ASCII)
GESTURE_FOLDERS = {"train": "ibmGestureTrain", "test": "ibmGestureTest"}
GESTURE_USERS = {"train": range(1, 24), "test": range(24, 30)}
"""The official split by user: 23 train, 6 test."""
GESTURE_CLASSES = 11
GESTURE_LIGHTINGS = ("fluorescent", "fluorescent_led", "lab", "led", "natural")
"""Those of the official folders: a copy beside one, as user05_led_copy, would count its user twice."""
NUMBERS = ("u2", "u4", "u8", "i2", "i4", "i8", "f4", "f8")
"""Types of an array's numbers. One byte counts to 255 ms, and a half-precision float knows no more than 2,048 apart."""
SIMULATED = "simulation.json"
"""The file that marks a folder of simulated gestures."""
logger = logging.getLogger(__name__)
GESTURE_NAME = re.compile(rf"user(\d\d)_({'|'.join(GESTURE_LIGHTINGS)})/(0|[1-9]\d?)\.npy", re.ASCII)
"""One spelling per recording: beside 0.npy, 00.npy would count it twice."""
NPY_MAGIC = b"\x93NUMPY"
LONGEST_MS = 300_000
"""A gesture takes seconds. 0.3 s and more in microseconds are more numbers than five minutes have milliseconds."""
SHORTEST_MS = 50
"""A gesture takes seconds; in seconds they are fewer numbers than this."""
LATEST_MS = 2**53 // 1000
"""Beyond it a float no longer tells one microsecond from the next."""


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
        self.path, self.kind, self.detail = path, kind, detail


def find_nmnist(folder: Path, skip_bad: bool = False) -> dict[str, list[Recording]]:
    """Recordings of Train and Test in a fixed order.

    With `skip_bad` files with a wrong name are logged and left out.
    DataError: a split or a digit has none, or, without `skip_bad`, a file is not called as a recording is.
    """
    found = {}
    for split, name in NMNIST_FOLDERS.items():
        recordings, wrong = _digits_in(folder / name)
        _leave_out(wrong, skip_bad)
        require_classes(recordings, 10, folder / name)
        found[split] = recordings
    return found


def misnamed_nmnist(folder: Path) -> dict[str, int]:
    """How often `find_nmnist` passes something over where it may, by reason."""
    wrong = (error for name in NMNIST_FOLDERS.values() for error in _digits_in(folder / name)[1])
    return dict(Counter(error.kind for error in wrong))


def _digits_in(folder: Path) -> tuple[list[Recording], list[Damaged]]:
    """The recordings of one split in a fixed order, and what is wrong with the names of others."""
    recordings, wrong = [], []
    for place in _listed(folder, "[!.]*"):
        inside = [place] if ".bin" in place.name.lower() else _listed(place, "[!.]*")  # macOS adds ._x.bin
        for path in inside:
            if ".bin" not in path.name.lower():
                continue
            if path != place and NMNIST_NAME.fullmatch(f"{place.name}/{path.name}"):
                recordings.append(Recording(path, int(place.name)))
            else:
                rule = "a recording is called <digit>/<sample>.bin, the digit 0 to 9."
                wrong.append(Damaged(path, "has a wrong name", rule))
    return recordings, wrong


def _leave_out(wrong: Iterable[Damaged], skip_bad: bool) -> None:
    """Log what is passed over, or raise the first of it with what would allow that."""
    for error in wrong:
        if not skip_bad:
            raise Damaged(error.path, error.kind, f"{error.detail} {SKIP_HINT}") from error
        logger.warning("Skipped: %s", error)


def find_gestures(folder: Path, skip_bad: bool) -> dict[str, list[Recording]]:
    """Recordings of the official training and test users in a fixed order.

    With `skip_bad` users that are missing and files with a wrong name are logged and left out.
    DataError: a folder or a class is missing, a user is in the wrong split (a leak, never left out), or, without
    `skip_bad`, a user is missing or a file is not called as a recording is.
    """
    found = {}
    for split, name in GESTURE_FOLDERS.items():
        recordings, wrong = _gestures_in(folder / name)
        _leave_out(wrong, skip_bad)
        _require_users(recordings, split)
        require_classes(recordings, GESTURE_CLASSES, folder / name)
        absent = _absent(recordings, split)
        numbers = ", ".join(map(str, absent))
        if absent and not skip_bad:
            raise DataError(f"{folder / name} has no recordings of users {numbers}. {SKIP_HINT}")
        if absent:
            logger.warning("%d %s users are missing from %s: %s.", len(absent), split, folder / name, numbers)
        found[split] = recordings
    return found


def left_out(folder: Path) -> dict[str, int]:
    """How often `find_gestures` passes something over where it may, by reason: wrong names and missing users."""
    reasons: Counter[str] = Counter()
    for split, name in GESTURE_FOLDERS.items():
        recordings, wrong = _gestures_in(folder / name)
        reasons.update(error.kind for error in wrong)
        reasons["missing users"] += len(_absent(recordings, split))
    return dict(+reasons)


def _gestures_in(folder: Path) -> tuple[list[Recording], list[Damaged]]:
    """The recordings of one split in a fixed order, and what is wrong with the names of others.

    Whatever looks like one, as User05-led/3.NPY or 3.npz, is one that would be missing without a word.
    """
    recordings, wrong = [], []
    for person in _listed(folder, "[Uu][Ss][Ee][Rr]*"):
        for path in _listed(person, "[!.]*.[Nn][Pp]*"):  # macOS adds ._0.npy
            try:
                recordings.append(_named(path))
            except Damaged as error:
                wrong.append(error)
    return recordings, wrong


def _absent(recordings: Iterable[Recording], split: str) -> list[int]:
    """The official users of whom there is no recording."""
    return sorted(set(GESTURE_USERS[split]) - {recording.user for recording in recordings})


def _listed(folder: Path, pattern: str) -> list[Path]:
    """What is in a folder under such names, in their order; nothing where there is no folder.

    DataError: it may not be read. Path.glob passes over it in silence, and its recordings would be called missing.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        what = error.strerror or error
        raise DataError(
            f"{folder} cannot be read: {what}. Its recordings are needed: change its permissions."
        ) from error
    return [folder / name for name in sorted(names) if fnmatchcase(name, pattern)]


def _named(path: Path) -> Recording:
    """The recording that a gesture file's name says. Raises Damaged for another name."""
    match = GESTURE_NAME.fullmatch(f"{path.parent.name}/{path.name}")
    if match is None or int(match[3]) >= GESTURE_CLASSES:
        rule = f"user<two digits>_<lighting>/<0 to {GESTURE_CLASSES - 1}>.npy"
        lightings = ", ".join(GESTURE_LIGHTINGS)
        raise Damaged(path, "has a wrong name", f"a recording is called {rule}, lit by one of {lightings}.")
    return Recording(path, int(match[3]), int(match[1]), match[2])


def _require_users(recordings: Iterable[Recording], split: str) -> None:
    """Raise DataError at the first user that the official split does not have here."""
    official = GESTURE_USERS[split]
    for recording in recordings:
        if recording.user not in official:
            rule = f"the {split} users are {official[0]} to {official[-1]}"
            raise DataError(
                f"{recording.path.parent} must not be here: {rule}, but it is of user {recording.user}."
            )


SKIP_HINT = "Complete the folder, or set data.skip_bad=true to go on without them."


def require_classes(recordings: Iterable[Recording], classes: int, whose: Path | str) -> None:
    """Raise DataError that names every class of which there is no recording; whose: a folder, or some users."""
    absent = sorted(set(range(classes)) - {recording.label for recording in recordings})
    verb = "holds" if isinstance(whose, Path) else "have"
    if len(absent) == classes:
        raise DataError(f"{whose} {verb} no recordings.")
    if absent:
        raise DataError(f"{whose} {verb} no recordings of the classes {', '.join(map(str, absent))}.")


def split_by_user(
    recordings: Sequence[Recording], chosen: Iterable[int]
) -> tuple[list[Recording], list[Recording]]:
    """(recordings of the other users, recordings of the chosen users), each in the given order."""
    users = set(chosen)
    return (
        [recording for recording in recordings if recording.user not in users],
        [recording for recording in recordings if recording.user in users],
    )


def require_bin(path: Path) -> None:
    """Raise Damaged unless a .bin file of N-MNIST can be read and holds whole 5-byte events, at least one."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    if len(raw) % 5:
        raise Damaged(path, "is cut off", f"its {len(raw)} bytes are not a whole number of 5-byte events.")
    if not raw:
        raise Damaged(path, "holds no events", "the file is empty.")
    if (at := raw[1::5].find(CLOCK_ROW)) >= 0:
        # tonic's reader takes it for a clock that ran over, drops it and moves all that comes after by 8 ms
        raise Damaged(path, "has coordinates outside the sensor", f"y of event {at} is {CLOCK_ROW}.")


def check_nmnist(path: Path, events: np.ndarray, width: int, height: int) -> None:
    """`check_events`, and Damaged for a recording that lacks its beginning, a middle or its end."""
    check_events(path, events, width, height)
    t = events["t"]
    if t[-1] < NMNIST_END_US:
        detail = f"it ends at {t[-1] / 1000:.0f} ms, but the third saccade lasts to about 300 ms."
        raise Damaged(path, "is cut off", detail)
    pauses = np.diff(t, prepend=0)
    if pauses.max() > NMNIST_PAUSE_US:
        at = int(pauses.argmax())
        detail = f"no event comes for {pauses[at] / 1000:.0f} ms before event {at}."
        raise Damaged(path, "lacks a part", detail)


def unreadable(path: Path, error: OSError) -> Damaged:
    """What to raise for a link to nowhere, a folder, a file gone meanwhile or not ours to read."""
    return Damaged(path, "cannot be read", f"{error.strerror or error}.")


def read_gesture(path: Path) -> np.ndarray:
    """The events of one gesture file, times turned into microseconds. Raises Damaged."""
    columns = _columns(path)
    if columns.ndim != 2 or columns.shape[1] != 4:
        detail = f"an array [N, 4] of x, y, p, t is needed, but got {columns.shape}."
        raise Damaged(path, "has the wrong form", detail)
    if columns.dtype.str[1:] not in NUMBERS or not np.isfinite(columns).all():
        detail = f"values of type {columns.dtype} that are no numbers, or too few of them for times."
        raise Damaged(path, "has the wrong form", detail)
    for axis, limit in zip("xyp", (128, 128, 2), strict=True):
        # before int16 could wrap a wrong value around into a right one
        column = columns[:, "xyp".index(axis)]
        if len(column) and not (column.min() >= 0 and column.max() < limit):
            raise _outside(path, axis, column.min(), column.max(), limit)
        if column.dtype.kind == "f" and len(broken := np.flatnonzero(column % 1)):
            # normalised to [0, 1), say: as integers all of them would lie in pixel 0
            detail = f"{axis} of event {broken[0]} is {column[broken[0]]} ({len(broken)} such events)."
            raise Damaged(path, "has values that are not whole", detail)
    events = np.empty(len(columns), EVENT)
    events["x"], events["y"], events["p"] = columns[:, 0], columns[:, 1], columns[:, 2]
    events["t"] = _microseconds(path, columns[:, 3])
    return events


def _columns(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            head = file.read(len(NPY_MAGIC))
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise unreadable(path, error) from error
    if head != NPY_MAGIC:  # before numpy, which would advise to unpickle it
        kind = "is cut off or damaged" if NPY_MAGIC.startswith(head) else "is no .npy file"
        raise Damaged(path, kind, f"it begins with {head!r}, and a .npy file with {NPY_MAGIC!r}.")
    try:
        # mapped, a shape beyond the file fails on its length before memory is asked for
        columns = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a header is Python text: it can fail like any
        raise Damaged(path, "is cut off or damaged", f"numpy says: {f'{error}'.rstrip('.')}.") from error
    more = size - columns.offset - columns.nbytes
    if more:  # two files in one, or remains of a longer one: which part is the recording?
        raise Damaged(path, "holds more than one array", f"{more} bytes follow the first.")
    return np.array(columns)


def _microseconds(path: Path, ms: np.ndarray) -> np.ndarray:
    """int64 microseconds of times in milliseconds; fractions count.

    Raises Damaged for times beyond LATEST_MS and recordings of more than LONGEST_MS.
    """
    if len(ms) and not (ms.min() >= -LATEST_MS and ms.max() <= LATEST_MS):
        detail = f"t spans {ms.min()} to {ms.max()} ms, but must stay below {LATEST_MS} ms."
        raise Damaged(path, "has times beyond measure", detail)
    span = float(ms.max()) - float(ms.min()) if len(ms) else 0.0
    if span > LONGEST_MS:
        # framing in parts of a recording would not notice, `denoise_ms` and `duration_ms` would mean another time
        detail = f"t spans {span:.0f} ms, more than five minutes: t must be in milliseconds."
        raise Damaged(path, "has times that look like microseconds", detail)
    if len(ms) >= 100 and span < SHORTEST_MS:  # fewer events are too few, whatever their times
        detail = f"t spans {span:g} ms, less than any gesture: t must be in milliseconds."
        raise Damaged(path, "has times that look like seconds", detail)
    if ms.dtype.kind == "f":
        return np.rint(ms.astype(np.float64) * 1000).astype(np.int64)
    return ms.astype(np.int64) * 1000


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
