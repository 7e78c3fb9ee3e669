"""The meter against SpikingJelly's and NeuroBench's counters, in the peers' environment (`make peers`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-peers" / "bin" / "python"


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-peers: make peers")
def test_operations_equal_the_peers_counts_where_those_are_right() -> None:
    run = subprocess.run(
        [PYTHON, "benchmarks/counters.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    for peer in ("spikingjelly", "neurobench"):
        if f"No module named '{peer}" in run.stderr:
            pytest.skip(f"the peers' environment has no {peer}: make peers")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    attached = found.pop("3 bits, quantizer attached")
    assert attached["effective"] == found["3 bits, baked"]["effective"]
    assert attached["neurobench_acs"] < 0  # it adds up the quantizer's values
    scaled, counts = found.pop("spikes of 1/2"), found.pop("counts of events")
    assert (
        scaled["effective"] == scaled["neurobench_macs"] > scaled["spikingjelly"] == 0
    )  # not seen as spikes
    assert counts["effective_macs"] == counts["neurobench_macs"] > 0
    assert (
        counts["effective"] - counts["effective_macs"] == counts["neurobench_acs"] == counts["spikingjelly"]
    )
    assert len(found) == 5
    for name, here in found.items():
        assert here["all_weights"] == here["spikingjelly"] > 0, name
        assert here["effective"] == here["neurobench_acs"], name
        assert here["dense"] == here["neurobench_dense"], name
    pruned = found["half pruned"]
    assert pruned["effective"] < pruned["spikingjelly"]  # it does not see zeros
