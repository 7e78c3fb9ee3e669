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
        jobs = config.combinations(words)  # several with --multirun
        for job_words in jobs[:1] + jobs[1:][-1:]:
            job.build(config.plain(config.compose_job(job_words)))


def test_the_map_names_every_module_and_room():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    house = text[text.index("## The house") : text.index("## Benchmarks")]
    modules = [path.name for path in (ROOT / "pipeline").glob("*.py") if path.name != "__init__.py"]
    rooms = [f"{path.parent.name}/" for path in (ROOT / "pipeline").glob("*/__init__.py")]
    assert not [name for name in (*modules, *rooms) if name not in house]


def test_the_pages_that_are_linked_exist_and_every_page_is_linked():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([\w./-]+\.(?:md|cff))\)", text))
    assert not [name for name in linked if not (ROOT / name).exists()]
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")} <= linked
