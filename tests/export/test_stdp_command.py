"""A trained STDP network of a real study, exported: proof, bytes as claimed, C code and a folder that verifies."""

import json
import math
import shutil
import subprocess

import pytest

from pipeline import run
from pipeline.export.__main__ import FAILED, NOT_EXACT, OK, main
from pipeline.verify import verify

STUDY = [
    "+experiment=tinysnn_mnist", "data=digits", "data/encoding=poisson", "data.timesteps=60", "workers=1",
    "tracking=silent", "study.trials=1", "study.finalists=1", "study.warm_start=[]", "study.baseline={}",
    "net.neurons=30", "net.w_input_mv=8", "net.theta_plus_mv=0.5", "net.w_inh_mv=40", "learner.rule.norm=8",
    "learner.rule.eta_post=0.03", "learner.label_samples=300", "learner.check_samples=20", "~study.space",
    "+study.space={compression.quantize_weights.bits: {low: 4, high: 4}}", "compression.quantize_neurons.membrane=14",
    "compression.quantize_neurons.theta=10",
]  # fmt: skip
STUDY += [f"compression.quantize_neurons.{name}=8" for name in ("threshold", "beta", "inhibition", "reset")]


@pytest.fixture(scope="module", params=["direct", "layer"])
def study(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("studies")
    assert run.main([*STUDY, f"net.inhibition={request.param}", "name=small", f"out={out}"]) == 0
    assert main([str(out / "small"), "--vectors", "3"]) == OK
    return out / "small"


def test_a_trained_network_is_written_in_the_bytes_that_the_study_claims(study, tmp_path):
    folder = study / "export" / "trial-00000"
    (member,) = json.loads((study / "summary.json").read_text())["front"]
    metrics = member.get("metrics", member)
    manifest = json.loads((folder / "manifest.json").read_text())
    cost = manifest["cost"]
    stored, working = (sum(cost[which].values()) for which in ("stored_bits", "working_bits"))
    assert (folder / "weights.bin").stat().st_size == math.ceil(stored / 8)
    assert metrics["memory_bits"] == stored + working
    assert sum(cost["working_bits_of_c_code"].values()) <= working
    assert manifest["proof"]["samples"] == metrics["integer_samples"] == 359
    assert manifest["proof"]["spikes"] > 300
    assert metrics["test_accuracy"] > 0.5, "an untrained network is no test"
    assert manifest["nir"]["missing"][-1].endswith("no graph is written.")
    assert verify(shutil.copytree(folder, tmp_path / "elsewhere")).program.neurons == 30


def test_its_c_code_gives_its_spikes(study, tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler on this machine")
    folder = study / "export" / "trial-00000"
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    subprocess.run([compiler, *strict, "runner.c", "-o", tmp_path / "runner"], cwd=folder, check=True)
    assert subprocess.run([tmp_path / "runner"]).returncode == 0


def test_finalists_carry_proof_and_stress(study):
    (member,) = json.loads((study / "summary.json").read_text())["front"]
    metrics = member.get("metrics", member)
    assert metrics["integer_exact"] == 1.0
    assert metrics["robust_samples"] == 359
    assert metrics["robust_drop_0.3"] <= metrics["robust_drop_0.1"] + 0.1
    assert metrics["robust_flip_0.01"] <= metrics["test_accuracy"] + 0.05


def test_a_difference_is_a_failure_that_names_the_place_and_writes_nothing(
    study, tmp_path, capsys, monkeypatch
):
    import pipeline.export.__main__ as command

    honest = command.lowered

    def tampered(*arguments):
        engine = honest(*arguments)
        engine._weight[:, 3] += 5
        return engine

    monkeypatch.setattr(command, "lowered", tampered)
    assert main([str(study), "--out", str(tmp_path / "x")]) == FAILED
    assert "NOT proven: neurons differs first at step" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_narrow_register_is_not_promised(study, tmp_path, capsys):
    code = main([str(study), "--out", str(tmp_path / "export"), "--accumulator-bits", "16"])
    assert code == NOT_EXACT
    assert "adds in 32 bits" in capsys.readouterr().err


def test_a_narrow_register_is_refused_with_the_keys_and_the_words_that_are_not_for_it(study, capsys):
    assert main([str(study), "--accumulator-bits", "16"]) == NOT_EXACT
    said = capsys.readouterr().err
    assert "adds in 32 bits, and accumulator (16 bits, saturate) is not for it" in said
    assert "accumulator.bits=32" in said
    assert main([str(study), "--overflow", "wrap"]) == NOT_EXACT
