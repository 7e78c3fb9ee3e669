"""Stacked bars of energy and memory: a part of the machine has one colour, whatever else a model has."""

from __future__ import annotations

from pipeline.hardware.cost import HOLDINGS, PARTS
from pipeline.report import layers
from pipeline.report.layers import stack_charts
from pipeline.report.points import Model
from pipeline.types import Row


def colours(parts: dict[str, float]) -> dict[str, str]:
    """Part -> its colour where one layer spends `parts`."""
    layer = {"name": "fc1", "bits": 8, "sparsity": 0.0, "energy_pj": sum(parts.values()), "parts": parts}
    (chart,) = stack_charts([Model("#0", Row(0, "complete", detail={"layers": [layer]}))], "energy_pj")
    return {str(trace["name"]): trace["marker"]["color"] for trace in chart.data}  # type: ignore[index]


def test_the_parts_are_those_of_the_model_of_costs_in_its_order() -> None:
    """The report imports no other room, so the names stand there once more; pictures of both then agree."""
    assert layers.PARTS == {"energy_pj": PARTS, "memory_bits": HOLDINGS}


def test_a_part_has_its_colour_whichever_others_there_are_and_however_large_they_are() -> None:
    every = colours({part: 1.0 + at for at, part in enumerate(PARTS)})
    assert len(set(every.values())) == len(PARTS)
    assert list(every) == list(PARTS)
    few = colours({"leakage": 1.0, "metadata": 9.0})
    assert few == {part: every[part] for part in ("metadata", "leakage")}


def test_parts_that_nobody_knows_have_colours_of_their_own() -> None:
    found = colours({"dram": 1.0, "laser": 2.0, "mirror": 3.0})
    assert len(set(found.values())) == 3
    assert list(found) == ["dram", "laser", "mirror"]
