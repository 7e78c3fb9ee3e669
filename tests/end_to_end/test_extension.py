"""The README's own network, copied out of the README into a folder of its own, runs without an edit in the package."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)
README = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")


def block(first_line: str) -> str:
    """The fenced block whose first line is this comment."""
    found = re.search(rf"```\w+\n# {re.escape(first_line)}\n(.*?)```", README, re.DOTALL)
    assert found, first_line
    return found.group(1)


@pytest.mark.slow
def test_a_network_and_an_experiment_from_another_folder(tmp_path):
    for path in ("mine/nets.py", "conf/net/mine.yaml", "conf/experiment/mine.yaml"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(block(path))
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.run", f"hydra.searchpath=[file://{tmp_path}/conf]", "+experiment=mine",
         "study.trials=2", "learner.epochs=1", "workers=1", "tracking=silent"],
        cwd=tmp_path, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode in (0, 4), done.stderr
    assert (tmp_path / "outputs" / "mine" / "summary.json").exists()
