"""Compiled loops: kept on disk while everything they were made from is what it was, and right on every processor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLER = """
from pipeline.compiled import njit
from pipeline.callee import {imported}

@njit(cache=True)
def twice(x):
    return 2 * {called}
"""
LAST = """
import pipeline
pipeline.__path__.append(".")
from pipeline.caller import twice
print(twice(3), sum(twice.stats.cache_hits.values()))
"""


def ran(folder: Path) -> tuple[int, int]:
    """(result, functions that came from the disk) of a fresh process."""
    shown = subprocess.run(
        [sys.executable, "-c", LAST], cwd=folder, capture_output=True, text=True, check=True
    )
    result, hits = shown.stdout.split()
    return int(result), int(hits)


FUNCTION = "@njit(cache=True)\ndef shifted(x):\n    return x + {step}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("imported", "called", "body"),
    [("shifted", "shifted(x)", FUNCTION), ("STEP", "(x + STEP)", "STEP = {step}\n")],
    ids=["a function of another file", "a constant of another file"],
)
def test_a_change_in_another_file_is_compiled_again(tmp_path, imported, called, body):
    (tmp_path / "caller.py").write_text(CALLER.format(imported=imported, called=called))
    callee = tmp_path / "callee.py"
    callee.write_text("from pipeline.compiled import njit\n" + body.format(step=1))
    assert ran(tmp_path) == (8, 0)  # 2 * (3 + 1)
    assert ran(tmp_path) == (8, 1)
    callee.write_text("from pipeline.compiled import njit\n" + body.format(step=5))
    assert ran(tmp_path) == (16, 0)  # 2 * (3 + 5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_older_processor_counts_alike():
    """Without AVX: no instruction for lists of places, for pairs of rows, or for a part of a vector."""
    older = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    tests = ["tests/export/test_marks.py", "tests/export/test_fire_kernel.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests],
        cwd=Path(__file__).parents[1], env=older, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
