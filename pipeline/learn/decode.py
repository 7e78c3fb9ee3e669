"""From output spikes to labels, and how often they are right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.types import Batch, Decode, require


def votes(spikes: Tensor, classes: int) -> Tensor:
    """[T, B, classes x group] spikes -> [B, classes] mean rates, each over T and over the group of a class.

    Neurons c x group ... (c + 1) x group - 1 vote for class c (the voting layer of Fang et al. 2021).
    """
    if spikes.shape[2] % classes:
        raise ValueError(
            f"classes must divide the number of output neurons, but got {classes} and {spikes.shape[2]}."
        )
    counts = spikes.sum(0).unflatten(1, (classes, -1)).sum(2)  # whole numbers: equal votes stay equal
    return counts / (spikes.shape[0] * spikes.shape[2] // classes)


@dataclass(frozen=True)
class RateDecode:
    """The class whose group of output neurons fired most; the lower number where two are equal.

    Saved as tensors (safetensors): ``RateDecode.from_tensors(decode.tensors()) == decode``.
    """

    classes: int

    def __post_init__(self) -> None:
        require(self.classes >= 1, "classes", "be at least 1", self.classes)

    def __call__(self, spikes: Tensor) -> Tensor:
        """[T, B, classes x group] output spikes -> [B] int64 labels."""
        return votes(spikes, self.classes).argmax(1)

    def tensors(self) -> dict[str, Tensor]:
        return {"classes": torch.tensor(self.classes)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> RateDecode:
        return cls(int(tensors["classes"]))


def accuracy(net: nn.Module, decode: Decode, batches: Iterable[Batch]) -> float:
    """Fraction of the samples that `decode` names rightly, with the net in evaluation mode; 0 of 0 is 0."""
    training = net.training
    net.eval()
    right = total = 0
    with torch.no_grad():
        for x, y in batches:
            right += int((decode(net(x)) == y).sum())
            total += len(y)
    net.train(training)
    return right / max(total, 1)
