"""Simulated gestures beside the real clips: one table and one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.dvs import SIDE
from pipeline.data.people import NAMES
from pipeline.types import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLIPS = "dvs-gesture-clips/dvsgesture10.npz"
"""Ten real clips of 1.45 s below the data root: classes 1 to 10 in the authors' count, one each, one person."""


LEGEND = (
    "rate_khz: events per ms. on_share: share of ON events. same_ms, burst, pause: shares of a pixel's intervals "
    "below 1 ms, 1 to 10 ms, above 50 ms. same_polarity: share of a pixel's successive events of one polarity. "
    "active: share of pixels that fired. half: pixels that hold half of the events. spread_x, spread_y: standard "
    "deviations of the events' places in pixels. Simulated: median (10th to 90th percentile) over recordings."
)


@dataclass(frozen=True)
class Profile:
    """What a recording looks like to a sensor engineer."""

    rate_khz: float
    """Events per millisecond."""
    on_share: float
    """Share of events that are ON."""
    same_ms: float
    """Share of a pixel's intervals below 1 ms (double read-outs and rebounds)."""
    burst: float
    """Share of intervals from 1 to 10 ms (an edge passing)."""
    pause: float
    """Share of intervals above 50 ms (from one passing to the next, and noise)."""
    same_polarity: float
    """Share of a pixel's successive events with the same polarity."""
    active: float
    """Share of pixels that fired at all."""
    half: float
    """Pixels that hold half of all events."""
    spread_x: float
    spread_y: float
    """Standard deviations of the events' places, pixels."""


def profile(columns: np.ndarray) -> Profile:
    """The profile of events [N, 4] (x, y, p, t in ms, ascending)."""
    x, y, p, t = columns.T
    pixel = y.astype(np.int64) * SIDE + x
    counts = np.bincount(pixel, minlength=SIDE * SIDE)
    order = np.argsort(pixel, kind="stable")
    neighbours = np.diff(pixel[order]) == 0
    interval = np.diff(t[order])[neighbours]
    polarity = p[order]
    falling = np.sort(counts)[::-1].cumsum()
    return Profile(
        rate_khz=len(t) / max(int(t[-1]) - int(t[0]), 1),
        on_share=float(p.mean()),
        same_ms=float((interval < 1).mean()),
        burst=float(((interval >= 1) & (interval < 10)).mean()),
        pause=float((interval > 50).mean()),
        same_polarity=float((polarity[1:] == polarity[:-1])[neighbours].mean()),
        active=float((counts > 0).mean()),
        half=float(np.searchsorted(falling, len(t) / 2) + 1),
        spread_x=float(x.std()),
        spread_y=float(y.std()),
    )


def real_clips(root: Path) -> dict[int, np.ndarray]:
    """Label (0 to 9) -> events [N, 4] with times cut to milliseconds, as the gesture files store them."""
    path = root / CLIPS
    if not path.is_file():
        raise DataError(
            f"{path} is missing: the comparison needs the ten real clips (data.root or $PIPELINE_DATA)."
        )
    packed = np.load(path, allow_pickle=False)
    polarity = np.unpackbits(packed["p"])
    clips = {}
    for label, start, stop in zip(
        packed["labels"], packed["offsets"][:-1], packed["offsets"][1:], strict=True
    ):
        ms = np.cumsum(packed["dt"][start:stop], dtype=np.int64) // 1000
        parts = (packed["x"][start:stop], packed["y"][start:stop], polarity[start:stop], ms)
        clips[int(label) - 1] = np.stack([part.astype(np.int32) for part in parts], axis=1)
    return clips


def table(real: Mapping[int, np.ndarray], simulated: Mapping[int, Sequence[np.ndarray]]) -> str:
    """Per gesture and quantity: the real clip, then median and range over the simulated recordings; Markdown."""
    names = [field.name for field in fields(Profile)]
    lines = [
        "| gesture | | " + " | ".join(names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for label, recordings in simulated.items():
        if label in real:
            values = profile(real[label])
            lines.append(
                f"| {NAMES[label]} | real | " + " | ".join(_short(getattr(values, n)) for n in names) + " |"
            )
        profiles = [profile(events) for events in recordings]
        cells = []
        for name in names:
            low, middle, high = np.percentile([getattr(each, name) for each in profiles], (10, 50, 90))
            cells.append(f"{_short(middle)} ({_short(low)} to {_short(high)})")
        lines.append(f"| {NAMES[label]} | simulated, {len(profiles)} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", LEGEND])


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


WINDOW_MS = 60
"""Events of so long are one picture."""


def picture(
    real: Mapping[int, np.ndarray],
    simulated: Mapping[int, Sequence[np.ndarray]],
    path: Path,
    moments: int = 4,
) -> None:
    """Write a PNG: a row per gesture, `moments` windows of 60 ms of the real clip and of two simulated people."""
    from matplotlib.figure import Figure

    cell, gap = SIDE + 4, 16
    titles = (["real clip"] if real else []) + ["simulated, one person", "simulated, another person"]
    starts = [group * (moments * cell + gap) for group in range(len(titles))]
    width = len(titles) * (moments * cell + gap)
    mosaic = np.ones((len(simulated) * cell, width, 3), np.float32)
    bare = []
    for row, (label, recordings) in enumerate(simulated.items()):
        sources = ([real.get(label)] if real else []) + list(recordings[:2])
        for group, events in enumerate(sources):
            if events is None:  # there is no real clip of "other gestures"
                bare.append(row)
                continue
            for moment in range(moments):
                top, left = row * cell, starts[group] + moment * cell
                mosaic[top : top + SIDE, left : left + SIDE] = _window(events, moment, moments)
    figure = Figure(figsize=(width / 110 + 2.4, len(mosaic) / 110 + 0.4), facecolor="white")
    axes = figure.subplots()
    axes.imshow(mosaic, interpolation="nearest")
    axes.set_frame_on(False)
    axes.tick_params(length=0)
    axes.set_yticks(
        [row * cell + SIDE / 2 for row in range(len(simulated))], [NAMES[label] for label in simulated]
    )
    axes.xaxis.tick_top()
    axes.set_xticks(starts, [f"{title}: time runs to the right" for title in titles], ha="left")
    for row in bare:
        axes.text(moments * cell / 2, row * cell + SIDE / 2, "no clip of these", ha="center", va="center")
    _legend(axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight")


def _legend(axes: Axes) -> None:
    """What the colours mean, below the picture."""
    from matplotlib.patches import Patch

    inks = {"ON: brighter": "lime", "OFF: darker": "red", "both in the window": "yellow"}
    keys = [Patch(facecolor=ink, edgecolor="black", label=label) for label, ink in inks.items()]
    words = f"pixels in windows of {WINDOW_MS} ms, evenly spaced over the recording:"
    handles = [Patch(alpha=0, label=words), *keys]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, 0), ncols=4, frameon=False)


def _window(events: np.ndarray, moment: int, moments: int) -> np.ndarray:
    """[SIDE, SIDE, 3] of one window: ON green, OFF red, both yellow, as event cameras are usually shown."""
    start = 150 + moment * (int(events[-1, 3]) - 150 - WINDOW_MS) // moments
    inside = events[(events[:, 3] >= start) & (events[:, 3] < start + WINDOW_MS)]
    image = np.zeros((SIDE, SIDE, 3), np.float32)
    image[inside[inside[:, 2] == 1, 1], inside[inside[:, 2] == 1, 0], 1] = 1
    image[inside[inside[:, 2] == 0, 1], inside[inside[:, 2] == 0, 0], 0] = 1
    return image
