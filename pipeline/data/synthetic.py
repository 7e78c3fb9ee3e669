"""The data set `synthetic_gesture`: simulated people before a simulated DVS128, in the real data set's layout.

    python -m pipeline.data.synthetic OUT --seed 0      write all recordings, the comparison and the picture
    python -m pipeline.data.synthetic OUT --preview     the comparison and the picture only, in a minute

The recordings are files like the real ones (``ibmGestureTrain/user01_led/3.npy``), so exactly the loader of the
real data reads them. For machines without the recordings and for controlled tests; accuracies on it say nothing
about the real data set.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from filelock import FileLock

from pipeline.data.compare import CLIPS, picture, real_clips, table
from pipeline.data.download import cache_folder, cache_written
from pipeline.data.dvs import LIGHTS, STEP_MS, Light, Pixels, record
from pipeline.data.events import Gesture
from pipeline.data.people import scene, user
from pipeline.data.progress import bar
from pipeline.data.recordings import GESTURE_CLASSES, GESTURE_FOLDERS, GESTURE_USERS, SIMULATED, Damaged
from pipeline.types import DataError, require

logger = logging.getLogger(__name__)
VERSION = 3
"""Raised whenever the same settings give other recordings."""
BAD_CONFIG, BAD_DATA, NO_ROOM, INTERRUPTED = 2, 3, 5, 130
"""The exit codes of `pipeline.exits`, which no room may import."""
Job = tuple[Path, int, Light, int]
"""Where a recording goes, the user's number, the lighting, the label."""


@dataclass(frozen=True)
class Simulation:
    """29 users (23 train, 6 test, as the real split) x lightings x 11 gestures; the same for the same seed."""

    seed: int = 0
    seconds: float = 1.5
    """Length of each recording; the real ones last about 6 s, the clips beside them 1.45 s."""
    lightings: int = 5
    """How many of the five lightings each user is recorded under, in [1, 5]."""
    pixels: Pixels = field(default_factory=Pixels)

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", "be at least 0", self.seed)
        require(0.2 <= self.seconds <= 30, "seconds", "be in [0.2, 30]", self.seconds)
        require(1 <= self.lightings <= len(LIGHTS), "lightings", f"be in [1, {len(LIGHTS)}]", self.lightings)

    def recording(self, number: int, light: Light, label: int) -> np.ndarray:
        """[N, 4] int32 (x, y, p, t in ms) of user `number` performing gesture `label` (0 to 10) under `light`.

        int32 because tonic turns milliseconds into microseconds in place.
        """
        entropy = (self.seed, VERSION, number, LIGHTS.index(light), label)
        seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
        steps = round(self.seconds * 1000 / STEP_MS)
        return record(scene(label, user(number, self.seed), steps, seed), light, self.pixels, self.seed, seed)

    def marks(self) -> dict[str, object]:
        """What identifies the recordings of this simulation."""
        return {"version": VERSION} | dataclasses.asdict(self)


def write(simulation: Simulation, out: Path, threads: int | None = None) -> Path:
    """Write all recordings below `out`, unless they are there; a run that was killed goes on where it stopped.

    threads: at least 1; None: all cores. Returns `out`. A folder that has all may be read-only.
    Raises DataError for a folder that holds recordings of another simulation or cannot be written.
    """
    require(threads is None or threads >= 1, "threads", "be at least 1", threads)
    if _complete(simulation, out) and not _missing(simulation, out):
        return out
    with cache_written(out):
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / f"{SIMULATED}.lock"):
            if not _complete(simulation, out):
                _mark(simulation, out, complete=False)
            _write_all(simulation, _missing(simulation, out), threads or os.cpu_count() or 1)
            _mark(simulation, out, complete=True)
    return out


def _complete(simulation: Simulation, out: Path) -> bool:
    """Whether `out` was once completed by this simulation; DataError where it holds something else."""
    found = _marked(out)
    if found is None and any((out / folder).exists() for folder in GESTURE_FOLDERS.values()):
        raise DataError(f"{out} holds recordings that no simulation wrote: name another folder.")
    if found is not None and not _is_of(simulation, found[0]):
        raise DataError(f"{out} holds another simulation ({found[0]}): name another folder.")
    return found is not None and found[1]


def _marked(out: Path) -> tuple[object, bool] | None:
    """What the mark in `out` says: of which simulation, and whether it is complete; None where there is no mark."""
    mark = out / SIMULATED
    try:
        found = json.loads(mark.read_text()) if mark.exists() else None
        return None if found is None else (found["simulation"], bool(found["complete"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{mark} must say which simulation is here, but cannot be read ({error!r}): delete it with the recordings "
            "beside it, or name another folder."
        ) from error


def _is_of(simulation: Simulation, marks: object) -> bool:
    return bool(marks == json.loads(json.dumps(simulation.marks())))


def _mark(simulation: Simulation, out: Path, complete: bool) -> None:
    part = out / f"{SIMULATED}.part"
    part.write_text(json.dumps({"simulation": simulation.marks(), "complete": complete}))
    part.replace(out / SIMULATED)  # whole or not at all, whenever it is killed


def _missing(simulation: Simulation, out: Path) -> list[Job]:
    jobs = [
        (out / folder / f"user{number:02d}_{light.name}" / f"{label}.npy", number, light, label)
        for split, folder in GESTURE_FOLDERS.items()
        for number in GESTURE_USERS[split]
        for light in LIGHTS[: simulation.lightings]
        for label in range(GESTURE_CLASSES)
    ]
    return [job for job in jobs if not job[0].exists()]


def _write_all(simulation: Simulation, jobs: Sequence[Job], threads: int) -> None:
    def one(job: Job) -> None:
        path, number, light, label = job
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, simulation.recording(number, light, label))
        part.replace(path)

    with ThreadPoolExecutor(threads) as pool, bar("simulate recordings", len(jobs)) as advance:
        for _ in pool.map(one, jobs):
            advance(1)


@dataclass(frozen=True)
class SyntheticGesture(Gesture):
    """Simulated gestures: written once below `root` (None: the cache folder), then read as the real ones are."""

    simulation: Simulation = field(default_factory=Simulation)

    name: ClassVar[str] = "synthetic_gesture"

    def folder(self) -> Path:
        """Where the recordings are, after writing what is missing: `root` itself where it was marked by this simulation
        (the command writes there), else a folder of its name in it."""
        simulation = self.simulation
        name = f"seed{simulation.seed}-{simulation.seconds:g}s-{simulation.lightings}"
        if simulation.pixels != Pixels():
            name += "-" + hashlib.sha256(repr(simulation.pixels).encode()).hexdigest()[:8]
        home = Path(self.root).expanduser() if self.root else cache_folder() / "synthetic_gesture"
        out = home / f"v{VERSION}-{name}"
        if (found := _marked(home)) is not None:
            if _is_of(simulation, found[0]):
                return write(simulation, home)
            logger.warning("%s holds another simulation (%s): data.simulation is in %s.", home, found[0], out)
        return write(simulation, out)

    def read(self, path: Path) -> np.ndarray:
        try:
            return super().read(path)
        except Damaged as error:
            raise Damaged(
                path, error.kind, f"{error.detail} Delete it, and it is simulated again."
            ) from error


def compare(simulation: Simulation, out: Path, clips: Path | None, people: int = 6) -> str:
    """The table beside the real clips, with the picture written to out/gestures.png and the table to comparison.md.

    Without the clips the table shows the simulation alone. Users 1 to `people`, lightings in turn.
    Raises DataError, before anything is written, for a folder of other recordings.
    """
    users = GESTURE_USERS["test"][-1]
    require(1 <= people <= users, "people", f"be in [1, {users}]", people)
    _complete(simulation, out)
    out.mkdir(parents=True, exist_ok=True)
    real = real_clips(clips) if clips else {}
    simulated = {
        label: [
            simulation.recording(number, LIGHTS[number % len(LIGHTS)], label)
            for number in range(1, people + 1)
        ]
        for label in range(GESTURE_CLASSES)
    }
    picture(real, simulated, out / "gestures.png")
    text = table(real, simulated)
    (out / "comparison.md").write_text(text + "\n")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code, of the meaning that `pipeline.exits` gives it."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.data.synthetic", description=__doc__.split("\n")[0]
    )
    parser.add_argument("out", type=Path, help="folder for the recordings, the table and the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1.5, help="length of each recording (default 1.5)")
    parser.add_argument("--lightings", type=int, default=5, help="lightings per user, 1 to 5 (default 5)")
    parser.add_argument("--threads", type=int, default=None, help="default: all cores")
    parser.add_argument("--people", type=int, default=6, help="simulated people in the table (default 6)")
    parser.add_argument("--preview", action="store_true", help="write the table and the picture only")
    parser.add_argument(
        "--clips", type=Path, default=None,
        help="folder with dvs-gesture-clips/ (default: $PIPELINE_DATA, where it has them)",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        simulation = Simulation(given.seed, given.seconds, given.lightings)
        threads = given.threads
        require(threads is None or threads >= 1, "threads", "be at least 1", threads)
        print(compare(simulation, given.out, given.clips or _clips_at_hand(), given.people))
        print(f"picture: {given.out / 'gestures.png'}")
        if not given.preview:
            write(simulation, given.out, threads)
            files = list(given.out.glob("*/*/*.npy"))
            size = sum(path.stat().st_size for path in files)
            print(f"{len(files)} recordings, {size / 1e9:.2f} GB below {given.out}")
    except ValueError as error:
        print(error, file=sys.stderr)
        return BAD_CONFIG
    except DataError as error:
        print(error, file=sys.stderr)
        return NO_ROOM if isinstance(error.__cause__, OSError) else BAD_DATA
    except OSError as error:
        print(f"{given.out} must be a folder that can be written, but: {error}", file=sys.stderr)
        return NO_ROOM
    except KeyboardInterrupt:
        print("\nInterrupted; whole recordings are kept. The same command goes on.", file=sys.stderr)
        return INTERRUPTED
    return 0


def _clips_at_hand() -> Path | None:
    """$PIPELINE_DATA where it has the real clips: it may be set for other data."""
    root = os.environ.get("PIPELINE_DATA")
    return Path(root) if root and (Path(root) / CLIPS).is_file() else None


if __name__ == "__main__":
    sys.exit(main())
