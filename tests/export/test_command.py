"""``python -m pipeline.export`` on a study that was really run: proof, bytes as claimed, refusal with advice."""

import json
import math
import shutil
import subprocess

import pytest

from pipeline import run
from pipeline.compress.stack import grids
from pipeline.export.__main__ import FAILED, NOT_EXACT, OK, load, main, wilson
from pipeline.export.program import Accumulator
from pipeline.export.robustness import Stress
from pipeline.verify import verify

QUICK = [
    "+experiment=quickstart",
    "name=small",
    "workers=1",
    "tracking=silent",
    "study.trials=1",
    "study.finalists=1",
    "study.compare=false",
]
QUICK += ["learner.epochs=2", "study.warm_start=[]", "data.timesteps=5", "study.baseline={}"]
FEWER = ["study.space={compression.quantize_weights.bits: {low: 4, high: 4}}"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("studies")
    assert run.main([*QUICK, *FEWER, f"out={out}", "compression.prune_weights.sparsity=0.5"]) == 0
    return out / "small"


@pytest.fixture(scope="module")
def exported(study):
    assert main([str(study), "--member", "0", "--vectors", "3"]) == OK
    return study / "export" / "trial-00000"


def test_bytes_on_disk_equal_what_the_cost_model_claims_to_the_byte(study, exported):
    """The claim is the study's own record of the trial, not the exporter's."""
    (member,) = json.loads((study / "summary.json").read_text())["front"]
    manifest = json.loads((exported / "manifest.json").read_text())
    held = manifest["cost"]["memory"].values()
    stored = sum(layer[what] for layer in held for what in ("weights", "metadata", "parameters"))
    working = sum(layer[what] for layer in held for what in ("state", "buffers"))
    assert (exported / "weights.bin").stat().st_size == math.ceil(stored / 8)
    metrics = member.get("metrics", member)
    assert metrics["memory_bits"] == stored + working
    cost = manifest["cost"]
    assert sum(cost["stored_bits"].values()) == stored
    assert sum(cost["working_bits"].values()) == sum(cost["working_bits_of_c_code"].values()) == working


def test_the_export_is_proven_and_verifies_anywhere(exported, tmp_path):
    elsewhere = shutil.copytree(exported, tmp_path / "elsewhere")
    export = verify(elsewhere)
    assert len(export.samples.codes) == 3
    manifest = export.manifest
    assert manifest["proof"]["holds"]
    assert manifest["proof"]["samples"] == manifest["accuracy"]["samples"] == 359
    low, high = manifest["accuracy"]["interval_95"]
    assert low < manifest["accuracy"]["test"] < high
    assert "robust_flip_0.001" in manifest["robustness"]
    assert manifest["config"]["compression"]["quantize_weights"]["bits"] == 4


def test_its_c_code_gives_its_spikes(exported, tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler on this machine")
    subprocess.run([compiler, "-std=c99", "runner.c", "-o", tmp_path / "runner"], cwd=exported, check=True)
    assert subprocess.run([tmp_path / "runner"]).returncode == 0


def test_finalists_carry_proof_and_robustness_as_columns(study, exported):
    (member,) = json.loads((study / "summary.json").read_text())["front"]
    metrics = member.get("metrics", member)
    assert metrics["integer_exact"] == 1.0
    assert metrics["integer_samples"] == 359
    assert 0 <= metrics["robust_drop_0.3"] <= metrics["robust_drop_0.1"] + 0.1


def test_a_float_network_is_refused_with_the_settings_that_help(tmp_path, capsys):
    floats = [f"compression.quantize_neurons.{name}=32" for name in ("membrane", "beta", "threshold")]
    assert run.main([*QUICK, *FEWER, f"out={tmp_path}", *floats]) == 0
    capsys.readouterr()
    assert main([str(tmp_path / "small"), "--member", "0"]) == NOT_EXACT
    said = capsys.readouterr().err
    assert "lif1.mem" in said
    assert "compression.quantize_neurons.membrane=16" in said
    assert not (tmp_path / "small" / "export").exists()


def test_a_difference_is_a_failure_that_names_the_place_and_writes_nothing(
    study, tmp_path, capsys, monkeypatch
):
    """The proof must be able to fail: one weight of the lowered network is changed behind its back."""
    from pipeline.export import finalist

    honest = finalist.program_of_model

    def tampered(*arguments):
        program = honest(*arguments)
        program.stages[0].synapses.weight.codes[:4] = 7
        return program

    monkeypatch.setattr(finalist, "program_of_model", tampered)
    assert main([str(study), "--member", "0", "--out", str(tmp_path / "x")]) == FAILED
    assert "NOT proven: lif1 differs first at step" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_missing_trial_or_study_is_named(study, tmp_path, capsys):
    assert main([str(study), "--member", "7"]) == FAILED
    assert "trial 7 has no model" in capsys.readouterr().err
    assert main([str(tmp_path)]) == FAILED
    assert "no folder of a study" in capsys.readouterr().err


def test_wilson_by_hand():
    """8 of 10, z = 1.96: centre (0.8 + 0.19207) / 1.38415 = 0.71674, half width 0.22663."""
    low, high = wilson(0.8, 10)
    assert low == pytest.approx(0.4902, abs=1e-3)
    assert high == pytest.approx(0.9433, abs=1e-3)
    assert wilson(0.0, 0) == (0.0, 1.0)


def test_a_difference_is_shown_with_its_place_in_the_report(study, monkeypatch):
    """A finalist whose integers are tampered with says so where a person looks: table, reason, page."""
    from pipeline.export import finalist
    from pipeline.finalists import _merge
    from pipeline.report.device import device_html
    from pipeline.types import Row

    honest = finalist.lowered

    def tampered(*arguments):
        program = honest(*arguments).program
        program.stages[1].synapses.weight.codes[:] = 7
        return finalist.Engine(program)

    monkeypatch.setattr(finalist, "lowered", tampered)
    member = load(study, 0, None)
    trained = member.trained
    columns = finalist.device_columns(
        trained.net,
        grids(trained.net),
        trained.widths,
        trained.decode,
        member.data,
        0,
        Stress(seeds=1),
        Accumulator(),
    )
    assert columns["integer_exact"] == 0.0
    assert not any(name.startswith("robust_") for name in columns)
    run = {"test_accuracy": 0.9, "test_samples": 359.0, **columns}
    row = _merge(Row(0, "complete", {}, {"validation_accuracy": 0.9}, on_front=True), [run], 1.0)
    assert row.reason.startswith(
        "its integer re-run differs from the network, first at layer 2, step 0, sample"
    )
    assert "<strong>differ</strong> its integer re-run differs" in device_html([row], {})


@pytest.mark.slow
def test_a_studys_accumulator_is_what_its_front_is_proven_in_and_exported_with(tmp_path):
    """16 bits hold every sum of 4-bit weights here; the command line may say otherwise."""
    words = [*QUICK, *FEWER, "compression.prune_weights.sparsity=0.5", f"out={tmp_path}"]
    assert run.main([*words, "accumulator.bits=16", "accumulator.overflow=wrap"]) == 0
    folder = tmp_path / "small"
    (member,) = json.loads((folder / "summary.json").read_text())["front"]
    metrics = member.get("metrics", member)
    assert metrics["integer_exact"] == 1.0
    assert (metrics["integer_accumulator_bits"], metrics["integer_accumulator_wraps"]) == (16.0, 1.0)
    assert metrics["integer_accumulator_bits_needed"] <= 16

    def registers(*words):
        assert main([str(folder), "--member", "0", "--out", str(tmp_path / "x"), *words]) == OK
        return {stage.accumulator for stage in verify(tmp_path / "x").program.stages}

    assert registers() == {Accumulator(16, "wrap")}
    assert registers("--accumulator-bits", "20") == {Accumulator(20, "wrap")}
    assert registers("--overflow", "saturate") == {Accumulator(16, "saturate")}


def test_a_register_that_overflows_fails_the_proof_and_says_how_many_bits_are_enough(study):
    from pipeline.export import finalist
    from pipeline.finalists import _differing

    member = load(study, 0, None)
    trained = member.trained
    columns = finalist.device_columns(
        trained.net, grids(trained.net), trained.widths, trained.decode, member.data, 0, Stress(seeds=1),
        Accumulator(4),
    )  # fmt: skip
    assert columns["integer_exact"] == 0.0
    needed = columns["integer_accumulator_bits_needed"]
    assert _differing(columns).endswith(f"sums may leave its accumulator.bits=4, and {needed:.0f} are enough")
