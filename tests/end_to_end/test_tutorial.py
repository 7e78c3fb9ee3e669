"""The tutorial as a reader follows it: its files are written, its commands typed, in an empty folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text(encoding="utf-8")
FILES = re.findall(r"```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)```", PAGE, re.DOTALL)


def commands():
    """Indented lines outside of fenced blocks."""
    bare = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    return [line.strip() for line in re.findall(r"^    (\S.*)$", bare, re.MULTILINE)]


def test_every_file_and_every_command_of_the_page(tmp_path):
    shown = commands()
    assert shown[0] == "mkdir -p project && cd project"
    assert len(shown) >= 7
    project = tmp_path / "project"
    for name, text in FILES:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    said = {}
    for command in shown[1:]:
        done = subprocess.run(
            ["bash", "-c", command], cwd=project, env=variables, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        said[command] = done.stdout
    summary = json.loads((project / "outputs/bars/summary.json").read_text())
    assert summary["trials"] == 18
    assert summary["front"]
    assert any("resuming after 16, 2 trials" in text for text in said.values())
    assert (project / "outputs/bars/priced/eyeriss_45nm/report.html").exists()
