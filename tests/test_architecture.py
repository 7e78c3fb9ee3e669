"""The arrows and fences of the house, read from the source: who may import what, and what nothing is called."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pipeline"
DOMAIN = ("data", "nets", "learn", "compress", "hardware")
ROOMS = (*DOMAIN, "study", "report", "export")
SHARED = ("types", "compiled", "heap")
"""Modules above the rooms that every room may import, and that import no room."""
FORBIDDEN_NAMES = {"utils", "helpers", "common", "base", "core", "misc", "manager", "handler"}
COMMAND_LINES = {"pipeline/hardware/explain.py", "pipeline/export/__main__.py"}
"""Entry points that live in a room: they compose configs and may reach up."""
FENCES = {
    "hydra": {"pipeline/config.py", "pipeline/run.py"},
    "omegaconf": {"pipeline/config.py", "pipeline/run.py"},
    "mlflow": {"pipeline/tracking.py"},
    "tonic": {"pipeline/data/events.py"},
    "ray": {"pipeline/launch.py", "pipeline/cluster.py"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} uses a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def whole(path: Path) -> set[str]:
    """Modules imported by their own name, and the members imported from others."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names} | {
        f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str | None:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_rooms_import_only_themselves_and_what_is_shared(path):
    here = room(path)
    if here is None or name(path) in COMMAND_LINES:
        return
    for target in imports(path):
        if target.startswith("pipeline."):
            there = target.split(".")[1]
            assert there in (here, *SHARED), f"{name(path)} imports {target}: rooms know only {SHARED}"


@pytest.mark.parametrize("module", SHARED)
def test_what_is_shared_knows_no_room(module):
    assert not [target for target in imports(PACKAGE / f"{module}.py") if target.startswith("pipeline")]


def test_every_loop_is_compiled_by_the_njit_that_knows_when_it_is_stale():
    direct = [name(path) for path in MODULES if {"numba", "numba.njit", "numba.jit"} & whole(path)]
    assert direct == ["pipeline/compiled.py"]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_fences_hold(path):
    for target in imports(path):
        package = target.split(".")[0]
        if package in FENCES:
            assert name(path) in FENCES[package], f"{name(path)} imports {package}"
        if package == "optuna":
            above = room(path) is None
            assert room(path) == "study" or above, f"{name(path)} imports optuna"


def test_the_domain_rooms_meet_in_one_place_only():
    meeting = {
        name(path)
        for path in MODULES
        if room(path) is None
        for target in imports(path)
        if target.startswith("pipeline.") and target.split(".")[1] in DOMAIN
    }
    assert meeting <= {"pipeline/experiment.py"}


def test_nothing_has_a_name_that_says_nothing():
    stems = {part for path in MODULES for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert not stems & FORBIDDEN_NAMES


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_stay_readable(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_experiment_reads_like_a_recipe():
    tree = ast.parse((PACKAGE / "experiment.py").read_text(encoding="utf-8"))
    lengths = {n.name: n.end_lineno - n.lineno + 1 for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    assert lengths["evaluate"] <= 45


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_pickle_and_no_unsafe_loads(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        text = ast.unparse(node.func)
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert text not in ("pickle.load", "pickle.loads", "eval", "exec"), (
            f"{name(path)}:{node.lineno} {text}"
        )
        if text == "torch.load":
            assert keywords.get("weights_only") == "True", f"{name(path)}:{node.lineno}"
        if text in ("np.load", "numpy.load"):
            assert keywords.get("allow_pickle", "False") == "False", f"{name(path)}:{node.lineno}"


def test_the_repository_speaks_of_the_project_alone():
    words = ("/work/", "shared/DESIGN", "localhost:8081")
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *MODULES, *(ROOT / "conf").rglob("*.yaml")]:
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in words), path
