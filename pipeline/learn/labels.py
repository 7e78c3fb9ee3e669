"""Which neuron stands for which class, found on training samples only, and reading labels from spike counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pipeline.types import require

Assignment = Literal["highest_mean", "proportional", "likelihood"]
_SMOOTHING = 0.02
"""Share of the mean response added to every response: no neuron excludes a class for good."""


@dataclass(frozen=True, eq=False)
class LabelDecode:
    """Spike counts [B, n] -> ``counts @ votes + bias`` -> the class with the highest score.

    votes [n, classes] and bias [classes] come from `assign`. A sample without a single spike gets `silent`,
    the most frequent class of the training samples.
    """

    votes: Tensor
    bias: Tensor
    silent: int

    def __call__(self, spikes: Tensor) -> Tensor:
        """[T, B, n] output spikes -> [B] int64 labels."""
        return self.of_counts(spikes.sum(0))

    def of_counts(self, counts: Tensor) -> Tensor:
        """[B, n] spike counts -> [B] int64 labels."""
        labels = (counts.to(torch.float64) @ self.votes.double() + self.bias.double()).argmax(1)
        labels[counts.sum(1) == 0] = self.silent
        return labels

    def tensors(self) -> dict[str, Tensor]:
        """For a safetensors file; ``LabelDecode.from_tensors(decode.tensors())`` decides alike."""
        return {"votes": self.votes, "bias": self.bias, "silent": torch.tensor(self.silent)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> LabelDecode:
        return cls(tensors["votes"], tensors["bias"], int(tensors["silent"]))


class Responses:
    """Running sums of spike counts by class: all that an assignment needs of the training samples."""

    def __init__(self, neurons: int, classes: int) -> None:
        self.sums = torch.zeros(neurons, classes, dtype=torch.float64)
        self.samples = torch.zeros(classes, dtype=torch.int64)

    def add(self, counts: Tensor, labels: Tensor) -> None:
        """counts [S, n] of samples with labels [S]."""
        self.sums.T.index_add_(0, labels, counts.to(torch.float64))
        self.samples += torch.bincount(labels, minlength=len(self.samples))

    def fade(self, keep: float) -> None:
        """Forget all but `keep` of what was added, so that later samples weigh more."""
        self.sums *= keep
        self.samples = (self.samples * keep).round().long()

    def means(self) -> Tensor:
        """[n, classes] mean spikes per sample; 0 for a class without samples."""
        return self.sums / self.samples.clamp(min=1)


def assign(responses: Responses, assignment: Assignment) -> LabelDecode:
    """Votes of each neuron from its mean response m[j, c] to class c.

    highest_mean    each neuron stands for its best class; a class scores the mean count of its neurons
                    (Diehl & Cook 2015, section 2.7; BindsNET's all_activity)
    proportional    the same, weighted by the share of the neuron's response that its class has (BindsNET's
                    proportion_weighting)
    likelihood      counts are taken as independent Poisson draws with means m: log p(counts | class); uses
                    every neuron's response to every class (ours: it keeps what the argmax throws away)
    """
    require(
        assignment in get_args(Assignment), "assignment", "be " + " | ".join(get_args(Assignment)), assignment
    )
    means = responses.means()
    seen = responses.samples > 0
    silent = int(responses.samples.argmax())
    if assignment == "likelihood":
        smooth = means + _SMOOTHING * means.mean() + 1e-12
        votes, bias = smooth.log(), -smooth.sum(0)
        bias[~seen] = -torch.inf
        return LabelDecode(votes, bias, silent)
    best = means.argmax(1)
    chosen = torch.zeros_like(means)
    chosen[torch.arange(len(means)), best] = (means.sum(1) > 0).double()
    members = chosen.sum(0).clamp(min=1)
    if assignment == "proportional":
        chosen *= means / means.sum(1, keepdim=True).clamp(min=1e-12)
    return LabelDecode(chosen / members, torch.zeros(len(members), dtype=torch.float64), silent)
