"""The engine against the network (bit for bit) and against its own equations in plain Python integers."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import snntorch as snn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.export.codes import input_format
from pipeline.export.integer import Engine
from pipeline.export.lower import lower
from pipeline.export.program import (
    Accumulator,
    Input,
    Neurons,
    NotExact,
    Program,
    Stage,
    Synapses,
    bounds,
    scalar,
)
from pipeline.export.proof import prove, spikes_of
from pipeline.nets.feedforward import FeedForward
from tests.export import reference
from tests.export.small import FLAT, MAP, Normalised, compressed, convolutional, currents, flat, spikes


def proven(model):
    proof = prove(model.net, Engine(model.program()), model.decode, model.batches())
    assert proof.holds, str(proof)
    assert proof.spikes > 100, "a silent network proves nothing"
    return proof


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("delay", [True, False])
def test_every_spike_equals_the_network_for_every_reset(reset, delay):
    neurons = {"membrane": 14}
    proven(flat(reset=reset, reset_delay=delay, neurons=neurons))
    proven(convolutional(reset=reset, reset_delay=delay, neurons=neurons))


@pytest.mark.parametrize(
    "weights",
    [
        {"bits": 2},
        {"bits": 12, "rounding": "truncation"},
        {"bits": 4, "rounding": "stochastic"},
        {"bits": 5, "scheme": "symmetric"},
        {"bits": 5, "granularity": "per_channel"},
        {"bits": 4, "calibrate": "mse"},
    ],
)
def test_every_weight_format_is_exact(weights):
    proven(flat(weights=weights, sparsity=0.5, bias=True))
    proven(convolutional(weights=weights, sparsity=0.5, bias=True))


class Pruned(FeedForward):
    """fc1's channel 3, or all of fc2, has no weight left."""

    def __init__(self, dead):
        super().__init__(hidden=(14, 9), threshold=0.4, init_gain=2.0, group=2)
        object.__setattr__(self, "dead", dead)

    def build(self, shape, classes, seed):
        net = super().build(shape, classes, seed)
        weight = net.fc1.weight.data[3] if self.dead == "channel" else net.fc2.weight.data
        weight.zero_()
        return net


@pytest.mark.parametrize("dead", ["channel", "layer"])
@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"granularity": "per_channel"},
        {"granularity": "per_channel", "calibrate": "percentile"},
        {"scheme": "duq", "scale": "power_of_two", "granularity": "per_channel"},
        {"scheme": "lsq", "scale": "power_of_two", "granularity": "per_channel"},
    ],
)
def test_what_pruning_left_nothing_of_takes_no_bits(dead, weights):
    """Its step was as small as its values: 2^-47, and sums of 65 bits beside the others."""
    model = compressed(Pruned(dead), currents(FLAT), weights)
    program = model.program()
    assert max(bound.update_bits for bound in bounds(program)) <= 21
    proof = prove(model.net, Engine(program), model.decode, model.batches())
    assert proof.holds
    assert proof.spikes > 100


@pytest.mark.parametrize("rounding", ["nearest", "truncation"])
@pytest.mark.parametrize("membrane", [5, 8, 16])
def test_membranes_saturate_and_round_alike(rounding, membrane):
    proven(flat(neurons={"membrane": membrane, "rounding": rounding}))
    proven(convolutional(neurons={"membrane": membrane, "rounding": rounding}))


def test_spiking_and_counting_inputs():
    proven(flat(x=spikes(FLAT)))
    proven(convolutional(x=spikes(MAP)))
    proven(flat(x=spikes(FLAT) + spikes(FLAT, seed=1) * 2))
    proven(convolutional(x=(spikes(MAP) + spikes(MAP, seed=1)) * 0.5, padding="valid", kernel=2))


@pytest.mark.parametrize(
    ("shape", "hidden"), [((1, 4, 6), 16), ((2, 6, 4), 40), ((1, 16, 32), 136), ((3, 4, 4), [64, 24])]
)
def test_events_in_words_of_eight_are_the_same_events(shape, hidden):
    """Every width of sums, several blocks of inputs and tiles of outputs; a step that is skipped in memory, too."""
    model = flat(x=spikes(shape), hidden=hidden)
    engine = Engine(model.program())
    assert all(ready.spikes is not None for ready in engine._stages)
    proven(model)
    every = spikes(shape, steps=12)
    for x in (model.batches()[0].x, every[::2], every[:1].expand(6, *every.shape[1:])):
        with torch.no_grad():
            wanted = model.net(x)
        assert torch.equal(engine.run(x), wanted), "straight from the floats"
        assert torch.equal(torch.from_numpy(engine.spikes(engine.codes(x))).transpose(0, 1).float(), wanted)
        assert (engine.answers(x) == engine.labels(engine.codes(x))).all()
    assert torch.equal(engine.run(every[:1]), engine.run(every[:1].expand(6, *every.shape[1:])))
    with pytest.raises(ValueError, match="x must be"):
        engine.run(every)
    for wrong in (2.0, 0.5, -1.0, float("nan")):
        x = every[:6].clone()
        x[5, -1, -1, -1, -1] = wrong
        with pytest.raises(NotExact, match="the input has a value"):
            engine.run(x)


def test_codes_beyond_one_take_the_general_way():
    """Whoever disturbs codes may give what the input's format cannot hold."""
    model = flat(x=spikes((1, 4, 6)), hidden=16)
    engine = Engine(model.program())
    codes = engine.codes(model.batches()[0].x)
    codes[0, 0, :9] = 2
    general = Engine(model.program())
    general._stages = [replace(ready, spikes=None) for ready in general._stages]
    assert (engine.spikes(codes) == general.spikes(codes)).all()


def test_an_undecayed_membrane_needs_no_format():
    assert proven(flat(beta=1.0, neurons={"membrane": 32, "beta": 32, "threshold": 10})).guaranteed


def test_a_folded_batch_norm_is_weights_and_biases():
    """An average pool of spikes, too: its quarter is two bits of the next exponent."""
    model = compressed(Normalised(), spikes(MAP))
    assert isinstance(model.net.bn1, nn.Identity)
    proven(model)


def test_strides_dilation_groups_and_average_pools():
    torch.manual_seed(0)
    layers = [
        ("conv1", nn.Conv2d(2, 4, 3, stride=2, padding=1)),
        ("lif1", snn.Leaky(1.0, threshold=0.5)),
        ("conv2", nn.Conv2d(4, 6, 2, dilation=2, groups=2, padding=(2, 1))),
        ("lif2", snn.Leaky(1.0, threshold=0.5)),
        ("pool2", nn.AvgPool2d(2)),
        ("flatten", nn.Flatten()),
        ("fc", nn.Linear(36, 3)),
        ("lif3", snn.Leaky(1.0, threshold=0.5)),
    ]
    net = Stepped(layers)
    grids = net.round(fraction_bits=4)
    x = currents(MAP, batch=16)
    program = lower(net, grids, {}, input_format([x], MAP), len(x), 3)
    with torch.no_grad():
        ours, theirs = Engine(program).run(x), net(x)
    assert torch.equal(ours, theirs)
    assert 0.01 < theirs.mean() < 0.99


class Stepped(nn.Sequential):
    """snnTorch's own loop over time, for layers that the project's networks do not use."""

    def __init__(self, layers):
        super().__init__(OrderedDict(layers))

    def forward(self, x):
        memory, out = {}, []
        for step in x:
            for name, layer in self._modules.items():
                if isinstance(layer, snn.Leaky):
                    step, memory[name] = layer(step, memory.get(name, torch.zeros_like(step)))
                else:
                    step = layer(step)
            out.append(step)
        return torch.stack(out)

    def round(self, fraction_bits):
        """Weights and biases onto steps of 2^-fraction_bits; returns their grids."""
        found = {}
        for name, parameter in self.named_parameters():
            step = torch.tensor(2.0**-fraction_bits)
            parameter.data = (parameter.data * 3 / step).round() * step
            found[name] = reference.Grid(8, step, -128, 127)
        return found


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_kernels_do_what_the_equations_say(data):
    """Random programs, registers that overflow included, against plain Python integers."""
    program = data.draw(reference.programs())
    seed = data.draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    channels, rows, columns = program.input.shape
    same = data.draw(st.booleans())
    steps = 1 if same else program.timesteps
    codes = rng.integers(program.input.low, program.input.high + 1, (2, steps, rows, columns, channels))
    codes[rng.random(codes.shape) < 0.4] = 0
    kind = np.int32 if program.input.signed or program.input.high > 255 else np.uint8
    flat_codes = np.ascontiguousarray(codes.reshape(2, steps, -1).astype(kind))
    traced = Engine(program).trace(flat_codes)
    for sample in range(2):
        for stage, want in zip(program.stages, reference.run(program, codes[sample]), strict=True):
            np.testing.assert_array_equal(traced[stage.neurons.name][sample], want)


def test_a_bound_is_reached_and_never_passed():
    """Two inputs of at most 255/256, weights 3/4 and -1/2: |sum| <= (3 + 2) * 255 = 1275 steps, 12 bits."""
    net = Stepped([("fc", nn.Linear(2, 1, bias=False)), ("lif", snn.Leaky(0.5, threshold=1.0))])
    net.fc.weight.data = torch.tensor([[0.75, -0.5]])
    net.lif.state_quant = reference.Membrane(8, 2.0**-4)
    grid = {"fc.weight": reference.Grid(4, torch.tensor(0.25), -8, 7)}
    program = lower(
        net, grid, {}, input_format([torch.tensor([255 / 256]).expand(1, 1, 1, 1, 2)], (1, 1, 2)), 1, 1
    )
    (bound,) = bounds(program)
    assert bound.accumulator == 1275
    assert bound.accumulator_bits == 12
    # On the grid of 2^-10: decay 1/2 of a membrane of at most 8, the current, a threshold, and half a step.
    assert bound.update == 128 * 2**5 + 1275 + 2**10 + 2**5
    assert bound.float_exact


def test_what_is_not_exact_is_refused_with_every_reason():
    model = flat(weights={"bits": 32, "bias_bits": 32}, neurons={"membrane": 32, "beta": 32}, bias=True)
    with pytest.raises(NotExact) as error:
        model.program()
    text = str(error.value)
    for words in (
        "fc1.weight is float32",
        "compression.quantize_weights.bits=8",
        "fc1.bias",
        "lif1.beta",
        "lif1.mem",
    ):
        assert words in text
    # Weight, bias, beta and membrane of each of three layers (a bias that is all zeros would be exact).
    assert len(error.value.reasons) == 3 * 4


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: flat(weights={"scheme": "symmetric", "scale": "free"}), "no power of two"),
        (lambda: flat(neurons={"rounding": "stochastic"}), "random numbers"),
        (lambda: flat(neurons={"beta": 16, "membrane": 16}), "float32 holds 24"),
    ],
)
def test_inexact_formats_are_refused_by_name(model, words):
    with pytest.raises(NotExact, match=words):
        model().program()


def test_batch_norm_must_be_folded_and_inputs_must_be_on_a_grid():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), snn.Leaky(0.5))
    with pytest.raises(NotExact, match="fold"):
        lower(net, {}, {}, input_format([torch.zeros(1, 1, 1, 1, 2)], (1, 1, 2)), 1, 1)
    with pytest.raises(NotExact, match="white=256"):
        input_format([torch.rand(2, 1, 1, 2, 2)], (1, 2, 2))
    engine = Engine(flat().program())
    with pytest.raises(NotExact, match="multiple of"):
        engine.codes(torch.full((6, 1, *FLAT), 1 / 3))


def test_a_changed_spike_is_found_at_its_layer_step_and_neuron():
    """Weights into one neuron of the second layer differ: the first layer agrees, that neuron is blamed."""
    model = flat(seed=3)
    batches = model.batches()
    program = model.program()
    codes = program.stages[1].synapses.weight.codes
    codes[2, :] += 9
    proof = prove(model.net, Engine(program), model.decode, batches)
    assert not proof.holds
    assert proof.difference.layer == "lif2"
    assert proof.difference.neuron == (2, 0, 0)
    assert "lif2 differs first at step" in str(proof)
    found = proof.difference
    x = model.x[:, found.sample : found.sample + 1]
    _, layers = spikes_of(model.net, x)
    assert layers["lif2"][found.step, 0, 2] == found.network != found.integer


def test_narrow_accumulators_saturate_or_wrap_as_told():
    """Three inputs of 1 with weights 7, 7, -8 into 4 bits: exact 6; held 7 - 8 = -1; wrapped 14 - 16 - 8 + 16 = 6."""

    def fires(bits, overflow):
        weight = reference.fixed([[7, 7, -8]], 0, 4)
        synapses = Synapses("fc", "linear", weight, None, (3, 1, 1), (1, 1, 1))
        neurons = Neurons("lif", scalar(0, 0), scalar(5, 0), 8, 0, -128, 127, "nearest", "none", True)
        stage = Stage((), synapses, neurons, Accumulator(bits, overflow))
        engine = Engine(Program(Input((3, 1, 1), 0, 1), 1, 1, (stage,)))
        return int(engine.spikes(np.ones((1, 1, 3), np.uint8))[0, 0, 0])

    assert fires(6, "saturate") == 1  # 6 > 5
    assert fires(4, "saturate") == 0  # -1
    assert fires(4, "wrap") == 1  # two's complement: the end is right although the middle overflows
