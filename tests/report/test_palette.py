"""Colours that carry meaning are seen on their surface and told apart by colour-blind people."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.report.palette import DARK, LIGHT, SERIES

# Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB.
SIGHT = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def linear(colour: str) -> NDArray[np.float64]:
    """sRGB ``#rrggbb`` to linear light."""
    share = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio."""
    light, dark = sorted((float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE Lab of linear RGB, D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = np.clip(to_xyz @ light, 0, None) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_black_on_white_is_the_known_ratio() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_what_carries_meaning_is_seen_on_its_surface(theme: dict[str, str]) -> None:
    assert contrast(theme["ink"], theme["surface"]) >= 7
    assert contrast(theme["muted"], theme["surface"]) >= 4.5
    for role in ("front", "pick", "published", "faint"):
        assert contrast(theme[role], theme["surface"]) >= 2.9, role


def test_every_series_is_seen_on_the_dark_surface() -> None:
    for i in range(SERIES):
        assert contrast(DARK[f"c{i}"], DARK["surface"]) >= 3


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_neighbouring_series_and_roles_are_told_apart(theme: dict[str, str], sight: str) -> None:
    """Lab distance above 15, several times what is just noticed; hatches and symbols tell the rest apart."""
    pairs = [("front", "pick"), ("front", "faint"), ("pick", "published"), ("front", "published")]
    pairs += list(combinations([f"c{i}" for i in range(4)], 2))
    for one, other in pairs:
        seen = [lab(SIGHT[sight] @ linear(theme[name])) for name in (one, other)]
        assert np.linalg.norm(seen[0] - seen[1]) > 15, (one, other)
