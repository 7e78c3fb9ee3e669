"""What a chosen model does with single classes and samples: confusion, spike rasters, receptive fields."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.report.charts import Chart, Trace, layout
from pipeline.report.context import Context
from pipeline.report.detail import number, records
from pipeline.report.figures import canvas, say
from pipeline.report.palette import LIGHT
from pipeline.report.points import Model

FEW = 12
"""Up to so many classes each cell of a confusion has its count written in it."""
FIELDS = 100
"""So many receptive fields of a layer are shown."""
_WIDE = 400
"""Pixels on the page that a mosaic of them takes."""


def confusion(model: Model) -> NDArray[np.float64] | None:
    """Counts [true, predicted] of the model; None when it has none, or what it has is no square of
    numbers."""
    try:
        counts = np.asarray(model.row.detail.get("confusion"), dtype=np.float64)
    except (TypeError, ValueError):
        return None
    square = counts.ndim == 2 and counts.shape[0] == counts.shape[1] > 0
    return counts if square and bool(np.isfinite(counts).all()) else None


def _names(context: Context, classes: int) -> list[str]:
    return list(context.classes) if len(context.classes) == classes else [str(i) for i in range(classes)]


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row in percent of its class; a class without samples is a row of zeros."""
    return 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def draw_confusion(models: Sequence[Model], context: Context) -> Figure | None:
    """One matrix per model, rows normalised; None when no model has one."""
    known = [(model, counts) for model in models if (counts := confusion(model)) is not None]
    if not known:
        return None
    words = "Confusion per class, in percent of the true class; the diagonal is what is right."
    figure, axes = canvas(columns=len(known), size=(4.6, 4.6), caption=words)
    for (model, counts), ax in zip(known, axes, strict=True):
        shares, names = _shares(counts), _names(context, len(counts))
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        ax.grid(False)
        ticks = range(len(names))
        ax.set_xticks(ticks, names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=8)
        ax.set_yticks(ticks, names, fontsize=8)
        ax.set_xlabel("predicted")
        ax.set_ylabel("true")
        ax.set_title(model.name, fontsize=10, color=LIGHT["ink"])
        for (true, predicted), share in np.ndenumerate(shares) if len(counts) <= FEW else ():
            if share >= 0.5:
                tint = "white" if share > 55 else LIGHT["ink"]
                ax.text(predicted, true, f"{share:.0f}", ha="center", va="center", fontsize=7.5, color=tint)
    return figure


def confusion_charts(models: Sequence[Model], context: Context) -> list[Chart]:
    """The same for the page, counts and shares beside the pointer."""
    charts = []
    for model in models:
        counts = confusion(model)
        if counts is None:
            continue
        shares, names = _shares(counts), _names(context, len(counts))
        words = [
            [
                f"{escape(names[i])} taken for {escape(names[j])}: {counts[i, j]:.0f} ({shares[i, j]:.1f}%)"
                for j in range(len(names))
            ]
            for i in range(len(names))
        ]
        cells: Trace = {
            "type": "heatmap",
            "z": shares.tolist(),
            "x": names,
            "y": names,
            "zmin": 0,
            "zmax": 100,
            "colorscale": "Cividis",
            "hovertext": words,
            "hoverinfo": "text",
            "colorbar": {"thickness": 12, "title": {"text": "% of the true class", "side": "right"}},
            "meta": {"still": True},
        }
        if len(counts) <= FEW:
            cells["text"] = [[f"{share:.0f}" if share >= 0.5 else "" for share in line] for line in shares]
            cells["texttemplate"] = "%{text}"
        drawn = layout("predicted", "true")
        drawn["xaxis"] = {"type": "category", "title": {"text": "predicted"}, "automargin": True}
        drawn["yaxis"] = {
            "type": "category",
            "title": {"text": "true"},
            "autorange": "reversed",
            "automargin": True,
        }
        name, words_of = f"confusion-{model.row.number}", f"Confusion of {model.name}"
        charts.append(Chart(name, [cells], drawn, 440, words=words_of, title=model.name))
    return charts


@dataclass(frozen=True)
class Raster:
    """Spikes of one layer for one sample."""

    title: str
    steps: int
    neurons: int
    spikes: NDArray[np.int64]
    """[spikes, 2]: step, neuron."""
    all_neurons: int = 0
    """Neurons of the layer, of which `neurons` are shown; 0: not said."""

    @property
    def share(self) -> str:
        """How often the shown neurons spike, as the heading says it."""
        part = len(self.spikes) / max(1, self.steps * self.neurons)
        every = f" (of {self.all_neurons:,})" if self.all_neurons > self.neurons else ""
        return f"{part:.1%} of {self.neurons:,} neurons{every} × {self.steps} steps"


def rasters(model: Model) -> list[Raster]:
    """The rasters a model brings; what is not a list of (step, neuron) is left out."""
    found = []
    for entry in records(model.row, "rasters"):
        try:
            spikes = np.asarray(entry.get("spikes", ()), dtype=np.int64).reshape(-1, 2)
        except (TypeError, ValueError, OverflowError):
            continue
        steps, neurons, every = (number(entry.get(key)) for key in ("steps", "neurons", "of"))
        top = spikes.max(axis=0) + 1 if len(spikes) else np.ones(2)
        about = f", class {entry['label']}" if "label" in entry else ""
        found.append(
            Raster(
                f"{entry.get('layer', 'layer')}{about}",
                int(steps if math.isfinite(steps) else top[0]),
                int(neurons if math.isfinite(neurons) else top[1]),
                spikes,
                int(every) if math.isfinite(every) else 0,
            )
        )
    return found


def draw_rasters(models: Sequence[Model]) -> Figure | None:
    """A row of panels per model, a panel per layer; None when no model brings spikes."""
    known = [(model, found) for model in models if (found := rasters(model))]
    if not known:
        return None
    columns = min(4, max(len(found) for _, found in known))
    words = (
        "Spikes of each layer for one validation sample: time step across, neuron up. Above each panel how many of the "
        "neurons and steps that it shows have a spike; of a large layer evenly spaced neurons are shown."
    )
    figure, axes = canvas(columns=columns, rows=len(known), size=(3.7, 2.7), caption=words)
    for i, (model, found) in enumerate(known):
        for j, ax in enumerate(axes[i * columns : (i + 1) * columns]):
            if j >= len(found):
                ax.set_visible(False)
                continue
            one = found[j]
            if len(one.spikes):
                ax.scatter(
                    one.spikes[:, 0], one.spikes[:, 1], s=6, marker="|", color=LIGHT["front"], linewidths=1
                )
            else:
                say(ax, "silent")
            ax.set_xlim(-0.5, one.steps - 0.5)
            ax.set_ylim(-0.5, one.neurons - 0.5)
            ax.set_title(f"{model.name.split()[0]} {one.title}\n{one.share}", fontsize=9)
            ax.set_xlabel("step")
            ax.set_ylabel("neuron")
            if len(one.spikes):  # else its axes say that it is silent
                ax.xaxis.set_major_locator(MaxNLocator(integer=True))
                ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def raster_charts(models: Sequence[Model]) -> list[Chart]:
    """The same for the page."""
    charts = []
    for model in models:
        for i, one in enumerate(rasters(model)):
            spikes: Trace = {
                "type": "scatter",
                "mode": "markers",
                "x": one.spikes[:, 0].tolist(),
                "y": one.spikes[:, 1].tolist(),
                "showlegend": False,
                "marker": {"symbol": "line-ns-open", "size": 7, "color": "@front"},
                "hovertemplate": "step %{x}, neuron %{y}<extra></extra>",
                "meta": {"still": True},
            }
            title = f"{model.name.split()[0]} {one.title}: {one.share} spike"
            drawn = layout("step", "neuron")
            drawn["xaxis"] = {**_dict(drawn["xaxis"]), "range": [-0.5, one.steps - 0.5]}
            drawn["yaxis"] = {**_dict(drawn["yaxis"]), "range": [-0.5, one.neurons - 0.5]}
            charts.append(
                Chart(f"raster-{model.row.number}-{i}", [spikes], drawn, 270, words=title, title=title)
            )
    return charts


def _dict(given: object) -> dict[str, object]:
    return dict(given) if isinstance(given, Mapping) else {}


def mosaic(fields: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n, H, W] -> one picture of about square shape, each field scaled to [0, 1], a line of NaN between
    them."""
    count, high, wide = fields.shape
    columns = math.ceil(math.sqrt(count * high / wide))
    lines = math.ceil(count / columns)
    picture = np.full((lines * (high + 1) - 1, columns * (wide + 1) - 1), np.nan)
    for i, one in enumerate(fields):
        low, spread = float(one.min()), float(np.ptp(one))
        top, left = i // columns * (high + 1), i % columns * (wide + 1)
        picture[top : top + high, left : left + wide] = (one - low) / spread if spread > 0 else 0.0
    return picture


def receptive_fields(model: Model) -> list[tuple[str, int, NDArray[np.float64]]]:
    """(layer, how many there are, mosaic of at most `FIELDS` of them)."""
    found = []
    for entry in records(model.row, "receptive_fields"):
        try:
            fields = np.asarray(entry.get("fields"), dtype=np.float64)
        except (TypeError, ValueError):
            continue
        if fields.ndim == 3 and fields.size and bool(np.isfinite(fields).all()):
            found.append((str(entry.get("layer", "layer")), len(fields), mosaic(fields[:FIELDS])))
    return found


def draw_fields(models: Sequence[Model]) -> Figure | None:
    """Receptive fields as pictures; None when no model brings any."""
    known = [(model, *one) for model in models for one in receptive_fields(model)]
    if not known:
        return None
    words = f"Receptive fields, each scaled to its own range; the first {FIELDS} of a layer."
    figure, axes = canvas(
        columns=min(3, len(known)), rows=math.ceil(len(known) / 3), size=(4.4, 4.6), caption=words
    )
    for (model, layer, count, picture), ax in zip(known, axes, strict=False):
        ax.imshow(picture, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
        ax.set_axis_off()
        ax.set_title(f"{model.name.split()[0]} {layer} ({count} neurons)", fontsize=9)
    for ax in axes[len(known) :]:
        ax.set_visible(False)
    return figure


def fields_html(models: Sequence[Model]) -> str:
    """The same for the page, as pictures inside it."""
    pictures = []
    for model in models:
        for layer, count, picture in receptive_fields(model):
            stream = io.BytesIO()
            imsave(stream, colormaps["cividis"](np.ma.masked_invalid(picture)), format="png")
            inside = base64.b64encode(stream.getvalue()).decode()
            words = f"{escape(model.name.split()[0])} {escape(layer)} ({count} neurons)"
            pictures.append(
                f'<figure><img class="picture" width="{_WIDE}" alt="Receptive fields of {words}" '
                f'src="data:image/png;base64,{inside}"><figcaption>{words}</figcaption></figure>'
            )
    return f'<div class="pictures">{"".join(pictures)}</div>' if pictures else ""
