"""An export as a folder: written whole or not at all, read back with every doubt.

manifest.json        what everything means, and the sha256 of the other files
weights.bin          every stored number, packed: as many bytes as the cost model claims
vectors.safetensors  inputs of real samples and the spikes of every layer, to check any other implementation
weights.h neuron.h vectors.h runner.c    the same in C99 (`pipeline.export.c_code`)
model.nir            the NIR graph, where `nir` is installed
readout.safetensors  of an STDP network: how classes are read from its spike counts, on the host
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from uuid import uuid4

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from pipeline.export.check import claim
from pipeline.export.kinds import AnyEngine, AnyProgram, engine_of, rebuilt, said_and_stored, work_of
from pipeline.export.manifest import FORMAT, MOST_STREAM, VERSION, Store
from pipeline.export.node import Json, Node
from pipeline.types import DataError

MANIFEST, STREAM, VECTORS = "manifest.json", "weights.bin", "vectors.safetensors"
READOUT = "readout.safetensors"
MOST_MANIFEST = 4 << 20
MOST_FILE = 1 << 30
MOST_WORK = 1 << 35
"""Synaptic operations that a check of the vectors may take in the worst case: about ten seconds."""
MOST_VECTORS = 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, eq=False)
class Vectors:
    """Samples with their spikes."""

    codes: np.ndarray
    """Input integers [n, T or 1, H * W * C], uint8 or int32."""
    spikes: dict[str, np.ndarray]
    """Neuron layer -> [n, T, C, H, W] uint8."""


def vectors(engine: AnyEngine, codes: np.ndarray, most: int = 8) -> Vectors:
    """The first samples of `codes`, as many as a check can run in seconds and takes at all, at least one."""
    count = max(1, min(most, MOST_VECTORS, len(codes), MOST_WORK // max(work_of(engine.program), 1)))
    return Vectors(codes[:count], engine.trace(codes[:count]))


def write(
    folder: Path,
    program: AnyProgram,
    store: Store,
    samples: Vectors,
    about: Json,
    others: Mapping[str, bytes],
) -> None:
    """Write an export, replacing an older one of the same name only when everything is written.

    What the older manifest does not name (a runner that was compiled there) stays in the folder.

    Args:
        about: what the manifest says beside the program: config, accuracy, cost, proof, versions.
        others: further files, C code for one; their hashes are kept as well.

    Raises:
        DataError: the folder is there and is no export, or holds a file of another's under a name of the new export.
    """
    there = folder.is_symlink() or folder.exists()
    older = _older(folder) if there else frozenset()
    said, stream = said_and_stored(program, store)
    tensors = {"input": samples.codes} | {
        f"spikes.{name}": np.packbits(each.reshape(-1), bitorder="little")
        for name, each in samples.spikes.items()
    }
    files = {STREAM: stream, VECTORS: save(tensors), **others}
    manifest = {"format": FORMAT, "version": VERSION, **said, **about}
    manifest["files"] = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    }
    kept = [entry.name for entry in os.scandir(folder) if entry.name not in older] if there else []
    for name in kept:
        claim(name not in files and name != MANIFEST, f"{folder / name} is not of the export, and in its way")
    part = folder.with_name(f".{folder.name}.{uuid4().hex}.part")
    part.mkdir(parents=True)
    try:
        for name, data in files.items():
            (part / name).write_bytes(data)
        text = json.dumps(manifest, indent=1, default=str, allow_nan=False)
        (part / MANIFEST).write_text(text + "\n", encoding="utf-8")
        if there:
            _swap(part, folder, kept, older)
        else:
            os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _older(folder: Path) -> frozenset[str]:
    """The plain files of the export that a folder is; a manifest.json alone may be anyone's.

    Raises:
        DataError: the folder is no export.
    """
    refusal = f"{folder} is there and is no export; it will not be replaced"
    claim(folder.is_dir() and not folder.is_symlink(), refusal)
    try:
        said = _json(_bytes(folder, MANIFEST, MOST_MANIFEST))
    except DataError as error:
        raise DataError(f"{refusal} ({error})") from error
    claim(isinstance(said, dict) and cast(Json, said).get("format") == FORMAT, refusal)
    named = cast(Json, said).get("files")
    claim(isinstance(named, dict), refusal)
    of_export = {MANIFEST, *cast(Json, named)}
    return frozenset(
        entry.name
        for entry in os.scandir(folder)
        if entry.name in of_export and entry.is_file(follow_symlinks=False)
    )


def _swap(part: Path, folder: Path, kept: Sequence[str], older: Iterable[str]) -> None:
    """Put `part` in the place of the older export, whose files are deleted and no others; `kept` move over."""
    aside = part.with_suffix(".old")
    os.rename(folder, aside)
    try:
        os.replace(part, folder)
    except OSError:
        os.rename(aside, folder)
        raise
    for name in kept:
        os.rename(aside / name, folder / name)  # a link moves as a link
    for name in older:
        (aside / name).unlink()
    aside.rmdir()


@dataclass(frozen=True, eq=False)
class Export:
    """An export that was read and found consistent."""

    program: AnyProgram
    samples: Vectors
    manifest: Json
    files: tuple[str, ...]


def read(folder: Path) -> Export:
    """Read an export; hashes, shapes and ranges are checked, spikes are not yet.

    Raises:
        DataError: a file that is missing, changed, cut off or hostile, named.
    """
    claim(folder.is_dir(), f"{folder} is no folder")
    root = Node(_json(_bytes(folder, MANIFEST, MOST_MANIFEST)))
    claim(root["format"].value == FORMAT, f"{folder} is no export of this project")
    root["version"].integer(VERSION, VERSION)
    files = root["files"].value
    claim(
        isinstance(files, dict) and len(cast(Json, files)) <= 64, "manifest.files must name at most 64 files"
    )
    names = tuple(cast(Json, files))
    for name in (STREAM, VECTORS):
        claim(name in names, f"manifest.files does not name {name}")
    for name in names:
        claim(
            _NAME.fullmatch(name) is not None and name != MANIFEST,
            f"manifest.files has the bad name {name[:60]!r}",
        )
        _compare(folder, name, root["files"][name])
    program = rebuilt(root, _bytes(folder, STREAM, MOST_STREAM))
    return Export(program, _vectors(folder / VECTORS, program), cast(Json, root.value), names)


def _json(data: bytes) -> object:
    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is no number")

    try:
        return json.loads(data.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{MANIFEST} is no JSON: {str(error)[:200]}") from error


def _plain(path: Path, most: int) -> int:
    """The size of a plain file; links and devices are refused."""
    try:
        found = path.lstat()
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from error
    claim(stat.S_ISREG(found.st_mode), f"{path.name} is no plain file")
    claim(found.st_size <= most, f"{path.name} has {found.st_size} bytes, more than {most}")
    return found.st_size


def _bytes(folder: Path, name: str, most: int) -> bytes:
    _plain(folder / name, most)
    with (folder / name).open("rb") as file:
        data = file.read(most + 1)
    claim(len(data) <= most, f"{name} is larger than {most} bytes")
    return data


def _compare(folder: Path, name: str, said: Node) -> None:
    size = _plain(folder / name, MOST_FILE)
    wanted = said["bytes"].integer(0, MOST_FILE)
    claim(size == wanted, f"{name} has {size} bytes, the manifest says {wanted}")
    with (folder / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    claim(digest == said["sha256"].text(64), f"{name} was changed: its sha256 is {digest[:16]}...")


def _vectors(path: Path, program: AnyProgram) -> Vectors:
    """Tensors of the sizes that the program asks for, and no others."""
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise DataError(f"{VECTORS} cannot be read: {str(error)[:200]}") from error
    codes = tensors.get("input")
    given, steps = program.input, program.timesteps
    inputs = int(np.prod(given.shape))
    claim(codes is not None and codes.ndim == 3 and codes.dtype in (np.uint8, np.int32), f"{VECTORS}: input")
    codes = np.ascontiguousarray(cast(np.ndarray, codes))
    count = len(codes)
    claim(
        1 <= count <= MOST_VECTORS and codes.shape[1:] in ((1, inputs), (steps, inputs)), f"{VECTORS}: input"
    )
    ok = int(codes.max()) <= given.high and int(codes.min()) >= given.low
    claim(ok, f"{VECTORS}: an input lies outside [{given.low}, {given.high}]")
    work = work_of(program)
    claim(count * work <= max(MOST_WORK, work), f"{VECTORS}: more samples than can be checked")
    claim(work <= MOST_WORK * 4, "the network is too large to be checked here")
    spikes = {}
    for name, (channels, rows, columns) in program.layers:
        shape = (count, steps, channels, rows, columns)
        packed = tensors.get(f"spikes.{name}")
        size = int(np.prod(shape, dtype=np.int64))
        ok = packed is not None and packed.dtype == np.uint8 and packed.shape == ((size + 7) // 8,)
        claim(ok, f"{VECTORS}: spikes.{name} must be {size} bits")
        bits = np.unpackbits(cast(np.ndarray, packed), count=size, bitorder="little")
        spikes[name] = bits.reshape(shape)
    claim(len(tensors) == 1 + len(spikes), f"{VECTORS} holds tensors that no layer asks for")
    return Vectors(codes, spikes)


def first_difference(export: Export) -> str:
    """Run the vectors; "" where every spike of every layer is as shipped, else where the first one is not."""
    traced = engine_of(export.program).trace(export.samples.codes)
    for name, shipped in export.samples.spikes.items():
        unequal = traced[name] != shipped
        if unequal.any():
            steps = unequal.swapaxes(0, 1)
            step, sample, *neuron = (int(i) for i in np.unravel_index(int(steps.argmax()), steps.shape))
            return f"{name} differs from its vectors first at step {step}, neuron {tuple(neuron)}, sample {sample}."
    return ""
