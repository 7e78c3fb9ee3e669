"""The tables of docs/simulator.md and docs/simulator.png: simulated gestures beside the ten real clips.

    PIPELINE_DATA=FOLDER python benchmarks/simulator_docs.py     FOLDER holds dvs-gesture-clips/

The same comparison, of any settings of the simulator: python -m pipeline.data.synthetic OUT --preview.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from docs_block import lined, put
from gesture_claims import RESULTS
from gesture_docs import told
from gesture_records import FULL, Book

from pipeline.data.compare import picture, profile, real_clips, table
from pipeline.data.dvs import LIGHTS
from pipeline.data.recordings import GESTURE_CLASSES
from pipeline.data.synthetic import Simulation
from pipeline.report.files import write_whole

COMMAND = "python benchmarks/simulator_docs.py"
PAGE, PICTURE = Path("docs/simulator.md"), Path("docs/simulator.png")
EVENTS = Path("docs/results/benchmarks/events.json")
PEOPLE = 6
NAMES = {
    "rate_khz": "event rate, events per ms",
    "on_share": "polarity balance: share of ON events",
    "same_polarity": "successive events of a pixel with one polarity",
    "same_ms": "inter-event intervals of a pixel below 1 ms",
    "burst": "intervals of 1 to 10 ms",
    "pause": "intervals above 50 ms",
    "active": "spatial extent: share of pixels that fired",
    "half": "pixels that hold half of the events",
    "spread_x": "spread of places, columns",
    "spread_y": "spread of places, rows",
}
Clips = Mapping[int, np.ndarray]


def recordings(label: int) -> list[np.ndarray]:
    """The simulated recordings of a gesture that are compared: six people, lightings in turn, as --preview does."""
    simulation = Simulation()
    return [simulation.recording(n, LIGHTS[n % len(LIGHTS)], label) for n in range(1, PEOPLE + 1)]


def summary(real: Clips, simulated: Mapping[int, Sequence[np.ndarray]]) -> list[str]:
    """A line per quantity: medians over gestures, their ratio, and how many clips are among the people of theirs."""
    heads = ("quantity", "real", "simulated", "ratio", "clips within what the six people span")
    rows = []
    clips = {label: vars(profile(events)) for label, events in real.items()}
    people = {label: [vars(profile(each)) for each in simulated[label]] for label in clips}
    for name, words in NAMES.items():
        one = median(clip[name] for clip in clips.values())
        other = median(each[name] for found in people.values() for each in found)
        inside = sum(
            min(each[name] for each in people[label])
            <= clip[name]
            <= max(each[name] for each in people[label])
            for label, clip in clips.items()
        )
        rows.append([words, f"{one:.3g}", f"{other:.3g}", f"{other / one:.2f}", f"{inside} of {len(clips)}"])
    return lined(heads, rows)


def gestures(real: Clips, simulated: Mapping[int, Sequence[np.ndarray]]) -> list[str]:
    """A pair of lines per gesture; on the page the names of the columns are explained before they are used."""
    lines, legend = table(real, simulated).rsplit("\n\n", 1)
    return [legend, "", *lines.replace("| gesture | |", "| gesture | recordings |", 1).splitlines()]


def difficulty() -> list[str]:
    """Test accuracies of what sees no time and of what does, from benchmarks/events.py and gesture_claims.py."""
    found = json.loads(EVENTS.read_text(encoding="utf-8"))
    book, small = Book(RESULTS), found["spiking"]
    linear = [f"{100 * found['linear'][data]['test']:.1f}" for data in ("synthetic_gesture", "nmnist")]
    seeds = "one seed" if len(small["test"]) == 1 else f"{len(small['test'])} seeds"
    rows = [
        ["best linear readout (ridge, logistic) of the frames' sum", *linear],
        [
            f"three convolutions and a hidden layer, {small['epochs']} epochs, {seeds}",
            told([100 * each for each in small["test"]]),
            "",
        ],
    ]
    for words, *cell in (
        ("the studies' float network", "float", 32),
        (f"the same in {FULL} bit, after four times the epochs of fine-tuning", "longer", FULL),
    ):
        spiking = [book.accuracy(data, *cell, 0.0) for data in ("gesture", "nmnist")]
        rows.append([f"{words}, {len(spiking[0])} seeds", *(told([*each.values()]) for each in spiking)])
    return lined(("test accuracy, %", "simulated gestures", "N-MNIST"), rows)


def main() -> None:
    root = os.environ.get("PIPELINE_DATA")
    if not root:
        raise SystemExit("PIPELINE_DATA must name the folder with dvs-gesture-clips")
    real = real_clips(Path(root))
    simulated = {label: recordings(label) for label in range(GESTURE_CLASSES)}
    picture(real, simulated, PICTURE)
    page = PAGE.read_text(encoding="utf-8")
    page = put(page, "simulator", COMMAND, summary(real, simulated))
    page = put(page, "simulator-difficulty", COMMAND, difficulty())
    page = put(page, "simulator-gestures", COMMAND, gestures(real, simulated))
    write_whole(PAGE, page)
    print(page)


if __name__ == "__main__":
    main()
