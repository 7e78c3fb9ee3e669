"""STDP rules as configs: the baseline's pair-based rule and FSpiNN's changes to it, each with its own switch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.types import require


@dataclass(frozen=True)
class StdpRule:
    """How spikes change weights; the defaults are BindsNET's PostPre in DiehlAndCook2015.

        on a pixel's spike   w <- w - eta_pre * x_post * w^mu                      (`presynaptic`)
        on a neuron's spike  w <- w + k * eta_post * x_pre * (w_max - w)^mu        (once per window)

    with traces x that a spike sets to 1 (`additive`: raises by 1) and that decay with tau. FSpiNN (Putra and
    Shafique 2020): presynaptic=False, window_ms > 0, adaptive_k=True, and direct inhibition in the network.
    """

    presynaptic: bool = True
    """False: no updates on pixel spikes; the normalisation alone makes weights smaller."""
    window_ms: float = 0.0
    """At most one update per neuron and window, for neurons that fired in it; 0: at every spike."""
    adaptive_k: bool = False
    """k = ceil(most spikes of a neuron in this sample / spikes_per_k), times `k`."""
    spikes_per_k: float = 5.0
    """FSpiNN's Sp_th."""
    k: float = 1.0
    """Potentiation factor."""
    eta_pre: float = 1e-4
    eta_post: float = 1e-2
    mu: float = 0.0
    """Weight dependence; 0: none."""
    w_max: float = 1.0
    tau_pre_ms: float = 20.0
    tau_post_ms: float = 20.0
    additive: bool = False
    norm: float = 78.4
    """Sum of a neuron's weights, restored after each sample; 0: not."""
    weight_decay: float = 0.0
    """Share of every weight lost per sample (SpikeDyn, Putra and Shafique 2021), before normalisation."""
    eta_decay: float = 1.0
    """Both learning rates are multiplied by this after each epoch."""
    eta_last: float = 1.0
    """Both learning rates fall in a straight line from themselves to this share, from the first image to the last."""
    shadow: bool = True
    """On quantized weights: learn on a full-precision copy behind them."""

    def __post_init__(self) -> None:
        for name in ("window_ms", "eta_pre", "eta_post", "mu", "norm"):
            require(getattr(self, name) >= 0, name, "be at least 0", getattr(self, name))
        for name in ("spikes_per_k", "k", "w_max", "tau_pre_ms", "tau_post_ms"):
            require(getattr(self, name) > 0, name, "be above 0", getattr(self, name))
        require(0 <= self.weight_decay < 1, "weight_decay", "be in [0, 1)", self.weight_decay)
        require(0 < self.eta_decay <= 1, "eta_decay", "be in (0, 1]", self.eta_decay)
        require(0 <= self.eta_last <= 1, "eta_last", "be in [0, 1]", self.eta_last)

    def per_step(self, dt_ms: float, epoch: int, shown: float = 0.0) -> dict[str, float]:
        """The constants of one epoch per time step of dt_ms, under the names that the network's loop takes.

        `shown`: the share of all presentations, of all epochs, that lies behind, in [0, 1].
        """
        rate = self.eta_decay**epoch * (1 - (1 - self.eta_last) * shown)
        return {
            "eta_pre": self.eta_pre * rate if self.presynaptic else 0.0,
            "eta_post": self.eta_post * rate,
            "mu": float(self.mu),
            "w_max": float(self.w_max),
            "pre_decay": math.exp(-dt_ms / self.tau_pre_ms),
            "post_decay": math.exp(-dt_ms / self.tau_post_ms),
            "additive": self.additive,
            "window": round(self.window_ms / dt_ms),
            "k": float(self.k),
            "spikes_per_k": float(self.spikes_per_k) if self.adaptive_k else 0.0,
            "norm": float(self.norm),
            "weight_decay": float(self.weight_decay),
        }
