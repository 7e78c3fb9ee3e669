"""The STDP network's state in a plain snnTorch module: the same spikes on the same input."""

import dataclasses

import numpy as np
import pytest
import torch
from snntorch import SpikingNeuron

from pipeline.nets.stdp import Stdp
from pipeline.nets.stdp_bridge import SnnTorchStdp
from pipeline.nets.stdp_kernel import events_of

RULE = {
    "eta_pre": 1e-3, "eta_post": 2e-2, "mu": 0.0, "w_max": 1.0, "pre_decay": 0.95, "post_decay": 0.95,
    "additive": False, "window": 0, "k": 1.0, "spikes_per_k": 0.0, "norm": 8.0, "weight_decay": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _forget_instances():
    yield
    SpikingNeuron.instances.clear()


@pytest.mark.parametrize("inhibition", ["layer", "direct"])
@pytest.mark.parametrize("winner", ["first", "highest", "all"])
@pytest.mark.parametrize("lowest_mv", [None, -66.0])
def test_a_trained_network_spikes_alike_in_snntorch(inhibition, winner, lowest_mv):
    spec = Stdp(
        neurons=14,
        inhibition=inhibition,
        winner=winner,
        w_start=1.0,
        theta_plus_mv=0.3,
        w_inh_mv=9.0,
        lowest_mv=lowest_mv,
    )
    net = spec.build((1, 5, 6), 10, 0)
    x = torch.from_numpy((np.random.default_rng(2).random((60, 8, 1, 5, 6)) < 0.15).astype(np.float32))
    starts, pixels, _ = events_of(x.reshape(60, 8, 30).numpy())
    net.learn(starts, pixels, 8, 60, 0, RULE)
    assert net.theta.max() > 0
    out = net(x)
    assert out.sum() > 30
    assert torch.equal(SnnTorchStdp(net)(x), out)


def test_what_cannot_be_the_same_is_refused():
    with pytest.raises(ValueError, match="winner must be first, highest or all"):
        SnnTorchStdp(Stdp(neurons=3).build((1, 2, 2), 2, 0))
    net = dataclasses.replace(Stdp(neurons=3), winner="first").build((1, 2, 2), 2, 0)
    net.numerics["membrane"] = (0.25, -32.0, 31.75, "nearest")
    with pytest.raises(ValueError, match="membrane"):
        SnnTorchStdp(net)
