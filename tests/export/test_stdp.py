"""The STDP network in integers against its own kernel: every spike, every winner drawn alike."""

import dataclasses

import pytest
import torch

from pipeline.compress.bake import bake
from pipeline.compress.quantize import QuantizeNeurons, QuantizeWeights
from pipeline.compress.stack import grids
from pipeline.export.program import NotExact
from pipeline.export.stdp_integer import is_stdp, lower_stdp, prove_stdp
from pipeline.nets.stdp import Stdp
from pipeline.types import Batch

SHAPE = (1, 5, 6)
SPEC = Stdp(neurons=12, inhibition="direct", w_start=1.0, w_inh_mv=6.0, reset_mv=-60.0, refractory_ms=3.0)
NEURONS = {"membrane": 12, "threshold": 8, "beta": 8, "inhibition": 8, "reset": 8, "theta": 8}


def network(weights=None, neurons=None, **changes):
    net = dataclasses.replace(SPEC, **changes).build(SHAPE, 3, seed=1)
    net.theta[:] = torch.linspace(0, 3, 12)
    QuantizeWeights(
        **{"bits": 6, "signed": False, "integer_bits": 0, "calibrate": "percentile", **(weights or {})}
    ).attach(net)
    QuantizeNeurons(**{**NEURONS, **(neurons or {})}).attach(net)
    bake(net)
    return net


def batches(count=3, steps=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield Batch(
            (torch.rand(steps, 20, *SHAPE, generator=generator) < 0.25).float(), torch.zeros(20).long()
        )


def first(spikes):
    return spikes.sum(0).argmax(1)


@pytest.mark.parametrize("winner", ["random", "first", "highest", "all"])
@pytest.mark.parametrize("rounding", ["nearest", "truncation"])
def test_every_spike_equals_the_kernels(winner, rounding):
    net = network(neurons={"rounding": rounding}, winner=winner)
    assert is_stdp(net)
    proof = prove_stdp(net, lower_stdp(net, grids(net)), first, batches())
    assert proof.holds, str(proof)
    assert proof.guaranteed
    assert proof.spikes > 500, "a silent network proves nothing"


@pytest.mark.parametrize(
    "changes", [{"lowest_mv": -70.0}, {"w_input_mv": 2.0}, {"refractory_ms": 0.0}, {"w_inh_mv": 0.0}]
)
def test_every_constant_is_obeyed(changes):
    net = network(**changes)
    proof = prove_stdp(net, lower_stdp(net, grids(net)), first, batches())
    assert proof.holds, str(proof)
    assert proof.spikes > 300


def test_a_theta_in_float_is_exact_too():
    """The bar of a neuron is one constant: it is rounded up to the membrane's grid, and nothing is lost."""
    net = network(neurons={"theta": 32})
    assert prove_stdp(net, lower_stdp(net, grids(net)), first, batches()).holds


def test_a_changed_weight_is_found():
    net = network()
    program = lower_stdp(net, grids(net))
    program.weight[:, 4] += 9
    proof = prove_stdp(net, program, first, batches())
    assert not proof.holds
    assert "neurons differs first at step" in str(proof)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: network(inhibition="layer"), "net.inhibition=direct"),
        (lambda: network(neurons={"membrane": 32}), "membrane has no format"),
        (lambda: network(neurons={"rounding": "stochastic"}), "random numbers at run time"),
        (lambda: network(neurons={"beta": 32}), "beta = 0.99"),
        (lambda: network(weights={"bits": 32, "integer_bits": None}), "weight is float32"),
        (lambda: network(w_input_mv=1.5), "no power of two"),
        (lambda: network(neurons={"membrane": 6}), "reset is finer"),
        (lambda: network(neurons={"theta": 32}, winner="highest"), "theta is finer"),
    ],
)
def test_what_is_not_exact_is_refused(build, words):
    net = build()
    with pytest.raises(NotExact, match=words):
        lower_stdp(net, grids(net))
