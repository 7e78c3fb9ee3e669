"""Learning without labels: present images one after another, then find out what each neuron stands for."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.learn.labels import Assignment, LabelDecode, Responses, assign
from pipeline.learn.stdp import StdpRule
from pipeline.learn.unsupervised_state import Progress, named, resume, save
from pipeline.types import (
    PART,
    Dataset,
    Diverged,
    Report,
    Saturated,
    Silent,
    Span,
    Split,
    require,
    within,
)

_TRAIN, _LABEL, _VALIDATION, _REPEAT = 0, 1, 2, 3
"""Streams of spike trains that never meet: no image is labelled on the spikes it was learned from."""
_TELL = 1000
"""Images between two reports inside an epoch."""
_FEW = 1e-3
"""Mean spikes per sample below which a network counts as silent."""
_FULL = 0.95
"""Share of the possible spikes above which it counts as saturated."""


@runtime_checkable
class Encoder(Protocol):
    """An encoding that can give spikes as events (data/encoding=poisson)."""

    timesteps: int
    dt_ms: float

    def events(
        self, x: Tensor, seed: int, gain: float = 1.0
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]: ...


class Plastic(Protocol):
    """What a network offers to be taught here (nets/stdp.py)."""

    shape: tuple[int, int, int]
    theta: Tensor
    weight: Tensor

    def learn(self, *args: Any, **kwargs: Any) -> npt.NDArray[np.int32]: ...
    def respond(self, *args: Any) -> npt.NDArray[np.int32]: ...
    def most_spikes(self, steps: int) -> float: ...


class Chunk(NamedTuple):
    """Some samples as events, on their way to the network."""

    chosen: Tensor
    starts: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Unsupervised:
    """Presents the training images `epochs` times under `rule`; labels neurons on training images only.

    epochs            passes over the training split
    rule              how spikes change weights
    assignment        highest_mean | proportional | likelihood, see `labels.assign`
    label_samples     training images that the final assignment uses; None: all
    check_samples     training and validation images behind the accuracies reported after each epoch
    min_spikes        present an image again, with `boost` more intensity per round, while the network answers
                      with fewer spikes (Diehl & Cook 2015: 5); 0: never
    boost, rounds     intensity added per round (1 doubles the first time), and how many rounds at most
    chunk             images encoded at a time, while the network learns from those before
    checkpoint        folder to save to after each epoch and every `save_chunks` chunks, and to resume from; each run
                      (of another seed, rule, network, data, or part of a fine-tuning) has a file of its own there
    progress          show images/s and running accuracy in the terminal
    """

    epochs: int = 1
    rule: StdpRule = field(default_factory=StdpRule)
    assignment: Assignment = "highest_mean"
    label_samples: int | None = None
    check_samples: int = 2000
    min_spikes: int = 0
    boost: float = 0.5
    rounds: int = 3
    chunk: int = 500
    checkpoint: str | None = None
    save_chunks: int = 20
    progress: bool = False

    def __post_init__(self) -> None:
        require(self.epochs >= 0, "epochs", "be at least 0", self.epochs)
        names = get_args(Assignment)
        require(self.assignment in names, "assignment", f"be one of {', '.join(names)}", self.assignment)
        some = self.label_samples is None or self.label_samples >= 1
        require(some, "label_samples", "be at least 1, or null for all", self.label_samples)
        require(self.check_samples >= 1, "check_samples", "be at least 1", self.check_samples)
        require(self.min_spikes >= 0, "min_spikes", "be at least 0", self.min_spikes)
        require(self.boost > 0, "boost", "be above 0", self.boost)
        require(self.rounds >= 0, "rounds", "be at least 0", self.rounds)
        require(1 <= self.chunk <= 10_000, "chunk", "be in [1, 10000]", self.chunk)
        require(self.save_chunks >= 1, "save_chunks", "be at least 1", self.save_chunks)

    def fit(
        self,
        net: nn.Module,
        data: Dataset,
        after_epoch: Report,
        seed: int,
        epochs: int | None = None,
        span: Span | None = None,
    ) -> LabelDecode:
        """Train in place; the result reads labels from output spikes. Same seed, same result.

        With a `span` the rates that fall, and the images' order and spikes, are those of these epochs of the whole.

        Raises:
            ValueError: the net is no STDP network, the encoding gives no events, or images have another size.
            Silent, Saturated, Diverged: what the network did over a whole chunk.
        """
        self.check(net, data)
        plastic, encoder = _plastic(net), _encoder(data)
        total = self.epochs if epochs is None else epochs
        whole = span or Span(0, total)
        book = Progress(named(net, self._settings(data, seed, span, total)))
        if self.checkpoint is not None and total > 0 and resume(self.checkpoint, net, book):
            within(after_epoch, book.epoch + 1, book.position, len(data.train))
        for epoch in range(book.epoch, total):
            metrics = self._epoch(plastic, net, data, encoder, seed, book, whole, after_epoch)
            decode = self._decode(plastic, data, encoder, seed, self.check_samples)
            metrics["validation_accuracy"] = self._accuracy(plastic, data.validation, encoder, decode, seed)
            book.epoch, book.position = epoch + 1, 0
            if self.checkpoint is not None:
                save(self.checkpoint, net, book)
            after_epoch(epoch + 1, metrics)
        return self._decode(plastic, data, encoder, seed, self.label_samples or len(data.train))

    def check(self, net: nn.Module, data: Dataset) -> None:
        """Raise ValueError for another kind of network, an encoding without events, or images of another size."""
        plastic, _ = _plastic(net), _encoder(data)
        require(len(data.train) > 0, "data", "have training images", len(data.train))
        pixels, inputs = math.prod(data.shape), len(plastic.weight)
        if pixels != inputs:
            raise ValueError(f"images have {pixels} pixels, but the network takes {inputs}.")

    def _settings(self, data: Dataset, seed: int, span: Span | None, total: int) -> str:
        """All that decides what is learned, the number of epochs, too: rates fall and masks grow until the last."""
        shown = (self.chunk, self.min_spikes, self.boost, self.rounds)
        return repr((self.rule, shown, data.encode, data.digest, seed, span, total))

    def _epoch(
        self,
        net: Plastic,
        module: nn.Module,
        data: Dataset,
        encoder: Encoder,
        seed: int,
        book: Progress,
        whole: Span,
        report: Report,
    ) -> dict[str, float]:
        """One pass in a random order; the accuracy is that of each chunk under the labels found before it.

        Every `_TELL` images it is reported as a part of the epoch, so that one long pass can be stopped on its way.
        """
        epoch = whole.done + book.epoch
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed * 1009 + epoch))
        responses = Responses(net.weight.shape[1], data.classes)
        right = judged = spikes = 0.0
        begin = time.perf_counter()
        first = book.position
        base = epoch * len(order)
        for number, chunk in enumerate(
            self._chunks(data.train, order[first:], encoder, _stream(seed, _TRAIN) + base + first)
        ):
            shown = (epoch + book.position / len(order)) / whole.planned
            rule = self.rule.per_step(encoder.dt_ms, epoch, shown)
            counts = self._learn(net, data.train, chunk, encoder, seed, rule)
            _check(net, counts, encoder.timesteps)
            labels = data.train.y[chunk.chosen]
            if judged or int(responses.samples.sum()):
                answers = assign(responses, self.assignment).of_counts(counts)
                right, judged = right + float((answers == labels).sum()), judged + len(labels)
            responses.fade(0.9)
            responses.add(counts, labels)
            spikes += float(counts.sum())
            before, book.position = book.position, book.position + len(labels)
            within(report, book.epoch + 1, book.position, len(order), since=before)
            if self.checkpoint is not None and (number + 1) % self.save_chunks == 0:
                save(self.checkpoint, module, book)
            if judged and before // _TELL < book.position // _TELL and book.position < len(order):
                error = 1.0 - right / judged
                part = {PART: book.position / len(order), "images": float(base + book.position)}
                report(book.epoch + 1, {**part, "running_error": error})
            if self.progress:
                rate = (book.position - first) / (time.perf_counter() - begin)
                done = f"epoch {book.epoch + 1}  {book.position}/{len(order)}  {rate:.0f} images/s"
                print(f"\r{done}  running accuracy {right / max(judged, 1):.3f}", end="", flush=True)
        if self.progress:
            print()
        shown = max(len(order) - first, 1)
        return {
            "images": float(base + len(order)),
            "running_error": 1.0 - right / max(judged, 1),
            "train_accuracy": right / max(judged, 1),
            "images_per_s": shown / max(time.perf_counter() - begin, 1e-9),
            "spikes_per_sample": spikes / shown,
        }

    def _learn(
        self, net: Plastic, split: Split, chunk: Chunk, encoder: Encoder, seed: int, rule: Mapping[str, float]
    ) -> Tensor:
        """Spike counts [S, n] of one chunk; images that got few spikes are shown again, brighter.

        # Differs from Diehl & Cook 2015: an image is repeated after its chunk instead of at once.
        """
        shadow = self.rule.shadow
        steps = encoder.timesteps
        counts = net.learn(chunk.starts, chunk.pixels, len(chunk.chosen), steps, seed, rule, shadow)
        for again in range(1, self.rounds + 1):
            quiet = np.flatnonzero(counts.sum(1) < self.min_spikes)
            if not len(quiet):
                break
            x = split.x[chunk.chosen[quiet]]
            stream = _stream(seed, _REPEAT) + (again << 30) + int(chunk.chosen[0])
            starts, pixels = encoder.events(x, stream, 1 + self.boost * again)
            counts[quiet] = net.learn(starts, pixels, len(quiet), steps, seed + again, rule, shadow)
        return torch.from_numpy(counts)

    def _decode(self, net: Plastic, data: Dataset, encoder: Encoder, seed: int, samples: int) -> LabelDecode:
        """Labels from the responses to the first `samples` training images, nothing else."""
        responses = Responses(net.weight.shape[1], data.classes)
        order = torch.arange(min(samples, len(data.train)))
        for chunk in self._chunks(data.train, order, encoder, _stream(seed, _LABEL)):
            counts = net.respond(chunk.starts, chunk.pixels, len(chunk.chosen), encoder.timesteps, seed)
            responses.add(torch.from_numpy(counts), data.train.y[chunk.chosen])
        if float(responses.sums.sum()) < _FEW * len(order):
            raise Silent(
                "no neuron answers any training image: lower w_inh_mv or theta, raise the input rate, or give a "
                "quantized membrane more range (compression.quantize_neurons.headroom)"
            )
        return assign(responses, self.assignment)

    def _accuracy(
        self, net: Plastic, split: Split, encoder: Encoder, decode: LabelDecode, seed: int
    ) -> float:
        right = 0
        order = torch.arange(min(self.check_samples, len(split)))
        for chunk in self._chunks(split, order, encoder, _stream(seed, _VALIDATION)):
            counts = net.respond(chunk.starts, chunk.pixels, len(chunk.chosen), encoder.timesteps, seed)
            right += int((decode.of_counts(torch.from_numpy(counts)) == split.y[chunk.chosen]).sum())
        return right / max(len(order), 1)

    def _chunks(self, split: Split, order: Tensor, encoder: Encoder, seed: int) -> Iterator[Chunk]:
        """Event-coded chunks, each encoded in a second thread while the one before it is used.

        A sample's spikes depend on the stream and its place in `order`, not on the chunk it falls in.
        """

        def encode(start: int) -> Chunk:
            chosen = order[start : start + self.chunk]
            starts, pixels = encoder.events(split.x[chosen], seed + start)
            return Chunk(chosen, starts, pixels)

        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(encode, 0)
            for start in range(0, len(order), self.chunk):
                ready = following.result()
                if start + self.chunk < len(order):
                    following = pool.submit(encode, start + self.chunk)
                yield ready


def _stream(seed: int, purpose: int) -> int:
    """First seed of a stream of 2^36 samples, for seeds below 2^26."""
    return (4 * seed + purpose) << 36


def _plastic(net: nn.Module) -> Plastic:
    if not (hasattr(net, "learn") and hasattr(net, "respond")):
        raise ValueError(
            f"net must be an STDP network (net=stdp) for learner=stdp, but got {type(net).__name__}."
        )
    return cast(Plastic, net)


def _encoder(data: Dataset) -> Encoder:
    encoder = data.encode
    if not isinstance(encoder, Encoder):
        raise ValueError(
            "data.encoding must give spikes as events (data/encoding=poisson) for learner=stdp, "
            f"but got {type(encoder).__name__}."
        )
    return encoder


def _check(net: Plastic, counts: Tensor, steps: int) -> None:
    mean = float(counts.sum(1).double().mean())
    if not bool(torch.isfinite(net.theta).all()) or not math.isfinite(float(net.weight.sum())):
        raise Diverged("a weight or a threshold is no finite number any more: lower the learning rates")
    if mean < _FEW:
        raise Silent(f"{mean:.4f} spikes per image: lower w_inh_mv or theta, or raise the input rate")
    most = net.most_spikes(steps)
    if mean > _FULL * most:
        raise Saturated(
            f"{mean:.0f} spikes per image of {most:.0f} possible: raise w_inh_mv or theta_plus_mv"
        )
