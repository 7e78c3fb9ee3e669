"""Frames built once and kept: a folder per data and transform, written atomically, checked when opened.

A folder holds ``frames.u8`` (the uint8 frames of train, validation and test in this order) and ``facts.json``
(shape, labels, sizes, sha256 of splits, events, seconds, what was skipped). It is written under another name
and renamed when whole, so a killed run leaves no half cache; a folder of another version, with missing,
shortened or changed bytes is noticed and built again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from pipeline.data.download import cache_written
from pipeline.data.progress import bar
from pipeline.data.recordings import SKIP_HINT, Damaged, Recording
from pipeline.data.split import digest_of
from pipeline.types import DataError, Split

VERSION = 3
"""Raised whenever the same recordings and settings give other frames, or are refused where they were not."""
FRAMES, FACTS = "frames.u8", "facts.json"
NAMES = ("train", "validation", "test")

logger = logging.getLogger(__name__)
Frame = Callable[[Path], tuple[np.ndarray, int, int]]
"""File -> ([T, 2, H, W] uint8, events read, events that did not fit into 255); raises Damaged."""


@dataclass(frozen=True)
class Stored:
    """Three splits of frames, their sha256, and the facts of the build."""

    splits: tuple[Split, Split, Split]
    digest: str
    facts: Mapping[str, Any]


class Broken(Exception):
    """A cache folder that cannot be used, and why."""


def key_of(parts: Sequence[Sequence[Recording]], settings: object) -> str:
    """32 hex digits that change with any file (name, size, time of change, label, split) or setting."""
    sha = hashlib.sha256(f"{VERSION} {settings!r}".encode())
    for name, recordings in zip(NAMES, parts, strict=True):
        for recording in recordings:
            try:
                stat = recording.path.stat()
                state = f"{stat.st_size} {stat.st_mtime_ns}"
            except OSError:  # a link to nowhere, or gone meanwhile: the build meets it and names it
                state = "unreadable"
            sha.update(f"{name} {recording} {state}\n".encode())
    return sha.hexdigest()[:32]


def load_or_build(
    folder: Path,
    key: str,
    parts: Sequence[Sequence[Recording]],
    frame: Frame,
    skip_bad: bool,
    mapped: bool,
    left_out: Mapping[str, int] = MappingProxyType({}),
) -> Stored:
    """The frames of (train, validation, test) recordings, from `folder` where its key fits, else built into it.

    left_out: what never got into `parts`, by reason, for the facts.
    mapped: the pages stay in the file system's cache, shared by all workers; else they are read into memory.
    Raises Damaged at the first bad recording, also where a run with `skip_bad` left a cache without it; with
    `skip_bad` DataError when a split has nothing left. DataError: the cache folder cannot be written.
    """
    stored = _loaded_or_built(folder, key, parts, frame, skip_bad, mapped)
    stored = replace(
        stored, facts={**stored.facts, "left_out": dict(left_out)}
    )  # not of the files that were framed
    if skipped(stored.facts):
        logger.warning("%s: %s", folder, report_of(stored.facts))
    return stored


def _loaded_or_built(
    folder: Path, key: str, parts: Sequence[Sequence[Recording]], frame: Frame, skip_bad: bool, mapped: bool
) -> Stored:
    try:  # without a lock, which a read-only place could not hold
        return _usable(folder, key, frame, skip_bad, mapped)
    except Broken:
        pass
    with cache_written(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if folder.exists() or folder.is_symlink():
                try:  # another worker may have built it meanwhile
                    return _usable(folder, key, frame, skip_bad, mapped)
                except Broken as error:
                    logger.warning("The frame cache %s is built again: %s.", folder, error)
            _build(folder, key, parts, frame, skip_bad)
            return _open(folder, key, mapped)


def _usable(folder: Path, key: str, frame: Frame, skip_bad: bool, mapped: bool) -> Stored:
    """The cache, unless it lacks recordings that must be there: Damaged names the first, as the build would."""
    stored = _open(folder, key, mapped)
    if not stored.facts["skipped"]:
        return stored
    if skip_bad:
        return stored
    if first := stored.facts.get("first_skipped"):
        try:
            frame(Path(first))
        except Damaged as error:
            raise _with_hint(error, Path(first)) from error
    raise Broken("it lacks recordings that a run with data.skip_bad=true left out")


def _with_hint(error: Damaged, path: Path) -> Damaged:
    return Damaged(path, error.kind, f"{error.detail} {SKIP_HINT}")


def _open(folder: Path, key: str, mapped: bool) -> Stored:
    try:
        return _checked(folder, key, mapped)
    except (Broken, MemoryError):
        raise
    except Exception as error:  # facts that are JSON, but not ours, can fail anywhere
        raise Broken(f"{FACTS} or {FRAMES} is missing or unreadable ({error})") from error


def _checked(folder: Path, key: str, mapped: bool) -> Stored:
    facts = json.loads((folder / FACTS).read_text())
    if facts.get("version") != VERSION or facts.get("key") != key:
        raise Broken("it was made by another version or of other data")
    shape, labels, sizes = tuple(facts["shape"]), facts["labels"], facts["sizes"]
    bytes_there = (folder / FRAMES).stat().st_size
    if bytes_there != int(np.prod(shape)) or len(labels) != shape[0] or sum(sizes) != shape[0]:
        raise Broken(f"{FRAMES} has {bytes_there} bytes, but its facts say {int(np.prod(shape))}")
    report_of(facts)  # fails where something is missing that it tells
    # copy-on-write: torch wants writable memory, the file stays as it is
    array: np.ndarray = np.memmap(folder / FRAMES, np.uint8, "c", shape=shape)
    x = torch.from_numpy(array if mapped else np.array(array))
    y = torch.tensor(labels, dtype=torch.int64)
    train, validation, test = (Split(*pair) for pair in zip(x.split(sizes), y.split(sizes), strict=True))
    digest = digest_of((train, validation, test))
    if digest != facts.get("digest"):
        raise Broken("its bytes are not the ones that were written")
    return Stored((train, validation, test), digest, facts)


def _build(
    folder: Path, key: str, parts: Sequence[Sequence[Recording]], frame: Frame, skip_bad: bool
) -> None:
    """Write the cache beside its place and rename it there; whatever stops it, nothing is left beside."""
    for left_behind in folder.parent.glob(f"{folder.name}.*.tmp"):
        _remove(left_behind)  # of a killed run: the lock says that nobody is writing
    _sweep(folder)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        facts = _write(temporary / FRAMES, parts, frame, skip_bad)
        facts |= {"version": VERSION, "key": key, "digest": _digest_on_disk(temporary / FRAMES, facts)}
        (temporary / FACTS).write_text(json.dumps(facts))
        _remove(folder)
        temporary.rename(folder)
    except BaseException:  # gigabytes of frames; another key would never find them again
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if not facts["skipped"]:
        logger.info("%s: %s", folder, report_of(facts))


def _sweep(folder: Path) -> None:
    """Remove what killed runs left of other caches beside `folder`: gigabytes that may never be asked for again.

    A lock that is free says that its builder is dead; one that is held is left alone.
    """
    for left_behind in folder.parent.glob("*.tmp"):
        name = re.fullmatch(r"(.+)\.\d+\.tmp", left_behind.name)
        if name is None or name[1] == folder.name:
            continue
        try:
            with FileLock(folder.with_name(f"{name[1]}.lock"), timeout=0):
                shutil.rmtree(left_behind)
        except (Timeout, OSError) as error:  # in use, or somebody else's: nothing that this build needs
            logger.debug("%s stays: %s", left_behind, error)
        else:
            logger.info("%s is removed: a run that was killed left it.", left_behind)


def _digest_on_disk(path: Path, facts: Mapping[str, Any]) -> str:
    array: np.ndarray = np.memmap(path, np.uint8, "c", shape=tuple(facts["shape"]))
    x, y = torch.from_numpy(array), torch.tensor(facts["labels"])
    return digest_of(
        [Split(*pair) for pair in zip(x.split(facts["sizes"]), y.split(facts["sizes"]), strict=True)]
    )


def _remove(place: Path) -> None:
    """Whatever is there: a folder, a file, a link (never what it points to), or nothing."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _write(path: Path, parts: Sequence[Sequence[Recording]], frame: Frame, skip_bad: bool) -> dict[str, Any]:
    """Frames of every good recording, one after the other; returns what was found on the way."""
    labels: list[int] = []
    sizes: list[int] = []
    seen: dict[bytes, Path] = {}
    skipped: Counter[str] = Counter()
    first_skipped: str | None = None
    events = lost = 0
    shape: tuple[int, ...] = ()
    start = time.perf_counter()
    with path.open("wb") as file, bar("events to frames", sum(map(len, parts))) as advance:
        for name, recordings in zip(NAMES, parts, strict=True):
            before = len(labels)
            for recording in recordings:
                advance(1)
                try:
                    array, count, beyond = frame(recording.path)
                    _require_new(recording.path, seen)
                except Damaged as error:
                    if not skip_bad:
                        raise _with_hint(error, recording.path) from error
                    logger.warning("Skipped: %s", error)
                    skipped[error.kind] += 1
                    first_skipped = first_skipped or str(recording.path)
                    continue
                file.write(array.data)
                shape, events, lost = array.shape, events + count, lost + beyond
                labels.append(recording.label)
            sizes.append(len(labels) - before)
            if sizes[-1] == 0:
                raise DataError(f"the {name} split has no usable recording (skipped: {dict(skipped)}).")
            if lost_classes := sorted({each.label for each in recordings} - set(labels[before:])):
                said = ", ".join(map(str, lost_classes))
                raise DataError(
                    f"the {name} split has no usable recording of class {said} (skipped: {dict(skipped)})."
                )
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    return {
        "shape": [len(labels), *shape], "labels": labels, "sizes": sizes, "skipped": dict(skipped),
        "first_skipped": first_skipped, "events": events, "beyond_255": lost, "seconds": seconds,
    }  # fmt: skip


def _require_new(path: Path, seen: dict[bytes, Path]) -> None:
    """Raise Damaged for a recording that was there before, byte for byte, in whatever split or class.

    What is tested, or chosen by, would have been learned, with another answer perhaps; in which splits the two come to
    lie is drawn by seeds. `seen`: the recordings before, by the hash of their bytes; this one is added.
    """
    with path.open("rb") as file:
        first = seen.setdefault(hashlib.file_digest(file, "blake2b").digest(), path)
    if first != path:
        raise Damaged(path, "is there twice", f"{first} holds the same bytes.")


def skipped(facts: Mapping[str, Any]) -> dict[str, int]:
    """How often a run with `skip_bad` passed something over, by reason: contents, names, missing users."""
    return dict(Counter(facts["skipped"]) + Counter(facts.get("left_out", {})))


def report_of(facts: Mapping[str, Any]) -> str:
    """One line on a build: recordings, events and events per second, size, what was skipped."""
    size = int(np.prod(facts["shape"]))
    line = (
        f"{facts['shape'][0]} recordings, {facts['events'] / 1e6:.1f} M events in {facts['seconds']:.1f} s "
        f"({facts['events'] / facts['seconds'] / 1e6:.1f} M events/s), {size / 1e6:.1f} MB of frames"
    )
    if passed_over := skipped(facts):
        line += "; skipped: " + ", ".join(f"{count} {kind}" for kind, count in passed_over.items())
    if facts["beyond_255"]:
        line += f"; {facts['beyond_255']} events beyond 255 per pixel and frame"
    return line
