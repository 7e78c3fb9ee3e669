"""``python -m pipeline.select``: on a study that is written here, without training."""

import json

import pytest

from pipeline import config, job
from pipeline.select import main, quantity, weights
from pipeline.study import database

# number: validation accuracy, memory in bits, energy in pJ
MEMBERS = {0: (0.95, 80_000, 4e8), 1: (0.94, 40_000, 2e8), 2: (0.90, 8_192, 1e8), 3: (0.60, 8_000, 0.9e8)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("outputs")
    plain = config.plain(
        config.compose(["+experiment=quickstart", f"out={out}", "name=small", "study.trials=4"])
    )
    here = job.build(plain)
    storage = database.connect(here.storage)
    study = database.create(storage, "small", here.study, plain)
    study.set_user_attr("baseline", json.dumps({"metrics": metrics(0.955, 10**6, 1e9), "detail": {}}))
    study._thread_local.in_optimize_loop = True
    for accuracy, memory, energy in MEMBERS.values():
        trial = study.ask()
        here.study.axes.suggest(trial)
        record = {"state": "complete", "metrics": metrics(accuracy, memory, energy)}
        trial.set_user_attr("record", json.dumps(record))
        study.tell(trial, (1 - accuracy, memory, energy))
    study.set_user_attr(
        "final:1:0", json.dumps({**metrics(0.94, 40_000, 2e8), "test_accuracy": 0.931, "test_samples": 360})
    )
    return out / "small"


def metrics(accuracy, memory, energy):
    return {
        "validation_accuracy": accuracy,
        "validation_error": 1 - accuracy,
        "validation_samples": 359.0,
        "memory_bits": memory,
        "energy_pj": energy,
    }


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        (["--within", "1.0"], 0),  # 95.5 % - 1 point = 94.5 %: only trial 0
        (["--within", "2.0"], 1),  # 93.5 %: the cheaper of 0 and 1
        (["--memory", "1KB"], 2),  # 1 KB = 8192 bits: 2 and 3 fit, 2 is better
        (["--memory", "64KB", "--energy", "0.2mJ"], 1),  # 0.2 mJ = 2e8 pJ: 1, 2, 3 fit
        (["--reward", "mu=0"], 0),  # accuracy alone
        (["--reward", "mu=100"], 2),  # 0.90 - 100 * 0.008192 = 0.081; trial 3: 0.60 - 100 * 0.008 = -0.2
    ],
)
def test_the_member_is_named_with_its_figures_and_how_to_export_it(folder, arguments, number, capsys):
    assert main([str(folder), *arguments]) == 0
    said = capsys.readouterr().out
    assert f"trial {number} (" in said
    assert f"python -m pipeline.export {folder} --member {number}" in said
    assert "compression.quantize_weights.bits=" in said
    assert f"{MEMBERS[number][0]:.1%}" in said


def test_the_known_test_accuracy_is_shown_and_decides_nothing(folder, capsys):
    main([str(folder), "--within", "2", "--json"])
    answer = json.loads(capsys.readouterr().out)["within 2"]
    assert answer["trial"] == 1
    assert answer["metrics"]["test_accuracy"] == 0.931


def test_without_a_selector_the_study_s_own_are_used(folder, capsys):
    main([str(folder)])
    said = capsys.readouterr().out
    assert "knee: trial" in said
    assert "within 1 point: trial 0" in said


def test_no_member_is_an_exit_code_and_a_reason(folder, capsys):
    assert main([str(folder), "--memory", "10b"]) == 4
    assert "budget: no member (no member has memory_bits <= 80" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--memory", "64"], 2, "memory_bits must be a number with a unit"),
        (["--energy", "2KB"], 2, "energy_pj must be a number with a unit"),
        (["--reward", "nu=1"], 2, "reward takes mu=NUMBER and eps=NUMBER, but got 'nu=1'"),
        (["--within", "-1"], 2, "points must be >= 0"),
        (["--storage", "sqlite:////nowhere/at/all.db"], 3, "select: "),
    ],
)
def test_wrong_words_are_refused_in_a_sentence(folder, arguments, code, said, capsys):
    assert main([str(folder), *arguments]) == code
    assert said in capsys.readouterr().err


def test_a_folder_without_a_study_is_said(tmp_path, capsys):
    assert main([str(tmp_path), "--knee"]) == 3
    assert "there is no study in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("metric", "text", "value"),
    [
        ("memory_bits", "64KB", 524_288),
        ("memory_bits", "1.5 MiB", 1.5 * 2**20 * 8),
        ("energy_pj", "0.2mJ", 2e8),
        ("latency_us", "3ms", 3000),
    ],
)
def test_units(metric, text, value):
    assert quantity(metric, text) == pytest.approx(value)


def test_weights():
    assert weights(["mu=0.3", "eps=1e-2"]) == {"mu": 0.3, "eps": 0.01}
