"""Colours by the role they play, in a light and a dark theme; Okabe & Ito's set, told apart by colour-blind
people.

Nothing is said by colour alone: symbols, dashes, hatches or words always say it too. Source: Okabe, Ito,
"Color Universal Design" (2008); on dark surfaces the dark members are lightened (ours, for a contrast of at
least 3:1).
"""

from __future__ import annotations

LIGHT = {
    "ink": "#1b1f24",
    "muted": "#59636e",
    "faint": "#8c959f",
    "grid": "#d9dee3",
    "surface": "#ffffff",
    "front": "#0072b2",
    "pick": "#d55e00",
    "published": "#009e73",
    "c0": "#0072b2",
    "c1": "#e69f00",
    "c2": "#009e73",
    "c3": "#cc79a7",
    "c4": "#d55e00",
    "c5": "#56b4e9",
    "c6": "#8c6d1f",
    "c7": "#59636e",
}
DARK = LIGHT | {
    "ink": "#e8ebef",
    "muted": "#a7b0ba",
    "faint": "#7d8894",
    "grid": "#343b44",
    "surface": "#15191e",
    "front": "#56b4e9",
    "pick": "#ff8a4c",
    "published": "#2fbf96",
    "c0": "#56b4e9",
    "c1": "#e69f00",
    "c2": "#2fbf96",
    "c3": "#e39bc4",
    "c4": "#ff8a4c",
    "c5": "#a6d8f7",
    "c6": "#f0e442",
    "c7": "#a7b0ba",
}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
"""Plotly's names; the matplotlib twins are in `figures.LINES`."""
MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")
"""Plotly's names; the matplotlib twins are in `figures.SYMBOLS`."""
HATCHES = ("", "/", "\\", "x", "-", "|", "+", ".")
"""The same signs in plotly's patterns and matplotlib's hatches."""
SERIES = 8
"""How many series have a colour of their own before they repeat (with another dash or hatch)."""


def role(index: int) -> str:
    """The role of the n-th series, as figures for the page name it; the page's script puts the theme's colour
    in."""
    return f"@c{index % SERIES}"
