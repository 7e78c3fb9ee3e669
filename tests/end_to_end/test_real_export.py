"""From a study on real MNIST to a device: 400 neurons learned by STDP, chosen, exported, verified, run as C."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif("PIPELINE_DATA" not in os.environ, reason="PIPELINE_DATA names no folder with MNIST"),
]
STUDY = [
    "+experiment=fspinn_mnist", "data.limit=2000", "data.validation=500", "learner.label_samples=1000",
    "study.trials=1", "study.finalists=1", "study.baseline={}", "workers=1", "tracking=silent",
]  # fmt: skip


def command(folder, module, *words):
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=folder, capture_output=True, text=True, timeout=1500,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_member_of_the_front_runs_on_a_device(tmp_path):
    said = command(tmp_path, "pipeline.run", *STUDY)
    assert "exact integer form" in said
    assert "proven" in said
    assert "--member 0" in command(tmp_path, "pipeline.select", "outputs/fspinn_mnist", "--knee")
    said = command(tmp_path, "pipeline.export", "outputs/fspinn_mnist", "--member", "0")
    assert "of 10,000 samples, no spike differs" in said
    folder = tmp_path / "outputs" / "fspinn_mnist" / "export" / "trial-00000"
    assert "as their hashes say" in command(tmp_path, "pipeline.verify", str(folder))

    (member,) = json.loads((folder.parents[1] / "summary.json").read_text())["front"]
    manifest = json.loads((folder / "manifest.json").read_text())
    stored, working = (sum(manifest["cost"][name].values()) for name in ("stored_bits", "working_bits"))
    assert (folder / "weights.bin").stat().st_size == math.ceil(stored / 8)
    assert stored + working == manifest["cost"]["memory_bits"] == member.get("metrics", member)["memory_bits"]
    assert manifest["accuracy"]["test"] > 0.3, "an untrained network is no test"

    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler on this machine")
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2"]
    subprocess.run([compiler, *strict, "runner.c", "-o", tmp_path / "runner"], cwd=folder, check=True)
    assert subprocess.run([tmp_path / "runner"]).returncode == 0
