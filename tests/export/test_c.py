"""The exported C99 code, compiled: the same spikes as the engine, in the memory that is claimed."""

import re
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings

from pipeline.export.c_code import c_files, map_bits, refusals, state_bits
from pipeline.export.folder import vectors
from pipeline.export.integer import Engine
from pipeline.export.manifest import Store, describe
from pipeline.export.program import Accumulator
from pipeline.export.stdp_integer import StdpEngine
from tests.export import reference
from tests.export.small import MAP, attending, convolutional, flat, spikes
from tests.export.test_stdp import batches, lowered, network

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler on this machine")
STRICT = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic"]


def built(program, samples, folder, store=None):
    """The compiled runner's exit code."""
    for name, text in c_files(program, store or Store(), samples).items():
        (folder / name).write_bytes(text)
    done = subprocess.run(
        [COMPILER, *STRICT, "runner.c", "-o", "runner"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return subprocess.run([folder / "runner"], timeout=60).returncode


def stdp_samples(neurons=None, **changes):
    """A network of the STDP tests, and real spikes of it."""
    net = network(neurons=neurons, **changes)
    engine = StdpEngine(lowered(net))
    return engine.program, vectors(engine, engine.codes(next(batches()).x), 2)


def samples_of(program, x):
    engine = Engine(program)
    return vectors(engine, engine.codes(x))


@pytest.mark.parametrize("encoding", ["dense", "bitmask", "rle", "cp", "uop"])
def test_the_runner_gives_every_spike_from_every_encoding(encoding, tmp_path):
    model = convolutional(sparsity=0.7, bias=True, weights={"granularity": "per_channel"})
    program = model.program()
    assert built(program, samples_of(program, model.x), tmp_path, Store(encoding)) == 0


@pytest.mark.parametrize(
    "model",
    [
        lambda: flat(reset="zero", neurons={"rounding": "truncation"}),
        lambda: flat(reset="subtract", reset_delay=False),
        lambda: flat(beta=0.99, neurons={"beta": 3, "decay": "shift"}),
        lambda: flat(beta=0.5, neurons={"beta": 32, "threshold": 32}, threshold=0.375),
        lambda: convolutional(x=spikes(MAP) + spikes(MAP, seed=1), padding="valid", kernel=2, reset="none"),
    ],
)
def test_the_runner_gives_every_spike_of_every_kind_of_neuron(model, tmp_path):
    made = model()
    program = made.program()
    assert built(program, samples_of(program, made.x), tmp_path) == 0


def test_a_wrong_spike_is_told_by_the_exit_code(tmp_path):
    model = flat()
    program = model.program()
    samples = samples_of(program, model.x)
    samples.spikes["lif2"][1, 3, 4] ^= 1
    assert built(program, samples, tmp_path) == 2  # stage 1, counted from 0, plus 1


def test_static_memory_is_what_is_claimed_and_no_library_is_used(tmp_path):
    """20-14-9-6 neurons with 12-bit membranes: 29 x 12 = 348 bits, 44 bytes; maps 20 x 8 + 14 + 9 = 183 bits, 23."""
    program = flat().program()
    files = {
        name: text.decode() for name, text in c_files(program, Store(), samples_of(program, flat().x)).items()
    }
    defined = dict(re.findall(r"#define (\w+) (\d+)u", files["weights.h"]))
    assert state_bits(program) == 348
    assert map_bits(program) == 183
    assert defined["SNN_STATE_BYTES"] == "44"
    assert defined["SNN_MAP_BYTES"] == "23"
    assert defined["SNN_MEMORY_BYTES"] == str(len(describe(program, Store())[1]))
    included = {name for text in files.values() for name in re.findall(r"#include <(.+)>", text)}
    assert included == {"stdint.h"}


def test_saturating_registers_that_may_overflow_have_no_c_code():
    assert refusals(flat().program()) == []
    assert "fc1" in refusals(flat().program(Accumulator(8)))[0]
    assert refusals(flat().program(Accumulator(8, "wrap"))) == []


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=reference.programs())
def test_the_runner_equals_the_engine_on_random_programs(program, tmp_path):
    import numpy as np

    if refusals(program):
        return
    shape = program.input.shape
    rng = np.random.default_rng(0)
    codes = rng.integers(0, program.input.high + 1, (2, program.timesteps, shape[1] * shape[2] * shape[0]))
    assert built(program, vectors(Engine(program), codes.astype(np.uint8)), tmp_path, Store("smallest")) == 0


@pytest.mark.parametrize("encoding", ["dense", "bitmask", "rle", "cp", "uop"])
@pytest.mark.parametrize("inhibition", ["direct", "layer"])
def test_the_runner_gives_every_spike_of_an_stdp_network(inhibition, encoding, tmp_path):
    program, samples = stdp_samples(inhibition=inhibition)
    assert samples.spikes["neurons"].sum() > 20
    assert built(program, samples, tmp_path, Store(encoding)) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"winner": "first", "lowest_mv": -70.0},
        {"winner": "highest", "refractory_ms": 0.0},
        {"winner": "all", "w_inh_mv": 0.0},
        {"inhibition": "layer", "inh_refractory_ms": 7.0, "refractory_ms": 1.0},
        {"neurons": {"theta": 32, "threshold": 32, "rounding": "truncation"}},
        {"neurons": {"decay": "shift", "beta": 4}, "w_input_mv": 2.0},
    ],
)
def test_the_runner_obeys_every_constant_of_an_stdp_network(changes, tmp_path):
    program, samples = stdp_samples(**changes)
    assert samples.spikes["neurons"].sum() > 20
    assert built(program, samples, tmp_path, Store("smallest")) == 0


def test_a_wrong_spike_of_an_stdp_network_is_told(tmp_path):
    program, samples = stdp_samples()
    samples.spikes["neurons"][1, 30, 4] ^= 1
    assert built(program, samples, tmp_path) == 1


def test_attention_gives_every_spike_from_every_encoding(tmp_path):
    model = attending()
    program = model.program()
    samples = samples_of(program, model.x)
    assert samples.spikes["lif4"].any(), "a silent layer proves nothing"
    for encoding in ("dense", "rle", "uop"):
        (tmp_path / encoding).mkdir()
        assert built(program, samples, tmp_path / encoding, Store(encoding)) == 0
    samples.spikes["lif4"][1, 2, 3] ^= 1
    assert built(program, samples, tmp_path) == 4
