"""The fused scan with a membrane on a grid against the plain loop that calls the format at every step."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.compress.quantize import QuantizeNeurons
from pipeline.compress.snn_neurons import StateFormat
from pipeline.nets import scan
from pipeline.nets.conv import Conv
from pipeline.nets.feedforward import FeedForward
from pipeline.nets.neurons import Leaky
from pipeline.nets.scan import Rule, fusable, lif_loop, lif_scan

# Each rule is a kernel of its own to compile: a few that have every branch once.
RULES = [
    (0, True, False, "nearest"), (0, False, True, "truncation"), (1, False, False, "nearest"),
    (0, True, True, "stochastic"), (1, False, False, "stochastic"),
]  # fmt: skip


def drawn(vector: bool, seed: int) -> tuple[list[Tensor], Tensor]:
    """Currents [7, 3, 5], membranes on quarters, decays and thresholds (of each neuron with `vector`), all leaves; and
    what the outcome is pushed by."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(7, 3, 5, generator=generator)
    u = torch.randint(-4, 5, (3, 5), generator=generator) / 4
    size = (5,) if vector else ()
    beta = torch.rand(size, generator=generator) * 0.4 + 0.5
    threshold = torch.rand(size, generator=generator) * 0.5 + 0.4
    push = torch.randn(7, 3, 5, generator=generator)
    return [leaf.requires_grad_() for leaf in (x, u, beta, threshold)], push


@pytest.mark.parametrize(("reset", "delay", "vector", "rounding"), RULES)
@settings(max_examples=15, deadline=None)
@given(bits=st.integers(3, 10), seed=st.integers(0, 999))
def test_equal_to_the_loop_values_and_gradients(reset, delay, vector, rounding, bits, seed) -> None:
    (x, u, beta, threshold), push = drawn(vector, seed)
    quant = StateFormat(bits, 2.0 ** (2 - bits), rounding)  # saturates at +-2
    rule = Rule(reset, delay)
    answers = []
    for run in (
        lambda: lif_loop(x, u, beta, threshold, rule, quant),
        lambda: lif_scan(x, u, beta, threshold, rule, True, quant),
    ):
        quant.noise.rewind()
        spikes, states = run()
        grads = torch.autograd.grad(
            (spikes * push).sum() + (states * push.flip(0)).sum(), [x, u, beta, threshold]
        )
        answers.append((spikes, states, *grads))
    for plain, fused in zip(*answers, strict=True):
        assert torch.allclose(fused, plain, atol=2e-4)
    assert torch.equal(answers[0][0], answers[1][0])


@pytest.mark.parametrize(
    ("reset", "delay", "vector", "rounding"), [rule for rule in RULES if rule[3] != "stochastic"]
)
@settings(max_examples=15, deadline=None)
@given(bits=st.integers(3, 10), seed=st.integers(0, 999))
def test_where_no_kernel_reaches_tensor_operations_do_the_same(
    reset, delay, vector, rounding, bits, seed
) -> None:
    """What runs on a GPU: one node of autograd that keeps one tensor, for membranes on a grid, too."""
    (x, u, beta, threshold), push = drawn(vector, seed)
    quant, answers = StateFormat(bits, 2.0 ** (2 - bits), rounding), []
    for compiled in (True, False):
        with mock.patch.object(scan, "_compiled", lambda _, here=compiled: here):
            assert fusable(quant, x)
            spikes, states = lif_scan(x, u, beta, threshold, Rule(reset, delay), True, quant)
            goal = (spikes * push).sum() + (states * push.flip(0)).sum()
            answers.append((spikes, states, *torch.autograd.grad(goal, [x, u, beta, threshold])))
    for kernel, tensors in zip(*answers, strict=True):
        torch.testing.assert_close(tensors, kernel, rtol=1e-4, atol=1e-5)
    assert torch.equal(answers[0][0], answers[1][0])
    assert torch.equal(answers[0][1], answers[1][1])


def test_only_what_can_be_fused_is(monkeypatch) -> None:
    x = torch.zeros(1)
    assert fusable(StateFormat(8, 0.1), x)
    assert fusable(StateFormat(8, 0.1, "stochastic"), x)
    assert not fusable(torch.round, x)
    assert not fusable(StateFormat(8, 0.1), x.double())
    assert fusable(StateFormat(8, 0.1), x.bfloat16())  # the scan makes it float32
    monkeypatch.setattr(scan, "_compiled", lambda _: False)
    assert not fusable(StateFormat(8, 0.1, "stochastic"), x)  # its numbers are drawn in the kernel


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_a_network_answers_the_same_in_any_chunk(rounding) -> None:
    outs = []
    for chunk in (0, 3):
        net = FeedForward(hidden=20, threshold=0.3, init_gain=3.0, chunk=chunk).build((1, 4, 4), 5, 0).eval()
        QuantizeNeurons(membrane=6, rounding=rounding).attach(net)
        with torch.no_grad():
            outs.append(net(torch.rand(8, 6, 1, 4, 4, generator=torch.Generator().manual_seed(1))))
        assert float(outs[-1].sum()) > 0
    assert torch.equal(*outs)


def test_random_rounding_draws_the_same_numbers_fused_and_in_the_loop_whatever_the_layout(
    monkeypatch,
) -> None:
    x = (torch.rand(4, 3, 1, 20, 20, generator=torch.Generator().manual_seed(2)) < 0.4).float()
    outs = []
    for fused in (True, False):
        net = Conv(channels=(3, 4), threshold=0.3, init_gain=2.0).build((1, 20, 20), 5, 0).eval()
        QuantizeNeurons(membrane=5, rounding="stochastic", headroom=2).attach(net)
        monkeypatch.setattr("pipeline.nets.neurons.fusable", fusable if fused else lambda quant, x: False)
        with torch.no_grad():
            outs.append(net(x))
    assert float(outs[0].sum()) > 0
    assert torch.equal(*outs)


def test_the_neuron_uses_it() -> None:
    neuron = Leaky(0.9, 0.5)
    neuron.state_quant = StateFormat(6, 1 / 16)
    x = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    _, states = neuron(x, None, trace=True)
    assert torch.equal(states * 16, (states * 16).round())
