"""Other people's commands as the README shows them: `mlflow ui`, `optuna-dashboard`, `make`, pip's extras."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HERE = Path(sys.executable).parent
BINARIES = os.pathsep.join([str(HERE), os.environ.get("PATH", "")])
DASHBOARD = shutil.which("optuna-dashboard", path=BINARIES)


def shown(start):
    """The one line of the README that starts so."""
    (line,) = re.findall(rf"^    ({re.escape(start)}.*?)(?:  .*)?$", README, re.MULTILINE)
    return line


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def read(address):
    """What stands there, or None while nobody answers."""
    try:
        with urllib.request.urlopen(address, timeout=10) as reply:
            return reply.read().decode()
    except (urllib.error.URLError, OSError):
        return None


@contextmanager
def running(words, where, address, **variables):
    """The command, as soon as `address` answers."""
    log = where / f"{Path(words[0]).name}.log"
    process = subprocess.Popen(
        words, cwd=where, env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", **variables},
        stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + 240
        while read(address) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.5)
        yield
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def study(tmp_path_factory, run):
    """A folder in which the README's first study was run, smaller."""
    folder = tmp_path_factory.mktemp("shown")
    done = run(folder / "outputs", "study.trials=3", "study.baseline={}", "study.selectors={}")
    assert done.returncode in (0, 4), done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mlflow_ui_as_shown_serves_the_study(study):
    words = shlex.split(shown(".venv/bin/mlflow ui"))
    port = free_port()
    here = f"http://127.0.0.1:{port}"
    with running([str(HERE / "mlflow"), *words[1:]], study, f"{here}/health", MLFLOW_PORT=str(port)):
        assert "<title>MLflow" in read(here)
        asked = urllib.request.Request(
            f"{here}/api/2.0/mlflow/experiments/search", b'{"max_results": 10}', {"Content-Type": "application/json"}
        )  # fmt: skip
        with urllib.request.urlopen(asked, timeout=60) as reply:
            assert "quickstart" in {e["name"] for e in json.load(reply)["experiments"]}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(DASHBOARD is None, reason="optuna-dashboard is not installed (the extra 'dev')")
def test_optuna_dashboard_as_shown_opens_the_same_study(study):
    words = shlex.split(shown("optuna-dashboard"))
    port = free_port()
    here = f"http://127.0.0.1:{port}"
    with running([DASHBOARD, *words[1:], "--port", str(port)], study, f"{here}/api/studies"):
        assert "<title>Optuna Dashboard" in read(f"{here}/dashboard")
        (summary,) = json.loads(read(f"{here}/api/studies"))["study_summaries"]
        assert summary["study_name"] == "quickstart"
        assert summary["directions"] == ["minimize"] * 3
        detail = json.loads(read(f"{here}/api/studies/{summary['study_id']}"))
        assert len(detail["trials"]) == 3


def test_every_make_target_that_is_shown_is_one():
    targets = {
        t
        for page in PAGES
        for t in re.findall(r"(?:^    |`)make ([a-z][\w-]*)", page.read_text(), re.MULTILINE)
    }
    assert targets >= {"demo", "test", "peers"}
    for target in targets:
        done = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr


def test_every_extra_that_is_shown_is_one():
    there = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = "".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"(?:snn-pipeline|\.)\[([a-z]+)\]", text)) | set(
        re.findall(r"extra `([a-z]+)`", text)
    )
    assert named
    assert named <= set(there)
    assert any("optuna-dashboard" in wanted for wanted in there["dev"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_make_peers_builds_the_opponents(tmp_path):
    """The one test that may ask a package index: as pip is set up here, past the dead proxy of the others."""
    assert "benchmarks/peers.sh $(VENV) .venv-peers" in (ROOT / "Makefile").read_text()
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "peers.sh"), str(HERE.parent), str(tmp_path / "peers")],
        cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=1700, check=False,
    )  # fmt: skip
    reasons = (
        "No matching distribution",
        "ConnectionError",
        "Max retries",
        "Temporary failure",
        "No module named pip",
    )
    if done.returncode != 0 and any(reason in done.stderr for reason in reasons):
        pytest.skip(f"the opponents cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ready:") == 4
