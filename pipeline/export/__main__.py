"""``python -m pipeline.export outputs/NAME --member K``: one trial's model as integers, proven, packed and priced.

Reads the finished study, rebuilds the trial's compressed model, lowers it to integers, compares every spike of every
layer on the whole test split, and writes outputs/NAME/export/trial-K. A model that no integer machine can repeat is
refused with the list of what is in the way and the settings that remove it.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, cast

from safetensors.torch import save

from pipeline import checkpoint, config, experiment
from pipeline.compress.stack import grids
from pipeline.config import ConfigError
from pipeline.exits import spoken
from pipeline.experiment import Experiment, Trained, evaluation_batch
from pipeline.export import nir_graph
from pipeline.export.c_code import c_files, refusals, working_bits
from pipeline.export.finalist import lowered, prove_any, stressed
from pipeline.export.folder import READOUT, STREAM, Vectors, vectors, write
from pipeline.export.kinds import AnyProgram, said_and_stored
from pipeline.export.manifest import Store
from pipeline.export.node import Json
from pipeline.export.program import OVERFLOWS, Accumulator, NotExact, Overflow, bounds, signed_bits
from pipeline.export.proof import Proof
from pipeline.export.robustness import Stress
from pipeline.export.stdp_program import LAYER, StdpProgram, guaranteed, reach
from pipeline.hardware.cost import HOLDINGS, Cost, Holding, cost
from pipeline.learn.labels import LabelDecode
from pipeline.study import database
from pipeline.types import DataError, Dataset, Decode

OK, FAILED, USAGE, NOT_EXACT = 0, 1, 2, 3
_PACKAGES = ("snn-pipeline", "torch", "snntorch", "numpy", "numba")


class Member(NamedTuple):
    """One trial of a finished study, with what it was made from."""

    number: int
    config: Mapping[str, object]
    experiment: Experiment
    trained: Trained
    data: Dataset


def load(folder: Path, number: int | None, storage: str | None) -> Member:
    """The saved model of a trial; the knee of the front where no number is given.

    Raises:
        DataError: there is no such study or model.
    """
    address = storage or f"sqlite:///{folder / 'study.db'}"
    if storage is None and not (folder / "study.db").exists():
        raise DataError(f"{folder} is no folder of a study: it has no study.db (or name --storage).")
    stored = database.stored_config(database.connect(address), folder.name)
    if stored is None:
        raise DataError(f"{address} holds no study named {folder.name!r}.")
    chosen = _knee(folder) if number is None else number
    path = folder / "models" / f"trial-{chosen:05d}.safetensors"
    if not path.exists():
        kept = ", ".join(str(int(p.stem[6:])) for p in sorted(path.parent.glob("trial-*.safetensors")))
        raise DataError(f"trial {chosen} has no model in {path.parent}; there are: {kept or 'none'}.")
    saved = checkpoint.Saved(path)
    plain = config.override(stored, cast(Mapping[str, object], saved.notes["params"]))
    built = config.build_experiment(plain)
    return Member(chosen, plain, built, experiment.reload(built, saved), built.data.load(built.seed))


def _knee(folder: Path) -> int:
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return int(summary["picks"]["knee"]["trial"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / 'summary.json'} names no knee; choose a trial with --member K."
        ) from error


def priced(member: Member) -> tuple[dict[str, float], Cost]:
    """Test accuracy, and the price of the work that was measured there."""
    trained = member.trained
    metrics, loads = experiment.measured(trained.net, trained.decode, member.data, "test", trained.widths)
    return metrics, cost(loads, member.experiment.accelerator)


STORED: tuple[Holding, ...] = ("weights", "metadata", "parameters")
"""What a device must ship, of all that the cost model holds in memory; the rest is filled while it runs."""


def parts(price: Cost, stored: bool) -> dict[str, float]:
    """Bits by part: of what is stored (weights.bin), or of what the network works in."""
    held = price.memory
    return {what: held[what] for what in HOLDINGS if what in held and (what in STORED) is stored}


def export(
    member: Member, folder: Path, accumulator: Accumulator, samples: int
) -> tuple[Proof, Path, list[str]]:
    """Prove and write; returns the proof, the folder, and what should be said.

    Raises:
        NotExact: the model cannot be run in integers.
        DataError: a spike differs, or the files would not have the size that the cost model claims.
    """
    trained, data = member.trained, member.data
    engine = lowered(trained.net, grids(trained.net), trained.widths, trained.decode, data, accumulator)
    lacks = nir_graph.missing(engine.program)
    for line in lacks:
        print(f"NIR: {line}")
    proof = prove_any(
        trained.net, engine, trained.decode, data.batches("test", evaluation_batch(trained.net, data), seed=0)
    )
    if not proof.holds:
        raise DataError(str(proof))
    metrics, price = priced(member)
    machine = member.experiment.accelerator
    store = Store(machine.weight_encoding, machine.run_bits)
    first = next(iter(data.batches("test", samples, seed=0))).x
    shipped = vectors(engine, engine.codes(first), samples)
    others, notes = _others(engine.program, store, shipped)
    others |= _readout(trained.decode)
    about = _about(member, engine.program, proof, metrics, price)
    about["robustness"] = stressed(engine, data, member.experiment.seed, Stress())
    about["nir"] = {"missing": lacks}
    stored, claimed = said_and_stored(engine.program, store)[1], sum(parts(price, True).values())
    if len(stored) != math.ceil(claimed / 8):
        raise DataError(
            f"{STREAM} would have {len(stored)} bytes, but the cost model claims {claimed / 8:.1f}"
        )
    write(folder, engine.program, store, shipped, about, others)
    return proof, folder, notes


def _others(program: AnyProgram, store: Store, shipped: Vectors) -> tuple[dict[str, bytes], list[str]]:
    """C code and the NIR graph, or why there is none."""
    notes = [f"no C code: {reason}" for reason in refusals(program)]
    files = {} if notes else c_files(program, store, shipped)
    if not nir_graph.writable(program):
        notes.append("no model.nir: see what NIR lacks, above")
        return files, notes
    try:
        graph = nir_graph.file_bytes(program)
    except ValueError as error:  # nir's own checks are no reason to go without the rest of an export
        notes.append(f"no model.nir: {error}")
        return files, notes
    if graph is None:
        notes.append("no model.nir: pip install 'snn-pipeline[export]'")
    else:
        files["model.nir"] = graph
    return files, notes


def _readout(decode: Decode) -> dict[str, bytes]:
    """How classes are read from an STDP network's spike counts, on the host: counts @ votes + bias."""
    if not isinstance(decode, LabelDecode):
        return {}
    return {READOUT: save({name: value.contiguous() for name, value in decode.tensors().items()})}


def _about(
    member: Member, program: AnyProgram, proof: Proof, metrics: Mapping[str, float], price: Cost
) -> Json:
    low, high = wilson(metrics["test_accuracy"], int(metrics["test_samples"]))
    return {
        "trial": member.number,
        "accuracy": {
            "test": metrics["test_accuracy"],
            "samples": int(metrics["test_samples"]),
            "interval_95": [low, high],
            "how": "Wilson's interval over the test samples, one training seed",
        },
        "proof": {
            "holds": proof.holds, "samples": proof.samples, "compared": proof.compared, "spikes": proof.spikes,
            "for_every_input": proof.guaranteed, "said": str(proof),
        },
        "bounds": _reach(program),
        "cost": {
            "accelerator": member.experiment.accelerator.name,
            "memory_bits": price.memory_bits, "energy_pj": price.energy_pj, "latency_us": price.latency_us,
            "stored_bits": parts(price, True), "working_bits": parts(price, False),
            "working_bits_of_c_code": working_bits(program),
            "memory": {layer.name: dict(layer.memory) for layer in price.layers},
        },
        "config": config.decisive(member.config),
        "fingerprint": config.fingerprint(member.config),
        "data": {"name": member.data.name, "sha256": member.data.digest},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }  # fmt: skip


def _register(stored: Mapping[str, object], bits: int | None, overflow: Overflow | None) -> Accumulator:
    """The study's accumulator, with what the command line says in its place."""
    own = config.build_accumulator(stored)
    return Accumulator(own.bits if bits is None else bits, own.overflow if overflow is None else overflow)


def _reach(program: AnyProgram) -> Json:
    if isinstance(program, StdpProgram):
        bits = signed_bits(reach(program))
        return {LAYER: {"update_bits_needed": bits, "float32_exact": guaranteed(program)}}
    return {
        bound.name: {
            "accumulator_bits_needed": bound.accumulator_bits,
            "update_bits_needed": bound.update_bits,
            "float32_exact": bound.float_exact,
        }
        for bound in bounds(program)
    }


def wilson(share: float, samples: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share that was counted over `samples` (Wilson 1927)."""
    if samples < 1:
        return 0.0, 1.0
    centre = share + z * z / (2 * samples)
    spread = z * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    scale = 1 + z * z / samples
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


@spoken
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: exported and proven; 1: not; 2: bad arguments; 3: the model has no exact integer form; 5: the folder
    cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.export", description=__doc__.split("\n\n")[1])
    parser.add_argument("folder", type=Path, help="outputs/NAME of a finished study")
    parser.add_argument("--member", type=int, help="trial number; without it the knee of the front")
    parser.add_argument("--out", type=Path, help="folder to write; default outputs/NAME/export/trial-K")
    parser.add_argument("--storage", help="database address, where the study is not in study.db")
    parser.add_argument(
        "--accumulator-bits",
        type=int,
        help="register that synapses add into, 2 to 32; default: the study's accumulator.bits",
    )
    parser.add_argument("--overflow", choices=OVERFLOWS, help="default: the study's accumulator.overflow")
    parser.add_argument("--vectors", type=int, default=8, help="test samples to ship with their spikes")
    given = parser.parse_args(arguments)
    try:
        member = load(given.folder, given.member, given.storage)
        target = given.out or given.folder / "export" / f"trial-{member.number:05d}"
        accumulator = _register(member.config, given.accumulator_bits, given.overflow)
        proof, folder, notes = export(member, target, accumulator, max(1, given.vectors))
    except NotExact as error:
        print(f"refused: {error}", file=sys.stderr)
        return NOT_EXACT
    except (DataError, ConfigError, ValueError) as error:
        print(f"export: {error}", file=sys.stderr)
        return FAILED
    for note in notes:
        print(f"note: {note}")
    print(f"trial {member.number}: {proof}")
    size = (folder / STREAM).stat().st_size
    print(f"{folder}: {size} bytes of weights and parameters, as claimed; check it anywhere with")
    print(f"  python -m pipeline.verify {folder}")
    return OK


if __name__ == "__main__":
    raise SystemExit(main())
