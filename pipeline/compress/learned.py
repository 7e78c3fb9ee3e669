"""Quantizers that learn their range: DuQ and LSQ; and binary weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.compress.at_once import fits, together
from pipeline.compress.calibrate import Grid, sized
from pipeline.compress.learned_kernels import Ranges
from pipeline.compress.rounding import Noise, Rounding, code_range, round_, uniform
from pipeline.compress.stack import Quantizer

_TINY = 1e-8


class _Learned(torch.autograd.Function):
    """``round(clip(x / reach, low / unit, high / unit) * unit) * step`` with gradients for x, reach and step."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        reach: Tensor,
        step: Tensor,
        low: int,
        high: int,
        unit: float,
        rounding: Rounding,
        noise: Tensor | None,
    ) -> Tensor:
        scaled = x * (unit / reach)
        codes = round_(scaled.clamp(low, high), rounding, noise).clamp_(low, high)
        ctx.save_for_backward(scaled, codes, reach, step)
        ctx.low, ctx.high, ctx.unit = low, high, unit
        return codes * step

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        scaled, codes, reach, step = ctx.saved_tensors
        pushed = g * ((scaled >= ctx.low) & (scaled <= ctx.high))
        g_x = pushed * (step * ctx.unit / reach)
        # d code / d reach = -scaled / reach, straight through the rounding
        g_reach = (pushed * scaled).sum_to_size(reach.shape) * (-step / reach)
        g_step = (g * codes).sum_to_size(step.shape)
        return g_x, g_reach, g_step, None, None, None, None, None


class _Ranged(Quantizer):
    """Draws its noise and shapes its parameters; per channel there is one [C], else one [1]."""

    def __init__(
        self, bits: int, rounding: Rounding, per_channel: bool, power_of_two: bool, seed: int
    ) -> None:
        super().__init__()
        self.bits, self.rounding, self.per_channel, self.power_of_two = (
            bits,
            rounding,
            per_channel,
            power_of_two,
        )
        self.noise = Noise(seed)
        self.low, self.high = code_range(bits)

    def _noise(self, x: Tensor) -> Tensor | None:
        if self.rounding != "stochastic":
            return None
        return uniform(x.detach(), self.noise.key(self.training))

    def _rows(self, x: Tensor, kept: Tensor | None) -> list[Tensor]:
        """The values of each channel (or of all) that are not pruned; a zero where none is left."""
        x = x.detach()
        rows = x.reshape(x.shape[0], -1) if self.per_channel else x.reshape(1, -1)
        keeps = [None] * len(rows) if kept is None else list(kept.reshape(rows.shape))
        chosen = [row if keep is None else row[keep] for row, keep in zip(rows, keeps, strict=True)]
        return [row if row.numel() else rows.new_zeros(1) for row in chosen]

    def _shaped(self, parameter: Tensor, x: Tensor) -> Tensor:
        positive = parameter.abs().clamp_min(_TINY)
        return positive.reshape([-1] + [1] * (x.dim() - 1)) if self.per_channel else positive.reshape(())

    def _step(self, step: Tensor) -> Tensor:
        """The step, or the nearest power of two with the gradient straight through."""
        if not self.power_of_two:
            return step
        exponent = torch.round(torch.log2(step.detach()))
        return step + (torch.ldexp(torch.ones_like(exponent), exponent) - step).detach()


class DuQ(_Ranged):
    """Symmetric levels with two learned ranges (Schaefer et al. 2023, section 3; "DuQ").

    n = 2^(bits - 1);  w_q = c * round(hardtanh(w / a) * (n - 1)) / (n - 1): 2^bits - 1 levels, so that 2 bits
    are ternary. a and c start at max |mean +- 3 std| of the weights and are learned, straight through the
    rounding. Pruned weights count there with the values they had: three standard deviations span a bell, and of its two
    flanks, which magnitude pruning leaves, a range of their own would let ternary keep one in twenty, while one of the
    masked tensor would clip most of them. `power_of_two` (ours)
    rounds the step c / (n - 1) to a power of two, for integer machines; a starts at the rounded range, too, or the
    whole layer would be scaled by the difference, by up to 1.41.
    """

    def __init__(
        self,
        bits: int,
        rounding: Rounding = "nearest",
        per_channel: bool = False,
        power_of_two: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(bits, rounding, per_channel, power_of_two, seed)
        self.low = -self.high
        self.a = nn.Parameter(torch.ones(1))
        self.c = nn.Parameter(torch.ones(1))
        self.dims = 2

    def fit(self, x: Tensor, kept: Tensor | None) -> None:  # noqa: ARG002
        reach = sized(
            torch.stack(
                [
                    torch.maximum((m + 3 * s).abs(), (m - 3 * s).abs())
                    for m, s in ((row.mean(), row.std(correction=0)) for row in self._rows(x, None))
                ]
            )
        )
        if self.power_of_two:
            reach = self._step(reach / self.high) * self.high
        self.a, self.c = nn.Parameter(reach.clone()), nn.Parameter(reach.clone())
        self.dims = x.dim()

    def job(self, x: Tensor, kept: Tensor | None = None) -> Ranges | None:
        if not (fits(x) and fits(self.a)) or self.rounding == "stochastic":
            return None
        with torch.no_grad():
            reach, step = self._shaped(self.a, x), self._step(self._shaped(self.c, x) / self.high)
        return Ranges(
            self.a, self.c, reach, step, self.low, self.high, float(self.high), parts=float(self.high),
            smallest=_TINY, nearest=self.rounding == "nearest", keep=kept,
        )  # fmt: skip

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        job = self.job(x, kept)
        if job is not None:
            return together([x], [job])[0]
        step = self._step(self._shaped(self.c, x) / self.high)
        noise = self._noise(x)
        out: Tensor = _Learned.apply(  # type: ignore[no-untyped-call]
            x, self._shaped(self.a, x), step, self.low, self.high, float(self.high), self.rounding, noise
        )
        return out if kept is None else out * kept

    def grid(self) -> Grid:
        like = torch.empty([1] * self.dims)
        return Grid(
            self.bits, self._step(self._shaped(self.c.detach(), like) / self.high), self.low, self.high
        )


class Lsq(_Ranged):
    """Learned step size (Esser et al. 2020, eq. 1 to 5): w_q = clip(round(w / s), low, high) * s.

    s starts at 2 mean|w| / sqrt(high); its gradient is scaled by 1 / sqrt(count * high).
    """

    def __init__(
        self,
        bits: int,
        rounding: Rounding = "nearest",
        per_channel: bool = False,
        power_of_two: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(bits, rounding, per_channel, power_of_two, seed)
        self.s = nn.Parameter(torch.ones(1))
        self.dims = 2

    def fit(self, x: Tensor, kept: Tensor | None) -> None:
        start = torch.stack([2 * row.abs().mean() / math.sqrt(self.high) for row in self._rows(x, kept)])
        self.s = nn.Parameter(sized(start))
        self.dims = x.dim()

    def job(self, x: Tensor, kept: Tensor | None = None) -> Ranges | None:
        if not (fits(x) and fits(self.s)) or self.rounding == "stochastic":
            return None
        with torch.no_grad():
            step = self._step(self._shaped(self.s, x))
        return Ranges(
            self.s, self.s, step, step, self.low, self.high, 1.0, share=self._share(x), smallest=_TINY,
            nearest=self.rounding == "nearest", keep=kept,
        )  # fmt: skip

    def _share(self, x: Tensor) -> float:
        """1 / sqrt(count * high): how much of its gradient the step follows."""
        return 1 / math.sqrt(x.numel() / len(self.s) * self.high)

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        job = self.job(x, kept)
        if job is not None:
            return together([x], [job])[0]
        share = self._share(x)
        calm = self.s.detach() + share * (self.s - self.s.detach())
        step = self._step(self._shaped(calm, x))
        out: Tensor = _Learned.apply(  # type: ignore[no-untyped-call]
            x, step, step, self.low, self.high, 1.0, self.rounding, self._noise(x)
        )
        return out if kept is None else out * kept

    def grid(self) -> Grid:
        like = torch.empty([1] * self.dims)
        return Grid(self.bits, self._step(self._shaped(self.s.detach(), like)), self.low, self.high)


class _Sign(torch.autograd.Function):
    """+step where x >= 0, else -step; the gradient of x passes where |x| <= 1. Exactly: a sum that goes straight
    through, ``x + (sign(x) * step - x)``, is off by an ulp here and there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x >= 0, step, -step)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grads[0] * (x.abs() <= 1), None


class Binary(_Ranged):
    """Two values, -m and +m, m the mean magnitude of what is not pruned (Rastegari et al. 2016, eq. 6).

    One stored bit; pruned weights are 0. The gradient passes where |w| <= 1 (Courbariaux et al. 2016).
    """

    scale: Tensor

    def __init__(self, per_channel: bool = False, power_of_two: bool = False, seed: int = 0) -> None:
        super().__init__(2, "nearest", per_channel, power_of_two, seed)
        self.bits, self.low, self.high = 1, -1, 1
        self.register_buffer("scale", torch.ones(1))
        self.dims = 2

    def fit(self, x: Tensor, kept: Tensor | None) -> None:
        scale = torch.stack([row.abs().mean() for row in self._rows(x, kept)])
        some = torch.ones_like(scale) if kept is None else kept.reshape(len(scale), -1).any(dim=1)
        # Only where nothing is left: weights of 0 that are not pruned would come back as large as others.
        self.scale = torch.where(some > 0, scale.clamp_min(_TINY), sized(scale))
        self.dims = x.dim()

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        if self.training:
            self.fit(x, kept)
        step = self._step(self._shaped(self.scale, x))
        out: Tensor = _Sign.apply(x, step)  # type: ignore[no-untyped-call]
        return out if kept is None else out * kept

    def grid(self) -> Grid:
        return Grid(
            1, self._step(self._shaped(self.scale, torch.empty([1] * self.dims))), self.low, self.high
        )
