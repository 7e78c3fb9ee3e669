"""Events become frames: slices of equal count or equal time, summed on a smaller grid, in uint8."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import inspect
import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.compiled import njit
from pipeline.data.encode import Values, require_values
from pipeline.data.recordings import EVENT, LONGEST_MS, Damaged, check_events
from pipeline.types import DataError, require

MOST_PER_PIXEL = 255
NUMBERS = {"x": "iu", "y": "iu", "t": "iuf", "p": "biuf"}
"""Fields of an event and the kinds of numbers that can be framed."""
TRIES = 16
"""How often a transform is asked for the same answer."""


@dataclass(frozen=True)
class Framing:
    """How the events of one recording become T frames [T, 2, H, W]; channel 0: darker, 1: brighter.

    In this order: `transforms`, `denoise_ms`, `duration_ms`, slicing in time, `crop`, `size`. Counts above 255
    stay at 255. Slices as SpikingJelly cuts them (its split_by "number" and "time"), which the DVS Gesture
    networks of Schaefer et al. 2023 were trained on: T equal parts, the last takes the remainder.
    """

    slicing: Literal["count", "time"] = "count"
    """count: the same number of events in every frame; time: the same duration."""
    values: Values = "count"
    """What a network sees of a pixel's events (`encode.Frames`; stored are counts, and events are dropped from these).
    count: how many; root: its square root, rounded, which evens out busy and quiet pixels (the spread of a count grows
    with it; Anscombe 1948); binary: 1 where there was any."""
    crop: int | None = None
    """Side of the central square that is kept, in sensor pixels; None: the whole sensor."""
    size: int | None = None
    """Side of the frames: events of neighbouring pixels add up; None: as many as sensor pixels."""
    denoise_ms: float | None = None
    """Drop events that had no event on the 4 neighbouring pixels for so long; None: keep all."""
    duration_ms: float | None = None
    """Keep the first part of a recording; None: all of it."""
    transforms: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()
    """Any of tonic's event transforms, applied once before framing, to every split: none that draws random numbers."""

    def __post_init__(self) -> None:
        require(self.slicing in ("count", "time"), "slicing", "be count or time", self.slicing)
        require_values(self.values)
        for name, value in (("denoise_ms", self.denoise_ms), ("duration_ms", self.duration_ms)):
            rule = f"be null or above 0, and at most {LONGEST_MS}"
            require(value is None or 0 < value <= LONGEST_MS, name, rule, value)
        for transform in self.transforms:
            # the words are in the key of the frame cache: an address would build it anew in every process
            said = repr(transform)
            rule = "say the same in every process (make it a dataclass)"
            require(re.search(r" at 0x[0-9a-fA-F]+", said) is None, "transforms", rule, said)
            rule = "let itself be copied (each recording is given a fresh one)"
            require(_copies(transform), "transforms", rule, transform)
            rule = (
                "draw no random numbers: test frames would change, too (data.augment is for training batches)"
            )
            require(not _is_random(transform), "transforms", rule, transform)
        said = repr(
            self
        )  # a tensor abbreviates itself; two that differ in the middle would share their frames
        require("..." not in said, "transforms", "tell all their values (as lists)", self.transforms)

    def __repr__(self) -> str:
        """As any dataclass, but arrays among the transforms' values are written out: it is in the key of the cache."""
        with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
            said = (f"{each.name}={getattr(self, each.name)!r}" for each in dataclasses.fields(self))
            return f"Framing({', '.join(said)})"

    def __eq__(self, other: object) -> bool:
        """By the words: some of tonic's transforms are dataclasses without a hash."""
        return isinstance(other, Framing) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def side(self, sensor: int) -> int:
        """Height and width of the frames of a `sensor` x `sensor` camera; ValueError for a size too large."""
        crop = sensor if self.crop is None else self.crop
        require(1 <= crop <= sensor, "framing.crop", f"be null or in [1, {sensor}]", self.crop)
        size = crop if self.size is None else self.size
        rule = f"be null or in [1, {crop}]" + (" (framing.crop)" if self.crop else "")
        require(1 <= size <= crop, "framing.size", rule, self.size)
        return size

    def code(self) -> str:
        """What the transforms do, for the key of the frame cache: their modules' sources, or versions where installed.

        The words of a transform stay what they are when its body changes.
        """
        return " ".join(sorted({_code_of(transform) for transform in self.transforms}))

    def shortening(self) -> str:
        """The keys that leave events out, as a user writes them."""
        used = {"transforms": self.transforms, "denoise_ms": self.denoise_ms, "duration_ms": self.duration_ms}
        return ", ".join(f"data.framing.{name}" for name, value in used.items() if value)

    def kept(self, events: np.ndarray, sensor: int) -> np.ndarray:
        """The events that are framed: after transforms, denoising and shortening; may be none.

        Raises DataError for transforms after which there are no events on the sensor in the order of time. It is
        not Damaged: the recording is good, and leaving out bad ones would leave out all.
        """
        for transform in self.transforms:
            # a copy: some of tonic's remember what they found in the first recording, and words in the key would change
            try:
                events = copy.deepcopy(transform)(events)
            except Exception as error:  # of a library, or a user's own
                raise DataError(
                    f"data.framing.transforms: {transform!r} does not take a recording of {len(events)} events: "
                    f"{type(error).__name__}: {error}"
                ) from error
        if self.transforms:
            self._require_events(events, sensor)
        if self.denoise_ms is not None and len(events):
            events = events[_lively(events["x"], events["y"], events["t"], round(self.denoise_ms * 1000))]
        if self.duration_ms is not None and len(events):
            events = events[events["t"] < events["t"][0] + round(self.duration_ms * 1000)]
        return events

    def _require_events(self, events: object, sensor: int) -> None:
        whose = f"what {', '.join(map(repr, self.transforms))} makes of a recording"
        if not isinstance(events, np.ndarray) or events.ndim != 1 or not _are_events(events.dtype):
            form = f"{events.dtype} {list(events.shape)}" if isinstance(events, np.ndarray) else type(events)
            raise DataError(
                f"data.framing.transforms must give a 1-D array of events with whole x and y, t and p, but {whose} "
                f"is {form}."
            )
        if len(events):  # none left is the business of who needs some
            try:
                check_events(Path(), events, sensor, sensor)
            except Damaged as error:
                raise DataError(
                    f"data.framing.transforms must leave events on the sensor and in order, but {whose} {error.kind}: "
                    f"{error.detail}"
                ) from error

    def edges(self, t: np.ndarray, timesteps: int) -> np.ndarray:
        """[T + 1] indices: frame i holds the events edges[i] to edges[i + 1] of the times t (ascending, us)."""
        if self.slicing == "count":
            cuts = np.arange(timesteps + 1) * (len(t) // timesteps)
        else:
            window = (t[-1] - t[0]) // timesteps
            cuts = np.searchsorted(t, t[0] + np.arange(timesteps + 1) * window)
        cuts[-1] = len(t)
        return cuts.astype(np.int64)

    def frames(self, events: np.ndarray, sensor: int, timesteps: int) -> tuple[np.ndarray, int]:
        """[T, 2, H, W] uint8 counts of events already `kept`, and how many events did not fit below 255.

        Counts whatever `values` says: what a network sees of them is made of each batch, after its events were dropped.

        Raises ValueError for fewer events than frames.
        """
        require(len(events) >= timesteps, "events", f"be at least one per frame ({timesteps})", len(events))
        size = self.side(sensor)
        crop = sensor if self.crop is None else self.crop
        margin = (sensor - crop) // 2
        cells = np.full(sensor, -1, np.int16)
        cells[margin : margin + crop] = np.arange(crop) * size // crop
        frames = np.zeros((timesteps, 2, size, size), np.uint8)
        cuts = self.edges(events["t"], timesteps)
        lost = int(_add(events["x"], events["y"], events["p"], cuts, cells, frames))
        return frames, lost


def _code_of(transform: object) -> str:
    """What a transform is made from: the version of its package, the sha256 of its file, and so for those inside it."""
    module = inspect.getmodule(transform if inspect.isroutine(transform) else type(transform))
    found = [_version_of(module.__name__.partition(".")[0])] if module is not None else []
    if module is not None and getattr(module, "__file__", None):
        found.append(hashlib.sha256(Path(inspect.getfile(module)).read_bytes()).hexdigest())
    inside = getattr(transform, "transforms", ())  # tonic's Compose
    return " ".join([*found, *map(_code_of, inside)])


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "0"


def _are_events(dtype: np.dtype) -> bool:
    names = dtype.names or ()
    return all(name in names and dtype[name].kind in kinds for name, kinds in NUMBERS.items())


def _copies(transform: Callable[[np.ndarray], np.ndarray]) -> bool:
    try:
        copy.deepcopy(transform)
    except Exception:  # whatever keeps it: a lock, an open file
        return False
    return True


def _is_random(transform: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Whether it draws numbers, or answers differently to the same events.

    A drawn number decides nothing where the probability is 0 or 1: such a flip stays a flip.
    """
    before, answers = np.random.get_state(), []  # noqa: NPY002, tonic draws from it
    events = np.zeros(64, EVENT)
    events["x"], events["y"] = np.arange(64) % 16, np.arange(64) // 4
    events["t"], events["p"] = np.arange(64) * 5000, np.arange(64) % 3 == 0
    for _ in range(TRIES):
        try:
            answers.append(copy.deepcopy(transform)(events.copy()))
        except Exception:  # these few events do not suit it: recordings may
            break
    drew = pickle.dumps(before) != pickle.dumps(np.random.get_state())  # noqa: NPY002
    if drew:
        np.random.set_state(before)  # noqa: NPY002
    differs = any(
        isinstance(answer, np.ndarray) and not np.array_equal(answer, answers[0]) for answer in answers
    )
    return differs or (drew and getattr(transform, "p", None) not in (0, 1))


@njit(nogil=True, cache=True)
def _add(
    x: np.ndarray, y: np.ndarray, p: np.ndarray, cuts: np.ndarray, cells: np.ndarray, frames: np.ndarray
) -> int:
    """frames[slice, p, cells[y], cells[x]] += 1, saturating; events of cell -1 are outside the crop."""
    lost = 0
    for i in range(len(cuts) - 1):
        for k in range(cuts[i], cuts[i + 1]):
            row, column = cells[y[k]], cells[x[k]]
            if row < 0 or column < 0:
                continue
            channel = 1 if p[k] else 0
            if frames[i, channel, row, column] < MOST_PER_PIXEL:
                frames[i, channel, row, column] += 1
            else:
                lost += 1
    return lost


@njit(nogil=True, cache=True)
def _lively(x: np.ndarray, y: np.ndarray, t: np.ndarray, filter_us: int) -> np.ndarray:
    """True where one of the 4 neighbours fired within `filter_us`; equal to tonic's Denoise, compiled.

    As there, every pixel counts as having fired at time 0, and the grid ends at the largest coordinates.
    """
    width, height = x.max() + 1, y.max() + 1
    until = np.full((width, height), filter_us, np.int64)
    keep = np.zeros(len(x), np.bool_)
    for k in range(len(x)):
        i, j, now = x[k], y[k], t[k]
        until[i, j] = now + filter_us
        keep[k] = (
            (i > 0 and until[i - 1, j] > now)
            or (i < width - 1 and until[i + 1, j] > now)
            or (j > 0 and until[i, j - 1] > now)
            or (j < height - 1 and until[i, j + 1] > now)
        )
    return keep
