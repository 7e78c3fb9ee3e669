"""The words every room shares: batches, data sets, metrics, rows, and the named ways a trial can end.

Legend of shapes
    T  time steps              B  samples in a batch        N  samples in a split, or output neurons
    C  channels (polarities)   H, W  rows and columns       K  time steps in one chunk
A static image is [C, H, W]; a sample of event frames is [T, C, H, W]; what a network sees is always
[T, B, C, H, W] and what it answers is always [T, B, N] output spikes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Metrics = Mapping[str, float]
METRICS = (
    "validation_error", "validation_accuracy", "validation_samples", "memory_bits", "energy_pj", "latency_us",
    "worst_energy_pj", "worst_latency_us", "sparsity", "firing_rate", "dense_memory_bits", "energy_training_pj",
    "dense_energy_training_pj",
)  # fmt: skip
"""All that an evaluation finds; the last three of some networks only."""
PART = "part_of_epoch"
"""A report with this metric, in (0, 1), comes from inside an epoch: for rules that stop by images, not for curves."""
STORED = "stored"
"""A report with this metric (1.0) was made when a stored model was trained: stopping there would save nothing."""
Report = Callable[[int, Metrics], None]
"""``report(step, metrics)`` after every epoch 1, 2, ...; may raise `TrialEnded` to end the trial."""
TICKS = 16
"""How often in an epoch a learner says how far it is (`within`)."""
Decode = Callable[[Tensor], Tensor]
"""[T, B, N] output spikes -> [B] int64 labels."""
Encode = Callable[[Tensor, torch.Generator], Tensor]
"""[B, ...] stored uint8 samples -> [T, B, C, H, W] float32 input. One with ``by_sample = True`` draws nothing and makes
of a sample what it makes of it in any batch: a small split is then encoded at once."""
Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""([B, ...] uint8, [B] labels) -> the same, changed; on training batches only."""
Widths = Mapping[str, int]
"""Tensor name (``fc1.weight``, ``lif1.threshold``, ``lif1.mem``) -> stored bits; what is absent has 32."""
SplitName = Literal["train", "validation", "test"]

FLOAT_BITS = 32


class Batch(NamedTuple):
    """One encoded mini-batch."""

    x: Tensor
    """[T, B, C, H, W] float32."""
    y: Tensor
    """[B] int64."""


_SMALL = 1 << 20  # bytes of samples that are put in order at once, not batch by batch
_FEW = 1 << 22  # input numbers that are encoded at once, where an encoding allows it


@dataclass(frozen=True)
class Split:
    """Stored samples: x uint8 [N, C, H, W] (images) or [N, T, C, H, W] (event frames), y int64 [N]."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def parts(self, order: Tensor | None, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(x, y) of `size` samples each, in this order; as stored for None. Not to be written to."""
        if order is None or self.x.numel() <= _SMALL:  # then gathered once, and each part is a view
            whole = self.chosen(order)
            yield from zip(whole.x.split(size), whole.y.split(size), strict=True)
        else:
            for places in order.split(size):
                part = self.chosen(places)
                yield part.x, part.y

    def chosen(self, places: Tensor | None) -> Split:
        """The samples at these places, copied in their order; all, as stored, for None."""
        if places is None:
            return self
        # index_select copies whole samples; indexing goes byte by byte and takes fifteen times as long
        return Split(self.x.index_select(0, places), self.y.index_select(0, places))


EVALUATION_BATCH = 256
"""Samples of a batch of an evaluation, at most: what random encodings draw depends on it."""


def samples_at_once(numbers: int) -> int:
    """Samples of so many input numbers, all steps together, in one batch of an evaluation: fewer than usual where their
    maps would not fit a small machine's memory, as those of 20 steps of 2 x 128 x 128."""
    return max(1, min(EVALUATION_BATCH, (1 << 24) // max(numbers, 1)))


@dataclass(frozen=True)
class Dataset:
    """Three splits and the way a stored sample becomes spikes. The test split is read once, for the front."""

    name: str
    classes: int
    shape: tuple[int, int, int]
    """(C, H, W) of one time step."""
    timesteps: int
    train: Split
    validation: Split
    test: Split
    encode: Encode
    digest: str
    """sha256 over the three splits: what was trained on, for the tracker."""
    augment: Augment | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    """What was passed over where that is allowed (`data.skip_bad`): reason -> how often."""

    @property
    def at_once(self) -> int:
        """Samples that a network with maps answers together; see `samples_at_once`."""
        return samples_at_once(self.timesteps * math.prod(self.shape))

    def split(self, name: SplitName) -> Split:
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def batches(self, name: SplitName, size: int, seed: int, shuffle: bool = False) -> Iterator[Batch]:
        """Encoded batches of `size`; shuffled (and, on the training split, augmented) when asked."""
        split = self.split(name)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(split), generator=generator) if shuffle else None
        augment = self.augment if shuffle and name == "train" else None
        few = len(split) * self.timesteps * math.prod(self.shape) <= _FEW
        if few and augment is None and getattr(self.encode, "by_sample", False):
            whole = split.chosen(order)
            yield from map(Batch, self.encode(whole.x, generator).split(size, 1), whole.y.split(size))
            return
        for x, y in split.parts(order, size):
            if augment is not None:
                x, y = augment(x, y, generator)
            yield Batch(self.encode(x, generator), y)


@runtime_checkable
class DataSpec(Protocol):
    """A config of data: knows where the samples are and cuts validation from train."""

    def load(self, seed: int) -> Dataset: ...


@runtime_checkable
class NetSpec(Protocol):
    """A config of a network; `build` is a pure function of its arguments."""

    def build(self, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module: ...


class Span(NamedTuple):
    """Where a part of a training stands in the whole: `done` of `planned` epochs came before it."""

    done: int
    planned: int


@runtime_checkable
class Learner(Protocol):
    """Trains in place and says how output spikes become labels (labels come from training data only)."""

    def fit(
        self,
        net: nn.Module,
        data: Dataset,
        after_epoch: Report,
        seed: int,
        epochs: int | None = None,
        span: Span | None = None,
    ) -> Decode:
        """`epochs` None: as configured; 0: no training, only find the decoding for the net as it is.

        Reports epochs 1, 2, ... to `after_epoch`, and how far each is by `within`.

        `span`: the epochs are a part of a longer training, whose schedules (learning rate, order of the samples) go
        on where the part before left them; None: they are all of it.
        """
        ...


def within(report: Report, epoch: int, done: int, of: int, since: int | None = None) -> None:
    """Tell a report that follows a training inside its epochs, as a gradual mask does, that `done` of `of` are behind.

    In `TICKS` of the epoch, rounded down, so that one that goes on from a checkpoint hears what it had heard. Nothing
    is recorded, and any other report hears nothing. `since`: what was behind at the last call, so that each tick is
    told once; the last one is the epoch's own report.
    """
    tick = done * TICKS // of
    follow = getattr(report, "within", None)
    if follow is not None and (since is None or since * TICKS // of < tick < TICKS):
        follow(epoch, tick / TICKS)


@dataclass(frozen=True)
class Row:
    """One trial as tables, figures and trackers read it."""

    number: int
    state: str
    """complete | cached | running | stopped:<why> | failed:<why>."""
    params: Mapping[str, object] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=dict)
    history: tuple[tuple[int, Metrics], ...] = ()
    detail: Mapping[str, object] = field(default_factory=dict)
    """JSON-able extras: cost by layer and part, bits and sparsity per layer, confusion, ..."""
    feasible: bool = True
    on_front: bool = False
    reason: str = ""
    duration_s: float = 0.0


class TrialEnded(Exception):
    """A trial that ends early for a reason with a name; the study goes on."""

    state = "stopped"


class Silent(TrialEnded):
    """No neuron of some layer fires."""

    state = "stopped:silent"


class Saturated(TrialEnded):
    """Some layer fires at almost every step."""

    state = "stopped:saturated"


class Diverged(TrialEnded):
    """The loss or a weight is NaN or infinite."""

    state = "failed:nan"


class Dominated(TrialEnded):
    """Other trials are better in every objective, at this step or already before training."""

    state = "stopped:dominated"


class Inexact(TrialEnded):
    """The network has no exact integer form, and the job wants every member proven."""

    state = "refused:inexact"


class DataError(Exception):
    """A file that is missing, damaged or of the wrong form: names the file and says what to do."""


def require(ok: bool, field_name: str, rule: str, value: object) -> None:
    """Raise ``ValueError("bits must be in [2, 32], but got 1.")``; the config puts its key in front."""
    if not ok:
        raise ValueError(f"{field_name} must {rule}, but got {value!r}.")
