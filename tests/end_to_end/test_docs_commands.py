"""The commands of the README and the docs as they stand there, really run: smaller studies, in an empty folder.

What other tests run is left to them: the tutorial's page (test_tutorial), `hydra.searchpath` (test_extension),
PostgreSQL and Ray (test_cluster), dvc (test_dvc), MLflow's server (test_mlflow_ui).
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_readme import shown

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

FEW = ["study.trials=2", "study.finalists=1", "study.compare=false", "workers=1", "tracking=silent"]
IMAGES = [
    "data.limit=400", "data.validation=200", "data.timesteps=4", "learner.epochs=1", "study.warm_start=[]",
]  # fmt: skip
STDP = [
    "data=digits", "data/encoding=poisson", "data.timesteps=40", "net.neurons=10", "net.w_input_mv=8",
    "learner.label_samples=60", "learner.check_samples=20",
]  # fmt: skip
PEOPLE = ["data.simulation.seconds=0.2", "data.simulation.lightings=1", "learner.epochs=1", "plan.epochs=2"]
SMALLER = {
    "quickstart": ["learner.epochs=2", "study.trials=4"],
    "mnist": IMAGES,
    "fashion_mnist": IMAGES,
    "diehl_cook_mnist": STDP,
    "fspinn_mnist": STDP,
    "fspinn_knobs": STDP,
    "fspinn_inhibition": STDP,
    "fspinn_growth": STDP,
    "tinysnn_mnist": [*STDP, "study.trials=6"],
    "nmnist_pareto": ["learner.epochs=1", "plan.epochs=2"],
    "gesture_pareto": ["data=synthetic_gesture", "net=tcja_small", "data.framing.size=32", *PEOPLE],
    "gesture_simulated": PEOPLE,
}
RECORDED = ("mnist", "fashion_mnist", "nmnist_pareto")
ELSEWHERE = ("hydra.searchpath", "postgresql", "outputs/bars", "NAME", "…")
COMPARED = [
    "+experiment=tinysnn_mnist",
    "+experiment=tinysnn_mnist sampler=ordered name=tinysnn_mnist_ordered",
]
STUDIED = [("pipeline.run", "+experiment=quickstart"), *(("pipeline.run", words) for words in COMPARED)]


def experiment_of(rest):
    return next((w.split("=")[1] for w in shlex.split(rest) if w.lstrip("+").startswith("experiment=")), "")


def smaller(rest, where):
    """The words of a `pipeline.run` command, with those that make it small; simulated people are written once."""
    name = experiment_of(rest)
    if not name or "--cfg" in rest:
        return shlex.split(rest)
    if "--multirun" in rest:  # two jobs
        words, sweeps = shlex.split(rest), [w for w in shlex.split(rest) if "," in w and "{" not in w]
        rest = shlex.join([w.partition(",")[0] if w in sweeps[1:] else w for w in words])
    people = [f"data.root={where / 'people'}"] if name.startswith("gesture") else []
    return [*shlex.split(rest), *FEW, *SMALLER[name], *people]


def typed(module, words, where):
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    variables |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", module, *words], cwd=where, env=variables, capture_output=True, text=True,
        timeout=900, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A folder with the README, the records and the studies that other commands start from."""
    where = tmp_path_factory.mktemp("house")
    shutil.copyfile(ROOT / "README.md", where / "README.md")
    shutil.copytree(ROOT / "docs", where / "docs")
    for module, rest in STUDIED:
        done = typed(module, smaller(rest, where), where)
        assert done.returncode == 0, f"{rest}\n{done.stdout}\n{done.stderr}"
    for number in (0, 2):
        done = typed("pipeline.export", ["outputs/quickstart", "--member", str(number)], where)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return where


def commands():
    bare = [(m, r) for m, r in shown() if r or m in ("pipeline.run", "pipeline.claims")]
    kept = [(m, r) for m, r in bare if not any(word in r for word in ELSEWHERE) and (m, r) not in STUDIED]
    return [(m, r) for m, r in kept if "workers=" not in r]  # the same study, on more processes


@pytest.mark.parametrize(("module", "rest"), commands(), ids=lambda v: v)
def test_a_shown_command_runs(module, rest, house):
    name = experiment_of(rest)
    if name in RECORDED and "PIPELINE_DATA" not in os.environ:
        pytest.skip(f"PIPELINE_DATA names no folder with the data of {name}")
    words = smaller(rest, house)
    if name and "--cfg" not in rest:
        words.append(f"out=outputs/{commands().index((module, rest))}")
    done = typed(module, words, house)
    allowed = {0}
    if module == "pipeline.run" and not rest:
        allowed = {2}  # lists the experiments
    few = name.startswith(("gesture", "fspinn_knobs", "fspinn_growth")) or "net=conv" in rest
    if "constraints" in rest or module == "pipeline.select" or few:
        allowed = {0, 4}  # after an epoch or two nothing need be good enough, or fire at all
    assert done.returncode in allowed, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert done.stdout + done.stderr
