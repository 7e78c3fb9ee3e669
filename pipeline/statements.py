"""What the three papers state, and the rule by which a number measured here is judged.

F1 to F9: FSpiNN (Putra, Shafique; IEEE TCAD 2020, arXiv 2007.08860). T1 to T7: tinySNN (Putra, Shafique; 2022, arXiv
2206.08656) and Q-SpiNN (2021), its quantization. H1 to H11: The Hardware Impact of Quantization and Pruning for
Weights in Spiking Neural Networks (Schaefer, Taheri, Horeni, Joshi; 2023, arXiv 2302.04174).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """One statement of a paper and the rule by which a measured value is judged."""

    id: str
    statement: str
    published: str
    unit: str
    """Unit of a record's `value`."""
    low: float = -math.inf
    high: float = math.inf
    strict: bool = False
    """The bound itself does not count as holding."""

    def judge(self, value: float) -> bool:
        """Whether a value satisfies the claim."""
        if self.strict:
            return self.low < value < self.high
        return self.low <= value <= self.high

    @property
    def rule(self) -> str:
        """``at most 1 pp``, ``between 1.2 and 1.8 x``."""
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"between {self.low:g} and {self.high:g} {self.unit}".strip()
        words, bound = ("at most", self.high) if math.isfinite(self.high) else ("at least", self.low)
        words = {"at most": "below", "at least": "above"}[words] if self.strict else words
        return f"{words} {bound:g} {self.unit}".strip()


CLAIMS: tuple[Claim, ...] = (
    Claim("F1", "Direct lateral inhibition costs at most 1 point at n = 400", "no loss", "pp lost", high=1),
    Claim("F2", "Memory of fp32 baseline / 8-bit FSpiNN, dense matrices, n = 4900", "7.5x", "x", 7.3, 7.6),
    Claim("F3", "Timestep-based updates write synapses at least 10 times less", "fewer updates", "x", low=10),
    Claim("F4", "Timestep-based updates are at least as accurate as per-event ones", "improved", "pp", low=0),
    Claim(
        "F5", "Accuracy over the inhibition strength has an inner maximum", "searched", "pp", 0, strict=True
    ),
    Claim("F6", "Adaptive potentiation is at least as accurate as k = 1", "improved", "pp", low=0),
    Claim("F7", "Energy saved in training (3.5x) and inference (1.8x)", "3.5x, 1.8x", "of published", low=1),
    Claim("F8", "8 bit within 1 point of 32 bit", "no loss at n = 4900", "pp lost", high=1),
    Claim("F9", "Accuracy grows with n", "82.9 to 95.0 % at n = 100 to 6400", "pp per step", 0, strict=True),
    Claim(
        "T1", "Quantized neuron parameters make the total memory smaller", "smaller", "x", high=1, strict=True
    ),
    Claim("T2", "Roundings differ by more than the seed spread at some width", "differ", "x", 1, strict=True),
    Claim(
        "T3",
        "In-training is at least as accurate as post-training at the lowest width",
        "better",
        "pp",
        low=0,
    ),
    Claim("T4", "The membrane potential needs more bits than the weights", "more", "bits", 0, strict=True),
    Claim("T5", "A quarter of fp32 memory within 1 point on MNIST", "4x within 1 pp", "of fp32", high=0.25),
    Claim(
        "T6",
        "The selected model is on the front for every mu, at its ends for small and large mu",
        "by design",
        "share",
        low=1,
    ),
    Claim(
        "T7",
        "The selected model needs less energy in training and inference",
        "less",
        "x",
        high=1,
        strict=True,
    ),
    Claim("H1", "Accuracy is flat from 8 bit to ternary", "97.57 % at 2 to 8 bit", "pp lost", high=1),
    Claim(
        "H2",
        "Pruning at 8 bit loses what was published up to 92.5 %, then falls as published",
        "nothing to 80 %, 2 points at 90 %, 3 at 92.5 %, then a cliff: 13 more at 95 %",
        "pp lost beyond the published at 80, 90 or 92.5 %, or short of its fall to 95 %",
        high=1,
    ),
    Claim("H3", "Ternary training makes 60 to 75 % zeros", "67.9 %", "%", 60, 75),
    Claim("H4", "Energy of 8 bit + 80 % sparse / ternary", "1.46x", "x", 1.2, 1.8),
    Claim("H5", "Energy of 8 bit / ternary", "2.43x", "x", 2.0, 2.9),
    Claim(
        "H6",
        "Sparse encoding loses at 4 bit and more, wins at 3 and less",
        "at all 5 widths",
        "widths",
        low=5,
    ),
    Claim(
        "H7", "Pruning a ternary net saves at most 12 % while accuracy stays over 90 %", "7 %", "%", high=12
    ),
    Claim("H8", "Joint and cumulative agree within noise up to 90 %", "within noise", "of noise", high=1),
    Claim(
        "H9", "Global pruning leaves Conv1, TCJA, Dense2 denser than the rest", "denser", "x", 1, strict=True
    ),
    Claim("H10", "DRAM takes at least 70 % of the energy (median of the networks)", "most", "%", low=70),
    Claim(
        "H11",
        "Average and worst-case activity order the points differently",
        "differ",
        "tau",
        high=1,
        strict=True,
    ),
)
