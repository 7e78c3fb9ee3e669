"""The command line that explains a model: its tables, its pictures, its refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from pipeline.config import ConfigError
from pipeline.hardware.cost import cost
from pipeline.hardware.expected import expected_load
from pipeline.hardware.explain import Request, explain, knee, machine_of, main, parse
from pipeline.hardware.picture import ENERGY_UNITS, scaled
from pipeline.hardware.workload import Geometry
from pipeline.types import DataError

LOADS = (
    expected_load(
        "conv1", "conv", Geometry(1, 8, (12, 12), (10, 10), (3, 3)), 5, input_density=0.2, weight_bits=4
    ),
    expected_load("fc1", "linear", Geometry(800, 10), 5, density=0.3, input_density=0.1, weight_bits=8),
)


def test_tables_and_pictures(tmp_path: Path) -> None:
    machine = machine_of(["accelerator=eyeriss_45nm"])
    console = Console(record=True, width=170, file=(tmp_path / "screen").open("w"))
    explain(Request(tmp_path, machine, None), 7, LOADS, console)
    text = console.export_text()
    price = cost(LOADS, machine)
    for word in ("trial 7, on eyeriss_45nm", "conv1", "fc1", "dram", "metadata", "elasticity", "left out"):
        assert word in text
    size, _ = scaled([layer.energy_pj for layer in price.layers], ENERGY_UNITS)
    assert f"{price.energy_pj / size:.3g}" in text
    for name in ("layers", "sensitivity"):
        picture = tmp_path / "hardware" / f"eyeriss_45nm-{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_number_of_the_machine_is_changed_on_the_line() -> None:
    assert machine_of(["accelerator=loihi", "accelerator.operations.synop_pj=1"]).operations.synop_pj == 1  # type: ignore[union-attr]


def test_words_of_the_command_line(tmp_path: Path) -> None:
    request = parse([str(tmp_path), "trial=3", "accelerator=fpga_45nm"])
    assert (request.folder, request.trial, request.machine.name) == (tmp_path, 3, "fpga_45nm")
    for wrong, message in (
        (["a", "b"], "one MODEL_DIR"),
        (["a", "trial=x"], "trial must be a number"),
        (["a", "chip=loihi"], "unknown key chip"),
        (["a", "accelerator=lohi"], "lohi"),
        (["a", "accelerator.buffer.read_pj=-1"], "accelerator.buffer.read_pj must be >= 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse(wrong)


def test_a_folder_without_a_study_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 3
    assert "no study.db" in capsys.readouterr().out.replace("\n", " ")
    (tmp_path / "summary.json").write_text('{"picks": {}, "front": []}')
    with pytest.raises(DataError, match="choose one with trial=N"):
        knee(tmp_path)
    assert main(["--help"]) == 0
    assert "eyeriss_45nm" in capsys.readouterr().out
