"""What a person sees on a terminal of their own (a pseudo-terminal of `script`): colours, and none under NO_COLOR."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")
SMALL = [
    "+experiment=quickstart",
    "learner.epochs=1",
    "study.trials=2",
    "study.finalists=1",
    "study.compare=false",
]
pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("script") is None, reason="`script` (util-linux) is not on this machine"),
]


def on_a_terminal(*words, **variables):
    """(exit code, everything that the terminal was sent)."""
    kept = {
        k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "CI", "TERM", "COLUMNS")
    }
    command = shlex.join([sys.executable, "-m", "pipeline.run", *words])
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=300, env={**kept, "TERM": "xterm-256color", "COLUMNS": "120", **variables},
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("variables", "colours"),
    [pytest.param({}, True, marks=pytest.mark.slow), ({"NO_COLOR": "1"}, False)],
)
def test_an_error_is_red_unless_no_color_is_set(variables, colours):
    code, shown = on_a_terminal("+experiment=no_such", **variables)
    assert code == 2
    assert "there is no experiment 'no_such'" in shown
    assert bool(COLOUR.search(shown)) is colours


@pytest.mark.slow
@pytest.mark.parametrize(("variables", "colours"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_study_shows_progress_and_a_table(variables, colours, tmp_path):
    code, shown = on_a_terminal(*SMALL, "tracking=silent", f"out={tmp_path}", **variables)
    assert code == 0, shown
    assert "Pareto front" in shown
    assert "2/2" in shown
    assert "\x1b[?25l" in shown, "a terminal gets a moving line"
    assert bool(COLOUR.search(shown)) is colours
