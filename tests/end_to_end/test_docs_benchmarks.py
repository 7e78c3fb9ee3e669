"""Benchmarks as the README and the docs show them: each knows the words shown, and runs (slow, made small).

Opponents (`make peers`) are left out where they are not installed, as the benchmarks themselves do; postgres.py wants a
PostgreSQL, counters.py the opponents.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_readme import PAGES

ROOT = Path(__file__).parents[2]
SHOWN = re.compile(r"benchmarks/([a-z_]+\.py)([^\n`|]*)")
SMALL = {
    "stdp.py": ["--neurons", "400", "--rounds", "1"],
    "bptt.py": ["--rounds", "1", "--only", "small conv"],
    "integer.py": ["--images", "16", "--rounds", "1", "--only", "fc 128"],
    "cost.py": ["--rounds", "1"],
    "events.py": [],
    "train_once.py": [],
    "noop.py": ["--trials", "4", "--mean", "0.05"],
    "search.py": ["--seconds", "2", "--seeds", "1"],
    "bookkeeping.py": ["--trials", "3"],
    "fspinn_claims.py": ["--minutes", "0"],
    "fspinn_docs.py": [],
    "tinysnn_claims.py": ["--minutes", "0"],
    "hardware_claims.py": [],
    "speed_docs.py": [],
    "tinysnn_docs.py": [],
    "gesture_docs.py": [],
}
"""What makes a benchmark small; claims' cells take hours: their command starts none and prints what is recorded."""
ELSEWHERE = {"postgres.py", "counters.py", "gesture_claims.py", "gesture_energy.py", "simulator_docs.py"}
"""A server's, the opponents' environment's, and those of recordings that are not everywhere or take minutes."""
RECORDED = {"stdp.py", "events.py"}
AS_SHOWN = ("--table", "--memory")


def shown() -> list[tuple[str, str]]:
    found = {
        (script, rest.split("  ")[0].split(" #")[0].strip())
        for page in PAGES
        for script, rest in SHOWN.findall(page.read_text(encoding="utf-8"))
    }
    return sorted((script, rest.split("python ")[0].lstrip(")").strip()) for script, rest in found)


def ran(script: str, words: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    variables |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *words], cwd=where, env=variables, capture_output=True,
        text=True, timeout=600, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("script", sorted({script for script, _ in shown()}))
def test_a_shown_benchmark_exists_and_knows_the_options_it_is_shown_with(script):
    source = (ROOT / "benchmarks" / script).read_text(encoding="utf-8")
    options = {
        word for name, rest in shown() if name == script for word in rest.split() if word.startswith("--")
    }
    assert [option for option in options if f'"{option}"' not in source] == []
    assert script in SMALL or script in ELSEWHERE


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize(("script", "rest"), [(s, r) for s, r in shown() if s in SMALL], ids=lambda v: v)
def test_a_shown_benchmark_runs(script, rest, tmp_path):
    if script in RECORDED and "PIPELINE_DATA" not in os.environ:
        pytest.skip("PIPELINE_DATA names no folder with MNIST")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    as_shown = any(word in rest for word in AS_SHOWN)
    done = ran(script, shlex.split(rest) if as_shown else SMALL[script], tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert done.stdout
