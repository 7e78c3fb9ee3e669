"""The wheel: every package, config and data file is in it, and the command runs from it, far from the source."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipeline.tracker import within_reach

ROOT = Path(__file__).parent.parent
SOURCES = ("pipeline", "conf", "docs/results", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left in the checkout; no network, no isolated environment."""
    pytest.importorskip("setuptools", minversion="77", reason="the build needs setuptools 77")
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, folder / name)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "."],
        cwd=folder, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (built,) = (folder / "dist").glob("snn_pipeline-*.whl")
    return built


def test_everything_that_is_imported_or_read_is_inside(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    kinds = ("*.py", "*.css", "*.js", "*.json", "*.c", "*.h")
    wanted = {p.relative_to(ROOT).as_posix() for kind in kinds for p in (ROOT / "pipeline").rglob(kind)}
    wanted |= {f"pipeline/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "conf").rglob("*.yaml")}
    wanted |= {f"pipeline/results/{p.name}" for p in (ROOT / "docs" / "results").glob("*_claims.json")}
    assert not {name for name in wanted - inside if "__pycache__" not in name}
    assert "pipeline/py.typed" in inside


@pytest.mark.slow
def test_the_command_is_there_and_runs_far_from_the_source(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        entry = next(n for n in archive.namelist() if n.endswith("entry_points.txt"))
        assert "snn-pipeline = pipeline.run:main" in archive.read(entry).decode()
    script = (
        "import sys, pipeline.config as c; assert 'site/pipeline/conf' in c.CONF.as_posix(), c.CONF; "
        "from pipeline.run import main; sys.exit(main(['+experiment=quickstart', '--cfg', 'job']))"
    )
    variables = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def ran(*words):
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "name: quickstart" in ran("-c", script)
    claims = ran("-m", "pipeline.claims")
    said = (ROOT / "README.md").read_text(encoding="utf-8")
    tally = next(line for line in said.splitlines() if line[0:1].isdigit() and " claims: " in line)
    assert tally.split(".")[0] in " ".join(claims.split()), "an installed package shows the same records"


@pytest.mark.slow
@pytest.mark.parametrize(("word", "code"), [("+experiment=no_such", 2), ("--help", 0)])
def test_the_installed_command_ends_with_the_exit_code(word, code, tmp_path):
    command = Path(sys.executable).with_name("snn-pipeline")
    if not command.exists():
        pytest.skip("the package is not installed in this environment")
    plain = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(
        [str(command), word], cwd=tmp_path, env=plain, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == code
    assert "\x1b[" not in done.stdout + done.stderr
    assert ("Examples" in done.stdout) == (code == 0)


def test_the_hint_names_a_virtual_environment_that_is_not_activated(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/mlflow").touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin/python"))
    monkeypatch.setenv("PATH", "")
    assert within_reach("mlflow ui --port 1") == "bin/mlflow ui --port 1"
    assert within_reach("open http://127.0.0.1:5000") == "open http://127.0.0.1:5000"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert within_reach("mlflow ui --port 1") == "mlflow ui --port 1"
