"""Fake-quantizers for tensors (behind a `Stack`) and for the membrane (snnTorch's `state_quant` hook)."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.compress.at_once import fits, together
from pipeline.compress.calibrate import Calibrate, Grid, fit_step
from pipeline.compress.kernels import CODES, Job
from pipeline.compress.rounding import FixedPoint, Noise, Rounding, code_range, fake_quantize, uniform
from pipeline.compress.stack import Quantizer
from pipeline.types import require

_REFIT_EVERY: dict[Calibrate, int] = {"max": 8, "percentile": 64, "mse": 64}
"""Training forwards between two calibrations: the range moves slowly, and a maximum is the cheapest."""


class Uniform(Quantizer):
    """Uniform levels: two's complement fixed point, or symmetric with equally many levels on both sides.

    While training, the step follows the weights every few forwards; in evaluation and once baked it stands
    still. With an explicit `format` it never moves.
    """

    step: Tensor

    def __init__(
        self,
        bits: int,
        rounding: Rounding = "nearest",
        symmetric: bool = False,
        signed: bool = True,
        per_channel: bool = False,
        power_of_two: bool = True,
        calibrate: Calibrate = "max",
        percentile: float = 99.9,
        format: FixedPoint | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.bits, self.rounding, self.per_channel = bits, rounding, per_channel
        self.power_of_two, self.calibrate, self.percentile = power_of_two, calibrate, percentile
        low, self.high = code_range(bits, signed)
        self.low = low + int(symmetric and signed)
        self.format = format
        self.noise = Noise(seed)
        self.register_buffer("step", torch.tensor(1.0 if format is None else format.step))
        self._forwards = 0

    def fit(self, x: Tensor, kept: Tensor | None) -> None:
        if self.low == 0 and bool((x.detach() < 0).any()):
            raise ValueError("signed must be true for weights below 0, but got False.")
        if self.format is None:
            x = x.detach()
            self.step = fit_step(
                x,
                self.low,
                self.high,
                self.calibrate,
                self.percentile,
                self.power_of_two,
                self.per_channel,
                kept,
            )
            return
        reach = float(x.detach().abs().max())
        if self.calibrate == "max":
            end = self.high * self.format.step
            rule = f"hold the calibrated range ±{reach:.4g} (this format ends at {end:.4g}, and only "
            rule += "calibrate=percentile may saturate)"
            need = end + self.format.step / 2
            require(reach <= need, "integer_bits", rule, self.format.integer_bits)

    def job(self, x: Tensor, kept: Tensor | None = None) -> Job | None:
        if not fits(x):
            return None
        if self.training:
            self._follow(x, kept)
        code, snap = CODES[self.rounding], not self.power_of_two
        return Job(self.step, self.low, self.high, code, self._key(), snap, kept)

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        job = self.job(x, kept)
        if job is not None:
            return together([x], [job])[0]
        if self.training:
            self._follow(x, kept)
        noise = uniform(x, self._key()) if self.rounding == "stochastic" else None
        out = fake_quantize(x, self.step, self.low, self.high, self.rounding, noise, self.power_of_two)
        return out if kept is None else out * kept

    def _key(self) -> int:
        return self.noise.key(self.training) if self.rounding == "stochastic" else 0

    def _follow(self, x: Tensor, kept: Tensor | None) -> None:
        if self.format is None:
            if self._forwards % _REFIT_EVERY[self.calibrate] == 0:
                with torch.no_grad():
                    self.fit(x, kept)
            self._forwards += 1

    def grid(self) -> Grid:
        return Grid(self.bits, self.step, self.low, self.high)


class DecayFactor(Quantizer):
    """A decay in (0, 1): Q0.f, or 1 - 2^-k with `bits` bits for k; gradient straight through."""

    def __init__(self, bits: int, shift: bool) -> None:
        super().__init__()
        self.bits, self.shift = bits, shift
        self.register_buffer("step", torch.tensor(2.0 ** (1 - bits)))

    step: Tensor

    def fit(self, x: Tensor, kept: Tensor | None) -> None:  # noqa: ARG002
        if self.shift:
            self.step = 1 - quantize_decay(x.detach(), self.bits, True).max()

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return quantize_decay(x, self.bits, self.shift).detach() + (x - x.detach())  # exactly on the grid

    def grid(self) -> Grid:
        """With a shift the codes are 2^K - 2^(K - k), K the largest k; k is what is stored."""
        return Grid(self.bits, self.step, 1, round(1 / float(self.step)) - 1)


def quantize_decay(beta: Tensor, bits: int, shift: bool) -> Tensor:
    """A decay as Q0.f, or as 1 - 2^-k (a shift and a subtraction), k in [1, 2^bits - 1] and at most 20.

    Never 0 or 1: a neuron that forgets at once, or never, is another neuron.
    """
    if shift:
        k = torch.round(-torch.log2((1 - beta).clamp_min(2.0**-24))).clamp(1, min(2**bits - 1, 20))
        return 1 - torch.ldexp(torch.ones_like(k), -k)
    step = 2.0 ** (1 - bits)
    return (beta / step).add(0.5).floor().clamp(1, 2 ** (bits - 1) - 1) * step
