"""The commands in the page on choosing from a front are ones that the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pipeline import run

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/choosing-from-a-front.md"
COMMANDS = re.findall(r"^ +python -m (pipeline\.run .+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_page_shows_commands() -> None:
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_composes(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--cfg job` prints the composed config and runs nothing; the config is checked as before a run."""
    _, *words = shlex.split(command)
    assert run.main([*words, f"out={tmp_path}", "--cfg", "job"]) == 0
    assert "objectives" in capsys.readouterr().out


def test_every_selector_that_exists_is_explained() -> None:
    source = (ROOT / "pipeline/study/select.py").read_text(encoding="utf-8")
    selectors = re.findall(r"^class (\w+):\n(?:(?!^class ).*\n)*?    def pick\(", source, re.MULTILINE)
    assert {"Knee", "Within", "Budget", "Reward", "OneStandardError"} <= set(selectors)
    page = PAGE.read_text(encoding="utf-8")
    assert not [name for name in selectors if f"`{name}`" not in page]
