"""``--multirun``: what each job is called, sets and leaves to the search; whose exit code counts."""

import io

import pytest
from rich.console import Console

from pipeline import config, job, multirun, run
from pipeline.config import ConfigError


def made(*words):
    return multirun.parts(["+experiment=quickstart", "--multirun", *words])


def built(part):
    return job.build(config.plain(config.compose_job(part.words)))


def test_every_job_is_named_by_what_it_changes_and_the_rest_is_as_given():
    given = ["+experiment=diehl_cook_mnist", "-m", "learner.rule.presynaptic=true,false", "data.limit=100"]
    parts = multirun.parts([*given, "learner.rule.adaptive_k=true,false"])
    assert [part.name for part in parts] == [
        "diehl_cook_mnist--presynaptic-true--adaptive_k-true",
        "diehl_cook_mnist--presynaptic-true--adaptive_k-false",
        "diehl_cook_mnist--presynaptic-false--adaptive_k-true",
        "diehl_cook_mnist--presynaptic-false--adaptive_k-false",
    ]
    rules = [built(part).config["learner"]["rule"] for part in parts]
    assert [(r["presynaptic"], r["adaptive_k"]) for r in rules] == [
        (True, True), (True, False), (False, True), (False, False),
    ]  # fmt: skip
    assert {built(part).config["data"]["limit"] for part in parts} == {100}
    assert {part.folder.parent.name for part in parts} == {"outputs"}


def test_what_a_job_sets_is_not_searched_and_what_hangs_on_it_is_decided():
    on, off = multirun.parts(["+experiment=fspinn_mnist", "-m", "learner.rule.adaptive_k=true,false"])
    alone = set(built(*multirun.parts(["+experiment=fspinn_mnist", "-m"])).study.axes.paths)
    assert alone - set(built(on).study.axes.paths) == {"learner.rule.adaptive_k"}
    assert alone - set(built(off).study.axes.paths) == {
        "learner.rule.adaptive_k",
        "learner.rule.spikes_per_k",
    }


@pytest.mark.slow
def test_a_group_that_differs_only_in_what_is_searched_makes_studies_that_differ():
    ptq, qat = (built(part) for part in made("plan=ptq,qat"))
    assert [here.config["plan"]["scheme"] for here in (ptq, qat)] == ["ptq", "qat"]
    alone = set(built(*made()).study.axes.paths)
    assert alone - set(ptq.study.axes.paths) == {"plan.scheme", "plan.epochs", "plan.order"}
    assert alone - set(qat.study.axes.paths) == {"plan.scheme", "plan.epochs", "plan.order"}
    # Another accelerator is another question in the same space.
    machines = [built(part) for part in made("accelerator=embedded_45nm,loihi")]
    assert all(set(here.study.axes.paths) == alone for here in machines)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["name=a,b"], ["a", "b"]),
        (["name=mine-${seed}", "seed=0,1"], ["mine-0", "mine-1"]),
        (["name=mine", "seed=0,1"], ["mine--seed-0", "mine--seed-1"]),
        (["net.hidden=16,[32,16]"], ["quickstart--hidden-16", "quickstart--hidden-32-16"]),
        (["seed=3"], ["quickstart"]),
    ],
)
def test_names(words, names):
    assert [part.name for part in made(*words)] == names


def test_keys_with_the_same_end_are_told_apart():
    both = [p.name for p in made("plan.epochs=2,3", "learner.epochs=range(3,5)", "net.beta=0.5")]
    assert both[0] == "quickstart--plan.epochs-2--learner.epochs-3"


def test_names_that_would_be_equal_or_too_long_carry_a_digest():
    changes = [["a.b=[1,2]"], ["a.b=1-2"], ["a.b=" + "x" * 300]]
    names = multirun._distinct([multirun._name("n", c) for c in changes], changes)
    assert len(set(names)) == 3
    assert names[0].startswith("n--b-1-2-")
    assert max(map(len, names)) <= multirun.LONGEST


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["learner.epochs=-1,1"], "learner.epochs must be"),
        (["lerner.epochs=1,2"], "Did you mean 'learner'"),
        (["learner.epochs=interval(1,3)"], "has no list of values"),
        (["hydra/launcher=joblib"], "workers=N"),
        (["--config-dir=x"], "no other flags"),
        (["learner.epochs=1,,2"], "1,,2"),
    ],
)
def test_a_job_that_could_not_run_is_said_before_the_first_begins(words, said, monkeypatch, capsys):
    begun = []
    monkeypatch.setattr(multirun, "_process", lambda part: begun.append(part) or 0)
    assert run.main(["+experiment=quickstart", "--multirun", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not begun


@pytest.mark.parametrize(
    ("codes", "worst", "begun"),
    [([0, 0, 0], 0, 3), ([0, 4, 0], 4, 3), ([3, 4, 0], 4, 3), ([0, 5, 0], 5, 2), ([130, 0, 0], 130, 1)],
)
def test_the_exit_code_is_the_worst_jobs_and_a_full_disk_or_an_interrupt_ends_all(codes, worst, begun):
    given = ["+experiment=quickstart", "--multirun", "seed=0,1,2", "study.space={}"]
    left = list(codes)
    said = io.StringIO()
    assert multirun.run(given, Console(file=said, width=160), lambda part: left.pop(0)) == worst
    assert len(codes) - len(left) == begun
    text = said.getvalue()
    assert ("Compare them: python -m pipeline.compare" in text) is (codes[:begun].count(0) > 1)
    assert ("Go on with: python -m pipeline.run +experiment=quickstart --multirun" in text) is (begun < 3)
    assert text.count("not begun") == 3 - begun


def test_showing_and_plain_commands_are_not_multi_runs():
    assert not multirun.asked(["+experiment=quickstart"])
    assert not multirun.asked(["+experiment=quickstart", "--multirun", "--cfg", "job"])
    with pytest.raises(ConfigError):
        multirun.asked(["-m", "--resolve"])
