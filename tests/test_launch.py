"""Crews without processes of their own: whose sampler draws what, who is replaced, and what is said when it ends."""

from pipeline import config, job, launch
from pipeline.study import database, samplers


def quickstart(folder, *words):
    given = ["+experiment=quickstart", f"out={folder}", "tracking=silent", *words]
    here = job.build(config.plain(config.compose_job(given)))
    return here, database.create(database.connect(here.storage), here.name, here.study, here.config)


def test_drivers_that_begin_together_draw_different_points_and_one_alone_what_it_always_drew(
    tmp_path, monkeypatch
):
    here, study = quickstart(tmp_path, "sampler=random", "seed=4294967295")
    seeds = []
    monkeypatch.setattr(samplers.Random, "build", lambda _, seed: seeds.append(seed))
    monkeypatch.setattr(launch.search.Worker, "run", lambda *_: None)
    for _ in range(3):  # as `srun -n 3` does: each is the first worker of its driver
        launch.work(here.config, 1)
    waiting = len(here.study.warm_start)
    study.ask()
    study.enqueue_trial({})
    launch.work(here.config, 1)
    lone = [(here.seed + 7919 * begun) % 2**32 for begun in (waiting, waiting + 1)]
    assert [seeds[0], seeds[-1]] == lone
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**32 for seed in seeds)
