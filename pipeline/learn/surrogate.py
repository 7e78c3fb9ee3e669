"""Training by backpropagation through time with surrogate gradients (Neftci et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline import heap
from pipeline.learn.activity import watch
from pipeline.learn.ahead import ahead
from pipeline.learn.decode import RateDecode, accuracy, votes
from pipeline.types import Batch, Dataset, Decode, Diverged, Report, Span, require, within

Loss = Literal["rate_cross_entropy", "step_cross_entropy", "vote_mse"]
Optimizer = Literal["adam", "adamw", "sgd"]
Scheduler = Literal["cosine", "constant"]
Device = Literal["auto", "cpu", "cuda"]
_STRIDE = 1_000_003  # between the seeds of two trainings: more than any has epochs
_LOOK = 10  # batches between two looks at the loss: on a GPU each look waits for the device


@dataclass(frozen=True)
class Surrogate:
    """Minimises a loss of the output spikes; decodes by rates (`RateDecode`).

    epochs, batch_size      how long, and how many samples a step sees
    learning_rate           the largest one
    loss                    rate_cross_entropy: softmax cross-entropy of the spike counts of the classes;
                            step_cross_entropy: the same of the spikes of each step, mean over the steps
                            (snnTorch's ce_count_loss and ce_rate_loss);
                            vote_mse: squared error of the classes' rates (Fang et al. 2021), which should be
    right_rate, wrong_rate  for the right class and for all others; 1 and 0 are one-hot
    optimizer, weight_decay, momentum   adam | adamw | sgd; the momentum is sgd's
    clip                    largest norm of the gradient, 0 for no limit
    scheduler               cosine: to 0 over the epochs, a step per batch; constant
    warmup_batches          batches over which the learning rate rises from 0
    label_smoothing         of the cross-entropies, [0, 1)
    device                  auto: a GPU when there is one; the net comes back to where it was
    amp                     half precision for the synaptic layers on a GPU; the membranes stay float32
    check_batches           a layer that is silent, or fires at more than 95 % of all steps, over this many
                            batches in a row ends the trial; 0 for no check
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 5e-3
    loss: Loss = "rate_cross_entropy"
    right_rate: float = 1.0
    wrong_rate: float = 0.0
    optimizer: Optimizer = "adam"
    weight_decay: float = 0.0
    momentum: float = 0.9
    clip: float = 0.0
    scheduler: Scheduler = "cosine"
    warmup_batches: int = 0
    label_smoothing: float = 0.0
    device: Device = "auto"
    amp: bool = False
    check_batches: int = 20

    def __post_init__(self) -> None:
        require(self.epochs >= 0, "epochs", "be at least 0", self.epochs)
        require(self.batch_size >= 1, "batch_size", "be at least 1", self.batch_size)
        require(0 < self.learning_rate <= 10, "learning_rate", "be in (0, 10]", self.learning_rate)
        require(0 < self.right_rate <= 1, "right_rate", "be in (0, 1]", self.right_rate)
        rule = f"be in [0, right_rate), right_rate being {self.right_rate}"
        require(0 <= self.wrong_rate < self.right_rate, "wrong_rate", rule, self.wrong_rate)
        require(self.weight_decay >= 0, "weight_decay", "be at least 0", self.weight_decay)
        require(0 <= self.momentum < 1, "momentum", "be in [0, 1)", self.momentum)
        require(self.clip >= 0, "clip", "be 0 (no limit) or more", self.clip)
        require(self.warmup_batches >= 0, "warmup_batches", "be at least 0", self.warmup_batches)
        require(0 <= self.label_smoothing < 1, "label_smoothing", "be in [0, 1)", self.label_smoothing)
        require(self.check_batches >= 0, "check_batches", "be 0 (never) or more", self.check_batches)
        for name, kind in (
            ("loss", Loss),
            ("optimizer", Optimizer),
            ("scheduler", Scheduler),
            ("device", Device),
        ):
            value = getattr(self, name)
            require(value in get_args(kind), name, f"be one of {', '.join(get_args(kind))}", value)

    def fit(
        self,
        net: nn.Module,
        data: Dataset,
        after_epoch: Report,
        seed: int,
        epochs: int | None = None,
        span: Span | None = None,
    ) -> Decode:
        """Train `net` in place; `after_epoch(step, metrics)` with step 1, 2, ...

        With a `span` the learning rate, its warm-up and the order of samples are those of these epochs of the whole;
        the optimizer's moments start anew.

        Metrics: loss, train_accuracy (both running, over the epoch), validation_accuracy, validation_error,
        firing_rate (of all neurons and steps, on the validation split), learning_rate. The same seed gives the
        same result, and the global random state is left as it was.
        Raises Diverged, Silent or Saturated, and whatever `after_epoch` raises.
        """
        decode = RateDecode(data.classes)
        epochs = self.epochs if epochs is None else epochs
        if epochs == 0:
            return decode
        home = next((p.device for p in net.parameters()), torch.device("cpu"))
        device = self._device(home)
        net.to(device)
        try:
            with heap.held(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                whole = span or Span(0, epochs)
                torch.manual_seed(seed + whole.done * _STRIDE)
                self._train(net, data, decode, after_epoch, seed, epochs, whole, device)
        finally:
            net.to(home)
            net.eval()
        return decode

    def check(self, net: nn.Module, data: Dataset) -> None:  # noqa: ARG002
        """Raise ValueError where `net` cannot be trained so, or the device is not there."""
        if not any(parameter.requires_grad for parameter in net.parameters()):
            raise ValueError(
                f"net must have weights that gradients move for learner=surrogate, but got {type(net).__name__}; "
                "an STDP network learns with learner=stdp."
            )
        try:
            self._device(torch.device("cpu"))
        except ValueError as error:
            raise ValueError(f"learner.{error}") from error

    def _device(self, home: torch.device) -> torch.device:
        if self.device == "cpu":
            return home if home.type == "cpu" else torch.device("cpu")
        if torch.cuda.is_available():
            return torch.device("cuda")
        require(self.device == "auto", "device", "be auto or cpu where there is no GPU", self.device)
        return torch.device("cpu")

    def _train(
        self,
        net: nn.Module,
        data: Dataset,
        decode: RateDecode,
        after_epoch: Report,
        seed: int,
        epochs: int,
        whole: Span,
        device: torch.device,
    ) -> None:
        per_epoch = math.ceil(len(data.train) / self.batch_size)
        optimizer = self._build_optimizer(net)
        for epoch in range(1, epochs + 1):
            net.train()
            totals = torch.zeros(2, device=device)  # summed loss, right answers
            order = seed * _STRIDE + whole.done + epoch
            batches = data.batches("train", self.batch_size, seed=order, shuffle=True)
            with watch(net) as activity, closing(_read(batches, device)) as ready:
                for at, batch in enumerate(ready):
                    update = (whole.done + epoch - 1) * per_epoch + at
                    rate = self._rate_at(update, whole.planned * per_epoch)
                    totals += self._step(net, batch, data.classes, optimizer, rate)
                    if at % _LOOK == _LOOK - 1:
                        _require_finite(totals[0], f"loss of epoch {epoch}")
                    if epoch == 1 and at + 1 == self.check_batches:
                        activity.check()
                    within(after_epoch, epoch, at + 1, per_epoch, since=at)
            _require_finite(totals[0], f"loss of epoch {epoch}")
            for name, parameter in net.named_parameters():
                _require_finite(parameter, name)
            loss, right = (totals / max(len(data.train), 1)).tolist()
            validation = data.batches("validation", self.batch_size, seed=seed)
            with watch(net) as activity, closing(_read(validation, device)) as ready:
                valid = accuracy(net, decode, ready)
            if self.check_batches:
                activity.check()
            after_epoch(
                epoch,
                {
                    "loss": loss,
                    "train_accuracy": right,
                    "validation_accuracy": valid,
                    "validation_error": 1 - valid,
                    "firing_rate": activity.rate(),
                    "learning_rate": rate,
                },
            )

    def _step(
        self, net: nn.Module, batch: Batch, classes: int, optimizer: torch.optim.Optimizer, rate: float
    ) -> Tensor:
        """One update; (summed loss, right answers) of the batch."""
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=self.amp and batch.x.is_cuda):
            loss, guess = self._loss(net, batch, classes)
        loss.backward()
        if self.clip > 0:
            nn.utils.clip_grad_norm_(net.parameters(), self.clip)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        return torch.stack([loss.detach() * len(batch.y), (guess == batch.y).sum()])

    def _loss(self, net: nn.Module, batch: Batch, classes: int) -> tuple[Tensor, Tensor]:
        """The loss, mean over the batch, and the labels that the spikes say."""
        spikes, y = net(batch.x), batch.y
        rates = votes(spikes, classes)
        if self.loss == "vote_mse":
            target = torch.full_like(rates, self.wrong_rate)
            loss = functional.mse_loss(rates, target.scatter_(1, y[:, None], self.right_rate))
        elif self.loss == "step_cross_entropy":
            scores = spikes.unflatten(2, (classes, -1)).mean(3).flatten(0, 1)
            many = y.expand(len(spikes), -1).flatten()
            loss = functional.cross_entropy(scores, many, label_smoothing=self.label_smoothing)
        else:
            counts = rates * len(spikes)
            loss = functional.cross_entropy(counts, y, label_smoothing=self.label_smoothing)
        return loss, rates.detach().argmax(1)

    def _build_optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """Weight decay acts on weights alone: not on biases, neuron constants or learned quantizer ranges."""
        parameters = [p for p in net.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, self.learning_rate, momentum=self.momentum, fused=True)
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return kind(groups, self.learning_rate, fused=True)

    def _rate_at(self, step: int, steps: int) -> float:
        """Learning rate of update `step` of `steps`."""
        rate = self.learning_rate
        if self.scheduler == "cosine":
            rate *= (1 + math.cos(math.pi * step / steps)) / 2
        return rate * min(1.0, (step + 1) / self.warmup_batches) if self.warmup_batches else rate


def _read(batches: Iterator[Batch], device: torch.device) -> Generator[Batch, None, None]:
    """The batches, on `device`. For a GPU the next one is read, changed and encoded while it works on this one."""
    if device.type == "cpu":
        yield from batches
        return
    with closing(ahead(map(_pinned, batches))) as ready:
        for (x, steps), y in ready:
            sent = x.to(device, non_blocking=True)
            yield Batch(
                sent if steps is None else sent.expand(steps, *sent.shape), y.to(device, non_blocking=True)
            )


def _pinned(batch: Batch) -> tuple[tuple[Tensor, int | None], Tensor]:
    """In memory that a GPU reads by itself, so that the copy need not be waited for: ((x, None), y); an input that is
    one memory at every step goes over once, ((x[0], T), y)."""
    constant = batch.x.stride(0) == 0
    x = batch.x[0] if constant else batch.x
    return (x.pin_memory(), len(batch.x) if constant else None), batch.y.pin_memory()


def _require_finite(value: Tensor, name: str) -> None:
    if not bool(value.isfinite().all()):
        raise Diverged(f"{name} is NaN or infinite; a smaller learning_rate or a clip may help.")
