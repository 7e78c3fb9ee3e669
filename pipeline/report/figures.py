"""Matplotlib's side of every figure: one style, one way to save. Object API on Agg: no pyplot, no global
state."""

from __future__ import annotations

import io
from pathlib import Path
from textwrap import wrap

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.report.files import write_whole
from pipeline.report.palette import LIGHT

LINES = ("-", "--", ":", "-.", (0, (8, 2)), (0, (8, 2, 1, 2)))
SYMBOLS = ("o", "s", "^", "D", "v", "P", "X", "*")
DPI = 160
_CAPTION_LINE_INCH = 0.17
_LETTERS_PER_INCH = 14.7


def colour(index: int) -> str:
    """The n-th series' colour on white."""
    return LIGHT[f"c{index % 8}"]


def canvas(
    columns: int = 1, rows: int = 1, size: tuple[float, float] = (6.0, 4.4), caption: str = ""
) -> tuple[Figure, list[Axes]]:
    """A white figure of `columns` x `rows` panels of `size` inches each, with the caption written below
    them."""
    width, height = columns * size[0], rows * size[1]
    lines = wrap(caption, int(width * _LETTERS_PER_INCH)) if caption else []
    foot = (len(lines) + 1) * _CAPTION_LINE_INCH if lines else 0.0
    figure = Figure(figsize=(width, height + foot), facecolor=LIGHT["surface"], layout="constrained")
    FigureCanvasAgg(figure)
    share = foot / (height + foot)
    pads = {"w_pad": 0.1, "h_pad": 0.1}
    figure.get_layout_engine().set(rect=(0, share, 1, 1 - share), **pads)  # type: ignore[union-attr, call-arg]
    if lines:
        figure.text(
            0.012, share - 0.4 * _CAPTION_LINE_INCH / (height + foot), "\n".join(lines), va="top",
            fontsize=8.5, color=LIGHT["muted"], linespacing=1.25, in_layout=False,
        )  # fmt: skip
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(columns * rows)]
    for ax in axes:
        plain(ax)
    return figure, axes


def plain(ax: Axes) -> None:
    """Thin grid behind the data, no box above and right, quiet ticks."""
    ax.set_axisbelow(True)
    ax.grid(True, color=LIGHT["grid"], linewidth=0.7)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(LIGHT["faint"])
    ax.tick_params(colors=LIGHT["muted"], labelsize=9)
    ax.xaxis.label.set_color(LIGHT["ink"])
    ax.yaxis.label.set_color(LIGHT["ink"])


def say(ax: Axes, words: str) -> None:
    """Words in the middle of a panel that has nothing to show."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    ax.text(
        0.5, 0.5, words, transform=ax.transAxes, ha="center", va="center", color=LIGHT["muted"], wrap=True
    )


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """``name.png`` and ``name.svg``; the same figure gives the same bytes (no date, fixed ids)."""
    engine = figure.get_layout_engine()
    if engine is not None:  # lay out once for both forms: it takes longer than the drawing
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    paths = []
    for form in ("png", "svg"):
        stream = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
            if form == "svg":
                figure.savefig(stream, format=form, metadata={"Date": None})
            else:
                quick = {"compress_level": 4}
                figure.savefig(stream, format=form, dpi=DPI, metadata={"Software": None}, pil_kwargs=quick)
        paths.append(write_whole(folder / f"{name}.{form}", stream.getvalue()))
    return paths
