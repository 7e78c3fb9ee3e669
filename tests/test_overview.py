import shlex

from pipeline import config, job, overview


def test_the_command_of_a_row_composes_to_the_same_trial_and_nothing_more():
    given = ["+experiment=quickstart", "study.trials=60", "name=mine"]
    here = job.build(config.plain(config.compose_job(given)))
    params = {
        "net.hidden": 20,
        "compression.quantize_weights.bits": 3,
        "plan.scheme": "qat",
        "plan.epochs": 2,
    }
    text = overview.reproduce(given) + " " + " ".join(f"{k}={v}" for k, v in params.items())
    words = shlex.split(text)
    assert words[:3] == ["python", "-m", "pipeline.run"]
    again = job.build(config.plain(config.compose_job(words[3:])))
    assert again.study.trials == 1
    assert again.study.axes.size() == 1
    assert again.fingerprint({}) == here.fingerprint(params)
