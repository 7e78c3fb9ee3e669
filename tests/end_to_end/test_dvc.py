"""`dvc repro` in a clone: stages run once, a second call does nothing, prices change without training."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DVC = Path(sys.executable).with_name("dvc")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not DVC.exists(), reason="dvc is not installed (the extra 'reproduce')"),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]
MACHINE = Path("conf/accelerator/embedded_45nm.yaml")
PRICED = Path("outputs/quickstart/priced/embedded_45nm")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The repository as it is now, committed or not, in a git repository of its own."""
    folder = tmp_path_factory.mktemp("clone") / "here"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    git(folder, "init", "-q")
    commit(folder)
    return folder


def git(folder, *words):
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(
        ["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def commit(folder):
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "now")


def dvc(folder, *words):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(DVC), *words], cwd=folder, env=variables, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ran(text):
    return [line.split("'")[1] for line in text.splitlines() if line.startswith("Running stage")]


@pytest.fixture(scope="module")
def reproduced(clone):
    return clone, dvc(clone, "repro")


def test_every_stage_runs_in_its_order(reproduced):
    _, said = reproduced
    order = ran(said)
    assert set(order) == {
        "data",
        "pretrain",
        "studies",
        "finalists",
        "hardware",
        "claims",
        "report",
        "gesture",
    }
    chain = [order.index(name) for name in ("data", "pretrain", "studies", "finalists", "report")]
    assert chain == sorted(chain)
    assert "no recordings" in said


def test_a_second_call_does_nothing(reproduced):
    folder, _ = reproduced
    assert ran(dvc(folder, "repro")) == []


def test_metrics_and_plots_show(reproduced):
    folder, _ = reproduced
    shown = json.loads(dvc(folder, "metrics", "show", "--json"))
    metrics = shown[""]["data"][str(PRICED / "metrics.json")]["data"]
    assert metrics["front_size"] > 0
    assert 0.5 < metrics["knee"]["validation_accuracy"] <= 1
    assert "index.html" in dvc(folder, "plots", "show")
    page = (folder / "dvc_plots" / "index.html").read_text()
    assert "memory_bits" in page
    assert "front_png" in page or "front.png" in page


def test_a_changed_accelerator_prices_again_and_trains_nothing(reproduced):
    folder, _ = reproduced
    commit(folder)
    models = {path: path.stat().st_mtime_ns for path in (folder / "outputs/quickstart/models").iterdir()}
    before = json.loads((folder / PRICED / "metrics.json").read_text())
    text = (folder / MACHINE).read_text()
    changed = text.replace("clock_mhz: 100", "clock_mhz: 50")
    assert changed != text
    (folder / MACHINE).write_text(changed)
    assert set(ran(dvc(folder, "repro"))) <= {"hardware", "claims", "report"}
    after = json.loads((folder / PRICED / "metrics.json").read_text())
    assert after["float"]["latency_us"] == pytest.approx(2 * before["float"]["latency_us"], rel=0.01)
    assert {path: path.stat().st_mtime_ns for path in models} == models
    (folder / MACHINE).write_text(text)
    dvc(folder, "repro")


def test_the_claims_of_a_paper_are_ready_to_run(reproduced):
    target = "benchmarks/dvc.yaml:tinysnn"
    assert f"dvc repro {target} " in (ROOT / "README.md").read_text(encoding="utf-8")
    assert ran(dvc(reproduced[0], "repro", "--dry", target))


def test_the_recordings_once_named_are_studied(reproduced):
    """`dvc repro` has run the stage without any; with their folder in params.yaml it runs again."""
    folder, _ = reproduced
    assert "dvc repro gesture " in (ROOT / "README.md").read_text(encoding="utf-8")
    assert ran(dvc(folder, "repro", "--dry", "gesture")) == []
    params = (folder / "params.yaml").read_text()
    named = params.replace("recordings: none", "recordings: /data/DVSGesture")
    assert named != params
    (folder / "params.yaml").write_text(named)
    try:
        assert ran(dvc(folder, "repro", "--dry", "gesture")) == ["gesture"]
    finally:
        (folder / "params.yaml").write_text(params)


def test_an_experiment_with_another_parameter(reproduced):
    folder, _ = reproduced
    done = ran(dvc(folder, "exp", "run", "--set-param", "trials=42"))
    assert "studies" in done
    assert "pretrain" not in done
    summary = json.loads((folder / PRICED / "summary.json").read_text())
    assert summary["trials"] == 42


def test_another_config_puts_the_old_study_aside(reproduced):
    folder, _ = reproduced
    dvc(folder, "exp", "run", "--set-param", "epochs=2", "--set-param", "trials=4")
    assert (folder / "outputs/quickstart.1/study.db").exists()
    assert json.loads((folder / PRICED / "summary.json").read_text())["trials"] == 4
