"""The baselines of benchmarks/baselines.py: what makes each of them a fair opponent."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from pipeline import config, experiment
from pipeline.compress.bake import bake, sparsity
from pipeline.nets.feedforward import FeedForward

PATH = Path(__file__).parents[2] / "benchmarks" / "baselines.py"
spec = importlib.util.spec_from_file_location("baselines", PATH)
baselines = importlib.util.module_from_spec(spec)
sys.modules["baselines"] = baselines  # dataclasses look their module up
spec.loader.exec_module(baselines)


@pytest.fixture(scope="module")
def given():
    overrides = ["+experiment=quickstart", "learner.epochs=1", "compression.prune_weights.sparsity=0.75"]
    plain = config.plain(config.compose([*overrides, "data.timesteps=4", "plan.scheme=ptq"]))
    return config.build_experiment(plain)


def test_the_float_network_is_no_larger_than_the_member(given):
    small = baselines.narrowed(given, memory_bits=40_000)
    assert small.compression == {}
    data = small.data.load(0)
    net = small.net.build(data.shape, data.classes, 0)
    weights = sum(p.numel() for p in net.parameters())
    assert 20_000 < 32 * weights <= 40_000


def test_random_pruning_has_the_sparsity_and_other_places(given):
    other = baselines.at_random(given)
    nets = []
    for each in (given, other):
        net = FeedForward(hidden=40).build((1, 8, 8), 10, 0)
        each.compression["prune_weights"].attach(net)
        nets.append(bake(net))
    assert sparsity(nets[0]) == pytest.approx(0.75, abs=1e-3)
    assert sparsity(nets[1]) == pytest.approx(0.75, abs=1e-3)
    kept = [net.fc1.weight.detach().abs()[net.fc1.weight != 0].mean() for net in nets]
    assert kept[0] > 1.1 * kept[1], "magnitude keeps the large ones, chance does not"
    off = dataclasses.replace(given, compression={})
    assert baselines.at_random(off) is None


def test_the_ann_has_the_weights_of_the_network_and_answers_in_one_pass(given):
    ann = dataclasses.replace(given, net=baselines.AnnSpec(given.net))
    data = ann.data.load(0)
    net = ann.net.build(data.shape, data.classes, 0)
    snn = given.net.build(data.shape, data.classes, 0)
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in snn.parameters())
    x = torch.rand(4, 3, 1, 8, 8)
    assert net(x).shape == (1, 3, 10)
    trained = experiment.evaluate(ann, lambda step, metrics: None)
    assert trained.loads[0].input_bits == 8
    assert all(2 <= load.input_bits <= 8 for load in trained.loads), "multiply-accumulates, of 8 bits at most"
    assert trained.loads[0].weight_bits == given.compression["quantize_weights"].bits
    assert trained.metrics["validation_accuracy"] > 0.3


def test_a_relu_of_eight_bits_by_hand():
    x = torch.tensor([-1.0, 0.04, 0.5, 20.0], requires_grad=True)
    y = baselines.QuantizedReLU()(x)
    assert y.tolist() == [0.0, 0.0625, 0.5, 15.9375]
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]
