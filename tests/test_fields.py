"""What a config gives, against what a field is annotated with: who is refused, and in which words."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import config, job
from pipeline.config import ConfigError
from pipeline.fields import wanted


@runtime_checkable
class Sings(Protocol):
    def sing(self) -> str: ...


@dataclass(frozen=True)
class Bird:
    wings: int = 2

    def sing(self) -> str:
        return "tweet"


@dataclass(frozen=True)
class Aviary:
    birds: int = 1
    height_m: float = 2.0
    open: bool = False
    keeper: str | None = None
    days: Sequence[int] = ()
    names: tuple[str, ...] = ()
    visits: list[int] = field(default_factory=list)
    food: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    season: Literal["dry", "wet"] = "dry"
    size: int | Sequence[int] = 1
    first: Bird | None = None
    singer: Sings | None = None


FITS = [
    ("birds", 3), ("height_m", 3), ("height_m", 3.5), ("open", True), ("keeper", None), ("keeper", "Ann"),
    ("days", (1, 2)), ("days", ()), ("names", ("a", "b")), ("visits", (1, 2)), ("food", {"corn": 1}),
    ("facts", {"a": None}), ("size", 2), ("size", (2, 3)), ("first", Bird()), ("singer", Bird()),
    ("season", "snow"),  # which of several values is right the object itself tells
    ("nothing of the kind", 3),  # unknown names are refused elsewhere, with the known ones
]  # fmt: skip
WRONG = [
    ("birds", "three", "a whole number"),
    ("birds", 1.5, "a whole number"),
    ("birds", True, "a whole number"),
    ("birds", None, "a whole number"),
    ("height_m", "high", "a number"),
    ("height_m", False, "a number"),
    ("open", 1, "true or false"),
    ("open", "yes", "true or false"),
    ("keeper", 3, "text or null"),
    ("days", 3, "a list of whole numbers"),
    ("days", (1, "b"), "a list of whole numbers"),
    ("names", "abc", "a list of names"),
    ("visits", ("a",), "a list of whole numbers"),
    ("food", {"corn": "much"}, "a mapping whose values are each a number"),
    ("facts", 3, "a mapping"),
    ("size", 2.5, "a whole number or a list of whole numbers"),
    ("first", "robin", "a Bird (a mapping with _target_) or null"),
    ("singer", Aviary(), "a Sings (a mapping with _target_) or null"),
]


@pytest.mark.parametrize(("name", "value"), FITS)
def test_what_fits(name: str, value: object) -> None:
    assert wanted(Aviary, name, value) is None


@pytest.mark.parametrize(("name", "value", "rule"), WRONG)
def test_what_does_not_and_what_it_must_be(name: str, value: object, rule: str) -> None:
    assert wanted(Aviary, name, value) == rule


@given(value=st.one_of(st.integers(), st.floats(), st.booleans(), st.text(), st.none()))
def test_scalars_fit_as_python_itself_would_say(value: Any) -> None:
    number = isinstance(value, int) and not isinstance(value, bool)
    assert (wanted(Aviary, "birds", value) is None) is number
    assert (wanted(Aviary, "height_m", value) is None) is (number or isinstance(value, float))
    assert (wanted(Aviary, "open", value) is None) is isinstance(value, bool)
    assert (wanted(Aviary, "keeper", value) is None) is (value is None or isinstance(value, str))


def test_functions_and_plain_classes_have_annotations_too() -> None:
    class Cage:
        def __init__(self, bars: int) -> None:
            self.bars = bars

    def build(bars: int) -> object:
        return Cage(bars)

    assert wanted(Cage, "bars", "x") == wanted(build, "bars", "x") == "a whole number"
    assert wanted(lambda bars: bars, "bars", "x") is None


TARGET = re.compile(r"_target_: *([\w.]+)")
NAMED = sorted({name for path in config.CONF.rglob("*.yaml") for name in TARGET.findall(path.read_text())})


@pytest.mark.parametrize("target", NAMED)
def test_every_field_of_every_config_is_checked(target: str) -> None:
    """None is of a type that nobody can check: what is no value of any config is refused by all of them."""
    module, _, name = target.rpartition(".")
    factory = getattr(importlib.import_module(module), name)
    for argument in inspect.signature(factory).parameters:
        assert wanted(factory, argument, object()), argument


SLIPS = {
    "learner.epochs=abc": "learner.epochs must be a whole number, but got 'abc'.",
    "learner.epochs=null": "learner.epochs must be a whole number, but got None.",
    "compression.quantize_weights.bits=abc": "compression.quantize_weights.bits must be a whole number or a mapping",
    "data.augment=abc": "data.augment must be an Augment (a mapping with _target_) or null, but got 'abc'.",
    "data.framing=3": "data.framing must be a Framing (a mapping with _target_), but got 3.",
    "net.channels=[a,b]": "net.channels must be a list of whole numbers, but got ('a', 'b').",
    "study.space=abc": "study.space must be a mapping, but got 'abc'.",
    "study.trials=null": "study.trials must be a whole number, but got None.",
    "study.warm_start=[3]": "study.warm_start must be a list of mappings, but got (3,).",
    "+compression.new=3": "compression must be a mapping whose values are each a Compression",
    "seed=x": "seed must be a whole number, but got 'x'.",
    "seed=1.5": "seed must be a whole number, but got 1.5.",
    "seed=-1": "seed must be in [0, 2**32), but got -1.",
    "workers=many": "workers must be a whole number, but got 'many'.",
    "out=null": "out must be text, but got None.",
    "storage=3": "storage must be text, but got 3.",
    "accelerator=null": "accelerator must be one of embedded_45nm, eyeriss_45nm",
    "data.framing.size=[32,32]": "data.framing.size must be a whole number or null, but got (32, 32).",
}


@pytest.mark.parametrize(("word", "message"), SLIPS.items(), ids=list(SLIPS))
def test_a_slip_of_the_command_line_is_one_sentence_with_its_key(word: str, message: str) -> None:
    """Each of them was a traceback, or Python's own words about a comparison, before fields were checked."""
    with pytest.raises(ConfigError) as refused:
        job.build(config.plain(config.compose_job(["+experiment=nmnist_pareto", word])))
    assert str(refused.value).startswith(message)
