"""What a config gives, against what a field is annotated with: who is refused, and in which words."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import config, experiment, job
from pipeline.config import ConfigError
from pipeline.fields import Misfit, misfit
from pipeline.types import METRICS


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
    ("food", 3, "a mapping whose values are each a number"),
    ("facts", 3, "a mapping"),
    ("size", 2.5, "a whole number or a list of whole numbers"),
    ("first", "robin", "a Bird (a mapping with _target_) or null"),
    ("singer", Aviary(), "a Sings (a mapping with _target_) or null"),
]


@pytest.mark.parametrize(("name", "value"), FITS)
def test_what_fits(name: str, value: object) -> None:
    assert misfit(Aviary, name, value) is None


@pytest.mark.parametrize(("name", "value", "rule"), WRONG)
def test_what_does_not_and_what_it_must_be(name: str, value: object, rule: str) -> None:
    assert misfit(Aviary, name, value) == Misfit("", rule, value)


@given(value=st.one_of(st.integers(), st.floats(), st.booleans(), st.text(), st.none()))
def test_scalars_fit_as_python_itself_would_say(value: Any) -> None:
    number = isinstance(value, int) and not isinstance(value, bool)
    assert (misfit(Aviary, "birds", value) is None) is number
    finite = isinstance(value, float) and math.isfinite(value)
    assert (misfit(Aviary, "height_m", value) is None) is (number or finite)
    assert (misfit(Aviary, "open", value) is None) is isinstance(value, bool)
    assert (misfit(Aviary, "keeper", value) is None) is (value is None or isinstance(value, str))


def test_functions_and_plain_classes_have_annotations_too() -> None:
    class Cage:
        def __init__(self, bars: int) -> None:
            self.bars = bars

    def build(bars: int) -> object:
        return Cage(bars)

    assert misfit(Cage, "bars", "x") == misfit(build, "bars", "x") == Misfit("", "a whole number", "x")
    assert misfit(lambda bars: bars, "bars", "x") is None


def test_of_a_mapping_the_value_that_is_wrong_is_named() -> None:
    assert misfit(Aviary, "food", {"seed": 2, "corn": "much"}) == Misfit(".corn", "a number", "much")


TARGET = re.compile(r"_target_: *([\w.]+)")
NAMED = sorted({name for path in config.CONF.rglob("*.yaml") for name in TARGET.findall(path.read_text())})


@pytest.mark.parametrize("target", NAMED)
def test_every_field_of_every_config_is_checked(target: str) -> None:
    """None is of a type that nobody can check: what is no value of any config is refused by all of them."""
    module, _, name = target.rpartition(".")
    factory = getattr(importlib.import_module(module), name)
    for argument in inspect.signature(factory).parameters:
        assert misfit(factory, argument, object()), argument


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
    "+compression.new=3": "compression.new must be a Compression (a mapping with _target_), but got 3.",
    "seed=x": "seed must be a whole number, but got 'x'.",
    "seed=1.5": "seed must be a whole number, but got 1.5.",
    "seed=-1": "seed must be in [0, 2**32), but got -1.",
    "workers=many": "workers must be a whole number, but got 'many'.",
    "out=null": "out must be text, but got None.",
    "storage=3": "storage must be text, but got 3.",
    "name=null": "name must be text, but got None.",
    "net.threshold=nan": "net.threshold must be finite, but got nan.",
    "study.objectives=[validation_eror,energy_pj]": "study.objectives must be of validation_error, ",
    "study.objectives=[validation_accuracy]": "study.objectives are minimised: give validation_error in place of",
    "study.selectors.knee.objectives=[energy]": "study.selectors.knee.objectives must be of validation_error, ",
    "+study.constraints={memory: 3}": "study.constraints must be of validation_error, ",
    "+study.floors={error: 0.1}": "study.floors must be of validation_error, ",
    "accelerator=null": "accelerator must be one of embedded_45nm, eyeriss_45nm",
    "data.framing.size=[32,32]": "data.framing.size must be a whole number or null, but got (32, 32).",
}


@pytest.mark.parametrize(("word", "message"), SLIPS.items(), ids=list(SLIPS))
def test_a_slip_of_the_command_line_is_one_sentence_with_its_key(word: str, message: str) -> None:
    """Each of them was a traceback, or Python's own words about a comparison, before fields were checked."""
    with pytest.raises(ConfigError) as refused:
        job.build(config.plain(config.compose_job(["+experiment=nmnist_pareto", word])))
    assert str(refused.value).startswith(message)


JUNK = (None, "abc", -1, 1.5, True, math.nan, math.inf, 10**12, ["abc"], {"a": 1})
ELSEWHERE = ("tracking.", "launcher.")
"""Checked where they are opened (`pipeline.run`), still before trial 0."""
NO_SPACE = ["~study.space", "+study.space={}", "~study.baseline", "+study.baseline={}", "study.warm_start=[]"]
"""Every end of a space is built with every job; one space with junk is enough."""


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["quickstart"], id="quickstart"),
        pytest.param(["fspinn_mnist", *NO_SPACE], id="fspinn_mnist", marks=pytest.mark.slow),
        pytest.param(
            ["gesture_pareto", "accelerator=loihi", *NO_SPACE], id="gesture_pareto", marks=pytest.mark.slow
        ),
    ],
)
def test_whatever_a_config_says_is_taken_or_refused_with_its_key(words: list[str]) -> None:
    """Every leaf of a config with every kind of junk: a job or a sentence that names the key, never a traceback."""
    name, *more = words
    whole = config.plain(config.compose_job([f"+experiment={name}", *more]))
    refused = []
    for key in config.flatten(whole):
        if not (words[1:] or key.startswith(("study.", "sampler.", "stopper."))):
            continue  # of the whole quickstart, what a study is; of the others all
        for value in JUNK:
            try:
                job.build(config.override(whole, {key: value}))
            except ConfigError as error:
                refused.append((key, str(error)))
                continue
            odd = isinstance(value, float) and not math.isfinite(value)
            assert not odd or key.startswith(ELSEWHERE), f"{key}={value} was taken"
    assert len(refused) > (400 if words[1:] else 100)
    lost = [(key, said) for key, said in refused if not any(part in said for part in key.split("."))]
    assert not lost


@pytest.mark.slow
def test_metrics_of_trials_are_those_that_studies_may_ask_for() -> None:
    """Of a network that learns without labels, which has them all."""
    few = ["data=digits", "data/encoding=poisson", "data.timesteps=20", "net.neurons=20"]
    words = ["+experiment=fspinn_mnist", *few, "plan.scheme=in_training", "learner.label_samples=null"]
    built = config.build_experiment(config.plain(config.compose_job(words)))
    found = experiment.evaluate(built, lambda *_: None).metrics
    assert set(found) == set(METRICS)
