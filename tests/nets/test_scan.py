"""The fused LIF scan equals snnTorch's own loop, in values to the last bit and in gradients."""

import itertools

import pytest
import snntorch as snn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.nets import lif_kernels, scan
from pipeline.nets.neurons import Leaky
from pipeline.nets.scan import Rule, SpikeGradient, lif_loop, lif_scan

MODES = list(itertools.product(["subtract", "zero", "none"], [True, False]))
SURROGATES = [SpikeGradient(), SpikeGradient("fast_sigmoid", 25.0)]
ATAN, FAST = SURROGATES
CASES = [(kind, ATAN) for kind in ("scalar", "neuron", "channel")] + [("scalar", FAST)]
RULES = [Rule(reset, delay) for reset in range(3) for delay in (True, False)] + [
    Rule(reset, False, detach_reset=True) for reset in range(2)
]


def snntorch_loop(neuron, currents, membrane):
    spikes, membranes = [], []
    for current in currents:
        spike, membrane = neuron(current, membrane)
        spikes.append(spike)
        membranes.append(membrane)
    return torch.stack(spikes), torch.stack(membranes)


def case(kind):
    """Currents [K, B, ...], start membrane, and a scalar, per-neuron or per-channel beta and threshold."""
    torch.manual_seed(0)
    shape = (6, 3, 4, 5, 6) if kind == "channel" else (6, 3, 7)
    wide = {"scalar": (), "neuron": (7,), "channel": (4, 1, 1)}[kind]
    currents = torch.randn(shape) * 1.5 + 0.3
    if kind == "channel":  # as a channels-last convolution leaves it
        currents = currents.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    start = torch.randn(shape[1:]) * 2
    return currents, start, torch.rand(wide) * 0.9, torch.rand(wide) + 0.5


@pytest.mark.parametrize(("kind", "gradient"), CASES, ids=lambda g: getattr(g, "kind", g))
@pytest.mark.parametrize(("reset", "delay"), MODES)
def test_equals_snntorch(reset, delay, kind, gradient):
    currents, start, beta, threshold = case(kind)
    learn = {"learn_beta": True, "learn_threshold": True}
    theirs = snn.Leaky(
        beta.clone(), threshold.clone(), gradient, reset_mechanism=reset, reset_delay=delay, **learn
    )
    ours = Leaky(beta.clone(), threshold.clone(), gradient, reset, delay, **learn)
    seen = []
    for neuron, run in (
        (theirs, snntorch_loop),
        (ours, lambda neuron, x, m: neuron(x, m, trace=True)),
    ):
        x, m = currents.detach().clone().requires_grad_(), start.clone().requires_grad_()
        spikes, membranes = run(neuron, x, m)
        weights = torch.Generator().manual_seed(1)
        goal = (spikes * torch.randn(spikes.shape, generator=weights)).sum()
        goal = goal + (membranes * torch.randn(membranes.shape, generator=weights)).sum()
        seen.append((spikes, membranes, torch.autograd.grad(goal, [x, m, neuron.beta, neuron.threshold])))
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])
    for expected, found in zip(seen[0][2], seen[1][2], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_kernels_loop_and_tensor_operations_agree(rule, monkeypatch):
    """Three implementations: autograd through the plain loop, the compiled kernels, plain tensor operations."""
    currents, start, beta, threshold = case("neuron")
    found = []
    for way in ("loop", "kernel", "tensors"):
        leaves = [each.clone().requires_grad_() for each in (currents, start, beta, threshold)]
        with monkeypatch.context() as patch:
            if way == "tensors":
                patch.setattr(scan, "_compiled", lambda x: False)
            run = lif_loop if way == "loop" else lambda *a: lif_scan(*a, trace=True)
            spikes, states = run(*leaves, rule)
            goal = (spikes * torch.linspace(-1, 1, spikes.numel()).view_as(spikes)).sum() + (states**2).sum()
            found.append((spikes, states, *torch.autograd.grad(goal, leaves)))
    for other in found[1:]:
        for expected, value in zip(found[0], other, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_worked_example():
    """beta 1/2, threshold 1, reset by subtraction one step later, currents 1, 1, 1, 0:
    u = 1 (1 is not above 1), 1.5 spike, 0.75 + 1 - 1 = 0.75, 0.375.
    """
    spikes, membranes = Leaky(0.5)(torch.tensor([1.0, 1.0, 1.0, 0.0]).view(4, 1, 1), trace=True)
    assert spikes.flatten().tolist() == [0, 1, 0, 0]
    assert membranes.flatten().tolist() == [1.0, 1.5, 0.75, 0.375]


def test_worked_gradient_of_a_delayed_reset():
    """Two steps, beta 1/2, currents 1.5 and 0, goal = second membrane 0.75 - 1: its slopes are 1/2 and 1, the
    reset has none. With goal = first spike: atan's slope at z = 0.5 is 1 / (1 + (pi/2)^2) = 0.288400.
    """
    x = torch.tensor([1.5, 0.0]).view(2, 1, 1).requires_grad_()
    spikes, membranes = Leaky(0.5)(x, trace=True)
    assert membranes[1].item() == -0.25
    assert torch.autograd.grad(membranes[1].sum(), x, retain_graph=True)[0].flatten().tolist() == [0.5, 1.0]
    assert torch.autograd.grad(spikes[0].sum(), x)[0].flatten().tolist() == pytest.approx(
        [0.288400, 0], abs=1e-6
    )


def test_second_derivatives_are_refused_and_not_left_out():
    """The kernels' backward pass has no derivative: a penalty on gradients would silently be without one."""
    x, weight = torch.rand(3, 2, 4, requires_grad=True), torch.rand(4, requires_grad=True)
    (slope,) = torch.autograd.grad((Leaky(0.9)(x)[0] * weight).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()


@pytest.mark.parametrize("shape", [(4, 3), (3, 2), (3,), (2, 3, 1)])
def test_a_membrane_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"mem must be \(2, 3\), as the currents of a step, but got"):
        Leaky(0.9)(torch.ones(5, 2, 3), torch.zeros(shape))


def test_whole_numbers_are_no_currents():
    """The decay would be cut to 0."""
    with pytest.raises(ValueError, match=r"currents must be floating-point numbers, but got torch\.int64"):
        Leaky(0.9)(torch.ones(5, 2, 3, dtype=torch.int64))


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("shape", [(3, 0, 5), (0, 2, 5)])
def test_no_sample_and_no_step_give_nothing_and_keep_the_membrane(shape, trace):
    spikes, membranes = Leaky(0.9)(torch.zeros(shape), torch.full(shape[1:], 0.5), trace=trace)
    assert spikes.shape == shape
    assert membranes.shape == (shape if trace else shape[1:])
    assert trace or torch.equal(membranes, torch.full(shape[1:], 0.5))


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 3000])
def test_every_membrane_is_reached_whatever_the_block(size):
    x = torch.randn(3, 1, size, generator=torch.Generator().manual_seed(0))
    expected, _ = lif_loop(x, torch.zeros(1, size), torch.tensor(0.9), torch.tensor(1.0), Rule())
    assert torch.equal(Leaky(0.9)(x)[0], expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(MODES), st.integers(0, 2**20))
def test_chunks_give_the_same_as_one_run(steps, cut, mode, seed):
    x = torch.randn(steps, 2, 5, generator=torch.Generator().manual_seed(seed))
    neuron = Leaky(0.8, 0.7, None, *mode)
    whole, end = neuron(x)
    first, middle = neuron(x[:cut])
    if cut < steps:
        second, last = neuron(x[cut:], middle)
        first, middle = torch.cat([first, second]), last
    assert torch.equal(first, whole)
    assert torch.equal(middle, end)


def test_half_precision_currents_keep_float32_membranes():
    x = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(0))
    spikes, membrane = Leaky(0.9)(x.bfloat16())
    assert membrane.dtype == torch.float32
    assert torch.equal(spikes, Leaky(0.9)(x.bfloat16().float())[0])


def test_float64_keeps_its_precision():
    """beta 0.9, threshold 10, current 0.1: after n steps the membrane is 1 - 0.9^n."""
    x = torch.full((20, 1, 1), 0.1, dtype=torch.float64)
    neuron = Leaky(0.9, 10.0).double()
    neuron.beta.fill_(0.9)
    assert neuron(x)[1].item() == pytest.approx(1 - 0.9**20, abs=1e-15)


def test_nothing_is_kept_for_a_backward_pass_that_cannot_come():
    assert Leaky(0.9)(torch.randn(2, 1, 3))[0].grad_fn is None


def test_compiled_kernels_are_shared_between_equal_rules():
    first = lif_kernels.forward_kernel(0, True, False, True)
    assert lif_kernels.forward_kernel(0, True, False, True) is first


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["scalar", "neuron"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_gpu_equals_cpu(rule, kind):
    currents, start, beta, threshold = case(kind)
    results = []
    for device in ("cpu", "cuda"):
        leaves = [each.detach().to(device).requires_grad_() for each in (currents, start, beta, threshold)]
        spikes, states = lif_scan(*leaves, rule, trace=True)
        results.append((spikes, states, *torch.autograd.grad(spikes.sum() + states.sum(), leaves)))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)
