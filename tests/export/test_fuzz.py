"""Exports changed at random, hashes mended: every one is refused with a `DataError` or runs; nothing crashes or hangs,
and nothing takes memory without bound: the process may not ask for more than `MOST_MIB` beyond what it had.

The quick run takes a few hundred inputs, ``-m slow`` at least 100,000.
"""

import contextlib
import copy
import hashlib
import json
import resource
import time
from functools import partial
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from pipeline.export.folder import vectors, write
from pipeline.export.integer import Engine
from pipeline.export.manifest import Store
from pipeline.export.stdp_integer import StdpEngine
from pipeline.types import DataError
from pipeline.verify import verify
from tests.export.small import MAP, attending, convolutional, flat, spikes
from tests.export.test_stdp import batches, lowered, network

FILES = ("weights.bin", "vectors.safetensors")
LONGEST_S = 20.0
"""Processor time that no input may exceed; nearly all take milliseconds, some compile a kernel for other types."""
MOST_MIB = 256
"""Address space that no input may make a check ask for: the originals are kilobytes, and compiling a kernel for other
types takes tens of MiB."""

numbers = st.one_of(
    st.integers(-3, 70),
    st.sampled_from(
        [2**k + d for k in (7, 8, 15, 16, 20, 24, 31, 32, 40, 62, 63, 64, 100) for d in (-1, 0, 1)]
    ),
    st.sampled_from([-(2**k) for k in (0, 7, 31, 63, 64)]),
)
WORDS = "conv linear max sum attention zero none wrap rle uop shift float32 unsigned stdp layers random all highest /"
texts = st.sampled_from(["", *WORDS.split()])
values = st.one_of(
    numbers, numbers, texts, st.none(), st.booleans(), st.floats(), st.lists(numbers, max_size=5), st.just({})
)
changes = st.lists(st.tuples(st.integers(0, 10_000), values), max_size=3)
flips = st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 255)), max_size=3)


def paths(node, here=()):
    """Every place in a JSON tree."""
    if here:
        yield here
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in pairs:
        yield from paths(child, (*here, key))


def put(tree, path, value):
    for key in path[:-1]:
        tree = tree[key]
    if value == {} and isinstance(tree, dict):
        tree.pop(path[-1])
    else:
        tree[path[-1]] = value


@contextlib.contextmanager
def bounded(mib=MOST_MIB):
    """Whatever asks for more memory here gets a `MemoryError`: numpy, compiled loops, safetensors and Python alike.

    The limit is on address space, so that what is asked for counts, not what is touched.
    """
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + (mib << 20), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@numba.njit
def _taken(size):
    return np.zeros(size, np.uint8).size


def test_memory_beyond_the_bound_is_not_to_be_had():
    """Else the tests below would hold nothing: numpy's and a compiled loop's, asked for and never touched."""
    assert _taken(1) == 1
    for take in (partial(np.empty, dtype=np.uint8), bytearray, _taken):
        with bounded():
            take(MOST_MIB << 19)
            with pytest.raises(MemoryError):
                take(MOST_MIB << 21)
        take(MOST_MIB << 21)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Small exports of every shape, as (manifest, file bytes)."""
    models = [
        (flat(sparsity=0.6, bias=True), Store("smallest")),
        (flat(x=spikes((1, 4, 5)), reset="zero", neurons={"beta": 4, "decay": "shift"}), Store("rle")),
        (convolutional(sparsity=0.5, bias=True, weights={"granularity": "per_channel"}), Store("uop")),
        (convolutional(x=spikes(MAP), reset_delay=False), Store("cp")),
        (attending(), Store("smallest")),
    ]
    made = [(Engine(model.program()), model.x, store) for model, store in models]
    seen = next(batches()).x[:, :1]
    made.append((StdpEngine(lowered(network())), seen, Store("rle")))
    made.append(
        (
            StdpEngine(lowered(network(inhibition="layer", lowest_mv=-70.0, winner="highest"))),
            seen,
            Store("cp"),
        )
    )
    found = []
    for i, (engine, x, store) in enumerate(made):
        folder = tmp_path_factory.mktemp("fuzz") / str(i)
        write(folder, engine.program, store, vectors(engine, engine.codes(x), 1), {}, {})
        found.append(
            (
                json.loads((folder / "manifest.json").read_text()),
                {n: (folder / n).read_bytes() for n in FILES},
            )
        )
    return found


def attempt(folder, original, changed, flipped, cut):
    """Write one hostile export and verify it; True where it was accepted."""
    manifest, files = copy.deepcopy(original[0]), dict(original[1])
    for place, byte in flipped:
        name = FILES[place % 2]
        data = bytearray(files[name])
        data[place // 2 % len(data)] ^= byte
        files[name] = bytes(data)
    if cut:
        name = FILES[cut % 2]
        files[name] = files[name][: -cut % len(files[name])]
    for name, data in files.items():
        (folder / name).write_bytes(data)
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    for place, value in changed:
        everywhere = list(paths(manifest))
        put(manifest, everywhere[place % len(everywhere)], value)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    began = time.process_time()
    try:
        with bounded():
            verify(folder)
        accepted = True
    except DataError:
        accepted = False
    assert time.process_time() - began < LONGEST_S, manifest
    return accepted


def test_the_bound_finds_what_a_missing_check_would_take(originals, tmp_path, monkeypatch):
    """2^32 weights in a few bytes of run lengths: refused, and without its check 32 GiB are asked for."""
    manifest, files = copy.deepcopy(originals[1][0]), originals[1][1]
    assert manifest["stages"][0]["weight"]["encoding"] == "rle"
    manifest["stages"][0]["weight"]["shape"] = [1 << 20, 1 << 12]
    assert not attempt(tmp_path, (manifest, files), [], [], 0)
    monkeypatch.setattr("pipeline.export.manifest.MOST_WEIGHTS", 1 << 62)
    with pytest.raises(MemoryError):
        attempt(tmp_path, (manifest, files), [], [], 0)


inputs = given(
    which=st.integers(0, 6), changed=changes, flipped=flips, cut=st.one_of(st.just(0), st.integers(1, 50))
)
anything = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)


@settings(anything, max_examples=200)
@inputs
def test_any_change_is_refused_or_runs(originals, tmp_path_factory, which, changed, flipped, cut):
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    accepted = attempt(folder, originals[which], changed, flipped, cut)
    assert accepted or changed or flipped or cut, "an untouched export must be accepted"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(10))
def test_a_hundred_thousand_changes_are_refused_or_run(originals, tmp_path, part):
    """Ten thousand in each part, drawn anew."""

    @seed(part)
    @settings(anything, max_examples=10_000, derandomize=False)
    @inputs
    def run(which, changed, flipped, cut):
        attempt(tmp_path, originals[which], changed, flipped, cut)

    run()


@pytest.mark.parametrize(
    "quick", [150, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_manifests_of_random_bytes(originals, tmp_path, quick):
    """The manifest as bytes: some overwritten, some missing, some doubled."""

    @settings(anything, max_examples=quick)
    @given(st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(max_size=6)), min_size=1, max_size=4))
    def run(edits):
        text = bytearray(json.dumps(originals[0][0]).encode())
        for at, data in edits:
            at %= len(text)
            text[at : at + len(data)] = data
        (tmp_path / "manifest.json").write_bytes(text)
        for name, data in originals[0][1].items():
            (tmp_path / name).write_bytes(data)
        try:
            with bounded():
                verify(tmp_path)
        except DataError:
            return

    run()
