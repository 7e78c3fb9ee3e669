"""Claims H4 to H7, H10 and H11 of Schaefer et al. 2023 (arXiv 2302.04174) against the cost model.

Their TCJA network on DVS Gesture, 20 time steps, joint training: 8 sparsities x 5 weight widths, energies of an
Eyeriss-like array with run-length encoded weights. The loads are expected ones, not measured: shapes from the paper,
zeros of quantization as published per width, pruned zeros from one global threshold over normally distributed weights
whose deviation is 1 / sqrt(fan in) per layer (Kaiming; magnitudes of trained networks keep that order), spikes as
dense as the geometric mean of the plausible range (2 to 5 % of the input, 5 to 20 % of the layers). Nothing is fitted
but one global scale of the energies, the median of published / modelled.

    python benchmarks/hardware_claims.py        writes outputs/claims/hardware.json, about 2 s
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau, norm, spearmanr

from pipeline.claims import BY_ID, Record, write
from pipeline.config import instantiate, members
from pipeline.hardware.accelerator import Accelerator
from pipeline.hardware.cost import cost
from pipeline.hardware.expected import expected_load
from pipeline.hardware.workload import Geometry, Kind, LayerLoad

Table = npt.NDArray[np.float64]
BITS = (2, 3, 4, 6, 8)
SPARSITY = (0.0, 0.75, 0.80, 0.85, 0.90, 0.925, 0.95, 0.975)
PUBLISHED_MJ: Table = np.array(
    [
        [9.593, 16.521, 18.858, 22.166, 23.281],
        [9.134, 11.578, 11.693, 13.608, 14.585],
        [9.536, 10.942, 11.643, 13.217, 13.977],
        [8.948, 10.428, 10.796, 12.204, 12.950],
        [8.881, 10.023, 10.607, 11.971, 12.686],
        [8.907, 9.759, 10.113, 11.980, 12.364],
        [9.850, 9.487, 11.377, 11.420, 12.282],
        [8.109, 8.709, 9.333, 10.695, 11.518],
    ]
)
"""mJ per inference, run-length encoding; rows SPARSITY, columns BITS."""
QUANTIZED_TO_ZERO = {2: 0.679, 3: 0.316, 4: 0.151, 6: 0.036, 8: 0.009}
"""Share of zeros that quantization alone makes."""
STEPS = 20
INPUT_DENSITY = math.sqrt(0.02 * 0.05)
LAYER_DENSITY = math.sqrt(0.05 * 0.20)
STATE_BITS = 8
"""The template's partial-sum pad is 24 x 8 bit; a membrane is a partial sum that is kept."""


@dataclass(frozen=True)
class Shape:
    """One layer of the TCJA network."""

    name: str
    kind: Kind
    geometry: Geometry
    steps: int = STEPS
    padding: tuple[int, int] = (0, 0)

    @property
    def weights(self) -> int:
        return self.geometry.out_channels * self.geometry.fan_in


def _conv(name: str, channels: int, side: int) -> Shape:
    return Shape(name, "conv", Geometry(channels, 128, (side, side), (side, side), (3, 3)), padding=(1, 1))


def _attention(block: int) -> tuple[Shape, Shape]:
    """Along the channels (time steps are its channels) and along time; each runs once per sample."""
    time = Geometry(STEPS, STEPS, (1, 128), (1, 128), (1, 4))
    channel = Geometry(128, 128, (1, STEPS), (1, STEPS), (1, 4))
    return (
        Shape(f"tcja{block}.time", "attention", time, 1, (0, 1)),
        Shape(f"tcja{block}.channel", "attention", channel, 1, (0, 1)),
    )


TCJA: tuple[Shape, ...] = (
    _conv("conv1", 2, 128),
    _conv("conv2", 128, 64),
    _conv("conv3", 128, 32),
    _conv("conv4", 128, 16),
    *_attention(1),
    _conv("conv5", 128, 8),
    *_attention(2),
    Shape("dense1", "linear", Geometry(2048, 512)),
    Shape("dense2", "linear", Geometry(512, 110)),
)


def pruning_thresholds(sparsity: float) -> Table:
    """Magnitude below which a weight is pruned, in standard deviations of its layer: one global magnitude."""
    deviation = np.array([1 / math.sqrt(shape.geometry.fan_in) for shape in TCJA])
    weights = np.array([shape.weights for shape in TCJA])
    low, high = 0.0, 10.0
    for _ in range(80):
        middle = (low + high) / 2
        kept = float((weights * 2 * norm.sf(middle / deviation)).sum() / weights.sum())
        low, high = (middle, high) if kept > 1 - sparsity else (low, middle)
    return low / deviation if sparsity > 0 else np.zeros(len(TCJA))


def tcja_loads(
    bits: int, sparsity: float, input_density: float = INPUT_DENSITY, layer_density: float = LAYER_DENSITY
) -> tuple[LayerLoad, ...]:
    """What the network does per inference at one point of the published table."""
    rounding = norm.isf((1 - QUANTIZED_TO_ZERO[bits]) / 2)
    loads = []
    for shape, pruned in zip(TCJA, pruning_thresholds(sparsity), strict=True):
        attention = shape.kind == "attention"
        seen = 1.0 if attention else input_density if shape.name == "conv1" else layer_density
        gated = 128 * STEPS * layer_density * (16**2 if shape.name == "tcja1.channel" else 8**2)
        last = shape.name.endswith("channel")
        loads.append(
            expected_load(
                shape.name,
                shape.kind,
                shape.geometry,
                shape.steps,
                density=2 * norm.sf(max(float(pruned), float(rounding))),
                input_density=seen,
                firing_rate=0.0 if attention else layer_density,
                neurons=not attention,
                padding=shape.padding,
                weight_bits=bits,
                state_bits=STATE_BITS,
                input_bits=8 if attention or shape.name == "conv1" else 1,
                gates=gated + 128 * STEPS if last else 0.0,
                additions=gated if last else 0.0,
            )
        )
    return tuple(loads)


def energies_mj(machine: Accelerator, **densities: float) -> Table:
    """The modelled table, rows SPARSITY, columns BITS."""
    rows = [[cost(tcja_loads(b, s, **densities), machine).energy_pj for b in BITS] for s in SPARSITY]
    return np.array(rows) * 1e-9


def findings(machine: Accelerator) -> dict[str, dict[str, float]]:
    """The numbers behind each claim; `value` is what `pipeline.claims` judges."""
    rle = energies_mj(machine)
    scale = float(np.median(PUBLISHED_MJ / rle))
    error = np.abs(rle * scale / PUBLISHED_MJ - 1)
    dense = energies_mj(replace(machine, weight_encoding="dense"))[0]
    dram = np.array([[cost(tcja_loads(b, s), machine).share("dram") for b in BITS] for s in SPARSITY])
    worst = energies_mj(machine, input_density=0.05, layer_density=0.20)
    ratios = {f"sparse_over_dense_{bits}_bit": float(rle[0, i] / dense[i]) for i, bits in enumerate(BITS)}
    right = sum((rle[0, i] > dense[i]) == (bits >= 4) for i, bits in enumerate(BITS))
    return {
        "table": {
            "rank_correlation": float(spearmanr(rle.ravel(), PUBLISHED_MJ.ravel())[0]),
            "median_relative_error": float(np.median(error)),
            "largest_relative_error": float(error.max()),
            "scale": scale,
        },
        "H4": {"value": float(rle[2, 4] / rle[0, 0]), "published": 1.457},
        "H5": {"value": float(rle[0, 4] / rle[0, 0]), "published": 2.427},
        "H6": {"value": float(right), **ratios},
        # published accuracy stays above 90 % down to 90 % sparsity
        "H7": {"value": float(100 * (1 - rle[:5, 0].min() / rle[0, 0])), "published": 7.4},
        "H10": {
            "value": float(100 * np.median(dram)),
            "least": float(100 * dram.min()),
            "points_at_70_percent": float((dram >= 0.70).sum()),
        },
        "H11": {
            "value": float(kendalltau(rle.ravel(), worst.ravel())[0]),
            "worst_over_mean": float(np.median(worst / rle)),
        },
    }


WORDS = {
    "H4": "{value:.2f}x",
    "H5": "{value:.2f}x",
    "H6": "as published at {value:.0f} of 5 widths; sparse/dense {sparse_over_dense_3_bit:.2f} at 3 bit, "
    "{sparse_over_dense_4_bit:.2f} at 4 bit",
    "H7": "{value:.1f} %",
    "H10": "{value:.0f} % in the median, at least {least:.0f} %, over 70 % at {points_at_70_percent:.0f} of 40 points",
    "H11": "Kendall's tau {value:.3f} between assumed mean and assumed largest activity, worst {worst_over_mean:.2f}x "
    "the mean",
}
ASSUMED = ("H11",)
"""Claims about what networks do: an assumption about it decides nothing."""


def records(found: dict[str, dict[str, float]], command: str) -> list[Record]:
    """The findings as `python -m pipeline.claims` reads them; the agreement with the published table goes with H4."""
    made = []
    for name, words in WORDS.items():
        numbers = found[name]
        extra = numbers | (found["table"] if name == "H4" else {})
        made.append(
            Record(
                id=name,
                measured=words.format(**numbers),
                value=numbers["value"],
                data="analytic loads of the TCJA network, eyeriss_45nm",
                seeds=(),
                n=40,
                holds=None if name in ASSUMED else BY_ID[name].judge(numbers["value"]),
                command=command,
                date=date.today().isoformat(),
                note="cost model on expected densities, no trained network",
                extra=extra,
            )
        )
    return made


def machines() -> dict[str, Accelerator]:
    """Every accelerator of the configuration."""
    import yaml

    from pipeline.config import CONF

    found = {}
    for name in members("accelerator"):
        built = instantiate(
            yaml.safe_load((CONF / "accelerator" / f"{name}.yaml").read_text()), "accelerator"
        )
        assert isinstance(built, Accelerator)
        found[name] = built
    return found


def show(machine: Accelerator, found: dict[str, dict[str, float]]) -> None:
    """The modelled table beside the published one, and the findings."""
    modelled = energies_mj(machine) * found["table"]["scale"]
    print("energy, mJ, modelled (published); rows: sparsity, columns: bits")
    print("        " + "".join(f"{bits:>16}" for bits in BITS))
    for share, ours, theirs in zip(SPARSITY, modelled, PUBLISHED_MJ, strict=True):
        cells = "".join(f"{a:9.2f} ({b:.1f})".rjust(16) for a, b in zip(ours, theirs, strict=True))
        print(f"{share:7.1%} {cells}")
    for name, numbers in found.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in numbers.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/claims/hardware.json"))
    args = parser.parse_args()
    machine = machines()["eyeriss_45nm"]
    found = findings(machine)
    show(machine, found)
    write(args.out, records(found, "python benchmarks/hardware_claims.py"))
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
