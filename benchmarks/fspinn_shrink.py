"""The smallest network within a point of the float baseline: weights of a trained FSpiNN network rounded and pruned.

Every combination of width, range and sparsity, from the one that takes least memory upwards; the first that keeps the
validation accuracy of the float baseline within one point is tested on the test images, once. Memory is what a device
stores, in whichever format takes least (a bit per weight that says whether it is zero, run lengths, coordinates).
Rounding and pruning change the sum of a neuron's weights, so its threshold follows: theta is stored anyway.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fspinn_cells import LABEL_STREAM, LABELS, MEMBRANE_BITS, TEST_STREAM, Cell, respond, trained

from pipeline.data.mnist import Which
from pipeline.hardware.accelerator import Accelerator
from pipeline.hardware.cost import cost
from pipeline.hardware.workload import load_from
from pipeline.learn.labels import Assignment, Responses, assign
from pipeline.nets.stdp import StdpNet
from pipeline.nets.stdp_counts import inference_load, memory
from pipeline.types import Dataset, Split

BITS = (1, 2, 3, 4)
LARGEST = (0.5, 1.0)
"""The range of the weights, unsigned."""
SPARSITIES = (0.0, 0.7, 0.8, 0.85, 0.9, 0.95)
HOW: tuple[Assignment, ...] = ("highest_mean", "likelihood")
JUDGE: Assignment = "likelihood"
"""The labels by which both sides are most accurate."""
WITHIN = 0.01
SCREEN, HOPELESS = 1000, 0.03
"""A candidate that loses more than this on the first images is not shown the others."""
THETA_BITS, THETA_STEP = 16, 2.0**-6
"""U10.6."""


@dataclass(frozen=True)
class Shrink:
    """One search."""

    which: Which
    neurons: int
    seed: int

    @property
    def key(self) -> str:
        return f"shrink/{self.which}/{self.neurons}/{self.seed}"

    def current(self, result: Mapping[str, Any]) -> bool:
        """Whether a kept result began from networks of the constants that hold now."""
        return Cell(self.which, self.neurons, "fspinn8", self.seed).current(result)


def shrink(job: Shrink, root: str | None, accelerator: Accelerator) -> dict[str, Any]:
    """The first candidate that is accurate enough, with its memory and test accuracy beside the float baseline's."""
    base_cell, cell = (Cell(job.which, job.neurons, v, job.seed) for v in ("baseline", "fspinn8"))
    data = cell.data(root)
    base, net = trained(base_cell, data), trained(cell, data)
    (first,) = scores(base, data, [part(data.validation, SCREEN)], SCREEN)
    whole, base_test = scores(base, data, [data.validation, data.test])
    base_bits = cost(tuple(load_from(x) for x in inference_load(base, {})), accelerator).memory_bits
    weight, theta = net.weight.detach().numpy().copy(), net.theta.numpy().copy()
    tried, screened = 0, 0
    flat = np.sort(weight, axis=None)
    for choice in sorted(choices(), key=lambda c: expected_bits(flat, c)):
        rounded(net, weight, theta, *choice)
        screened += 1
        (seen,) = scores(net, data, [part(data.validation, SCREEN)], SCREEN)
        if seen[JUDGE] < first[JUDGE] - HOPELESS:
            continue
        tried += 1
        (found,) = scores(net, data, [data.validation])
        if found[JUDGE] < whole[JUDGE] - WITHIN:
            continue
        (test,) = scores(net, data, [data.test])
        bits, largest, sparsity = choice
        widths = {"weight": bits, "membrane": MEMBRANE_BITS, "theta": THETA_BITS}
        load = tuple(load_from(x) for x in inference_load(net, widths))
        stored = cost(load, accelerator).memory_bits
        held = memory(len(weight), job.neurons, False, net.spec.cell().refractory, widths)
        large = memory(len(weight), job.neurons, True, base.spec.cell().refractory, {})
        return {
            "setting": list(cell.setting), "bits": bits, "largest": largest, "sparsity": sparsity,
            "zeros": float((net.weight == 0).float().mean()),
            "stored_bits": stored, "baseline_stored_bits": base_bits, "smaller": base_bits / stored,
            "smaller_unpacked": large.stored_bits / held.stored_bits,
            "smaller_dense": large.dense_bits / held.dense_bits,
            "screened": screened, "tried": tried,
            **{f"validation_{how}": value for how, value in found.items()},
            **{f"baseline_validation_{how}": value for how, value in whole.items()},
            **{f"test_{how}": value for how, value in test.items()},
            **{f"baseline_test_{how}": value for how, value in base_test.items()},
        }  # fmt: skip
    return {
        "setting": list(cell.setting),
        "ended": f"none of {screened} candidates is within {100 * WITHIN:g} point of the float baseline",
    }


def choices() -> list[tuple[int, float, float]]:
    """(bits, largest weight, sparsity)"""
    return list(itertools.product(BITS, LARGEST, SPARSITIES))


def rounded(
    net: StdpNet,
    weight: np.ndarray[Any, Any],
    theta: np.ndarray[Any, Any],
    bits: int,
    largest: float,
    sparsity: float,
) -> None:
    """Put `weight`, its smallest entries taken away and the others rounded to the nearest code, into the network."""
    eps = largest * 2.0**-bits
    codes = np.minimum(np.floor(weight / eps + 0.5), 2.0**bits - 1)
    if sparsity > 0:
        codes[weight < np.quantile(weight, sparsity)] = 0
    made = (codes * eps).astype(np.float32)
    share = made.sum(0) / np.maximum(weight.sum(0), 1e-12)
    threshold = net.spec.cell().threshold
    follows = np.maximum((threshold + theta) * share - threshold, 0)
    most = THETA_STEP * (2**THETA_BITS - 1)
    net.weight.data.copy_(torch.from_numpy(made))
    net.theta.copy_(torch.from_numpy(np.minimum(np.round(follows / THETA_STEP) * THETA_STEP, most)))


def expected_bits(weight: np.ndarray[Any, Any], choice: tuple[int, float, float]) -> float:
    """Of the weights of a candidate, with one bit per weight that says whether it is zero, or without.

    weight: sorted, flat.
    """
    bits, largest, sparsity = choice
    smallest = max(largest * 2.0 ** -(bits + 1), np.quantile(weight, sparsity) if sparsity > 0 else 0.0)
    nonzero = weight.size - int(np.searchsorted(weight, smallest))
    return float(min(weight.size * bits, weight.size + nonzero * bits))


def part(split: Split, count: int) -> Split:
    return Split(split.x[:count], split.y[:count])


def scores(
    net: StdpNet, data: Dataset, splits: Sequence[Split], labels: int = LABELS
) -> list[Mapping[str, float]]:
    """Accuracy on each split by every way to label, labels from training images; counters hold the last split."""
    train = part(data.train, labels)
    responses = Responses(net.weight.shape[1], data.classes)
    responses.add(respond(net, data, train, LABEL_STREAM), train.y)
    made = []
    for split in splits:
        net.forget_inference()
        counts = respond(net, data, split, TEST_STREAM)
        right = {how: assign(responses, how).of_counts(counts) == split.y for how in HOW}
        made.append({how: float(x.double().mean()) for how, x in right.items()})
    return made
