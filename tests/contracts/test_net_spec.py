"""What every network config owes, whatever it builds. A new net is one more row in NETS."""

from __future__ import annotations

import copy

import pytest
import snntorch as snn
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline.nets.conv import Conv
from pipeline.nets.feedforward import FeedForward
from pipeline.nets.tcja import Tcja
from pipeline.types import NetSpec

SHAPE, CLASSES, STEPS = (2, 8, 8), 5, 4
NETS: dict[str, tuple[NetSpec, int]] = {  # and how many output neurons vote for a class
    "feedforward": (FeedForward(hidden=12), 1),
    "feedforward group": (FeedForward(hidden=[12, 8], group=3, bias=True), 3),
    "feedforward same-step reset": (FeedForward(hidden=12, reset="zero", reset_delay=False), 1),
    "feedforward learned": (FeedForward(hidden=12, learn_beta=True, learn_threshold=True, dropout=0.3), 1),
    "conv": (Conv(channels=(4, 6), kernel=3, padding="same"), 1),
    "conv hidden": (Conv(channels=(4,), kernel=3, hidden=(10,), group=2, dropout=0.3), 2),
    "tcja": (Tcja(timesteps=STEPS, channels=4, hidden=8, group=2, plain_blocks=1, attention_blocks=1), 2),
}


def frames(batch: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(STEPS, batch, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize(("spec", "group"), NETS.values(), ids=NETS.keys())
class TestEveryNet:
    def test_frames_in_spikes_out(self, spec: NetSpec, group: int) -> None:
        spikes = spec.build(SHAPE, CLASSES, 0).eval()(frames())
        assert spikes.shape == (STEPS, 3, CLASSES * group)
        assert spikes.dtype == torch.float32
        assert ((spikes == 0) | (spikes == 1)).all()

    def test_building_is_a_function_of_the_seed(self, spec: NetSpec, group: int) -> None:
        state, known = torch.random.get_rng_state(), len(snn.SpikingNeuron.instances)
        first, again, other = (spec.build(SHAPE, CLASSES, seed).state_dict() for seed in (7, 7, 8))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)
        assert torch.equal(state, torch.random.get_rng_state())
        assert len(snn.SpikingNeuron.instances) == known

    def test_no_state_stays_between_forwards(self, spec: NetSpec, group: int) -> None:
        net = spec.build(SHAPE, CLASSES, 0).eval()
        before = net(frames())
        net(frames(seed=1))
        net(frames(batch=5))
        assert torch.equal(net(frames()), before)

    def test_samples_do_not_see_each_other(self, spec: NetSpec, group: int) -> None:
        net = spec.build(SHAPE, CLASSES, 0).eval()
        together, alone = net(frames()), net(frames()[:, 1:2])
        assert (together[:, 1:2] != alone).float().mean() < 0.02  # sums in another order, at a threshold

    def test_gradients_reach_every_parameter(self, spec: NetSpec, group: int) -> None:
        net = spec.build(SHAPE, CLASSES, 0).train()
        net(frames()).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())

    def test_saved_as_tensors_and_rebuilt_from_its_config(self, spec: NetSpec, group: int) -> None:
        net = spec.build(SHAPE, CLASSES, 0).train()
        net(frames())  # batch normalisation has moved
        twin = spec.build(SHAPE, CLASSES, 1)
        twin.load_state_dict(load(save(net.state_dict())))
        assert torch.equal(twin.eval()(frames()), net.eval()(frames()))
        assert torch.equal(copy.deepcopy(net)(frames()), net(frames()))

    def test_every_neuron_is_snntorchs_and_has_its_constants(self, spec: NetSpec, group: int) -> None:
        net = spec.build(SHAPE, CLASSES, 0)
        neurons = [layer for layer in net.modules() if isinstance(layer, snn.SpikingNeuron)]
        synapses = [layer for layer in net.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
        assert len(neurons) == len(synapses)
        assert all(isinstance(getattr(n, name), Tensor) for n in neurons for name in ("beta", "threshold"))
