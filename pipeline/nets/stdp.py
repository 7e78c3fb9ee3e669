"""The STDP network of Diehl & Cook (2015) and FSpiNN (Putra and Shafique 2020): pixels -> competing neurons.

P pixels project with weights [P, n] to n excitatory LIF neurons with adaptive thresholds, which inhibit each
other through a layer of inhibitory neurons (the baseline) or directly (FSpiNN). The module holds the state
that learning changes, runs the compiled loop of `stdp_kernel`, and counts what it did.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.nets.stdp_cell import ALL, FIRST, HIGHEST, RANDOM, Cell
from pipeline.nets.stdp_columns import Rule
from pipeline.nets.stdp_counts import Sample, by_sample, inference_load, memory, training_load
from pipeline.nets.stdp_formats import Format, grids, kept_of, raw_of
from pipeline.nets.stdp_kernel import COUNTERS, events_of, no_rule, present
from pipeline.nets.stdp_rounding import WEIGHT, quantized_array
from pipeline.types import Batch, Widths, require

Inhibition = Literal["layer", "direct"]
Winner = Literal["random", "first", "highest", "all"]
WINNERS = {"random": RANDOM, "first": FIRST, "highest": HIGHEST, "all": ALL}
Counts = npt.NDArray[np.int32]
Ops = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Stdp:
    """Spec of the network. The defaults are BindsNET's DiehlAndCook2015 (0.3.4), potentials in mV.

    A step: v decays to rest with tau_m, w_input * weight is added for each pixel spike of the step before,
    w_inh taken away for each spike of another neuron (one step later with direct inhibition, two with the
    layer), and who reaches threshold + theta fires. theta rises by theta_plus per crossing and decays
    with tau_theta, in training only.
    """

    neurons: int = 400
    inhibition: Inhibition = "layer"
    w_inh_mv: float = 120.0
    """What one inhibitory spike takes from every other neuron."""
    winner: Winner = "random"
    """Who spikes when several cross in one step: one drawn, the first, the highest above threshold, or all."""
    dt_ms: float = 1.0
    tau_m_ms: float = 100.0
    rest_mv: float = -65.0
    reset_mv: float = -60.0
    threshold_mv: float = -52.0
    lowest_mv: float | None = None
    """Floor of the membrane potential; None: no floor."""
    refractory_ms: float = 5.0
    theta_plus_mv: float = 0.05
    theta_start_mv: float = 0.0
    tau_theta_ms: float = 1e7
    w_input_mv: float = 1.0
    """Potential of one pixel spike through a weight of 1."""
    w_start: float = 0.3
    """Initial weights are uniform in [0, w_start)."""
    inh_drive_mv: float = 22.5
    inh_tau_ms: float = 10.0
    inh_rest_mv: float = -60.0
    inh_reset_mv: float = -45.0
    inh_threshold_mv: float = -40.0
    inh_refractory_ms: float = 2.0

    def __post_init__(self) -> None:
        require(1 <= self.neurons <= 100_000, "neurons", "be in [1, 100000]", self.neurons)
        for name, options in (("inhibition", get_args(Inhibition)), ("winner", get_args(Winner))):
            value = getattr(self, name)
            require(value in options, name, f"be one of {', '.join(options)}", value)
        for name in ("dt_ms", "tau_m_ms", "tau_theta_ms", "w_input_mv", "w_start", "inh_tau_ms"):
            require(getattr(self, name) > 0, name, "be above 0", getattr(self, name))
        for name in ("w_inh_mv", "refractory_ms", "theta_plus_mv", "inh_drive_mv", "inh_refractory_ms"):
            require(getattr(self, name) >= 0, name, "be at least 0", getattr(self, name))
        require(self.reset_mv < self.threshold_mv, "reset_mv", "be below threshold_mv", self.reset_mv)
        require(self.rest_mv < self.threshold_mv, "rest_mv", "be below threshold_mv", self.rest_mv)
        low = self.lowest_mv
        require(low is None or low <= self.rest_mv, "lowest_mv", "be at most rest_mv", low)
        require(
            max(self.inh_rest_mv, self.inh_reset_mv) < self.inh_threshold_mv,
            "inh_threshold_mv",
            "be above inh_rest_mv and inh_reset_mv",
            self.inh_threshold_mv,
        )
        drive = self.inh_rest_mv + self.inh_drive_mv
        require(
            self.inhibition == "direct" or drive >= self.inh_threshold_mv,
            "inh_drive_mv",
            "bring an inhibitory neuron at rest to its threshold",
            self.inh_drive_mv,
        )

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> StdpNet:  # noqa: ARG002
        """A fresh network for [C, H, W] spikes; answers with `neurons` outputs whatever `classes` is."""
        return StdpNet(self, shape, seed)

    def cell(self) -> Cell:
        """The constants as the kernel takes them: above rest, per step."""
        steps = 1 / self.dt_ms
        return Cell(
            decay=math.exp(-self.dt_ms / self.tau_m_ms),
            threshold=float(self.threshold_mv - self.rest_mv),
            reset=float(self.reset_mv - self.rest_mv),
            lowest=-math.inf if self.lowest_mv is None else float(self.lowest_mv - self.rest_mv),
            refractory=math.ceil(self.refractory_ms * steps),
            theta_plus=float(self.theta_plus_mv),
            theta_decay=math.exp(-self.dt_ms / self.tau_theta_ms),
            gain=float(self.w_input_mv),
            w_inh=float(self.w_inh_mv),
            winner=WINNERS[self.winner],
            layer=self.inhibition == "layer",
            drive=float(self.inh_drive_mv),
            inh_decay=math.exp(-self.dt_ms / self.inh_tau_ms),
            inh_threshold=float(self.inh_threshold_mv - self.inh_rest_mv),
            inh_reset=float(self.inh_reset_mv - self.inh_rest_mv),
            inh_refractory=math.ceil(self.inh_refractory_ms * steps),
        )


class StdpNet(nn.Module):
    """Weights [P, n] in [0, w_max], thresholds' adaptation theta [n] in mV, and the loop that uses them.

    `numerics` maps "membrane", "theta", "trace" (and "weight") to a `Format`: the kernel then keeps that
    quantity on its grid at every step. A quantizer or mask that is parametrized on `weight` is found by itself.
    """

    weight: Tensor
    theta: Tensor
    seen: Tensor
    """Training samples so far, int64 scalar."""

    def __init__(self, spec: Stdp, shape: tuple[int, int, int], seed: int) -> None:
        super().__init__()
        self.spec, self.shape = spec, shape
        generator = torch.Generator().manual_seed(seed)
        start = torch.rand(math.prod(shape), spec.neurons, generator=generator) * spec.w_start
        self.weight = nn.Parameter(start, requires_grad=False)
        self.register_buffer("theta", torch.full((spec.neurons,), float(spec.theta_start_mv)))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.numerics: dict[str, Format] = {}
        self.training_ops: Ops = np.zeros(COUNTERS, np.int64)
        """What learning did since the network was built."""
        self.inference_ops: Ops = np.zeros(COUNTERS, np.int64)
        pixels = len(start)
        self.training_pixels: Ops = np.zeros(pixels, np.int64)
        """Spikes of each pixel in learning, and in inference, that were integrated: which rows of weights were read."""
        self.inference_pixels: Ops = np.zeros(pixels, np.int64)
        self.inference_most = Sample()
        self.trained_samples = self.shown_samples = 0
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        """[T, B, C, H, W] spikes of 0 and 1 -> [T, B, n] float32 spikes; nothing is learned.

        Raises:
            ValueError: x has another image size, or entries other than 0 and 1.
        """
        steps, samples = x.shape[:2]
        if math.prod(x.shape[2:]) != len(self.weight):
            raise ValueError(f"x must be [T, B, {', '.join(map(str, self.shape))}], but got {list(x.shape)}.")
        starts, pixels, binary = events_of(
            x.to(torch.float32).reshape(steps, samples, len(self.weight)).contiguous().numpy()
        )
        if not binary:
            raise ValueError("x must hold spikes, 0 or 1 (data/encoding=poisson), but got other values.")
        raster = np.zeros((samples, steps, self.spec.neurons), np.float32)
        self._infer(starts, pixels, samples, steps, 0, raster)
        return torch.from_numpy(raster).transpose(0, 1).contiguous()

    def respond(self, starts: Ops, pixels: Counts, samples: int, steps: int, seed: int) -> Counts:
        """Spike counts [S, n] of event-coded samples (see `stdp_kernel.present`); nothing is learned."""
        return self._infer(starts, pixels, samples, steps, seed, np.zeros((0, 0, 0), np.float32))

    def _infer(
        self,
        starts: Ops,
        pixels: Counts,
        samples: int,
        steps: int,
        seed: int,
        raster: npt.NDArray[np.float32],
    ) -> Counts:
        """Samples are independent here, so they are shared out over torch's threads; the kernel needs no GIL."""
        counts = np.zeros((samples, self.spec.neurons), np.int32)
        w = np.ascontiguousarray(self.weight.detach().numpy())
        theta, formats, cell, rule = self.theta.numpy().copy(), self.formats(), self.spec.cell(), no_rule()
        none, unmasked = np.zeros((0, 0), np.float32), np.zeros((0, 0), np.uint8)
        parts = min(torch.get_num_threads(), samples)
        edges = [samples * i // parts for i in range(parts + 1)] if parts else [0]

        def part(first: int, last: int) -> Ops:
            ops = np.zeros(COUNTERS, np.int64)
            present(
                starts[first * steps : last * steps + 1], pixels, steps, w, none, unmasked, theta, cell, rule,
                False, False, formats, np.uint64(seed), first, counts[first:last],
                raster[first:last], ops,
            )  # fmt: skip
            return ops

        if parts == 1:
            self.inference_ops += part(0, samples)
        elif parts > 1:
            with ThreadPoolExecutor(parts) as pool:
                self.inference_ops += sum(pool.map(part, edges[:-1], edges[1:]))
        self.shown_samples += samples
        done = by_sample(starts, pixels, steps, w, counts, self.inference_pixels)
        self.inference_most = self.inference_most.or_more(done)
        self.steps = steps
        return counts

    def learn(
        self,
        starts: Ops,
        pixels: Counts,
        samples: int,
        steps: int,
        seed: int,
        rule: Mapping[str, float],
        shadow: bool = False,
    ) -> Counts:
        """Present samples one after another and learn from each; returns spike counts [S, n].

        rule: the fields of `stdp_columns.Rule`. shadow: keep a full-precision weight behind each
        quantized one and learn on it (without it, learning sees and changes the rounded weights alone).
        """
        counts = np.zeros((samples, self.spec.neurons), np.int32)
        formats, kept = self.formats(), kept_of(self)
        raw = raw_of(self).numpy()
        mask = np.zeros((0, 0), np.uint8) if kept is None else kept.numpy().astype(np.uint8)
        if kept is not None:
            raw *= mask
        w, full, rng = raw, np.zeros((0, 0), np.float32), np.array([seed ^ 0x5EED], np.uint64)
        if formats[WEIGHT, 0] > 0 and shadow:
            w, full = torch.from_numpy(raw).clone().numpy(), raw  # torch's memory begins on a cache line
        quantized_array(w.reshape(-1), formats, WEIGHT, rng)
        present(
            starts, pixels, steps, w, full, mask, self.theta.numpy(), self.spec.cell(), Rule(**rule), True,  # type: ignore[arg-type]
            int(self.seen) == 0, formats, np.uint64(seed), int(self.seen), counts,
            np.zeros((0, 0, 0), np.float32), self.training_ops,
        )  # fmt: skip
        self.seen += samples
        self.trained_samples += samples
        by_sample(starts, pixels, steps, w, counts, self.training_pixels)
        self.steps = steps
        return counts

    def formats(self) -> npt.NDArray[np.float64]:
        """[4, 4] (eps, lo, hi, rounding) by quantity, as the kernel takes them; eps 0: full precision."""
        return grids(self, self.numerics, self.training_started)

    @property
    def training_started(self) -> bool:
        return int(self.seen) > 0

    def most_spikes(self, steps: int) -> float:
        """Spikes per sample that the refractory time and the winner rule allow at most."""
        each = steps / (self.spec.cell().refractory + 1)
        together = each * self.spec.neurons
        return together if self.spec.winner == "all" else min(together, float(steps))

    def forget_inference(self) -> None:
        """Set the counters of inference to zero; those of learning run from the first sample on."""
        self.inference_ops[:] = 0
        self.inference_pixels[:] = 0
        self.inference_most = Sample()
        self.shown_samples = 0

    def load(self, batches: Iterable[Batch], widths: Widths) -> tuple[Mapping[str, object], ...]:
        """What inference does per sample, measured on `batches`, for the hardware model.

        Iterating may show the batches to this network already (to find its accuracy, say): those are not shown twice.
        """
        self.forget_inference()
        expected = 0
        for batch in batches:
            expected += len(batch.y)
            if self.shown_samples < expected:
                self(batch.x)
        return inference_load(self, widths)

    def training_load(self, widths: Widths, dense: bool) -> tuple[Mapping[str, object], ...]:
        """What learning did per sample; dense: as updates of whole rows and columns would count."""
        return training_load(self, widths, dense)

    def matrix_bits(self, widths: Widths) -> float:
        """Bits of the dense matrices, those of equal inhibitory weights too, as the papers count memory."""
        pixels, neurons = self.weight.shape
        return memory(pixels, neurons, self.spec.inhibition == "layer", 0, widths).dense_bits

    def receptive_fields(self, most: int = 400) -> npt.NDArray[np.float32]:
        """The weights of at most `most` evenly spaced neurons as pictures [n, H, W] in [0, 1], mean over channels."""
        count = min(most, self.spec.neurons)
        chosen = np.linspace(0, self.spec.neurons - 1, count).round().astype(np.int64)
        fields = self.weight.detach().numpy()[:, chosen].T.reshape(count, *self.shape).mean(1)
        return cast(npt.NDArray[np.float32], fields / max(float(fields.max(initial=0.0)), 1e-12))
