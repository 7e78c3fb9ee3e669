"""The STDP network in integers against its own kernel: every spike, every winner drawn alike."""

import dataclasses

import pytest
import torch

from pipeline.compress.bake import bake
from pipeline.compress.quantize import QuantizeNeurons, QuantizeWeights
from pipeline.compress.stack import grids
from pipeline.export.folder import vectors, write
from pipeline.export.manifest import Store
from pipeline.export.program import NotExact
from pipeline.export.robustness import Stress, robustness
from pipeline.export.stdp_integer import StdpEngine, prove_stdp
from pipeline.export.stdp_lower import is_stdp, lower_stdp
from pipeline.export.stdp_program import guaranteed, one_drive_fires
from pipeline.nets.stdp import Stdp
from pipeline.types import Batch, DataError
from pipeline.verify import verify

SHAPE = (1, 5, 6)
STEPS = 40
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


def lowered(net):
    return lower_stdp(net, grids(net), STEPS)


def batches(count=3, steps=STEPS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield Batch(
            (torch.rand(steps, 20, *SHAPE, generator=generator) < 0.25).float(), torch.zeros(20).long()
        )


def first(spikes):
    return spikes.sum(0).argmax(1)


def proven(net):
    return prove_stdp(net, StdpEngine(lowered(net)), first, batches())


@pytest.mark.parametrize("inhibition", ["direct", "layer"])
@pytest.mark.parametrize("winner", ["random", "first", "highest", "all"])
@pytest.mark.parametrize("rounding", ["nearest", "truncation"])
def test_every_spike_equals_the_kernels(winner, rounding, inhibition):
    net = network(neurons={"rounding": rounding}, winner=winner, inhibition=inhibition)
    assert is_stdp(net)
    assert guaranteed(lowered(net))
    proof = proven(net)
    assert proof.holds, str(proof)
    assert proof.guaranteed
    assert proof.spikes > 500, "a silent network proves nothing"


@pytest.mark.parametrize(
    "changes",
    [
        {"lowest_mv": -70.0},
        {"w_input_mv": 2.0},
        {"refractory_ms": 0.0},
        {"w_inh_mv": 0.0},
        {"inhibition": "layer", "inh_refractory_ms": 0.0},
        {"inhibition": "layer", "inh_refractory_ms": 7.0, "refractory_ms": 1.0},
        {"inhibition": "layer", "inh_reset_mv": -62.0},
    ],
)
def test_every_constant_is_obeyed(changes):
    net = network(**changes)
    proof = proven(net)
    assert proof.holds, str(proof)
    assert proof.spikes > 300


def test_the_rest_of_an_inhibitory_neuron_matters_here():
    """Otherwise the equality with an inhibitory layer would say nothing of its refractory time."""
    few, many = (
        network(inhibition="layer", inh_refractory_ms=ms, refractory_ms=1.0, w_inh_mv=3.0)
        for ms in (0.0, 7.0)
    )
    x = next(batches()).x
    assert not torch.equal(few(x), many(x))
    assert torch.equal(StdpEngine(lowered(many)).run(x), many(x))


def test_an_inhibitory_neuron_that_may_need_two_drives_is_refused():
    """22.5 mV of drive reach 20 from rest and from 2.5 below it, but not from 2.6 below."""
    assert one_drive_fires(22.5, 20.0, -2.5)
    assert not one_drive_fires(22.5, 20.0, -2.6)
    with pytest.raises(NotExact, match=r"raise net\.inh_reset_mv"):
        lowered(network(inhibition="layer", inh_reset_mv=-63.0))


def test_a_theta_in_float_is_exact_too():
    """The bar of a neuron is one constant: it is rounded up to the membrane's grid, and nothing is lost."""
    net = network(neurons={"theta": 32})
    assert proven(net).holds


def test_a_decay_by_shifts_is_exact_too():
    net = network(neurons={"decay": "shift", "beta": 4})
    assert lowered(net).beta.form == "shift"
    assert proven(net).holds


def test_a_reset_is_a_code_of_the_membrane_that_it_writes_into():
    """52 mV (four thresholds) in six bits are steps of 2 mV: a reset to 5 mV above rest writes 4 mV."""
    net = network(neurons={"membrane": 6})
    assert net.spec.reset_mv == -61.0
    program = lowered(net)
    assert (int(program.reset.codes[0]), program.reset.exponent) == (2, -1)
    assert proven(net).holds


def test_sixteen_bits_without_a_sign_are_proven_and_borne(tmp_path):
    """Codes of 2^15 and more do not fit int16; a flipped bit makes one of any weight, and ended the whole study."""
    net = network(weights={"bits": 16})
    assert lowered(net).weight.codes.max() >= 1 << 15
    proof = proven(net)
    assert proof.holds, str(proof)
    assert proof.spikes > 500
    low = StdpEngine(lowered(network(weights={"bits": 16}, w_start=0.4)), first)
    assert low.program.weight.codes.max() < 1 << 15
    codes = low.codes(next(batches()).x)
    found = robustness(low, codes, low.labels(codes), Stress((), (), (), (0.5,), seeds=1), seed=0)
    assert found["robust_flip_0.5"] < 1.0
    engine = StdpEngine(lowered(net))
    write(tmp_path / "m", engine.program, Store(), vectors(engine, codes), {}, {})
    assert verify(tmp_path / "m").program.weight.codes.max() >= 1 << 15


def test_a_changed_weight_is_found():
    net = network()
    program = lowered(net)
    program.weight.codes[4] += 9
    proof = prove_stdp(net, StdpEngine(program), first, batches())
    assert not proof.holds
    assert "neurons differs first at step" in str(proof)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: network(neurons={"membrane": 32}), "membrane has no format"),
        (lambda: network(neurons={"rounding": "stochastic"}), "random numbers at run time"),
        (lambda: network(neurons={"beta": 32}), "beta = 0.99"),
        (lambda: network(weights={"bits": 32, "integer_bits": None}), "weight is float32"),
        (lambda: network(weights={"bits": 17}), r"17 bits, .* compression\.quantize_weights\.bits=16"),
        (lambda: network(w_input_mv=1.5), "no power of two"),
        (lambda: network(neurons={"theta": 32}, winner="highest"), "theta is finer"),
    ],
)
def test_what_is_not_exact_is_refused(build, words):
    with pytest.raises(NotExact, match=words):
        lowered(build())


@pytest.mark.parametrize("encoding", ["dense", "smallest"])
@pytest.mark.parametrize("changes", [{}, {"inhibition": "layer", "lowest_mv": -70.0}, {"w_inh_mv": 0.0}])
def test_a_written_network_comes_back_and_is_verified(changes, encoding, tmp_path):
    engine = StdpEngine(lowered(network(neurons={"theta": 32}, **changes)))
    x = next(batches()).x
    write(tmp_path / "m", engine.program, Store(encoding), vectors(engine, engine.codes(x)), {}, {})
    back = verify(tmp_path / "m").program
    assert torch.equal(StdpEngine(back).run(x), engine.run(x))
    assert back.theta.codes.tolist() == engine.program.theta.codes.tolist()


def test_a_tampered_vector_is_named_by_step_and_neuron(tmp_path):
    engine = StdpEngine(lowered(network()))
    samples = vectors(engine, engine.codes(next(batches()).x))
    samples.spikes["neurons"][2, 31, 7] ^= 1
    write(tmp_path / "m", engine.program, Store(), samples, {}, {})
    with pytest.raises(DataError, match=r"neurons differs .* step 31, neuron \(7, 0, 0\), sample 2"):
        verify(tmp_path / "m")


def test_stress_is_measured_on_the_networks_own_decoding():
    engine = StdpEngine(lowered(network()), first)
    codes = engine.codes(next(batches()).x)
    stress = Stress(drop=(0.0, 1.0), noise=(0.0,), jitter=(0.0,), flip=(0.0, 0.5), seeds=2)
    found = robustness(engine, codes, engine.labels(codes), stress, seed=0)
    assert found["robust_drop_0"] == found["robust_noise_0"] == found["robust_jitter_0"] == 1.0
    assert found["robust_flip_0"] == 1.0
    assert found["robust_flip_0.5"] < 0.8
    assert found["robust_drop_1"] == float((engine.labels(codes) == 0).mean()), (
        "without events no neuron fires"
    )


@pytest.mark.parametrize("inhibition", ["direct", "layer"])
def test_32_and_64_bits_compute_alike(inhibition, monkeypatch):
    """Small numbers take half the vector registers; a floor that is out of reach of 32 bits is none to them."""
    program = lowered(network(inhibition=inhibition))
    narrow = StdpEngine(program)
    monkeypatch.setattr("pipeline.export.stdp_integer._fits", lambda program, made: False)
    wide = StdpEngine(program)
    assert [engine._constants[0].dtype.itemsize for engine in (narrow, wide)] == [4, 8]
    codes = wide.codes(next(batches()).x)
    ours = narrow.spikes(codes)
    assert ours.sum() > 100
    assert (ours == wide.spikes(codes)).all()


def test_numbers_beyond_32_bits_are_computed_in_64():
    program = dataclasses.replace(lowered(network()), bits=30, low=-(1 << 29), high=(1 << 29) - 1)
    engine = StdpEngine(program)
    assert engine._constants[0].dtype.itemsize == 8
    assert engine.spikes(engine.codes(next(batches()).x)).sum() > 100
