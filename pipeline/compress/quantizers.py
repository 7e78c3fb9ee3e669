"""Fake-quantizers for tensors (behind a `Stack`) and for the membrane (snnTorch's `state_quant` hook)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.compress.calibrate import Calibrate, Grid, fit_step
from pipeline.compress.kernels import CODES, fits, quantize_masked
from pipeline.compress.rounding import FixedPoint, Noise, Rounding, fake_quantize, uniform
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
        self.low = -(1 << (bits - 1)) + int(symmetric)
        self.high = (1 << (bits - 1)) - 1
        self.format = format
        self.noise = Noise(seed)
        self.register_buffer("step", torch.tensor(1.0 if format is None else format.step))
        self._forwards = 0

    def fit(self, x: Tensor, kept: Tensor | None) -> None:
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

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        if self.training:
            self._follow(x, kept)
        key = self.noise.key(self.training) if self.rounding == "stochastic" else 0
        if fits(x):
            code = CODES[self.rounding]
            return quantize_masked(x, self.step, self.low, self.high, code, key, not self.power_of_two, kept)
        noise = uniform(x, key) if self.rounding == "stochastic" else None
        out = fake_quantize(x, self.step, self.low, self.high, self.rounding, noise, self.power_of_two)
        return out if kept is None else out * kept

    def _follow(self, x: Tensor, kept: Tensor | None) -> None:
        if self.format is None:
            if self._forwards % _REFIT_EVERY[self.calibrate] == 0:
                with torch.no_grad():
                    self.fit(x, kept)
            self._forwards += 1

    def grid(self) -> Grid:
        return Grid(self.bits, self.step, self.low, self.high)


class Membrane(nn.Module):
    """The membrane's fixed-point format, applied after every time step through snnTorch's `state_quant`.

    ``forward(mem)`` -> mem on the grid ``{low, ..., high} * step``, saturating, straight-through gradient.
    A fused scan may read `step` (0-dim tensor), `low`, `high` and `rounding` and do the same arithmetic.
    """

    step: Tensor

    def __init__(self, bits: int, step: float, rounding: Rounding = "nearest", seed: int = 0) -> None:
        super().__init__()
        self.bits, self.rounding = bits, rounding
        self.low, self.high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        self.noise = Noise(seed)
        self.register_buffer("step", torch.tensor(step))

    def forward(self, mem: Tensor) -> Tensor:
        if fits(mem):
            key = self.noise.key(True) if self.rounding == "stochastic" else 0
            return quantize_masked(
                mem, self.step, self.low, self.high, CODES[self.rounding], key, False, None
            )
        noise = self.noise.fresh(mem) if self.rounding == "stochastic" else None
        return fake_quantize(mem, self.step, self.low, self.high, self.rounding, noise)

    def rewind(self) -> None:
        """Before each forward of the net: in evaluation the same batch meets the same draws."""
        if not self.training:
            self.noise.rewind()

    def grid(self) -> Grid:
        return Grid(self.bits, self.step, self.low, self.high)


class Watch(nn.Module):
    """Stands in for `state_quant` on calibration batches: passes the membrane on, keeps its magnitudes."""

    def __init__(self) -> None:
        super().__init__()
        self.top = 0.0
        self.samples: list[Tensor] = []

    def forward(self, mem: Tensor) -> Tensor:
        size = mem.detach().abs().flatten()
        if size.numel():
            self.top = max(self.top, float(size.max()))
            self.samples.append(size[:: max(1, size.numel() // 4096)])
        return mem

    def values(self) -> Tensor:
        """All kept magnitudes, the maximum among them."""
        return torch.cat([*self.samples, torch.tensor([self.top])])
