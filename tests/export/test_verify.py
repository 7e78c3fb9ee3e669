"""Exports on disk: what comes back, and what happens to those that were changed by accident or malice."""

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from pipeline.export.folder import read, vectors, write
from pipeline.export.integer import Engine
from pipeline.export.manifest import Store
from pipeline.types import DataError
from pipeline.verify import main, verify
from tests.export.small import FLAT, convolutional, flat, spikes


def exported(model, folder, store=None):
    program = model.program()
    engine = Engine(program)
    write(folder, program, store or Store(), vectors(engine, engine.codes(model.x)), {"name": "test"}, {})
    return program


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "member"
    exported(convolutional(sparsity=0.5, bias=True), folder, Store("rle"))
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def change(folder, edit):
    """Edit the manifest as someone would who also mends the hashes."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    for name in manifest.get("files", {}):
        file = folder / name
        if file.is_file() and name in ("weights.bin", "vectors.safetensors"):
            data = file.read_bytes()
            manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("encoding", ["dense", "bitmask", "rle", "cp", "uop"])
@pytest.mark.parametrize("build", [flat, convolutional])
def test_an_export_comes_back_as_the_same_program(build, encoding, tmp_path):
    model = build(sparsity=0.6, bias=True, weights={"granularity": "per_channel"})
    program = exported(model, tmp_path / "m", Store(encoding))
    back = verify(tmp_path / "m").program
    codes = Engine(program).codes(model.x)
    np.testing.assert_array_equal(Engine(program).spikes(codes), Engine(back).spikes(codes))
    for old, new in zip(program.stages, back.stages, strict=True):
        np.testing.assert_array_equal(old.synapses.weight.codes, new.synapses.weight.codes)
        assert old.neurons.threshold.bits == new.neurons.threshold.bits


def test_floats_that_have_no_grid_are_stored_as_floats(tmp_path):
    model = flat(beta=0.5, threshold=0.75, neurons={"beta": 32, "threshold": 32})
    exported(model, tmp_path / "m")
    stage = verify(tmp_path / "m").program.stages[0]
    assert stage.neurons.beta.values.tolist() == [0.5]
    assert stage.neurons.threshold.values.tolist() == [0.75]
    said = json.loads((tmp_path / "m" / "manifest.json").read_text())["stages"][0]["neurons"]
    assert said["beta"]["form"] == "float32"
    assert said["decay"] == "shift by 1"


def test_a_decay_by_a_shift_is_stored_as_the_shift(tmp_path):
    """0.9 becomes 1 - 2^-3 = 0.875, of which 5 bits hold the 3."""
    model = flat(neurons={"beta": 5, "decay": "shift"})
    exported(model, tmp_path / "m")
    stage = verify(tmp_path / "m").program.stages[0]
    assert stage.neurons.beta.values.tolist() == [0.875]
    said = json.loads((tmp_path / "m" / "manifest.json").read_text())["stages"][0]["neurons"]
    assert said["beta"]["bits"] == 5
    assert said["decay"] == "a shift by 3 and a subtraction, before rounding"


def test_the_command_says_what_it_checked(made):
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.verify", str(made)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "every spike of 3 layers over 6 steps of 8 samples as shipped" in done.stdout


def test_the_command_names_what_is_wrong(copy, capsys):
    (copy / "weights.bin").write_bytes((copy / "weights.bin").read_bytes()[:-1])
    assert main([str(copy)]) == 1
    assert "weights.bin has" in capsys.readouterr().err
    assert main([]) == 2


def flipped(copy):
    data = bytearray((copy / "weights.bin").read_bytes())
    data[:16] = bytes(byte ^ 0xFF for byte in data[:16])
    (copy / "weights.bin").write_bytes(bytes(data))


def test_flipped_bits_are_found_by_the_hash_and_if_that_is_mended_by_the_vectors(copy):
    flipped(copy)
    with pytest.raises(DataError, match=r"weights\.bin was changed"):
        verify(copy)
    change(copy, lambda manifest: None)
    with pytest.raises(DataError, match=r"differs from its vectors first at step|fc|conv"):
        verify(copy)


def test_a_symbolic_link_is_no_file_of_an_export(copy, tmp_path):
    shutil.move(copy / "weights.bin", tmp_path / "elsewhere")
    (copy / "weights.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no plain file"):
        verify(copy)


def put(path, value):
    def edit(manifest):
        node = manifest
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m["files"].update({"../../etc/passwd": {"bytes": 1, "sha256": "0"}}), "bad name"),
        (lambda m: m["files"].update({"/etc/passwd": {"bytes": 1, "sha256": "0"}}), "bad name"),
        (lambda m: m["files"].pop("weights.bin"), "does not name weights.bin"),
        (put(["format"], "another"), "no export of this project"),
        (put(["version"], 1), "version"),
        (put(["timesteps"], 10**9), "timesteps"),
        (put(["timesteps"], "6"), "timesteps must be a whole number"),
        (put(["classes"], 4), "cannot vote for 4 classes"),
        (put(["input", "shape"], [2, 9, 1 << 19]), "too large|expects"),
        (put(["stages", 0, "weight", "shape"], [4, 2, 1 << 10, 1 << 19]), "more than"),
        (
            put(["stages", 0, "weight", "shape"], [4, 2, 3, 5]),
            "cannot be a tensor|left over|makes",
        ),
        (put(["stages", 0, "weight", "length_bits"], 10**12), "length_bits"),
        (put(["stages", 0, "weight", "offset_bits"], 8), "must begin at bit 0"),
        (put(["stages", 0, "weight", "exponents"], [10**9]), "exponents"),
        (put(["stages", 0, "out_shape"], [4, 900, 8]), "makes"),
        (put(["stages", 0, "padding"], [10**6, 0, 0, 0]), "makes"),
        (put(["stages", 0, "groups"], 2), "groups"),
        (put(["stages", 0, "neurons", "mem", "bits"], 64), "bits"),
        (put(["stages", 0, "neurons", "mem", "high"], 10**6), "mem"),
        (put(["stages", 1, "pools", 0, "kernel"], [0, 2]), "kernel"),
        (put(["stages", 0, "neurons", "reset"], "explode"), "reset must be one of"),
        (put(["stages"], []), "no tensor owns"),
        (put(["stages", 1], None), "has no"),
    ],
)
def test_a_hostile_manifest_is_refused_by_name(copy, edit, words):
    change(copy, edit)
    with pytest.raises(DataError, match=words):
        verify(copy)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a": NaN}', "null", "1" * 5000, "\x00"])
def test_a_manifest_that_is_no_json(copy, text):
    (copy / "manifest.json").write_text(text)
    with pytest.raises(DataError):
        verify(copy)


def test_a_huge_file_is_not_read(copy):
    with (copy / "manifest.json").open("ab") as file:
        file.truncate(1 << 33)  # sparse: takes no room
    with pytest.raises(DataError, match="more than"):
        read(copy)


def test_more_vectors_than_a_check_takes_are_not_shipped(tmp_path):
    """``--vectors 1500`` wrote an export that could not be verified."""
    model = flat(x=spikes(FLAT, steps=2, batch=1500))
    engine = Engine(model.program())
    samples = vectors(engine, engine.codes(model.x), 1500)
    assert len(samples.codes) == 1024
    write(tmp_path / "m", engine.program, Store(), samples, {}, {})
    assert len(verify(tmp_path / "m").samples.codes) == 1024


def test_a_folder_that_is_no_export_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="will not be replaced"):
        exported(flat(), tmp_path)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize(
    "text", ['{"name": "my web app"}', "{", "null", '{"format": "another", "files": {}}', '{"format": 1}']
)
def test_a_folder_with_a_manifest_of_something_else_is_never_replaced(text, tmp_path):
    """manifest.json is the name of web applications' manifests, too."""
    (tmp_path / "manifest.json").write_text(text)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="will not be replaced"):
        exported(flat(), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "manifest.json").read_text() == text


def test_a_manifest_or_a_folder_that_is_a_link_is_not_replaced(copy, tmp_path):
    (tmp_path / "link").symlink_to(copy, target_is_directory=True)
    with pytest.raises(DataError, match="will not be replaced"):
        exported(flat(), tmp_path / "link")
    shutil.move(copy / "manifest.json", tmp_path / "elsewhere.json")
    (copy / "manifest.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(DataError, match=r"will not be replaced.*no plain file"):
        exported(flat(), copy)


def test_an_older_export_is_replaced_and_what_it_does_not_name_stays(copy, tmp_path):
    """A runner compiled there, a folder and a link of the user's are neither deleted nor followed."""
    (copy / "stale.c").write_text("x")
    change(copy, lambda manifest: manifest["files"].update({"stale.c": {"bytes": 1, "sha256": "0"}}))
    (copy / "runner").write_text("compiled")
    (copy / "notes").mkdir()
    (copy / "notes" / "mine.txt").write_text("mine")
    (tmp_path / "outside").write_text("outside")
    (copy / "link").symlink_to(tmp_path / "outside")
    exported(flat(), copy)
    verify(copy)
    assert not (copy / "stale.c").exists()
    assert (copy / "runner").read_text() == "compiled"
    assert (copy / "notes" / "mine.txt").read_text() == "mine"
    assert (copy / "link").is_symlink()
    assert (tmp_path / "outside").read_text() == "outside"
    assert not list(tmp_path.glob(".*"))


def test_a_file_in_the_way_of_a_new_export_is_named(copy):
    """It has a name that the old export did not use: a file of the user's own."""
    change(copy, lambda manifest: manifest["files"].pop("vectors.safetensors"))
    before = (copy / "weights.bin").read_bytes()
    with pytest.raises(DataError, match=r"vectors\.safetensors is not of the export, and in its way"):
        exported(flat(), copy)
    assert (copy / "weights.bin").read_bytes() == before


def test_a_stream_larger_than_any_network_is_not_taken_apart(copy):
    """128 MiB of zeros take no room on disk, but their bits would take 1 GiB of memory."""
    size = 128 << 20
    with (copy / "weights.bin").open("wb") as file:
        file.truncate(size)
    said = {"bytes": size, "sha256": hashlib.sha256(bytes(size)).hexdigest()}
    change(copy, lambda manifest: manifest["files"]["weights.bin"].update(said))
    with pytest.raises(DataError, match=f"weights.bin has {size} bytes, more than"):
        verify(copy)
