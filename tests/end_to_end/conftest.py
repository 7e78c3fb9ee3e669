"""The command a user types, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SMALL = ["+experiment=quickstart", "learner.epochs=2", "study.trials=4", "study.compare=false", "workers=1"]


def start_study(folder: Path, *overrides: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.run", *SMALL, f"out={folder}", *overrides],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def run_study(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    process = start_study(folder, *overrides)
    out, error = process.communicate(timeout=200)
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


@pytest.fixture(scope="session")
def start():
    """`start(folder, *overrides)`: a small study, running."""
    return start_study


@pytest.fixture(scope="session")
def run():
    """`run(folder, *overrides)`: a small study, finished."""
    return run_study
