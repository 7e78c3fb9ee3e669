"""MLflow's pages in a real browser, against a real server on the loopback address. Needs Chromium and playwright."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
FILTER = "metrics.energy_pj < 1e6 and tags.front = 'true'"
EXPANDER = "[role=row] button[data-component-id*='runnamecell']"
PATIENCE_MS = 90_000


@pytest.fixture(scope="module")
def study(tmp_path_factory, run):
    folder = tmp_path_factory.mktemp("ui")
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def server(study):
    """The address of `mlflow server` on the study's own store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{study}/mlflow.db",
    ]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        cwd=study, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}, start_new_session=True,
        stdout=(study / "server.log").open("w"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 180
        while not answers(address):
            assert process.poll() is None, (study / "server.log").read_text()
            assert time.monotonic() < until, "mlflow server did not answer in three minutes"
            time.sleep(1)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=60)


def answers(address):
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def ask(address, path, body):
    given = urllib.request.Request(
        f"{address}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(given, timeout=60) as reply:
        return json.load(reply)


def search(address, wanted):
    experiments = ask(address, "experiments/search", {"max_results": 10})["experiments"]
    number = next(e["experiment_id"] for e in experiments if e["name"] == "quickstart")
    found = ask(address, "runs/search", {"experiment_ids": [number], "filter": wanted})
    return number, [run["info"] for run in found.get("runs", [])]


@pytest.fixture(scope="module", params=[(1500, 950), (1024, 768)], ids=["desk", "laptop"])
def page(server, request):
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (extra 'browser')"
    )
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport=dict(zip(("width", "height"), request.param, strict=True)))
        opened.set_default_timeout(PATIENCE_MS)
        yield opened
        browser.close()


def shot(page, study, name):
    """Kept for people to look at; a blank page is a small file."""
    path = study / f"{name}-{page.viewport_size['width']}.png"
    page.screenshot(path=path)
    assert path.stat().st_size > 30_000


def test_the_documented_filter_finds_members_of_the_front(server):
    assert FILTER in README
    _, found = search(server, FILTER)
    _, front = search(server, "tags.front = 'true'")
    assert 0 < len(found) <= len(front)


def test_the_runs_table_shows_the_study_and_with_the_filter_its_children(server, page, study):
    number, found = search(server, FILTER)
    page.goto(f"{server}/#/experiments/{number}/runs")
    page.get_by_role("link", name="quickstart", exact=True).last.wait_for()
    box = page.get_by_placeholder("metrics.rmse", exact=False)
    box.fill(FILTER)
    box.press("Enter")
    page.locator("text=matching run").first.wait_for()
    page.locator(EXPANDER).first.click()  # children stand below their study
    for run in found:
        page.get_by_role("link", name=run["run_name"], exact=True).first.wait_for()
    shot(page, study, "children")


def test_the_parent_run_shows_children_data_and_its_plots(server, page, study):
    number, (parent,) = search(server, "tags.kind = 'study'")
    home = f"{server}/#/experiments/{number}/runs/{parent['run_id']}"
    page.goto(home)
    page.get_by_role("link", name="#0", exact=False).first.wait_for()
    page.get_by_text("digits (", exact=False).first.wait_for()
    shot(page, study, "parent")
    page.goto(f"{home}/artifacts/front.png")
    picture = page.locator("img[src*='front.png'], img[src^='blob:']").first
    picture.wait_for()
    page.wait_for_function("element => element.naturalWidth > 500", arg=picture.element_handle())
    shot(page, study, "front")
    page.goto(f"{home}/model-metrics")
    page.get_by_text("hypervolume", exact=True).first.wait_for()
    shot(page, study, "metrics")


def test_the_chosen_model_is_in_the_registry(server, page, study):
    page.goto(f"{server}/#/models/quickstart")
    page.get_by_text("Version 1", exact=False).first.wait_for()
    page.get_by_text("chosen", exact=False).first.wait_for()
    shot(page, study, "registry")
