"""Pruned channels and neurons are taken out: the same spikes from a smaller network, which costs less everywhere."""

import pytest
import torch
from torch import nn

from pipeline import checkpoint, config, experiment
from pipeline.compress.bake import bake, restore, sparsity
from pipeline.compress.compact import compact
from pipeline.compress.fold import FoldBatchNorm
from pipeline.compress.plan import Plan, compress
from pipeline.compress.prune import PruneWeights
from pipeline.compress.quantize import QuantizeWeights
from pipeline.nets.conv import Conv
from pipeline.nets.feedforward import FeedForward
from pipeline.nets.layered import Layered
from pipeline.nets.stdp import Stdp

CONV = Conv(channels=(6, 8), kernel=3)
CHANNELS = PruneWeights(0.5, scope="layer", structure="channel")


def decode(_epochs, _progress):
    return lambda spikes: spikes.sum(0).argmax(-1)


def spikes(*shape):
    return (torch.rand(6, 4, *shape, generator=torch.Generator().manual_seed(3)) < 0.3).float()


def conv(seed):
    """conv1-bn1-lif1-pool1-conv2-bn2-lif2-pool2-flatten-fc1-lif3, its normalisations with statistics of their own."""
    plain = CONV.build((1, 12, 12), 10, seed)
    with torch.no_grad():
        plain.fc1.weight.mul_(3.0)  # a net that answers
    layers = []
    for name, module in plain.named_children():
        layers.append((name, module))
        if name.startswith("conv"):
            norm = nn.BatchNorm2d(module.out_channels)
            torch.manual_seed(seed)
            with torch.no_grad():
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.uniform_(0.1, 0.4)
                norm.running_mean.uniform_(0.0, 0.2)
                norm.running_var.uniform_(0.02, 0.1)
            layers.append((f"bn{name[-1]}", norm))
    return Layered(layers)


def masked_only(net, steps):
    """The same plan, with everything pruned still in place."""
    for step in steps.values():
        step.attach(net)
    return bake(net)


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
@pytest.mark.parametrize("fold", ["before", "after", None])
def test_a_chain_without_its_pruned_channels_spikes_as_it_did_masked(granularity, fold):
    steps = {
        "fold": FoldBatchNorm(enabled=fold is not None, when=fold or "before"),
        "prune": CHANNELS,
        "quantize": QuantizeWeights(6, granularity=granularity),
    }
    x = spikes(1, 12, 12)
    whole = masked_only(conv(0), steps).eval()
    net = conv(0)
    compress(net, steps, Plan(), decode)
    net.eval()
    assert len(net.conv1.weight) == 3
    assert tuple(net.conv2.weight.shape[:2]) == (4, 3)
    with torch.no_grad():
        assert whole(x).sum() > 0
        assert torch.equal(net(x), whole(x))
    fresh = restore(conv(1), steps, net.state_dict()).eval()
    with torch.no_grad():
        assert torch.equal(fresh(x), net(x))


def test_neurons_without_readers_go_and_classes_stay():
    net = FeedForward(hidden=(8, 6), bias=True).build((1, 4, 4), 10, 0)
    x = spikes(1, 4, 4)
    with torch.no_grad():
        net.fc2.weight[:, [1, 5]] = 0
        net.fc3.weight[3:] = 0
        before = net(x)
        assert compact(net)
        after = net(x)
    assert [len(net.fc1.weight), len(net.fc2.weight), len(net.fc3.weight)] == [6, 6, 10]
    assert torch.equal(before, after)
    assert not compact(net)
    with torch.no_grad():
        net.fc2.weight.zero_()
        compact(net)
        assert len(net.fc1.weight) == 1, "one neuron stays"
        assert net(x).shape == before.shape


@pytest.mark.slow
def test_an_stdp_network_loses_its_pruned_neurons_and_labels_are_found_anew():
    net = Stdp(neurons=10, inhibition="direct").build((1, 3, 3), 10, 0)
    asked = []

    def relabel(epochs, _progress):
        asked.append((epochs, net.spec.neurons))
        return decode(epochs, _progress)

    with torch.no_grad():
        net.weight.mul_(30.0)
    x = spikes(1, 3, 3)
    steps = {"prune": PruneWeights(0.4, structure="channel")}
    whole = masked_only(Stdp(neurons=10, inhibition="direct").build((1, 3, 3), 10, 0), steps)
    whole.weight.data.mul_(30.0)
    compress(net, steps, Plan(scheme="in_training", epochs=0), relabel)
    assert net.spec.neurons == 6 == len(net.theta)
    assert asked[-1] == (0, 6)
    alive = (whole.weight != 0).any(0)
    full = whole(x)
    assert full.sum() > 0
    assert full[..., ~alive].sum() == 0
    assert torch.equal(net(x), full[..., alive])
    fresh = restore(Stdp(neurons=10, inhibition="direct").build((1, 3, 3), 10, 1), steps, net.state_dict())
    assert torch.equal(fresh(x), net(x))


def experiment_of(structure, sparsity=0.5):
    return config.build_experiment(
        config.override(
            config.plain(
                config.compose_job(
                    ["+experiment=quickstart", "learner.epochs=1", "net.hidden=32", "data.timesteps=4"]
                )
            ),
            {
                "compression.quantize_weights.bits": 4,
                "compression.prune_weights.sparsity": sparsity,
                "compression.prune_weights.structure": structure,
            },
        )
    )


def test_whole_neurons_gone_cost_less_than_as_many_weights_here_and_there(tmp_path):
    """64 x 32 + 32 x 10 weights of 4 bits. Half of the 32 neurons gone leaves half of both layers, and 16 + 10 states
    where single weights leave 32 + 10."""
    single, whole = (
        experiment.evaluate(experiment_of(structure), lambda *_: None) for structure in ("element", "channel")
    )
    assert whole.net.fc1.weight.shape == (16, 64)
    assert sparsity(whole.net) < 0.2
    assert whole.metrics["memory_bits"] < 0.9 * single.metrics["memory_bits"]
    assert sum(load.mean.updates for load in whole.loads) == 4 * (16 + 10)
    assert sum(load.mean.updates for load in single.loads) == 4 * (32 + 10)
    floor = experiment.bound(experiment_of("channel"))
    assert all(floor[name] <= whole.metrics[name] for name in floor)
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, whole.net, whole.decode, whole.widths, {})
    back = experiment.reload(experiment_of("channel"), checkpoint.Saved(path))
    x = (torch.rand(4, 5, 1, 8, 8) < 0.3).float()
    with torch.no_grad():
        assert torch.equal(back.net(x), whole.net(x))
