import optuna
import pytest

from pipeline.study.space import parse, settled

SPACE = {
    "plan.scheme": {"choices": ["ptq", "qat"]},
    "plan.epochs": {"low": 1, "high": 3, "when": {"plan.scheme": "qat"}},
    "bits": {"low": 2, "high": 4},
}


def test_size_counts_each_conditional_branch_once():
    # ptq: 3 widths; qat: 3 epochs x 3 widths.
    assert parse(SPACE).size() == 3 + 9
    points = list(parse(SPACE).points(limit=100))
    assert len(points) == 12
    assert all(("plan.epochs" in p) == (p["plan.scheme"] == "qat") for p in points)


def test_inactive_axes_are_not_asked():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = parse(SPACE)
    asked = [space.suggest(study.ask()) for _ in range(30)]
    assert {frozenset(p) for p in asked} == {
        frozenset({"plan.scheme", "bits"}),
        frozenset({"plan.scheme", "plan.epochs", "bits"}),
    }


def test_choices_may_be_lists():
    space = parse({"net.hidden": {"choices": [[64], [128, 64]]}})
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    assert space.suggest(trial)["net.hidden"] in ([64], [128, 64])


def test_a_continuum_has_no_size_and_steps_have():
    assert parse({"x": {"low": 0.0, "high": 1.0}}).size() is None
    assert parse({"x": {"low": 0.0, "high": 1.0, "step": 0.25}}).size() == 5


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ({"low": 1}, r"^x must give either low and high, or choices"),
        ({"low": 3, "high": 2}, r"^x must have low <= high, but got \[3, 2\]"),
        ({"low": 0, "high": 2, "log": True}, r"^x must have low > 0 when log"),
        ({"lo": 0, "high": 2}, r"^x must use only the words .* but got \['lo'\]"),
        (
            {"low": 0, "high": 2, "when": {"y": 1}},
            r"^x.when must name a path searched before it, but got 'y'",
        ),
    ],
)
def test_a_wrong_axis_is_refused_by_name(axis, message):
    with pytest.raises(ValueError, match=message):
        parse({"x": axis})


def test_a_condition_on_a_value_that_cannot_come_is_refused():
    with pytest.raises(ValueError, match=r"^b.when.a must be one of \['p', 'q'\], but got 'r'"):
        parse({"a": {"choices": ["p", "q"]}, "b": {"low": 0, "high": 1, "when": {"a": "r"}}})


def test_null_takes_a_path_out_and_decides_the_conditions_on_it():
    space = {**SPACE, "plan.scheme": None, "plan.rate": {"low": 0, "high": 1, "when": {"plan.epochs": [2]}}}
    # qat for all: epochs are asked without a condition, and what hangs on them still does
    qat = parse(settled(space, {"plan.scheme": "qat"}))
    assert qat.paths == ("plan.epochs", "bits", "plan.rate")
    assert qat.size() == (2 + 2) * 3
    # ptq for all: epochs, and what hangs on them, are never asked
    assert parse(settled(space, {"plan.scheme": "ptq", "plan.epochs": 1})).paths == ("bits",)
    # nested, as the command line writes it
    assert settled({"net": {"beta": None, "hidden": {"low": 1, "high": 2}}}, {}) == {
        "net.hidden": {"low": 1, "high": 2}
    }
