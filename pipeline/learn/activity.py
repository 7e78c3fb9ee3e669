"""How much the neuron layers of a network fire, and which of them never or always do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import snntorch as snn
from torch import Tensor, nn

from pipeline.types import Saturated, Silent

SATURATED = 0.95


@dataclass
class Activity:
    """Spikes and neuron-steps per neuron layer since the last `clear`."""

    spikes: dict[str, Tensor] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)

    def clear(self) -> None:
        self.spikes.clear()
        self.steps.clear()

    def rates(self) -> dict[str, float]:
        """Layer name -> spikes per neuron and step."""
        return {name: float(self.spikes[name]) / self.steps[name] for name in self.spikes}

    def rate(self) -> float:
        """Spikes per neuron and step over all layers; 0 when nothing was seen."""
        return sum(float(s) for s in self.spikes.values()) / max(sum(self.steps.values()), 1)

    def check(self) -> None:
        """Raise Silent or Saturated when a layer never fires, or at more than 95 % of all steps."""
        check_rates(self.rates())


def check_rates(rates: Mapping[str, float]) -> None:
    """Raise Silent or Saturated when one of the layers (name -> spikes per neuron and step) never or always fires."""
    told = ", ".join(f"{name} {rate:.4f}" for name, rate in rates.items())
    for name, rate in rates.items():
        if rate == 0:
            raise Silent(f"{name} does not fire; spikes per neuron and step: {told}.")
        if rate > SATURATED:
            raise Saturated(f"{name} fires at {rate:.0%} of all steps; spikes per neuron and step: {told}.")


@contextmanager
def watch(net: nn.Module) -> Iterator[Activity]:
    """Count the spikes of every snnTorch neuron layer of `net` while the context lasts."""
    activity = Activity()

    def count(name: str) -> Any:
        def hook(module: nn.Module, inputs: object, output: Any) -> None:  # noqa: ARG001
            spikes = output[0] if isinstance(output, tuple) else output
            total = spikes.detach().count_nonzero()
            activity.spikes[name] = activity.spikes.get(name, 0) + total
            activity.steps[name] = activity.steps.get(name, 0) + spikes.numel()

        return hook

    hooks = [
        module.register_forward_hook(count(name))
        for name, module in net.named_modules()
        if isinstance(module, snn.SpikingNeuron)
    ]
    try:
        yield activity
    finally:
        for hook in hooks:
            hook.remove()
