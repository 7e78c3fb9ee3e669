"""Neuron parameters and states of snnTorch neurons on fixed-point grids; the STDP counterpart is `stdp_neurons`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import snntorch
import torch
from torch import Tensor, nn

from pipeline.compress.at_once import fits, quantize_masked
from pipeline.compress.calibrate import HEADROOM, Calibrate, Grid, fit_step
from pipeline.compress.kernels import CODES
from pipeline.compress.quantizers import DecayFactor, Uniform
from pipeline.compress.rounding import Noise, Rounding, code_range, fake_quantize
from pipeline.compress.stack import Quantizer, full_name, ledger, original, seed_of, stack_on
from pipeline.types import FLOAT_BITS

_SAMPLED = 4096
"""Magnitudes kept of each observed step."""


class Formats(Protocol):
    """The fields of `QuantizeNeurons` that are used here."""

    @property
    def bits(self) -> Mapping[str, int]: ...
    @property
    def decay(self) -> str: ...
    @property
    def rounding(self) -> Rounding: ...
    @property
    def calibrate(self) -> Calibrate: ...
    @property
    def percentile(self) -> float: ...
    @property
    def headroom(self) -> float | None: ...
    @property
    def seed(self) -> int: ...


class StateFormat(nn.Module):
    """One state's fixed-point format: ``forward(state)`` -> on the grid {low, ..., high} * step.

    Saturating, straight-through gradient. A fused scan may read `step` (0-dim tensor), `low`, `high`,
    `rounding` and `keys` and do the same arithmetic.
    """

    step: Tensor

    def __init__(self, bits: int, step: float, rounding: Rounding = "nearest", seed: int = 0) -> None:
        super().__init__()
        self.bits, self.rounding = bits, rounding
        self.low, self.high = code_range(bits)
        self.noise = Noise(seed)
        self.register_buffer("step", torch.tensor(step))

    def forward(self, state: Tensor) -> Tensor:
        if fits(state):
            key = self.noise.key(True) if self.rounding == "stochastic" else 0
            return quantize_masked(
                state, self.step, self.low, self.high, CODES[self.rounding], key, False, None
            )
        noise = self.noise.fresh(state) if self.rounding == "stochastic" else None
        return fake_quantize(state, self.step, self.low, self.high, self.rounding, noise)

    def keys(self, steps: int) -> np.ndarray:
        """uint32 [steps]: the draws of so many time steps at once, as `forward`, called twice a step, uses them.

        snnTorch rounds the new membrane and what it compares with the threshold; the second finds it on the grid.
        """
        found = [self.noise.key(True) for _ in range(2 * steps)]
        return np.array(found[::2], np.uint32)

    def rewind(self) -> None:
        """Before each forward of the net: in evaluation the same batch meets the same draws."""
        if not self.training:
            self.noise.rewind()

    def grid(self) -> Grid:
        return Grid(self.bits, self.step, self.low, self.high)


class SynapticStates(nn.Module):
    """`snntorch.Synaptic` calls its one hook for the membrane, the current and the membrane again, in turn."""

    def __init__(self, membrane: StateFormat | None, current: StateFormat | None) -> None:
        super().__init__()
        self.membrane, self.current = membrane, current
        self.turn = 0

    def forward(self, state: Tensor) -> Tensor:
        chosen = self.current if self.turn % 3 == 1 else self.membrane
        self.turn += 1
        return state if chosen is None else cast(Tensor, chosen(state))

    def begin(self, *_: Any) -> None:
        self.turn = 0


class Watch(nn.Module):
    """Stands in for a state's format on calibration batches: passes the state on, keeps its magnitudes."""

    def __init__(self) -> None:
        super().__init__()
        self.top = 0.0
        self.samples: list[Tensor] = []

    def forward(self, state: Tensor) -> Tensor:
        size = state.detach().abs().flatten()
        if size.numel():
            self.top = max(self.top, float(size.max()))
            self.samples.append(size[:: max(1, size.numel() // _SAMPLED)])
        return state

    def values(self) -> Tensor:
        """All kept magnitudes, the maximum among them."""
        return torch.cat([*self.samples, torch.tensor([self.top])])


Seen = Mapping[str, Tensor]
"""State name (``lif1.mem``) -> observed magnitudes."""


def neurons(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of every snnTorch neuron."""
    for name, module in list(net.named_modules()):
        if isinstance(module, snntorch.SpikingNeuron):
            yield name, module


def quantities(neuron: nn.Module) -> dict[str, str]:
    """Field of the config -> the neuron's own name of it, for what this neuron has."""
    found = {"membrane": "mem"}
    if _has_current(neuron):
        found["current"] = "syn"
    for field in ("threshold", "beta", "alpha"):
        if isinstance(getattr(neuron, field, None), Tensor):
            found[field] = field
    return found


def attach_neurons(net: nn.Module, formats: Formats, seen: Seen | None) -> None:
    """Constants behind parametrizations, states behind `state_quant`; `seen` calibrates the states' ranges."""
    for name, neuron in neurons(net):
        for field in ("threshold", "beta", "alpha"):
            bits = formats.bits[field]
            if bits < FLOAT_BITS and field in quantities(neuron) and seen is None:
                quantizer = _constant(field, bits, formats.decay == "shift")
                quantizer.train(neuron.training)
                quantizer.fit(original(neuron, field), None)
                stack_on(net, neuron, field).quantizer = quantizer
        _hold(net, name, neuron, formats, seen)


def watch(net: nn.Module, samples: Sequence[Tensor]) -> dict[str, Tensor]:
    """Magnitudes of every neuron's states over the batches, in evaluation."""
    seen: dict[str, Watch] = {}
    for name, neuron in neurons(net):
        mem = seen[full_name(name, "mem")] = Watch()
        held: nn.Module = mem
        if _has_current(neuron):
            syn = seen[full_name(name, "syn")] = Watch()
            held = SynapticStates(cast(StateFormat, mem), cast(StateFormat, syn))
            neuron.register_forward_pre_hook(held.begin)
        neuron.state_quant = held
    training = net.training
    net.eval()
    with torch.no_grad():
        for x in samples:
            net(x)
    net.train(training)
    return {name: each.values() for name, each in seen.items()}


def state_formats(net: nn.Module) -> Iterator[tuple[str, nn.Module, StateFormat]]:
    """(``lif1.mem``, the neuron, its format) of every state that is held on a grid."""
    for name, neuron in neurons(net):
        held = neuron.state_quant
        if isinstance(held, StateFormat):
            yield full_name(name, "mem"), neuron, held
        elif isinstance(held, SynapticStates):
            for stored, each in (("mem", held.membrane), ("syn", held.current)):
                if each is not None:
                    yield full_name(name, stored), neuron, each


def release(neuron: nn.Module) -> None:
    """Take a neuron's state formats away."""
    if isinstance(neuron.state_quant, nn.Module):
        del neuron.state_quant
        neuron.state_quant = False  # type: ignore[assignment]


def _hold(net: nn.Module, name: str, neuron: nn.Module, formats: Formats, seen: Seen | None) -> None:
    mem = _state(net, full_name(name, "mem"), neuron, formats, "membrane", seen)
    syn = (
        _state(net, full_name(name, "syn"), neuron, formats, "current", seen)
        if _has_current(neuron)
        else None
    )
    if mem is None and syn is None:
        release(neuron)
    elif _has_current(neuron):
        both = SynapticStates(mem, syn)
        neuron.state_quant = both
        neuron.register_forward_pre_hook(both.begin)
    else:
        neuron.state_quant = cast(nn.Module, mem)


def _state(
    net: nn.Module, name: str, neuron: nn.Module, formats: Formats, field: str, seen: Seen | None
) -> StateFormat | None:
    bits = formats.bits[field]
    if bits >= FLOAT_BITS:
        return None
    if seen is None or not seen[name].any():  # nobody watched, or nothing moved
        headroom = HEADROOM if formats.headroom is None else formats.headroom
        values = torch.as_tensor(neuron.threshold).detach().abs().max().reshape(1) * headroom
    else:
        values = seen[name]
    low, high = code_range(bits)
    step = float(fit_step(values, low, high, formats.calibrate, formats.percentile))
    held = StateFormat(bits, step, formats.rounding, seed_of(formats.seed, name))
    held.train(neuron.training)
    ledger(net).rewinds[name] = held.rewind
    return held


def _constant(field: str, bits: int, shift: bool) -> Quantizer:
    return Uniform(bits) if field == "threshold" else DecayFactor(bits, shift)


def _has_current(neuron: nn.Module) -> bool:
    return isinstance(neuron, snntorch.Synaptic)
