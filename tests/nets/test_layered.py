"""Layer-by-layer execution in chunks equals the plain time loop, and leaves nothing behind."""

import copy
import pickle
from dataclasses import replace

import pytest
import snntorch as snn
import torch
from torch import nn
from torch.nn.utils import parametrize

from pipeline.nets.conv import Conv
from pipeline.nets.feedforward import FeedForward
from pipeline.nets.layered import Dropout, Layered, initialise
from pipeline.nets.neurons import RESETS, Leaky
from pipeline.nets.normalisation import BatchNorm

FC = FeedForward(hidden=[20, 12], init_gain=1.5)
CONV = Conv(channels=(4, 6), kernel=3, init_gain=2.0)


def frames(steps=5, batch=3, seed=0):
    return torch.rand(steps, batch, 2, 12, 12, generator=torch.Generator().manual_seed(seed))


def time_loop(net, x):
    """What a snnTorch tutorial writes: every layer at every step, with snnTorch's own neurons of the same modes."""
    theirs = {
        name: snn.Leaky(
            layer.beta,
            layer.threshold,
            layer.spike_grad,
            reset_mechanism=layer.reset_mechanism,
            reset_delay=layer.reset_delay,
        )
        for name, layer in net.named_children()
        if isinstance(layer, Leaky)
    }
    membranes = {name: torch.zeros(0) for name in theirs}
    spikes = []
    for current in x:
        for name, layer in net.named_children():
            if name in theirs:
                if membranes[name].numel() == 0:
                    membranes[name] = torch.zeros_like(current)
                current, membranes[name] = theirs[name](current, membranes[name])
            else:
                current = layer(current)
        spikes.append(current)
    return torch.stack(spikes)


@pytest.mark.parametrize(
    ("reset", "delay", "chunk"),
    [("subtract", True, chunk) for chunk in (0, 1, 2, 4, 9)]
    + [
        (reset, delay, 2)
        for reset in RESETS
        for delay in (True, False)
        if (reset, delay) != ("subtract", True)
    ],
)
@pytest.mark.parametrize("spec", [FC, CONV], ids=["feedforward", "conv"])
def test_equals_the_time_loop_in_spikes_and_gradients(spec, reset, delay, chunk):
    net = replace(spec, reset=reset, reset_delay=delay).build((2, 12, 12), 10, seed=1)
    net.chunk = chunk
    x = frames()
    expected = time_loop(net, x)
    assert 0.02 < expected.mean() < 0.9
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    slopes = torch.autograd.grad((expected * weights).sum(), list(net.parameters()))
    spikes = net(x)
    assert torch.equal(spikes, expected)
    for a, b in zip(
        torch.autograd.grad((spikes * weights).sum(), list(net.parameters())), slopes, strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("spec", [FC, CONV], ids=["feedforward", "conv"])
def test_a_constant_image_gives_what_its_copies_give(spec, chunk):
    net = spec.build((2, 12, 12), 10, seed=1)
    net.chunk = chunk
    image = frames(steps=1).expand(5, -1, -1, -1, -1)
    results = [
        (y := net(x), torch.autograd.grad(y.sum(), list(net.parameters()))) for x in (image, image.clone())
    ]
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_batch_normalisation_learns_from_all_steps_whatever_the_chunk():
    def build(chunk):
        parts = [
            ("conv", nn.Conv2d(2, 3, 3)),
            ("bn", nn.BatchNorm2d(3)),
            ("lif", Leaky(0.5)),
            ("flat", nn.Flatten()),
        ]
        net = Layered(parts, chunk)
        initialise(net, 0)
        return net

    chunked, whole = build(2), build(0)
    x = frames()
    assert torch.equal(chunked(x), whole(x))
    torch.testing.assert_close(chunked.bn.running_var, whole.bn.running_var)
    rows = whole.conv(x.flatten(0, 1))
    torch.testing.assert_close(whole.bn.running_mean, 0.1 * rows.mean((0, 2, 3)))


class Backwards(nn.Module):
    """A layer that needs all of T: it turns time around."""

    all_timesteps = True

    def forward(self, x):
        return x.flip(0)


def test_a_layer_that_needs_all_steps_gets_them():
    net = Layered([("back", Backwards()), ("flat", nn.Flatten()), ("back2", Backwards())], chunk=2)
    x = frames()
    assert torch.equal(net(x), x.flatten(2))


def test_parametrizations_are_computed_once_per_forward():
    class Count(nn.Module):
        calls = 0

        def forward(self, w):
            self.calls += 1
            return w

    net = CONV.build((2, 12, 12), 10, seed=0)
    net.chunk = 1
    count = Count()
    parametrize.register_parametrization(net.conv1, "weight", count)
    calls = count.calls
    net(frames())
    assert count.calls == calls + 1


def test_parametrized_decay_and_threshold_are_used():
    class Half(nn.Module):
        def forward(self, x):
            return x / 2

    net, twin = (FC.build((2, 12, 12), 10, seed=0) for _ in range(2))
    for tensor in ("beta", "threshold"):
        parametrize.register_parametrization(net.lif1, tensor, Half())
    twin.lif1.beta.fill_(0.45)
    twin.lif1.threshold.fill_(0.5)
    assert torch.equal(net(frames()), twin(frames()))


def test_bookkeeping_modules_hung_on_a_net_do_not_run():
    net = FC.build((2, 12, 12), 10, seed=0)
    before = net(frames())
    net.add_module("ledger", nn.Linear(1, 1))
    assert torch.equal(net(frames()), before)


def test_dropout_keeps_its_mask_over_time_and_chunks():
    net = Layered([("flatten", nn.Flatten()), ("dropout", Dropout(0.5))], chunk=2)
    torch.manual_seed(0)
    out = net(torch.ones(5, 4, 1, 8, 8))
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(out, out[:1].expand_as(out))
    assert not torch.equal(out[0, 0], out[0, 1])
    assert torch.equal(net.eval()(torch.ones(5, 4, 1, 8, 8)), torch.ones(5, 4, 64))


def test_state_starts_at_zero_in_each_forward():
    net = FC.build((2, 12, 12), 10, seed=0)
    net(torch.ones(5, 3, 2, 12, 12))
    assert torch.equal(net(frames()), FC.build((2, 12, 12), 10, seed=0)(frames()))


def test_a_trained_net_copies_and_pickles_and_snntorch_forgets_it():
    before = len(snn.SpikingNeuron.instances)
    net = CONV.build((2, 12, 12), 10, seed=0)
    net(frames()).sum().backward()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):  # noqa: S301
        assert torch.equal(twin(frames()), net(frames()))
    assert len(snn.SpikingNeuron.instances) == before


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = FC.build((2, 12, 12), 10, seed=3).state_dict()
    torch.rand(1)
    second = FC.build((2, 12, 12), 10, seed=3).state_dict()
    other = FC.build((2, 12, 12), 10, seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["fc1.weight"], other["fc1.weight"])
    torch.manual_seed(5)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_membrane_quantizer_sees_every_step():
    """Against snnTorch's own neuron with the same `state_quant`."""

    def quarters(membrane):
        return (membrane * 4).round() / 4

    x = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(0))
    ours, theirs = Leaky(0.8), snn.Leaky(0.8, state_quant=quarters)
    ours.state_quant = quarters
    membrane, expected = torch.zeros(3, 5), []
    for current in x:
        spike, membrane = theirs(current, membrane)
        expected.append(spike)
    spikes, last = ours(x)
    assert torch.equal(spikes, torch.stack(expected))
    assert torch.equal(last, membrane)


@pytest.mark.parametrize("spec", [FC, CONV], ids=["feedforward", "conv"])
def test_half_precision_touches_synapses_and_not_membranes(spec):
    """Automatic mixed precision: spikes and gradients stay float32 and close to those of full precision."""
    net = spec.build((2, 12, 12), 10, seed=1)
    full = net(frames())
    with torch.autocast("cpu", torch.bfloat16):
        half = net(frames())
    half.sum().backward()
    assert half.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())
    assert (half != full).float().mean() < 0.05


@pytest.mark.parametrize("channels", [1, 2])
def test_a_convolutional_net_runs_channels_last_and_saves_as_it_is(channels):
    net = CONV.build((channels, 12, 12), 10, seed=1)
    seen = {}
    net.conv2.register_forward_hook(lambda m, i, o: seen.update(into=i[0], out=o))
    net(torch.rand(4, 3, channels, 12, 12))
    assert all(rows.is_contiguous(memory_format=torch.channels_last) for rows in seen.values())
    assert all(p.is_contiguous() for p in net.parameters())


@pytest.mark.parametrize("chunk", [0, 2])
def test_maps_are_never_turned_around_between_chunks_and_all_of_time(chunk):
    """Forward and backward: batch normalisation and pools get maps as they lie in memory, N, H, W, C."""
    layers = [
        *(("conv1", nn.Conv2d(2, 6, 3)), ("bn1", nn.BatchNorm2d(6)), ("lif1", Leaky(0.5))),
        *(("pool", nn.MaxPool2d(2)), ("conv2", nn.Conv2d(6, 8, 3)), ("bn2", nn.BatchNorm2d(8))),
        *(("lif2", Leaky(0.5)), ("flat", nn.Flatten())),
    ]
    net = Layered(layers, chunk)
    initialise(net, 0)
    maps = []
    for layer in (net.bn1, net.pool, net.conv2, net.bn2):
        layer.register_forward_hook(lambda m, into, out: maps.extend([into[0], out]))
        layer.register_full_backward_hook(lambda m, into, out: maps.extend([*into[:1], *out]))
    net(torch.rand(4, 3, 2, 12, 12).requires_grad_()).sum().backward()
    assert len(maps) >= 16
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in maps)


class Counted(nn.Conv2d):
    """A convolution that remembers how many maps came at once."""

    def forward(self, input):
        self.rows = len(input)
        return super().forward(input)


def test_a_convolution_before_batch_normalisation_computes_all_currents_at_once():
    layers = [
        *(("conv1", Counted(2, 3, 3)), ("bn", nn.BatchNorm2d(3)), ("lif1", Leaky(0.5))),
        *(("conv2", Counted(3, 3, 3)), ("lif2", Leaky(0.5)), ("flat", nn.Flatten())),
    ]
    net = Layered(layers, chunk=2)
    net(torch.rand(6, 5, 2, 8, 8))
    assert (net.conv1.rows, net.conv2.rows) == (30, 10)  # 6 steps of 5 samples; 2 steps of 5
    net.eval()(torch.rand(6, 5, 2, 8, 8))  # what it learned is a constant per channel then
    assert net.conv1.rows == 10


def test_neurons_between_two_layers_that_need_all_of_time_run_all_of_it():
    """Maps come whole and are needed whole: cutting them and joining them would only copy them."""
    layers = [
        *(
            ("conv1", nn.Conv2d(2, 3, 3)),
            ("bn1", nn.BatchNorm2d(3)),
            ("lif1", Leaky(0.5)),
            ("pool", nn.MaxPool2d(2)),
        ),
        *(
            ("conv2", nn.Conv2d(3, 3, 3)),
            ("bn2", nn.BatchNorm2d(3)),
            ("lif2", Leaky(0.5)),
            ("flat", nn.Flatten()),
        ),
    ]
    net = Layered(layers, chunk=2)
    steps = {}
    for name in ("lif1", "lif2"):
        hook = lambda module, into, out, name=name: steps.setdefault(name, []).append(len(into[0]))  # noqa: E731
        net.get_submodule(name).register_forward_hook(hook)
    net(torch.rand(6, 5, 2, 8, 8))
    assert steps == {"lif1": [6], "lif2": [2, 2, 2]}


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNorm])
def test_one_step_of_one_sample_has_the_gradients_of_two_that_are_equal(kind):
    """A single map keeps the strides of time, with which PyTorch's gradients of batch normalisation are wrong."""
    x = torch.rand(1, 1, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    outputs, gradients = [], []
    for samples in (1, 2):
        layers = [
            ("conv", nn.Conv2d(2, 4, 3, padding=1, bias=False)),
            ("bn", kind(4)),
            ("flat", nn.Flatten()),
        ]
        net = Layered([*layers, ("fc", nn.Linear(144, 3))])
        initialise(net, 0)
        out = net(x.expand(-1, samples, -1, -1, -1))
        out.square().sum().backward()
        outputs.append(out[:, 0])
        gradients.append({name: each.grad / samples for name, each in net.named_parameters()})
    torch.testing.assert_close(*outputs)
    for name, one in gradients[0].items():
        torch.testing.assert_close(one, gradients[1][name], rtol=1e-3, atol=1e-5, msg=name)
