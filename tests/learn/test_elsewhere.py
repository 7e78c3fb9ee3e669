"""Training on another device, pretended (tests/learn/elsewhere.py): the same losses and the same network as here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "elsewhere.py"


@pytest.fixture(scope="module")
def found():
    ended = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=500, cwd=SCRIPT.parents[2]
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.slow
def test_the_pretended_device_refuses_what_a_gpu_refuses(found):
    assert "tensors of two devices" in found["mixed"]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["masks and DuQ together", "masks grow, then LSQ", "fixed point at random"])
def test_float_training_and_fine_tuning_elsewhere_give_what_they_give_here(found, case):
    here, elsewhere = found["cases"][case]["here"], found["cases"][case]["elsewhere"]
    assert len(here["losses"]) == 5  # three epochs of the float network, two of fine-tuning
    assert here["losses"] == pytest.approx(elsewhere["losses"], rel=1e-5)
    assert here["validation_accuracy"] == pytest.approx(elsewhere["validation_accuracy"], abs=0.01)
    assert here["energy_pj"] == pytest.approx(elsewhere["energy_pj"], rel=0.01)
    assert elsewhere["homes"] == ["cpu"]  # whoever trains elsewhere brings the network back
    assert here["validation_accuracy"] > (0.25 if case != "fixed point at random" else 0.05)  # it lives
