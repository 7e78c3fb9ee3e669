"""Every command ends a full disk, a broken database and an interrupt with a sentence and a code, no traceback."""

import errno
import os
import subprocess
import sys

import optuna
import pytest

from pipeline import baselines, claims, compare, interrupts, reprice, select, stages, verify
from pipeline.config import ConfigError
from pipeline.exits import GivenUp
from pipeline.export import __main__ as export
from pipeline.hardware import explain
from pipeline.types import DataError

COMMANDS = {
    "select": (select, "open_study", ["x"]),
    "compare": (compare, "compare", ["x", "y"]),
    "reprice": (reprice, "open_study", ["x", "accelerator=loihi"]),
    "verify": (verify, "verify", ["x"]),
    "baselines": (baselines, "open_study", ["x"]),
    "claims": (claims, "gather", []),
    "export": (export, "load", ["x"]),
    "explain": (explain, "measured_loads", ["x"]),
    "stages": (stages.job, "build", ["data", "+experiment=quickstart"]),
}
FULL = OSError(errno.ENOSPC, "No space left on device", "outputs/x")
LOCKED = optuna.exceptions.StorageInternalError("readonly")


def main_of(name):
    return stages.main if name == "stages" else COMMANDS[name][0].main


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (FULL, 5, "No space left on device: 'outputs/x'"), (LOCKED, 5, "readonly"),
        (KeyboardInterrupt(), 130, "Interr"), (GivenUp("no place", True), 5, "no place; finished trials are kept"),
        (GivenUp("killed", False), 1, "killed"),
    ],
    ids=["disk", "database", "interrupt", "full for workers", "dying workers"],
)  # fmt: skip
def test_what_the_machine_does_to_a_command_is_a_sentence_and_a_code(
    name, error, code, said, monkeypatch, capsys
):
    module, inner, words = COMMANDS[name]

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(module, inner, fails)
    monkeypatch.setattr(interrupts, "listen", lambda: None)
    assert main_of(name)(words) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(ConfigError("k"), 2), (DataError("f"), 3)])
def test_stages_ends_as_a_run_does(error, code, monkeypatch, capsys):
    def fails(*args):
        raise error

    monkeypatch.setattr(stages.job, "build", fails)
    monkeypatch.setattr(interrupts, "listen", lambda: None)
    assert stages.main(["data", "+experiment=quickstart"]) == code
    assert str(error) in capsys.readouterr().err


def test_an_error_that_is_no_disks_keeps_its_traceback(monkeypatch):
    def fails(*args):
        raise OSError("a library's own words")

    monkeypatch.setattr(select, "open_study", fails)
    with pytest.raises(OSError, match="own words"):
        select.main(["x"])


@pytest.mark.parametrize("stage", ["data", "pretrain", "studies"])
def test_a_folder_that_cannot_be_made_is_code_5(stage, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(interrupts, "listen", lambda: None)
    (tmp_path / "file").write_text("in the way")
    assert stages.main([stage, "+experiment=quickstart", f"out={tmp_path / 'file'}"]) == 5
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error():
    """``python -m pipeline.claims | head``: nobody reads on, which is neither a full disk nor a traceback."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.claims"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
