"""The report in a browser that is driven: light and dark, on a laptop, in a narrow window and on paper.

Needs Chromium and playwright (the extra 'browser'); else skipped.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.report import writing

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
SIZES = {"laptop": (1366, 768), "narrow": (820, 1180)}
A4_PX = 794 - 2 * 38
"""Width of a sheet less its margins, in CSS pixels of 1/96 inch."""
READABLE = 4.5
"""Contrast of text that WCAG 2 (AA) asks for; 3 for large text and what is drawn."""
TEXTS = """() => {
  const seen = new Set(), found = [];
  const back = node => { for (; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (!/, 0\\)$|transparent/.test(colour)) return colour; }
    return 'rgb(255, 255, 255)'; };
  const painted = (node, style, fill) => {
    const key = [fill, back(node)].join('|');
    if (!seen.has(key)) { seen.add(key); found.push([fill, back(node), node.textContent.trim().slice(0, 40)]); } };
  for (const node of document.querySelectorAll('h1,h2,h3,p,a,code,td,th,figcaption,button,label,dt,dd,span'))
    if (node.textContent.trim() && node.getClientRects().length)
      painted(node, getComputedStyle(node), getComputedStyle(node).color);
  for (const node of document.querySelectorAll('.xtick text,.ytick text,.legendtext,.xtitle,.ytitle'))
    painted(node.closest('.chart') || node.ownerSVGElement.parentElement, null, getComputedStyle(node).fill);
  return found; }"""
CHARTS = """() => [...document.querySelectorAll('.js-plotly-plot')].map(plot => {
  const box = plot.getBoundingClientRect(), svg = plot.querySelector('.main-svg').getBoundingClientRect();
  return [plot.id, svg.left - box.left, box.right - svg.right, box.right, svg.height]; })"""


@pytest.fixture(scope="module")
def made(studies: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full report."""
    folder = tmp_path_factory.mktemp("media")
    rows = studies.study(30)
    writing.write(rows, studies.OBJECTIVES, studies.picks(rows), folder, studies.full_context(rows))
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (extra 'browser')"
    )
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` (WCAG 2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def opened(browser, path, size, scheme):
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.set_default_timeout(90_000)
    page.goto(path.as_uri())
    page.wait_for_function(
        "() => { const all = [...document.querySelectorAll('.chart')];"
        " return all.length && all.every(c => c.querySelector('.main-svg') || c.closest('.js-plotly-plot')); }"
    )
    return page


def unreadable(page):
    """Texts, and their colours, that are too faint for their background."""
    return [
        (said, front, back) for front, back, said in page.evaluate(TEXTS) if contrast(front, back) < READABLE
    ]


def cut(page, width):
    return [
        name
        for name, left, right, edge, height in page.evaluate(CHARTS)
        if left < -1 or right < -1 or edge > width + 1 or height < 100
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_on_a_screen_all_text_is_readable_and_nothing_is_cut(size, scheme, made, browser, tmp_path):
    page = opened(browser, made, size, scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(background) < 0.1) is (scheme == "dark")
    assert unreadable(page) == []
    width = SIZES[size][0]
    assert cut(page, width) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    tables = "[...document.querySelectorAll('.scroll')].map(s => s.scrollWidth - s.clientWidth)"
    assert max(page.evaluate(tables)) <= 1, "a table has to be scrolled to be read"
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_paper_it_is_black_on_white_and_nothing_is_cut(scheme, made, browser, tmp_path):
    page = opened(browser, made, "laptop", scheme)
    page.set_viewport_size({"width": A4_PX, "height": 1000})
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")  # as the browser does before it prints
    page.wait_for_timeout(1500)  # charts are drawn anew
    assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.9
    assert unreadable(page) == []
    assert cut(page, A4_PX) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= A4_PX
    assert page.locator("nav").is_hidden()
    page.pdf(path=tmp_path / "page.pdf", format="A4", print_background=True)
    assert (tmp_path / "page.pdf").stat().st_size > 100_000
    page.close()
