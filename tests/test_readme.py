"""Every command that the README and the docs show is one that runs: experiments compose and build, modules exist."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from pipeline import config, job

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"python -m (pipeline[\w.]*)([^\n`|]*)")


def shown() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for module, rest in COMMAND.findall(page.read_text(encoding="utf-8")):
            found.append((module, rest.split("  ")[0].split(" #")[0].strip()))
    return sorted(set(found))


@pytest.mark.parametrize(("module", "rest"), shown(), ids=lambda v: v)
def test_every_shown_command_exists_and_composes(module, rest):
    assert importlib.util.find_spec(module) is not None
    words = [w for w in shlex.split(rest) if not w.startswith("-") and w != "job"]
    foreign = any(w.startswith("hydra.searchpath") or "NAME" in w or "mine" in w or "…" in w for w in words)
    if module == "pipeline.run" and any("experiment=" in w for w in words) and not foreign:
        job.build(config.plain(config.compose_job(words)))
