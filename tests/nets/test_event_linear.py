"""Rows of weights added where spikes are: the dense layer's numbers and gradients, and where it is used."""

import pytest
import snntorch as snn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from pipeline.nets import event_linear as room
from pipeline.nets.event_linear import event_linear, spiking
from pipeline.nets.feedforward import FeedForward
from pipeline.nets.neurons import Leaky


def spikes(shape, density=0.1, seed=0):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density).float()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 340), st.integers(1, 340), st.integers(1, 140), st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.booleans(), st.integers(1, 3), st.integers(0, 99),
)  # fmt: skip
def test_whole_numbers_give_the_dense_layers_sums_exactly(
    rows, inputs, n, density, bias, shares, seed
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def whole(*shape):
        return torch.randint(-99, 100, shape, generator=generator).float()

    x = spikes((rows, inputs), density, seed).requires_grad_()
    weight, b = whole(n, inputs).requires_grad_(), whole(n).requires_grad_() if bias else None
    wanted, got = functional.linear(x, weight, b), event_linear(x, weight, b, shares)
    assert got is not None
    assert torch.equal(got, wanted)
    push, of = whole(rows, n), [each for each in (x, weight, b) if each is not None]
    for ours, theirs in zip(
        torch.autograd.grad(got, of, push), torch.autograd.grad(wanted, of, push), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, float("nan")])
@pytest.mark.parametrize("place", [0, 8, 12, 170])
def test_what_is_no_spike_is_noticed_wherever_it_stands(value, place) -> None:
    x = spikes((5, 171))
    x[3, place] = value
    assert event_linear(x, torch.ones(64, 171), None) is None


def watched(monkeypatch):
    """A list that grows whenever a layer runs by events."""
    found: list[torch.Size] = []
    inner = room.event_linear
    monkeypatch.setattr(room, "event_linear", lambda x, *rest: (found.append(x.shape), inner(x, *rest))[1])
    return found


def test_a_network_on_spike_trains_is_snntorchs_loop(monkeypatch) -> None:
    found = watched(monkeypatch)
    net = FeedForward(hidden=64, init_gain=1.0).build((1, 28, 28), 10, 0).train()
    x = spikes((11, 128, 1, 28, 28))
    out = net(x)
    assert found == [(11 * 128, 784)]
    mine = torch.autograd.grad(out.sum(), list(net.parameters()))
    theirs = {
        name: snn.Leaky(layer.beta, layer.threshold, layer.spike_grad)
        for name, layer in net.named_children()
        if isinstance(layer, Leaky)
    }
    membranes, steps = {name: torch.zeros(()) for name in theirs}, []
    for current in x:
        for name, layer in net.named_children():
            if name in theirs:
                before = membranes[name] if membranes[name].dim() else torch.zeros_like(current)
                current, membranes[name] = theirs[name](current, before)
            else:
                current = layer(current)
        steps.append(current)
    wanted = torch.stack(steps)
    assert float(wanted.detach().mean()) > 0.005, "silent networks are easily equal"
    assert torch.equal(out, wanted)
    for ours, reference in zip(mine, torch.autograd.grad(wanted.sum(), list(net.parameters())), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-3 * float(reference.abs().max()))


def test_only_large_sparse_layers_in_training_run_by_events(monkeypatch) -> None:
    found = watched(monkeypatch)
    layer, x = nn.Linear(784, 64).train(), spikes((1400, 784))
    spiking(layer, spikes((1400, 784), 0.6))
    spiking(layer, x[:100])
    with torch.no_grad():
        spiking(layer, x)
    spiking(layer.eval(), x)
    assert found == []
    graded = x.clone()
    graded[1399, 5] = 0.5
    torch.testing.assert_close(spiking(layer.train(), graded), layer(graded))
    assert len(found) == 1, "a sample of the rows looked like spikes, and the rest did not"


def test_whoever_listens_to_a_layer_hears_it() -> None:
    layer, x, heard = nn.Linear(784, 64).train(), spikes((1400, 784)), []
    layer.register_forward_hook(lambda *_: heard.append(1))
    spiking(layer, x)
    assert heard == [1]
