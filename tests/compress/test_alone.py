"""Sensitivity per layer: one layer at a time, by hand, and the network is as it was afterwards."""

import pytest
import torch
from torch import nn

from pipeline.compress.alone import count, losses, treatments


class Two(nn.Module):
    """A layer that decides everything and one that nothing reads."""

    def __init__(self):
        super().__init__()
        self.read, self.idle = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.read.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.2]]))
            self.idle.weight.copy_(torch.tensor([[1.0, -0.3], [0.5, 0.1]]))

    def forward(self, x):
        return self.read(x)


def test_only_the_layer_that_is_read_loses():
    """At 0.2 against a range of 1, two bits and 80 % zeros leave nothing of the second row: half of the answers."""
    net = Two()
    x, y = torch.eye(2), torch.tensor([0, 1])

    def accuracy():
        answers = net(x)
        return float(((answers.argmax(1) == y) & (answers.max(1).values > 0)).float().mean())

    found = losses(net, accuracy)
    assert found["read"]["2 bits"] == 0.5
    assert found["read"]["4 bits"] == 0.0
    assert found["read"]["50% zeros"] == 0.0
    assert found["read"]["80% zeros"] == 0.5
    assert set(found["idle"].values()) == {0.0}
    assert count(net) == 1 + 6 * 2


def test_the_network_is_as_it_was_even_when_an_evaluation_fails():
    net = Two()
    before = net.read.weight.clone()
    calls = 0

    def fails():
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("out of memory")
        return 1.0

    with pytest.raises(RuntimeError):
        losses(net, fails)
    assert torch.equal(net.read.weight, before)


def test_weights_that_are_never_negative_use_all_levels():
    weight = torch.linspace(0, 0.75, 16)
    done = dict(treatments(weight.view(4, 4)))
    assert len(done["2 bits"].unique()) == 4
    assert int((done["50% zeros"] == 0).sum()) == 8
