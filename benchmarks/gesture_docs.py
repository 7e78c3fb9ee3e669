"""The generated parts of docs/gestures.md, from the cells of benchmarks/gesture_claims.py; measures nothing.

    python benchmarks/gesture_docs.py

Writes the tables between the page's markers, docs/gestures.png and docs/gestures-layers.png.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import gesture_layers
import gesture_studies
import numpy as np
from docs_block import lined, put
from gesture_claims import RESULTS, configured
from gesture_records import FULL, LEVELS, SEEDS, WIDTHS, Book, Cell
from gesture_records import PUBLISHED as DVS_GESTURE
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from pipeline import config
from pipeline.report.figures import DPI, LINES, SYMBOLS, canvas, colour
from pipeline.report.files import write_whole
from pipeline.report.palette import LIGHT
from pipeline.report.published import Point, load

COMMAND = "python benchmarks/gesture_docs.py"
NONE = "Not measured here yet."
PAGE, PICTURE = Path("docs/gestures.md"), Path("docs/gestures.png")
TITLES = {"gesture": "simulated gestures", "nmnist": "N-MNIST", "dvs_gesture": "DVS Gesture"}
METHODS = ("ptq", "isolated", "cumulative", "joint", "longer")
NAMES = {
    "ptq": "post-training", "isolated": "fine-tuned, widths alone", "longer": "four times the epochs"
}  # fmt: skip
JOINT = SYMBOLS[METHODS.index("joint")]
"""Hollow and grey the published networks, which are joint's."""
PUBLISHED = "dvs_gesture_schaefer_2023"
GRIDS = ("joint", "cumulative")
"""Methods that are run at every width and every level of zeros."""
UJ = 1e-6  # of a pJ
Spot = tuple[float, list[float]]
"""A place on an axis and the accuracies (%) of its seeds."""


def over_bits(book: Book, data: str) -> dict[str, list[Spot]]:
    """Method -> accuracy over widths, nothing pruned; joint without masks is widths alone."""
    found = {
        method: [(bits, list(book.accuracy(data, method, bits).values())) for bits in WIDTHS]
        for method in ("ptq", "isolated", "longer")
    }
    shown = {method: [spot for spot in spots if spot[1]] for method, spots in found.items()}
    return {method: spots for method, spots in shown.items() if spots}


def over_sparsity(book: Book, data: str, bits: int = FULL) -> dict[str, list[Spot]]:
    """Method -> accuracy over the zeros asked for (%); at 0 % both are the network that is quantized alone."""
    start = list(book.accuracy(data, "isolated", bits).values())
    found = {}
    for method in ("cumulative", "joint", "longer"):
        spots = [(100 * level, list(book.accuracy(data, method, bits, level).values())) for level in LEVELS]
        first = list(book.accuracy(data, method, bits).values()) if method == "longer" else start
        found[method] = [spot for spot in [(0.0, first), *spots] if spot[1]]
    return {
        method: spots for method, spots in found.items() if len(spots) > 1 or (method == "longer" and spots)
    }


def networks(book: Book, data: str) -> Iterator[tuple[str, int, float, list[float], list[float]]]:
    """(method, bits, sparsity, accuracies in %, energies in uJ) of every compressed network, by method and energy."""
    settings = {(r["method"], r["bits"], _asked(book, r)) for r in book.of(data) if r["method"] != "float"}
    rows = []
    for method, bits, level in settings:
        cell = (data, method, bits, level)
        energies = [UJ * pj for pj in book.energy(*cell).values()]
        rows.append((method, bits, level, list(book.accuracy(*cell).values()), energies))
    yield from sorted(rows, key=lambda row: (METHODS.index(row[0]), mean(row[4])))


def _asked(book: Book, result: dict[str, object]) -> float:
    """The sparsity of a cell's key: a result's own is the measured one."""
    return float(next(key for key, found in book.found.items() if found is result).split("/")[-1])


def present(book: Book) -> dict[str, str]:
    """The data sets of which there are networks to show."""
    return {data: title for data, title in TITLES.items() if book.accuracy(data, "isolated", FULL)}


def weights(data: str) -> int:
    """Of the network that the cells of this data set train: matrices and kernels, without biases and normalisation."""
    built = config.build_experiment(configured(Cell(data, SEEDS[0], "float")))
    recordings: Any = built.data
    side = recordings.framing.side(recordings.sensor)
    net = built.net.build((2, side, side), recordings.classes, SEEDS[0])
    return sum(weight.numel() for weight in net.parameters() if weight.dim() > 1)


def larger(titles: Mapping[str, str]) -> str:
    """``16 times as large as that of simulated gestures, 101 times as that of N-MNIST``; nothing beside itself."""
    published = weights(DVS_GESTURE)
    found = [
        f"{published / weights(data):.0f} times as large as that of {title}"
        for data, title in titles.items()
        if data != DVS_GESTURE
    ]
    return ", ".join([*found[:1], *(words.replace(" large as", "") for words in found[1:])])


def draw(book: Book) -> Figure:
    """A row of three pictures per data set: accuracy over widths, over zeros, and the front of each method."""
    titles = present(book)
    network = f"a network {how}, " if (how := larger(titles)) else ""
    words = (
        "Test accuracy, mean over the seeds that are there, small symbols single ones; the scale is logarithmic in the "
        "errors, so that a point at 99 % is ten times as high as one at 90 %. Without zeros, joint and cumulative are "
        f'"fine-tuned, widths alone". Grey: published for DVS Gesture, joint ({network}50 epochs of '
        "fine-tuning, the best epoch on the test split). Right: the front of each method, its other networks faint; "
        "energy on eyeriss_45nm as a multiple of that of the 8 bit network without zeros, each data set's own, and the "
        "published ones of the paper's own."
    )
    figure, axes = canvas(3, len(titles), (4.3, 3.4), words)
    papers = load(PUBLISHED)
    points = papers.points if papers else ()
    for row, (data, title) in enumerate(titles.items()):
        bits, zeros, energy = axes[3 * row : 3 * row + 3]
        _curves(bits, over_bits(book, data))
        _paper(bits, [(p.bits, p) for p in points if p.series == "joint" and p.sparsity == 0])
        bits.set_xticks(WIDTHS)
        bits.set_xlabel("width of the weights (bits)")
        _curves(zeros, over_sparsity(book, data))
        _paper(zeros, [(100 * p.sparsity, p) for p in points if p.series == "joint" and p.bits == FULL])
        zeros.set_xlabel(f"zeros asked for at {FULL} bit (%)")
        _fronts(energy, book, data)
        _paper_front(energy, points)
        energy.set_xlabel(f"energy of an inference ({FULL} bit, none pruned: 1)")
        for ax in (bits, zeros, energy):
            ax.set_ylabel(f"{title}: test accuracy (%)")
            _by_error(ax)
    handles = {
        label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    order = sorted(handles, key=lambda label: label.startswith("published"))
    axes[0].legend(
        [handles[label] for label in order],
        order,
        fontsize=8,
        frameon=False,
        loc="lower right",
        handlelength=3,
    )
    return figure


def _by_error(ax: Axes) -> None:
    """Accuracies (%) as their errors on a log scale: H1 and H2 are about one point at 95, other networks are at 20."""
    ax.set_yscale("function", functions=(_height, lambda at: 100 - 10.0 ** (2 - at)))
    ax.set_ylim(0, max(99.0, ax.dataLim.y1))
    ax.set_yticks((0, 50, 80, 90, 95, 97, 98, 99))


def _height(accuracy: ArrayLike) -> NDArray[np.float64]:
    """0 for 0 %, 1 for 90 %, 2 for 99 %; all right is drawn where 99.7 % is, for it has no logarithm."""
    return 2 - np.log10(np.maximum(100 - np.asarray(accuracy, dtype=np.float64), 0.3))


def _curves(ax: Axes, found: dict[str, list[Spot]]) -> None:
    for method, spots in found.items():
        at = METHODS.index(method)
        ink, symbol = colour(at), SYMBOLS[at]
        for x, values in spots:
            ax.plot([x] * len(values), values, symbol, color=ink, alpha=0.35, markersize=3)
        x, y = [x for x, _ in spots], [mean(values) for _, values in spots]
        ax.plot(x, y, symbol, linestyle=LINES[at % len(LINES)], color=ink, label=NAMES.get(method, method))


def _fronts(ax: Axes, book: Book, data: str) -> None:
    """Every network, and for each method the line of those that no other of the method beats in both."""
    unit = mean(book.energy(data, "isolated", FULL).values()) * UJ
    spots: dict[str, list[tuple[float, float]]] = {}
    for method, _, _, accuracies, energies in networks(book, data):
        spots.setdefault(method, []).append((mean(energies) / unit, mean(accuracies)))
    for method, found in spots.items():
        at = METHODS.index(method)
        ax.plot(*zip(*found, strict=True), SYMBOLS[at], color=colour(at), alpha=0.4, markersize=4)
        ax.plot(*stairs(found), linestyle=LINES[at % len(LINES)], color=colour(at), linewidth=1.6)
        ax.plot(*zip(*front(found), strict=True), SYMBOLS[at], color=colour(at), markersize=5)


def _paper_front(ax: Axes, points: Sequence[Point]) -> None:
    """The paper's joint networks and their front, in units of its own network of 8 bit."""
    joint = [point.metrics for point in points if point.series == "joint"]
    (unit,) = [p.metrics["energy_pj"] for p in points if (p.series, p.bits, p.sparsity) == ("joint", FULL, 0)]
    found = [(each["energy_pj"] / unit, 100 * each["test_accuracy"]) for each in joint]
    ax.plot(*zip(*found, strict=True), JOINT, color=LIGHT["muted"], markerfacecolor="none", markersize=3.5)
    ax.plot(*stairs(found), "--", color=LIGHT["muted"], linewidth=1)


def front(spots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (energy, accuracy) those with no other at most as dear and at least as accurate, the cheapest first."""
    kept: list[tuple[float, float]] = []
    for energy, height in sorted(spots, key=lambda spot: (spot[0], -spot[1])):
        if not kept or height > kept[-1][1]:
            kept.append((energy, height))
    return kept


def stairs(spots: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """A front as a line: what so much energy can reach, level up to the next member."""
    x, y = [], []
    for energy, height in front(spots):
        x += [energy, energy] if y else [energy]
        y += [y[-1], height] if y else [height]
    return x, y


def _paper(ax: Axes, points: Sequence[tuple[float, Point]]) -> None:
    x, y = [at for at, _ in points], [100 * point.metrics["test_accuracy"] for _, point in points]
    ax.plot(x, y, "--", color=LIGHT["muted"], linewidth=1, marker=JOINT, markerfacecolor="none", markersize=3.5,
            label="published: joint")  # fmt: skip


def told(values: Sequence[float], digits: int = 1) -> str:
    """``94.8`` of one seed, ``94.8 ± 0.4`` (standard deviation) of several."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


PRICES = {
    "energy, µJ": ("energy_pj", UJ, 1),
    "worst, µJ": ("worst_energy_pj", UJ, 1),
    "latency, ms": ("latency_us", 1e-3, 2),
    "memory, KiB": ("memory_bits", 1 / 8 / 1024, 1),
}
"""Column -> metric of a cell, its unit, digits.

No worst-case latency: a frame takes the machine as long whatever is in it, so that both are equal in every cell.
"""


def table(book: Book, data: str) -> list[str]:
    """A line per network outside the grids."""
    heads = ("method", "bits", "zeros asked for", "zeros", "test accuracy, %", *PRICES, "seeds")

    def priced(*cell: object) -> list[str]:
        return [
            told([unit * value for value in book.values(lambda r, m=metric: float(r[m]), data, *cell).values()], digits)
            for metric, unit, digits in PRICES.values()
        ]  # fmt: skip

    lines = []
    plain = [*book.accuracy(data, "float").values()]
    if plain:
        lines.append(["float", "32", "", "", told(plain), *priced("float"), str(len(plain))])
    for method, bits, level, accuracies, _ in networks(book, data):
        if method in GRIDS:
            continue
        zeros = book.values(lambda result: 100 * float(result["sparsity"]), data, method, bits, level)
        shares = [f"{100 * level:g} %", f"{mean(zeros.values()):.1f} %"]
        prices = priced(method, bits, level)
        lines.append([NAMES[method], str(bits), *shares, told(accuracies), *prices, str(len(accuracies))])
    return lined(heads, lines) if lines else [NONE]


def grids(book: Book, data: str) -> list[str]:
    """Accuracy by width and level of zeros, a table per method; then the energy of joint (the other's is close)."""
    if not book.accuracy(data, "isolated", FULL):
        return [NONE]
    heads = ["bits", "none", *(f"{100 * level:g} %" for level in LEVELS)]
    lines = []
    for method in GRIDS:
        lines += [f"Test accuracy, %, {method}, over zeros asked for ({_seeds(book, data, method)}):", ""]
        rows = [
            [str(bits), *(_said(book, _cell(data, method, bits, p)) for p in (0.0, *LEVELS))]
            for bits in WIDTHS
        ]
        lines += [*lined(heads, rows), ""]
    unit = mean(book.energy(data, "isolated", FULL).values())
    lines += [
        f"Energy of an inference, joint, as a multiple of {FULL} bit, none pruned ({UJ * unit:.1f} µJ); "
        f"{_near(book, data)}:",
        "",
    ]
    rows = []
    for bits in WIDTHS:
        found = [book.energy(*_cell(data, GRIDS[0], bits, p)).values() for p in (0.0, *LEVELS)]
        rows.append([str(bits), *(f"{mean(each) / unit:.3f}" if each else "" for each in found)])
    return [*lines, *lined(heads, rows)]


def _near(book: Book, data: str) -> str:
    """How far the energies of cumulative are from those of joint, which the grid shows."""
    ratios = []
    for bits in WIDTHS:
        for level in LEVELS:
            one, other = (book.energy(data, method, bits, level) for method in GRIDS)
            ratios += [abs(other[seed] / one[seed] - 1) for seed in one if seed in other]
    return (
        f"cumulative's is within {100 * max(ratios):.1f} % of it" if ratios else "cumulative's: not measured"
    )


def _cell(data: str, method: str, bits: int, level: float) -> tuple[str, str, int, float]:
    """Without zeros both methods are the network that is quantized alone."""
    return (data, method if level else "isolated", bits, level)


def _ended(book: Book, cell: tuple[str, str, int, float]) -> list[str]:
    """The states of the seeds that ended without a network: ``silent``."""
    data, *rest = cell
    found = [book.found.get(Cell(data, seed, *rest).key, {}) for seed in SEEDS]  # type: ignore[arg-type]
    return [
        result["ended"].partition(": ")[0].removeprefix("stopped:") for result in found if "ended" in result
    ]


def _said(book: Book, cell: tuple[str, str, int, float]) -> str:
    """``95.0 ± 1.4, 1 silent``: the accuracies of the seeds, and how many never fire again."""
    ended, values = _ended(book, cell), [*book.accuracy(*cell).values()]
    if not values:
        return ended[0] if ended else ""
    return told(values) + (f", {len(ended)} {ended[0]}" if ended else "")


def _seeds(book: Book, data: str, method: str) -> str:
    """``3 seeds``, or ``1 to 3 seeds`` where cells have different numbers of them."""
    places = [_cell(data, method, b, p) for b in WIDTHS for p in LEVELS]
    counts = [count for at in places if (count := len(book.accuracy(*at)) + len(_ended(book, at)))]
    few, many = min(counts, default=0), max(counts, default=0)
    return f"{few} to {many} seeds" if few < many else f"{many} seed{'s' if many != 1 else ''}"


def layers(book: Book, data: str) -> list[str]:
    """Weights left per layer, of the masks alone (8 bit) and of ternary weights alone."""
    shown = gesture_layers.zeros(book, data)
    if not shown:
        return [NONE]
    names = list(next(iter(shown.values())))
    rows = [[title, *(f"{100 * (1 - found[name]):.1f}" for name in names)] for title, found in shown.items()]
    return lined(["weights left, %", *names], rows)


def counted() -> list[str]:
    """What prices depend on the data that is counted: a line per kind of data, mean over the seeds."""
    rows = [row["data"] for row in gesture_layers.densities()]
    layers = list(rows[0]["validation"]["density"])
    heads = ["counted on", "recordings", "energy, µJ", "worst, µJ"]
    heads += [f"inputs of {layer}, % not 0" for layer in layers]
    lines = []
    for name in rows[0]:
        found = [row[name] for row in rows]
        energies = [told([UJ * each[key] for each in found], 2) for key in ("energy_pj", "worst_energy_pj")]
        shares = [told([100 * each["density"][layer] for each in found], 2) for layer in layers]
        lines.append([name, str(found[0]["samples"]), *energies, *shares])
    return lined(heads, lines)


def _beside(book: Book, data: str) -> list[str]:
    """The float networks that a study's members came from, as the first line above its table."""
    right = list(book.accuracy(data, "float").values())
    if not right:
        return []
    seeds = f"{len(right)} seeds, ± their standard deviation" if len(right) > 1 else "1 seed"
    return [f"Beside a float network of {told(right)} % ({seeds}):", ""]


def blocks(book: Book) -> dict[str, list[str]]:
    """What the page shows between its markers, by the markers' names."""
    made = {"counted": counted()}
    for name, data in (("nmnist_pareto", "nmnist"), ("gesture_simulated", "gesture")):
        made[f"{name}-study"] = [*_beside(book, data), *gesture_studies.front(name)]
    for data in TITLES:
        made |= {
            data: table(book, data),
            f"{data}-grids": grids(book, data),
            f"{data}-layers": layers(book, data),
        }
    return made


def main() -> None:
    book, page = Book(RESULTS), PAGE.read_text()
    draw(book).savefig(PICTURE, dpi=DPI, metadata={"Software": None})
    for name, lines in blocks(book).items():
        page = put(page, name, COMMAND, lines)
    picture = gesture_layers.draw(book, present(book))
    picture.savefig(gesture_layers.PICTURE, dpi=DPI, metadata={"Software": None})
    write_whole(PAGE, page)
    print(page)


if __name__ == "__main__":
    main()
