"""Is the spiking network worth it? A study's member beside three others of its own size, trained the same way.

    python benchmarks/baselines.py outputs/NAME [--member K]

* float SNN, as small: the same network without any compression, its layers narrowed until its memory is the member's
* random pruning: the same bits and sparsity, but the weights that go are drawn, not chosen by magnitude
* quantized ANN: the same layers and weight bits, ReLU of 8 bits in place of the neurons, one pass in place of T steps,
  its energy as multiply-accumulates on the same accelerator; it sees the mean of the input over time

Prints one row each (validation, test, memory, energy, latency) and writes outputs/NAME/baselines.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pipeline import experiment
from pipeline.compress.plan import Plan
from pipeline.compress.prune import PruneWeights, keep_largest, mask_of
from pipeline.compress.stack import synapses
from pipeline.experiment import Experiment, Trained
from pipeline.export.__main__ import load
from pipeline.hardware.cost import cost
from pipeline.hardware.load import measure
from pipeline.nets.layered import Layered
from pipeline.nets.neurons import Leaky
from pipeline.types import NetSpec

WIDTHS = ("hidden", "channels")
"""Fields of a network's config that say how wide it is."""
COLUMNS = ("validation_accuracy", "test_accuracy", "memory_bits", "energy_pj", "latency_us")


class QuantizedReLU(nn.Module):
    """8 bits without a sign on steps of 1/16, up to 15.9375; the gradient goes straight through inside."""

    def forward(self, x: Tensor) -> Tensor:
        held = x.clamp(0, 255 / 16)
        return held + ((held * 16).round() / 16 - held).detach()


class Ann(Layered):
    """The layers of a spiking network with ReLUs: [T, B, ...] -> [1, B, N], of the input's mean over time."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.mean(0, keepdim=True))


@dataclass(frozen=True)
class AnnSpec:
    """The network that `spec` builds, its neurons replaced by ReLUs, the last ones by nothing."""

    spec: NetSpec

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
        net = self.spec.build(shape, classes, seed)
        layers = [(name, net.get_submodule(name)) for name in net.order]  # type: ignore[union-attr]
        last = max(i for i, (_, layer) in enumerate(layers) if isinstance(layer, Leaky))
        return Ann(
            [
                (
                    name,
                    (nn.Identity() if i == last else QuantizedReLU()) if isinstance(layer, Leaky) else layer,
                )
                for i, (name, layer) in enumerate(layers)
            ]
        )


@dataclass(frozen=True)
class PruneAtRandom(PruneWeights):
    """As `PruneWeights`, but which weights go is drawn."""

    seed: int = 0
    family: ClassVar[Literal["prune", "quantize"]] = "prune"

    def _prune(self, net: nn.Module, sparsity: float) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        for _, module in synapses(net):
            mask = mask_of(net, module)
            drawn = torch.rand(mask.keep.numel(), generator=generator)
            rank = torch.where(mask.keep.flatten(), drawn, -1.0)
            mask.keep = keep_largest(rank, round(sparsity * rank.numel())).reshape(mask.keep.shape)


def narrowed(given: Experiment, memory_bits: float) -> Experiment:
    """The float experiment, its widths scaled down until its memory is at most `memory_bits` (or 1 everywhere)."""

    def at(share: float) -> Experiment:
        changes = {
            name: _scaled(getattr(given.net, name), share)
            for name in WIDTHS
            if getattr(given.net, name, None)
        }
        net = dataclasses.replace(given.net, **changes)  # type: ignore[type-var]
        return dataclasses.replace(given, net=net, compression={}, plan=Plan())

    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        fits = _untrained_memory(at(middle)) <= memory_bits
        low, high = (middle, high) if fits else (low, middle)
    return at(low)


def _untrained_memory(given: Experiment) -> float:
    """Bits, before any training: every weight of a float network is stored."""
    data = given.data.load(given.seed)
    net = given.net.build(data.shape, data.classes, given.seed)
    few = [next(iter(data.batches("validation", 8, seed=0)))]
    return cost(measure(net, few, {}), given.accelerator).memory_bits


def _scaled(width: int | Sequence[int], share: float) -> int | tuple[int, ...]:
    return (
        max(1, round(width * share))
        if isinstance(width, int)
        else tuple(max(1, round(w * share)) for w in width)
    )


def at_random(given: Experiment) -> Experiment | None:
    """The same with drawn masks; None where nothing is pruned."""
    steps: dict[str, Any] = {}
    for name, step in given.compression.items():
        fields = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}  # type: ignore[arg-type]
        steps[name] = PruneAtRandom(**fields, seed=given.seed) if isinstance(step, PruneWeights) else step
    pruned = any(isinstance(step, PruneAtRandom) and step.active for step in steps.values())
    return dataclasses.replace(given, compression=steps) if pruned else None


def row(name: str, given: Experiment, trained: Trained) -> dict[str, Any]:
    """Both accuracies and the price, all measured on the test split's activity."""
    data = given.data.load(given.seed)
    validation, _ = experiment.measured(trained.net, trained.decode, data, "validation", trained.widths)
    test, loads = experiment.measured(trained.net, trained.decode, data, "test", trained.widths)
    metrics = {**validation, **test, **cost(loads, given.accelerator).metrics()}
    return {"name": name, **{column: metrics[column] for column in COLUMNS}}


def rows(folder: Path, number: int | None) -> list[dict[str, Any]]:
    """The member first, then its baselines."""
    member = load(folder, number, None)
    given = member.experiment
    found = [row(f"trial {member.number}", given, member.trained)]
    others: Mapping[str, Experiment | None] = {
        "float SNN, as small": narrowed(given, found[0]["memory_bits"]),
        "random pruning": at_random(given),
        "quantized ANN": dataclasses.replace(given, net=AnnSpec(given.net)),
    }
    for name, other in others.items():
        if other is not None:
            found.append(row(name, other, experiment.evaluate(other, lambda step, metrics: None)))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--member", type=int)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = rows(given.folder, given.member)
    print(f"{'':22}{'valid.':>8}{'test':>8}{'memory':>12}{'energy':>12}{'latency':>11}")
    for each in found:
        shares = f"{each['validation_accuracy']:>8.1%}{each['test_accuracy']:>8.1%}"
        memory, energy = each["memory_bits"] / 8192, each["energy_pj"] / 1000
        print(f"{each['name']:22}{shares}{memory:>8.2f} KiB{energy:>9.1f} nJ{each['latency_us']:>8.1f} us")
    path = given.folder / "baselines.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
