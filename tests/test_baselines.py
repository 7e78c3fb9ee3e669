"""The baselines beside a member of the front: what makes each of them a fair opponent, and where they are shown."""

import json

import pytest
import torch

from pipeline import baselines, config, experiment, run
from pipeline.compress.bake import bake, sparsity
from pipeline.compress.chance import PruneAtRandom
from pipeline.nets.ann import QuantizedReLU
from pipeline.nets.feedforward import FeedForward


def plain_of(*overrides):
    return config.plain(config.compose(list(overrides)))


COMPARED = [
    "+experiment=quickstart", "workers=1", "tracking=silent", "study.trials=1", "study.compare=true",
    "learner.epochs=2", "study.warm_start=[]", "data.timesteps=5", "study.baseline={}", "name=small",
]  # fmt: skip
"""A study of one trial that ends with baselines."""


@pytest.fixture(scope="module")
def plain():
    overrides = ["+experiment=quickstart", "learner.epochs=1", "compression.prune_weights.sparsity=0.75"]
    return plain_of(*overrides, "data.timesteps=4", "plan.scheme=ptq")


@pytest.fixture(scope="module")
def stdp():
    small = ["data=digits", "data/encoding=poisson", "data.timesteps=20", "net.neurons=40"]
    return plain_of("+experiment=tinysnn_mnist", *small, "compression.quantize_weights.bits=4")


def test_the_float_network_is_no_larger_than_the_member(plain):
    small = config.build_experiment(baselines.narrowed(plain, memory_bits=40_000))
    assert small.compression == {}
    assert 20_000 < experiment.size_bits(small) <= 40_000
    data = small.data.load(0)
    net = small.net.build(data.shape, data.classes, 0)
    assert 20_000 < 32 * sum(p.numel() for p in net.parameters()) <= 40_000


def test_a_float_stdp_network_is_made_smaller_by_its_neurons(stdp):
    small = baselines.narrowed(stdp, memory_bits=30_000)
    assert 8 <= small["net"]["neurons"] < 15
    assert experiment.size_bits(config.build_experiment(small)) <= 30_000


def test_random_pruning_has_the_sparsity_and_other_places(plain):
    nets = []
    for each in (plain, baselines.at_random(plain)):
        net = FeedForward(hidden=40).build((1, 8, 8), 10, 0)
        config.build_experiment(each).compression["prune_weights"].attach(net)
        nets.append(bake(net))
    assert sparsity(nets[0]) == pytest.approx(0.75, abs=1e-3)
    assert sparsity(nets[1]) == pytest.approx(0.75, abs=1e-3)
    kept = [net.fc1.weight.detach().abs()[net.fc1.weight != 0].mean() for net in nets]
    assert kept[0] > 1.1 * kept[1], "magnitude keeps the large ones, chance does not"
    assert baselines.at_random(config.override(plain, {"compression.prune_weights.sparsity": 0.0})) is None


@pytest.mark.parametrize("structure", ["element", "1:4", "channel"])
def test_random_pruning_has_the_structure_and_the_counts_of_the_member(plain, structure):
    """64 x 40 + 40 x 10 = 2960 weights. A quarter of the weights, of every four, or of the 40 neurons stays."""
    found = []
    keys = {"sparsity": 0.75, "structure": structure, "scope": "layer"}
    member = config.override(plain, {f"compression.prune_weights.{key}": v for key, v in keys.items()})
    for each in (member, baselines.at_random(member)):
        net = FeedForward(hidden=40).build((1, 8, 8), 10, 0)
        config.build_experiment(each).compression["prune_weights"].attach(net)
        bake(net)
        found.append([layer.weight != 0 for layer in (net.fc1, net.fc2)])
    assert [sum(int(mask.sum()) for mask in masks) for masks in found] == [740, 740]
    assert not torch.equal(found[0][0], found[1][0])
    drawn = found[1]
    if structure == "1:4":
        assert all(bool((mask.reshape(-1, 4).sum(1) == 1).all()) for mask in drawn)
    if structure == "channel":
        assert int(drawn[0].any(1).sum()) == 10
        assert torch.equal(drawn[1].any(0), drawn[0].any(1))


def test_random_pruning_of_single_weights_draws_what_it_drew():
    """The first six numbers of the seed; the four smallest go, in each layer of its own draws, all scopes alike."""
    for scope in ("global", "layer"):
        net = torch.nn.Sequential(torch.nn.Linear(6, 1, bias=False), torch.nn.Linear(1, 3, bias=False))
        PruneAtRandom(2 / 3, scope, seed=5).attach(net)
        drawn = torch.rand(9, generator=torch.Generator().manual_seed(5))
        kept = [part >= part.sort().values[at] for part, at in zip(drawn.split([6, 3]), (4, 2), strict=True)]
        assert [(layer.weight != 0).flatten().tolist() for layer in net] == [each.tolist() for each in kept]


def test_the_ann_has_the_weights_of_the_network_and_answers_in_one_pass(plain):
    ann = config.build_experiment(baselines.ann(plain))
    data = ann.data.load(0)
    net = ann.net.build(data.shape, data.classes, 0)
    snn = config.build_experiment(plain).net.build(data.shape, data.classes, 0)
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in snn.parameters())
    assert net(torch.rand(4, 3, 1, 8, 8)).shape == (1, 3, 10)
    trained = experiment.evaluate(ann, lambda step, metrics: None)
    assert trained.loads[0].input_bits == 8
    assert all(2 <= load.input_bits <= 8 for load in trained.loads), "multiply-accumulates, of 8 bits at most"
    assert trained.loads[0].weight_bits == ann.compression["quantize_weights"].bits
    assert trained.metrics["validation_accuracy"] > 0.3


def test_the_ann_of_an_stdp_network_has_as_many_neurons_and_sees_the_images(stdp, tmp_path):
    found = baselines.line("quantized ANN", baselines.ann(stdp), tmp_path)
    assert found["validation_accuracy"] > 0.8
    built = config.build_experiment(baselines.ann(stdp))
    data = built.data.load(0)
    assert built.net.build(data.shape, data.classes, 0).fc1.weight.shape == (40, 64)
    assert built.compression["quantize_weights"].bits == 4
    assert data.timesteps == 1


def test_a_relu_of_eight_bits_by_hand():
    x = torch.tensor([-1.0, 0.04, 0.5, 20.0], requires_grad=True)
    y = QuantizedReLU()(x)
    assert y.tolist() == [0.0, 0.0625, 0.5, 15.9375]
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


SEEDED = [
    "study.finalists=2", "compression.prune_weights.sparsity=0.8", "~study.space", "+study.space={}"
]  # fmt: skip


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """The folder of a small study whose finalists, and so its baselines, have two seeds, by one process."""
    out = tmp_path_factory.mktemp("seeded")
    assert run.main([*COMPARED, *SEEDED, f"out={out}"]) == 0
    return out / "small"


def test_baselines_are_run_with_the_seeds_of_the_front_and_told_as_means(seeded):
    """Two seeds: another float model and other masks each, and the member's own line is its mean over them too."""
    member, *others = json.loads((seeded / "baselines" / "trial-00000.json").read_text())
    assert [line["name"] for line in others] == ["float SNN, as small", "random pruning", "quantized ANN"]
    assert all(line["seeds"] == 2 for line in (member, *others))
    front = json.loads((seeded / "summary.json").read_text())["front"]
    metrics = front[0].get("metrics", front[0])
    assert member["validation_accuracy"] == metrics["validation_accuracy_mean"]
    assert any(line["test_accuracy_interval"] > 0 for line in others), "the seeds must make a difference"


@pytest.mark.slow
def test_two_workers_share_the_baselines_and_find_what_one_finds(seeded, tmp_path):
    """The study's processes train them side by side; the numbers are those of a single process."""
    assert run.main([*COMPARED, *SEEDED, "workers=2", f"out={tmp_path}"]) == 0
    found = [folder / "baselines" / "trial-00000.json" for folder in (seeded, tmp_path / "small")]
    assert found[0].read_text() == found[1].read_text()


def test_baselines_that_were_interrupted_go_on_where_they_were(tmp_path, monkeypatch, capsys):
    """Ctrl-C in the third of six trainings: the first two are kept, and only four are done by the second run."""
    words = [*COMPARED, *SEEDED, f"out={tmp_path}"]
    trained, really = [], baselines.line

    def interrupted(name, *rest):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(name)
        return really(name, *rest)

    monkeypatch.setattr(baselines, "line", interrupted)
    assert run.main(words) == 130
    assert "Resume with: python -m pipeline.run" in capsys.readouterr().out
    assert trained == ["float SNN, as small"] * 2

    def counted(name, *rest):
        trained.append(name)
        return really(name, *rest)

    monkeypatch.setattr(baselines, "line", counted)
    assert run.main(words) == 0
    assert trained[2:] == ["random pruning"] * 2 + ["quantized ANN"] * 2
    assert "Beside baselines of its size" in capsys.readouterr().out


@pytest.mark.slow
def test_a_study_without_finalists_compares_with_its_own_seed(tmp_path):
    assert run.main([*COMPARED, "study.finalists=0", f"out={tmp_path}"]) == 0
    _, *others = json.loads((tmp_path / "small" / "baselines" / "trial-00000.json").read_text())
    assert [line["seeds"] for line in others] == [1, 1, 1]


def test_means_leave_out_what_ended_and_say_how_many_are_left():
    values = dict.fromkeys(baselines.COLUMNS, 1.0)
    runs = [
        {"name": "a", **values},
        {"name": "a", "ended": "x"},
        {"name": "a", **values, "test_accuracy": 0.5},
    ]
    found = baselines.over_seeds(runs)
    assert (found["seeds"], found["runs"], found["test_accuracy"]) == (2, 3, 0.75)
    assert found["test_accuracy_interval"] == pytest.approx(
        12.706 * 0.25, rel=1e-3
    )  # t(0.975, 1 degree) x s / sqrt 2
    assert baselines.over_seeds(runs[:2]) == {**runs[0], "seeds": 1, "runs": 2}
    assert baselines.over_seeds(runs[1:2]) == {"name": "a", "ended": "x", "seeds": 0, "runs": 1}


def test_a_study_that_compares_shows_rows_in_its_report(tmp_path, capsys):
    assert run.main([*COMPARED, f"out={tmp_path}"]) == 0
    folder = tmp_path / "small"
    lines = json.loads((folder / "baselines" / "trial-00000.json").read_text())
    assert [line["name"] for line in lines][:2] == ["trial 0", "float SNN, as small"]
    assert lines[1]["memory_bits"] <= lines[0]["memory_bits"]
    assert lines[-1]["name"] == "quantized ANN"
    said, page = capsys.readouterr().out, (folder / "report.html").read_text()
    assert "Beside baselines of its size" in said
    assert "Is the spiking network worth it?" in page
    assert "float SNN, as small" in page
    assert "As a device would run it" in page, "robustness and proof are columns of the report"
    for column in ("equal spikes", "drop 0.1", "noise 0.05", "flip 0.001"):
        assert f"<th>{column}</th>" in page
    assert baselines.main([str(folder), "--member", "0"]) == 0
    assert "quantized ANN" in capsys.readouterr().out
    assert baselines.main([str(folder), "--member", "7"]) == 3
