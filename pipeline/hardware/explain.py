"""``python -m pipeline.hardware.explain MODEL_DIR accelerator=NAME``: where the cost of a trained model goes.

MODEL_DIR is the folder of a study (``outputs/quickstart``). The model is the study's knee, or ``trial=N``; any number
of the machine can be changed on the line (``accelerator.buffer.read_pj=5``). Prints tables by layer and by part, mean
and worst case, which constants matter, and what fits; draws ``hardware/NAME-layers.png`` and ``-sensitivity.png``
into MODEL_DIR.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.table import Table

from pipeline import checkpoint, config, experiment
from pipeline.config import ConfigError
from pipeline.exits import spoken
from pipeline.hardware.accelerator import Accelerator
from pipeline.hardware.cost import BUSY, HOLDINGS, PARTS, Cost, cost
from pipeline.hardware.picture import (
    ENERGY_UNITS,
    MEMORY_UNITS,
    draw_layers,
    draw_sensitivity,
    scaled,
)
from pipeline.hardware.sensitivity import sensitivity
from pipeline.hardware.workload import LayerLoad
from pipeline.study import database
from pipeline.types import DataError

CHANGE = 0.3
OK, BAD_CONFIG, BAD_DATA = 0, 2, 3


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    folder: Path
    machine: Accelerator
    trial: int | None


@spoken
def main(arguments: Sequence[str] | None = None) -> int:
    """Explain one model; the exit code is 0, 2 (a key is wrong) or 3 (no such model)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    console = Console(soft_wrap=True) if sys.stdout.isatty() else Console(width=160, soft_wrap=True)
    if not given or any(word in ("-h", "--help") for word in given):
        console.print((__doc__ or "").strip(), markup=False, highlight=False)
        console.print(
            f"accelerators: {', '.join(config.members('accelerator'))}", markup=False, highlight=False
        )
        return OK if given else BAD_CONFIG
    try:
        request = parse(given)
        number, loads = measured_loads(request)
        explain(request, number, loads, console)
    except ConfigError as error:
        console.print(f"config error: {error}", markup=False, highlight=False, style="red")
        return BAD_CONFIG
    except DataError as error:
        console.print(f"data error: {error}", markup=False, highlight=False, style="red")
        return BAD_DATA
    return OK


def parse(given: Sequence[str]) -> Request:
    """Words with a ``=`` are keys, the one without is the folder.

    Raises:
        ConfigError: no folder, two folders, an unknown key or a value out of range.
    """
    folders = [word for word in given if "=" not in word]
    if len(folders) != 1:
        raise ConfigError(f"give one MODEL_DIR, but got {folders or 'none'}.")
    trial = None
    overrides = []
    for word in given:
        key, _, value = word.partition("=")
        if key == "trial":
            if not value.isdigit():
                raise ConfigError(f"trial must be a number of a trial, but got {value!r}.")
            trial = int(value)
        elif key.split(".")[0] == "accelerator":
            overrides.append(word)
        elif value:
            raise ConfigError(f"unknown key {key}. The keys are: accelerator, accelerator.*, trial.")
    return Request(Path(folders[0]), machine_of(overrides), trial)


def machine_of(overrides: Sequence[str]) -> Accelerator:
    """The accelerator that the command line names, its numbers changed as asked."""
    plain = config.plain(config.compose(["name=explain", *overrides]))
    machine = config.instantiate(plain["accelerator"], "accelerator")
    if not isinstance(machine, Accelerator):
        raise ConfigError(f"accelerator must build an Accelerator, but got {type(machine).__name__}.")
    return machine


def measured_loads(request: Request) -> tuple[int, tuple[LayerLoad, ...]]:
    """(trial, what the model does per counted sample): the saved model is loaded and run, nothing is trained."""
    folder = request.folder
    if not (folder / "study.db").exists():
        raise DataError(f"{folder} is no folder of a study: it has no study.db.")
    stored = database.stored_config(database.connect(f"sqlite:///{folder / 'study.db'}"), folder.name)
    if stored is None:
        raise DataError(f"{folder / 'study.db'} holds no study named {folder.name!r}.")
    number = request.trial if request.trial is not None else knee(folder)
    path = folder / "models" / f"trial-{number:05d}.safetensors"
    if not path.exists():
        kept = ", ".join(
            str(int(p.stem.removeprefix("trial-"))) for p in sorted(path.parent.glob("trial-*.safetensors"))
        )
        raise DataError(f"trial {number} has no model in {path.parent}; there are: {kept or 'none'}.")
    saved = checkpoint.Saved(path)
    built = config.build_experiment(config.override(stored, cast(dict[str, object], saved.notes["params"])))
    trained = experiment.reload(built, saved)
    data = built.data.load(built.seed)
    loads = experiment.counted(trained.net, trained.decode, data, trained.widths, built.counting)
    return number, loads


def knee(folder: Path) -> int:
    """The trial that the finished study picked as the best balance, else the first of its front."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        picks, front = summary["picks"], summary["front"]
        return cast(int, picks["knee"]["trial"] if "knee" in picks else front[0]["trial"])
    except (OSError, json.JSONDecodeError, KeyError, IndexError) as error:
        raise DataError(
            f"{folder / 'summary.json'} names no model ({error!r}): choose one with trial=N."
        ) from error


def explain(request: Request, number: int, loads: Sequence[LayerLoad], console: Console) -> None:
    """Print the tables and draw the two figures."""
    machine = request.machine
    price = cost(loads, machine)
    worst = cost([load.at_worst() for load in loads], machine)
    title = f"{request.folder.name}, trial {number}, on {machine.name}"
    console.print(
        f"{title} ({machine.node_nm:g} nm, {machine.processing}, weights {machine.weight_encoding})"
    )
    console.print(layer_table(price, worst, loads))
    console.print(part_table(price, worst))
    for line in remarks(price, machine):
        console.print(line, markup=False, highlight=False)
    report = sensitivity(loads, machine, CHANGE)
    table = Table(title=f"constants: energy when one is {CHANGE:.0%} lower or higher")
    for head in ("constant", "value", "lower", "higher", "elasticity"):
        table.add_column(head, justify="left" if head == "constant" else "right")
    for entry in report[:10]:
        cells = (entry.low["energy_pj"] - 1, entry.high["energy_pj"] - 1)
        slope = entry.elasticity.get("energy_pj", 0.0)
        table.add_row(entry.name, f"{entry.value:g}", *(f"{cell:+.1%}" for cell in cells), f"{slope:.3f}")
    console.print(table)
    out = request.folder / "hardware"
    layers = draw_layers(
        price, [w.energy_pj for w in worst.layers], title, out / f"{machine.name}-layers.png"
    )
    tornado = draw_sensitivity(report, CHANGE, title, out / f"{machine.name}-sensitivity.png")
    console.print(f"drawn: {layers}, {tornado}", highlight=False)


def layer_table(price: Cost, worst: Cost, loads: Sequence[LayerLoad]) -> Table:
    """One row per layer."""
    energy_size, energy_unit = scaled([layer.energy_pj for layer in price.layers], ENERGY_UNITS)
    memory_size, memory_unit = scaled([layer.memory_bits for layer in price.layers], MEMORY_UNITS)
    table = Table(title="by layer, one inference")
    table.add_column("layer")
    heads = (
        "bits",
        "format",
        "zeros",
        "rate",
        "synops",
        "of dense",
        f"memory {memory_unit}",
        f"energy {energy_unit}",
    )
    for head in (*heads, f"worst {energy_unit}", "latency us", "waits for", "off-chip"):
        table.add_column(head, justify="right")
    for layer, bad, load in zip(price.layers, worst.layers, loads, strict=True):
        table.add_row(
            layer.name,
            f"{load.weight_bits}",
            layer.encoding,
            f"{1 - load.density:.1%}",
            f"{load.firing_rate:.1%}" if load.neurons else "",
            f"{load.synops:,.0f}",
            f"{load.synops / load.mean.synops_dense:.2%}" if load.mean.synops_dense else "",
            f"{layer.memory_bits / memory_size:.3g}",
            f"{layer.energy_pj / energy_size:.3g}",
            f"{bad.energy_pj / energy_size:.3g}",
            f"{layer.latency_us:.3g}",
            layer.bound_by,
            f"{layer.off_chip:.0%}",
        )
    table.add_section()
    sums = (f"{price.memory_bits / memory_size:.3g}", f"{price.energy_pj / energy_size:.3g}")
    bad_sum = f"{price.worst_energy_pj / energy_size:.3g}"
    table.add_row(
        "all",
        "",
        "",
        f"{price.sparsity:.1%}",
        f"{price.firing_rate:.1%}",
        "",
        "",
        *sums,
        bad_sum,
        f"{price.latency_us:.3g}",
    )
    return table


def part_table(price: Cost, worst: Cost) -> Table:
    """Energy by part, mean and worst; memory by what it holds; time that parts work and that layers wait for them."""
    table = Table(title="by part")
    heads = (
        "energy of",
        "mean",
        "share",
        "worst",
        "",
        "memory of",
        "size",
        "share",
        "",
        "time of",
        "busy",
        "waited",
    )
    for head in heads:
        table.add_column(head, justify="left" if head.endswith("of") else "right")
    energy_size, energy_unit = scaled([price.energy_pj], ENERGY_UNITS)
    memory_size, memory_unit = scaled([price.memory_bits], MEMORY_UNITS)
    for index, part in enumerate(PARTS):
        mean, bad = price.parts[part], worst.parts[part]
        share = f"{mean / price.energy_pj:.1%}" if price.energy_pj else ""
        row = [
            part,
            f"{mean / energy_size:.3g} {energy_unit}",
            share,
            f"{bad / energy_size:.3g} {energy_unit}",
            "",
        ]
        row += ["", "", ""]
        if index < len(HOLDINGS):
            bits = price.memory.get(HOLDINGS[index], 0.0)
            share = f"{bits / price.memory_bits:.1%}" if price.memory_bits else ""
            row[-3:] = [HOLDINGS[index], f"{bits / memory_size:.3g} {memory_unit}", share]
        if index < len(BUSY):
            busy, waited = price.busy_us[BUSY[index]], price.waited_us[BUSY[index]]
            row += ["", BUSY[index], f"{busy:.3g} us", f"{waited:.3g} us"]
        table.add_row(*row)
    return table


def remarks(price: Cost, machine: Accelerator) -> list[str]:
    """What fits, what does not, how large it is, and what the machine's model leaves out."""
    found = [f"{layer.name}: {layer.overflow}" for layer in price.layers if layer.overflow]
    if not price.fits:
        found.append(
            f"This network does not fit {machine.name}: it is priced as if there were more of its memory."
        )
    if price.area_mm2 is not None:
        found.append(f"area (SRAM and arithmetic only): {price.area_mm2:.3g} mm2 at {machine.node_nm:g} nm")
    if machine.leaves_out:
        found.append(f"left out: {' '.join(machine.leaves_out.split())}")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
