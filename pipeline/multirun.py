"""``python -m pipeline.run +experiment=NAME --multirun a=1,2 b=x,y``: every combination a study of its own, in turn.

Hydra's sweep syntax (``1,2``, ``choice(...)``, ``range(...)``, ``glob(...)``). Each job gets its own name, and with it
its own folder and MLflow parent: NAME and what the job changes, ``NAME--inhibition-direct--presynaptic-false``. A path
that the study would search is taken out of the space of the jobs that set it. Jobs are processes, one after another:
`workers` runs the trials of each side by side.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline import config, interrupts, job
from pipeline.config import ConfigError
from pipeline.exits import INTERRUPTED, MEANING, NO_ROOM, OK
from pipeline.job import Job

FLAGS = ("--multirun", "-m")
SHOWING = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version")
LONGEST = 150
"""Characters of a study's name: file systems take 255, with room for what stands behind it."""


@dataclass(frozen=True)
class Part:
    """One job of a multi-run: the study's name, its folder, and the words of the command that runs it alone."""

    name: str
    folder: Path
    words: tuple[str, ...]


def asked(given: Sequence[str]) -> bool:
    """Whether the command line wants jobs run (and not only something shown).

    Raises:
        ConfigError: flags beside ``--multirun`` that would change what it means.
    """
    flags = [word for word in given if word.startswith("-")]
    if not set(flags) & set(FLAGS) or set(flags) & set(SHOWING):
        return False
    if others := [flag for flag in flags if flag not in FLAGS]:
        raise ConfigError(f"--multirun takes overrides and no other flags, but got {' '.join(others)}.")
    return True


def parts(given: Sequence[str]) -> list[Part]:
    """The jobs, each composed and checked.

    Raises:
        ConfigError: a job that could not run; nothing has been started then.
    """
    words = [word for word in given if word not in FLAGS]
    for word in words:
        if word.lstrip("+~").startswith(
            ("hydra/launcher", "hydra/sweeper", "hydra.launcher", "hydra.sweeper")
        ):
            raise ConfigError(
                f"{word}: jobs run one after another here; workers=N runs each one's trials side by side."
            )
    jobs = config.combinations(words)
    built = [_built(job_words) for job_words in jobs]
    names = [here.name for here in built]
    changes = [[word for word in job_words if word not in words] for job_words in jobs]
    settled = [_settled(here, own, built) for here, own in zip(built, changes, strict=True)]
    if len(set(names)) < len(names):  # else name=…, or the experiments, tell them apart already
        own_names = [_name(name, own) for name, own in zip(names, changes, strict=True)]
        jobs = [[word for word in job_words if not word.startswith("name=")] for job_words in jobs]
        settled = [
            [*fixed, f"name={name}"]
            for fixed, name in zip(settled, _distinct(own_names, changes), strict=True)
        ]
    return [_part([*job_words, *more]) for job_words, more in zip(jobs, settled, strict=True)]


def _built(words: Sequence[str]) -> Job:
    return job.build(config.plain(config.compose_job(words)))


def _part(words: Sequence[str]) -> Part:
    here = _built(words)
    return Part(here.name, here.folder, tuple(words))


def _settled(here: Job, changes: Sequence[str], jobs: Sequence[Job]) -> list[str]:
    """For every path that the job sets and its study would search: it is not to be searched.

    A group (``plan=ptq,qat``) sets what it tells the jobs apart by, where that is searched and nothing else is
    different: the jobs would otherwise search one and the same space.
    """
    searched = here.study.axes.paths
    own = [change.partition("=")[0].lstrip("+") for change in changes]
    found = [path for path in own if path in searched]
    for group in own:
        differing = _differing(group, jobs)
        if group not in searched and differing and differing <= set(searched):
            found += sorted(differing)
    return [f"study.space={{{path}: null}}" for path in found]


def _differing(group: str, jobs: Sequence[Job]) -> set[str]:
    """The paths below a group that are not the same in all jobs."""
    each = [config.flatten(job.config.get(group), group) for job in jobs]
    return {path for path in set().union(*each) if len({repr(one.get(path)) for one in each}) > 1}


def _name(name: str, changes: Sequence[str]) -> str:
    """NAME--key-value--key-value; of each key the last parts, as many as tell it from the other keys."""
    pairs = [change.partition("=")[::2] for change in changes]
    pairs = [(key.lstrip("+"), value) for key, value in pairs]
    keys = [key for key, _ in pairs]
    kept = [(key, value) for key, value in pairs if key not in ("name", "experiment")]
    return "--".join([name, *(f"{_short(key, keys)}-{_plain(value)}" for key, value in kept)])


def _short(key: str, keys: Sequence[str]) -> str:
    pieces = re.split(r"[./]", key)
    for count in range(1, len(pieces) + 1):
        tail = pieces[-count:]
        if sum(re.split(r"[./]", other)[-count:] == tail for other in keys) == 1:
            break
    return ".".join(tail)


def _plain(value: str) -> str:
    value = value.lower() if value in ("True", "False") else value
    return re.sub(r"[^A-Za-z0-9._-]+", "-", value.strip("[]{}()'\" ")) or "empty"


def _distinct(names: Sequence[str], swept: Sequence[Sequence[str]]) -> list[str]:
    """Names that are too long, or the same once written plainly, carry a digest of what their job changes."""
    often = Counter(names)
    marks = [hashlib.sha256(" ".join(changes).encode()).hexdigest()[:8] for changes in swept]
    return [
        name if len(name) <= LONGEST and often[name] == 1 else f"{name[: LONGEST - 9]}-{mark}"
        for name, mark in zip(names, marks, strict=True)
    ]


def run(given: Sequence[str], console: Console, start: Callable[[Part], int] | None = None) -> int:
    """Run the jobs in turn; the exit code is that of the worst, the highest.

    A job that fails leaves the others alone, but for a full disk and an interrupt: there the rest is not begun.
    The same command goes on where it stopped, job for job.
    """
    start = start or _process
    todo = parts(given)
    codes: dict[str, int] = {}
    for number, part in enumerate(todo, start=1):
        console.print(f"job {number} of {len(todo)}: {part.name}", highlight=False, style="bold")
        codes[part.name] = start(part)
        if codes[part.name] in (NO_ROOM, INTERRUPTED):
            break
    console.print(_table(todo, codes))
    again = shlex.join(["python", "-m", "pipeline.run", *given])
    if len(codes) < len(todo) or INTERRUPTED in codes.values():
        console.print(f"Go on with: {again}", highlight=False, markup=False)
    fronts = [part for part in todo if codes.get(part.name) == OK]
    if len(fronts) > 1:
        compared = shlex.join(["python", "-m", "pipeline.compare", *(str(part.folder) for part in fronts)])
        console.print(f"Compare them: {compared}", highlight=False, markup=False)
    return max(codes.values())


def _process(part: Part) -> int:
    """A job as a process; one that a signal killed counts as shells count it, 128 + the signal."""
    command = [sys.executable, "-m", "pipeline.run", *part.words]
    # A group of its own: Ctrl-C comes here alone and is handed on once, so that the job is not interrupted twice.
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            interrupts.heard()
            process.send_signal(signal.SIGINT)
            process.wait()
            return INTERRUPTED
    return code if code >= 0 else 128 - code


def _table(todo: Sequence[Part], codes: dict[str, int]) -> Table:
    shown = Table(title="Jobs", title_justify="left")
    for column in ("study", "exit code", "meaning", "folder"):
        shown.add_column(column, justify="right" if column == "exit code" else "left", overflow="fold")
    for part in todo:
        code = codes.get(part.name)
        meaning = "not begun" if code is None else MEANING.get(code, "an unforeseen error: see above")
        shown.add_row(part.name, "" if code is None else str(code), meaning, str(part.folder))
    return shown
