"""What a person looks at in one trained network: its spikes on a sample, its confusions, its receptive fields."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from numpy.typing import ArrayLike
from snntorch import SpikingNeuron
from torch import Tensor, nn

from pipeline.types import Dataset, Decode

NEURONS_SHOWN = 200
FIELDS_SHOWN = 64
BATCH = 256


@runtime_checkable
class HasFields(Protocol):
    """A network whose neurons have receptive fields worth a picture: `most` of them, [n, H, W]."""

    def receptive_fields(self, most: int) -> ArrayLike: ...


def portrait(net: nn.Module, decode: Decode, data: Dataset) -> dict[str, object]:
    """Plain JSON for the report: rasters of one validation sample, confusion on validation, receptive fields.

    Of a layer with more than `NEURONS_SHOWN` neurons evenly spaced ones are shown; fields likewise.
    """
    net.eval()
    with torch.no_grad():
        found: dict[str, object] = {
            "confusion": _confusion(net, decode, data),
            "rasters": _rasters(net, data),
        }
    if isinstance(net, HasFields):
        fields = torch.as_tensor(net.receptive_fields(FIELDS_SHOWN))
        chosen = fields[_spaced(len(fields), FIELDS_SHOWN)]
        found["receptive_fields"] = [{"layer": "input", "fields": _rounded(chosen)}]
    return found


def _confusion(net: nn.Module, decode: Decode, data: Dataset) -> list[list[int]]:
    table = torch.zeros(data.classes, data.classes, dtype=torch.int64)
    for x, y in data.batches("validation", BATCH, seed=0):
        guess = decode(net(x))
        table += torch.bincount(y * data.classes + guess, minlength=data.classes**2).view_as(table)
    return [[int(v) for v in row] for row in table]


def _rasters(net: nn.Module, data: Dataset) -> list[dict[str, object]]:
    x, y = next(iter(data.batches("validation", 1, seed=0)))
    seen: dict[str, list[Tensor]] = {}
    neurons = [(name, m) for name, m in net.named_modules() if isinstance(m, SpikingNeuron)]

    def watch(name: str) -> object:
        def hook(_module: nn.Module, _given: object, answer: object) -> None:
            # snnTorch answers per step (spikes, membrane) [1, ...]; a fused layer answers per chunk [K, 1, ...].
            spikes, *state = answer if isinstance(answer, tuple) else (answer,)
            size = state[0].numel() if state and isinstance(state[0], Tensor) else spikes[0].numel()
            seen.setdefault(name, []).append(spikes.reshape(-1, size))

        return hook

    handles = [m.register_forward_hook(watch(name)) for name, m in neurons]  # type: ignore[arg-type]
    try:
        out = net(x)
    finally:
        for handle in handles:
            handle.remove()
    layers = {name: torch.cat(parts) for name, parts in seen.items()} or {"output": out[:, 0]}
    return [_raster(name, spikes, int(y[0])) for name, spikes in layers.items()]


def _raster(name: str, spikes: Tensor, label: int) -> dict[str, object]:
    shown = spikes[:, _spaced(spikes.shape[1], NEURONS_SHOWN)]
    events = [[int(step), int(neuron)] for step, neuron in shown.nonzero()]
    return {
        "layer": name, "steps": len(spikes), "neurons": shown.shape[1], "of": spikes.shape[1], "spikes": events,
        "label": label,
    }  # fmt: skip


def _spaced(count: int, shown: int) -> Tensor:
    return torch.linspace(0, count - 1, min(count, shown)).round().long()


def _rounded(fields: Tensor) -> list[object]:
    return [[[round(float(v), 4) for v in row] for row in one] for one in fields]
