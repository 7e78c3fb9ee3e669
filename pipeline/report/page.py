"""One HTML file that opens without a network: the data, the style, the script and plotly.js inside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

from pipeline.report.charts import Chart
from pipeline.report.context import Context, command_of
from pipeline.report.front import plain, short
from pipeline.report.palette import DARK, LIGHT
from pipeline.report.points import marks
from pipeline.report.tables import strict
from pipeline.report.units import label, show
from pipeline.types import Row

_ASSETS = Path(__file__).parent / "assets"
# Nothing may be fetched, whatever a parameter's text contains: the file is complete.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Section:
    """A heading, a sentence (HTML), figures, and more HTML below them."""

    name: str
    title: str
    intro: str = ""
    charts: tuple[Chart, ...] = ()
    html: str = ""

    @property
    def empty(self) -> bool:
        return not self.charts and not self.html


def render(
    title: str, sections: Iterable[Section], rows: Sequence[Row], picks: Mapping[str, int], context: Context
) -> str:
    """The whole page. Everything that came from outside is escaped; the script fills in text, never
    markup."""
    shown = [section for section in sections if not section.empty]
    study = {
        "themes": {"light": LIGHT, "dark": DARK},
        "charts": [
            {"name": chart.name, "data": chart.data, "layout": chart.layout, "height": chart.height}
            for section in shown
            for chart in section.charts
        ],
        "trials": {str(row.number): _trial(row, marks(picks), context) for row in rows},
    }
    links = "".join(f'<a href="#{section.name}">{escape(section.title)}</a>' for section in shown)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>
{_asset("page.css")}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="quiet">{escape(context.data)}</p>
{f'<p class="quiet">{escape(context.ended)}</p>' if context.ended else ""}
<pre class="command">{escape(context.command)}</pre>
{f"<nav>{links}</nav>" if len(shown) > 1 else ""}
<div class="bar">
<label><input type="checkbox" id="dominated" checked> dominated trials</label>
<label>theme
<select id="theme"><option>auto</option><option>light</option><option>dark</option></select></label>
<span class="quiet">Point at a trial for its parameters, click for all of it.</span>
</div>
<noscript><p>The figures need JavaScript. The same ones are in figures/ as PNG and SVG.</p></noscript>
</header>
<main>
{"".join(map(_section, shown))}
<aside id="trial" aria-live="polite" hidden></aside>
</main>
<script type="application/json" id="study">{_embedded(study)}</script>
<script>{_plotly()}</script>
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


def _section(section: Section) -> str:
    figures = "".join(map(_figure, section.charts))
    return (
        f'<section id="{section.name}"><h2>{escape(section.title)}</h2>{section.intro}'
        f'<div class="charts">{figures}</div>{section.html}</section>\n'
    )


def _figure(chart: Chart) -> str:
    """The place that the script draws a chart into, as high as it will be, so that nothing jumps."""
    return (
        f"<figure{' class=wide' if chart.wide else ''}>"
        f"{f'<h3>{escape(chart.title)}</h3>' if chart.title else ''}"
        f'<div class="chart" id="chart-{escape(chart.name)}" style="min-height:{chart.height}px" '
        f'role="img" aria-label="{escape(chart.words)}"></div></figure>'
    )


def _embedded(study: object) -> str:
    """JSON that cannot end the script element it stands in, nor open a comment."""
    text = json.dumps(strict(study), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def _plotly() -> str:
    """plotly.js as it comes with the plotly package."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("</script", "<\\/script")


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _trial(row: Row, chosen: Mapping[int, str], context: Context) -> dict[str, object]:
    """What the panel of one trial shows, as text."""
    return {
        "state": row.state,
        "reason": row.reason,
        "picks": chosen.get(row.number, ""),
        "metrics": [[label(name), show(name, row.metrics[name])] for name in sorted(row.metrics)],
        "params": [[short(key), plain(given)] for key, given in row.params.items()],
        "command": command_of(row, context),
    }
