"""The meter against SpikingJelly's counter, in the peers' environment (`make peers`); skipped without it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-peers" / "bin" / "python"


@pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-peers: make peers")
def test_operations_equal_spikingjellys_count() -> None:
    run = subprocess.run(
        [PYTHON, "benchmarks/counters.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    if "No module named 'spikingjelly'" in run.stderr:
        pytest.skip("the peers' environment has no SpikingJelly")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert len(found) == 4
    for name, counts in found.items():
        assert counts["all_weights"] == counts["spikingjelly"] > 0, name
    assert found["half pruned"]["effective"] < found["half pruned"]["spikingjelly"]  # it does not see zeros
