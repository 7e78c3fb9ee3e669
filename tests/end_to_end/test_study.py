"""The command a user types, in a process of its own: run, resume, refuse, interrupt, kill, look."""

import csv
import json
import re
import sqlite3
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(400)  # each runs the whole command several times


@pytest.fixture(scope="module")
def first(tmp_path_factory, run):
    folder = tmp_path_factory.mktemp("study")
    return folder, run(folder)


def test_a_study_leaves_its_front_and_says_where_to_look(first):
    folder, done = first
    assert done.returncode == 0, done.stderr
    out = folder / "quickstart"
    for name in (
        "study.db",
        "front.csv",
        "summary.json",
        "front.html",
        "front.png",
        "figures/sensitivity.png",
    ):
        assert (out / name).stat().st_size > 0, name
    assert "Pareto front" in done.stdout
    assert "knee: trial" in done.stdout
    assert "within 1 point:" in done.stdout
    assert "mlflow ui --backend-store-uri sqlite:///" in done.stdout
    with (out / "front.csv").open() as file:
        front = list(csv.DictReader(file))
    assert front
    for member in front:
        assert 0 < float(member["test_accuracy"]) <= 1
        assert float(member["memory_bits"]) > 0
        assert float(member["energy_pj"]) > 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["trials"] == 4


def test_the_page_needs_no_network(first):
    page = (first[0] / "quickstart" / "front.html").read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=.?(https?:)?//", page)


def test_the_same_command_only_reports_and_more_trials_are_added(first, run):
    folder, _ = first
    again = run(folder)
    assert again.returncode == 0
    assert "all 4 trials are done" in again.stdout
    more = run(folder, "study.trials=6")
    assert more.returncode == 0
    assert "resuming after 4, 2 trials" in more.stdout
    assert json.loads((folder / "quickstart" / "summary.json").read_text())["trials"] == 6


def test_another_config_under_the_same_name_is_refused_with_the_difference(first, run):
    folder, _ = first
    done = run(folder, "seed=7", "net.beta=0.8")
    assert done.returncode == 2
    assert "net.beta: " in done.stderr
    assert "seed: 0 -> 7" in done.stderr
    assert "name=quickstart-2" in done.stderr
    assert "rm -r" in done.stderr


def test_the_same_seed_gives_the_same_front(first, tmp_path, run):
    folder, _ = first
    run(tmp_path, "tracking=silent", "study.trials=4")

    def trials(base):
        with sqlite3.connect(base / "quickstart" / "study.db") as connection:
            rows = connection.execute(
                "select number, objective, value from trial_values join trials using (trial_id) where number < 4"
            )
            return sorted(rows.fetchall())

    assert trials(folder) == trials(tmp_path)


@pytest.mark.slow
def test_a_space_that_is_used_up_ends_the_study_and_every_record_says_so(tmp_path, run):
    space = "study.space={compression.quantize_weights.bits: {choices: [4, 8]}}"
    done = run(
        tmp_path, "~study.space", f"+{space}", "study.warm_start=[]", "study.trials=9", "tracking=silent"
    )
    assert done.returncode == 0, done.stderr
    said = "the space is exhausted, all 2 points were tried"
    assert f"quickstart: {said}" in done.stdout
    out = tmp_path / "quickstart"
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["trials"], summary["ended"]) == (2, said)
    assert said in (out / "report.html").read_text()


def test_help_lists_experiments_and_groups():
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.run", "--help"], capture_output=True, text=True, check=True
    )
    for word in ("quickstart", "experiment", "accelerator", "study.trials=60"):
        assert word in done.stdout, word


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("study.trails=3", "Did you mean 'trials'"),
        (
            "compression.quantize_weights.bits=1",
            "compression.quantize_weights.bits must be in [2, 32], but got 1.",
        ),
        ("+study.space.net.hiden={low: 2, high: 4}", "study.space.net.hiden"),
    ],
)
def test_a_wrong_config_stops_before_trial_0(tmp_path, override, said, run):
    done = run(tmp_path, override)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "quickstart").exists()


def test_a_folder_that_cannot_be_written_is_said(tmp_path, run):
    (tmp_path / "quickstart").write_text("in the way")
    done = run(tmp_path)
    assert done.returncode == 5
    assert "cannot write below" in done.stdout + done.stderr


@pytest.mark.parametrize("words", [["+experiment=nope"], ["+experiment=quickstart", "net.hiden=3"]])
def test_a_config_that_is_only_shown_is_checked_too(words, capsys):
    from pipeline.run import main

    assert main([*words, "--cfg", "job"]) == 2
    assert "config error" in capsys.readouterr().err
