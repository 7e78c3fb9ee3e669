"""The story of one trial: data, net, fit, compress, measure, cost. The only place where the domain rooms meet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from snntorch import SpikingNeuron
from torch import nn

from pipeline.checkpoint import Saved, apart
from pipeline.clock import Clock
from pipeline.compress import alone
from pipeline.compress.accumulate import accumulators
from pipeline.compress.bake import restore
from pipeline.compress.calibrate import Grid
from pipeline.compress.compact import smallest
from pipeline.compress.plan import Compression, Plan, compress
from pipeline.compress.stack import grids
from pipeline.hardware.accelerator import Accelerator
from pipeline.hardware.budget import floor
from pipeline.hardware.cost import cost
from pipeline.hardware.counting import Counting
from pipeline.hardware.load import learned, matrix_bits, measure
from pipeline.hardware.workload import LayerLoad, load_from
from pipeline.learn.activity import check_rates
from pipeline.learn.decode import RateDecode
from pipeline.learn.labels import LabelDecode
from pipeline.learn.unsupervised import Encoder
from pipeline.types import (
    EVALUATION_BATCH,
    Batch,
    DataError,
    Dataset,
    DataSpec,
    Decode,
    Learner,
    Metrics,
    NetSpec,
    Report,
    Span,
    Split,
    SplitName,
    TrialEnded,
    Widths,
    require,
)

DECODES = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in (RateDecode, LabelDecode)}
PRICES = ("memory_bits", "energy_pj", "latency_us")
CALIBRATION_BATCH, CALIBRATION_BATCHES = 128, 2


@dataclass(frozen=True)
class Experiment:
    """Everything that decides one trial's result."""

    data: DataSpec
    net: NetSpec
    learner: Learner
    compression: Mapping[str, Compression]
    plan: Plan
    accelerator: Accelerator
    seed: int
    counting: Counting = field(default_factory=Counting)
    """The samples that energy and latency are prices of."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", "be in [0, 2**32)", self.seed)
        steps, frames = (getattr(part, "timesteps", None) for part in (self.net, self.data))
        fits = None in (steps, frames) or steps == frames
        require(fits, "net.timesteps", f"be as many as data.timesteps ({frames})", steps)


class Trained(NamedTuple):
    """A compressed network, how to read it, and what it is worth."""

    net: nn.Module
    decode: Decode
    widths: Widths
    metrics: Metrics
    detail: Mapping[str, object]
    loads: tuple[LayerLoad, ...]


Pretrain = Callable[[nn.Module, Callable[[Report], Decode], Report], Decode]
"""``pretrain(net, fit, report)``: the float model's decoding, from `fit(report)` or from a cache that fills `net`."""


def fit_always(_net: nn.Module, fit: Callable[[Report], Decode], report: Report) -> Decode:
    """No cache: every trial trains its own float model."""
    return fit(report)


def evaluate(experiment: Experiment, report: Report, pretrain: Pretrain = fit_always) -> Trained:
    """Train, compress and price one network; validation only, the test split is not touched.

    Raises:
        TrialEnded: the network is silent or saturated, the loss diverged, or `report` stopped it.
    """
    seed, plan = experiment.seed, experiment.plan
    learner = apart(experiment.learner, experiment.compression, plan)
    clock = Clock(report)
    with torch.random.fork_rng(devices=[]):  # dropout draws from torch's global generator
        torch.manual_seed(seed)
        data = experiment.data.load(seed)
        net = experiment.net.build(data.shape, data.classes, seed)
        for step in experiment.compression.values():
            step.check(net)
        if plan.scheme != "in_training":
            pretrain(net, lambda report: learner.fit(net, data, report, seed), clock.report)

        def refit(
            epochs: int | None, on_progress: Callable[[float], None], span: Span | None = None
        ) -> Decode:
            planned = getattr(learner, "epochs", None) if epochs is None else epochs
            return learner.fit(net, data, clock.then(on_progress, planned), seed + 1, epochs, span)

        decode, widths = compress(net, experiment.compression, plan, refit, calibration(data, seed))
        metrics, loads = measured(net, decode, data, "validation", widths)
        alive(learner, loads)
        if not experiment.counting.every("validation"):
            loads = counted(net, decode, data, widths, experiment.counting)
        prices, layers = priced(loads, experiment.accelerator)
        prices |= priced_otherwise(net, widths, plan, experiment.accelerator)
        SpikingNeuron.instances.clear()  # snnTorch keeps every neuron ever built
    return Trained(net, decode, widths, {**metrics, **prices}, detail(net, layers), loads)


def alive(learner: Learner, loads: Sequence[LayerLoad]) -> None:
    """Compression can silence a network that learns no more: Silent or Saturated, unless the learner never looks."""
    if getattr(learner, "check_batches", 0):
        check_rates({load.name: load.mean.spikes_out / load.updates for load in loads if load.updates})


def priced(
    loads: Sequence[LayerLoad], accelerator: Accelerator
) -> tuple[dict[str, float], list[dict[str, object]]]:
    """What an inference costs, mean and worst case, and the same per layer as plain JSON: arithmetic on `loads`."""
    price = cost(loads, accelerator)
    worst = cost([load.at_worst() for load in loads], accelerator)
    prices = {**price.metrics(), "worst_energy_pj": worst.energy_pj, "worst_latency_us": worst.latency_us}
    return prices, price.layers_json(loads)


def priced_otherwise(
    net: nn.Module, widths: Widths, plan: Plan, accelerator: Accelerator
) -> dict[str, float]:
    """What only some networks tell: the energy of learning a sample, and both again as a dense simulator counts."""
    found: dict[str, float] = {}
    matrices = matrix_bits(net, widths)
    if matrices is not None:
        found["dense_memory_bits"] = matrices
    # Other schemes may start from a cached network, which does not know what its learning took.
    if plan.scheme == "in_training":
        for name, dense in (("energy_training_pj", False), ("dense_energy_training_pj", True)):
            if lessons := learned(net, widths, dense):
                found[name] = cost(lessons, accelerator).energy_pj
    return found


def loads_from(notes: Sequence[Mapping[str, object]]) -> tuple[LayerLoad, ...]:
    """What `dataclasses.asdict` made of measured loads, as loads again."""
    return tuple(load_from(note) for note in notes)


def reload(experiment: Experiment, saved: Saved) -> Trained:
    """The compressed network of a model file, rebuilt from the config that made it; no metrics.

    Raises:
        DataError: the file does not fit this experiment.
    """
    data = experiment.data.load(experiment.seed)
    return revive(experiment, saved, data.shape, data.classes)


def revive(experiment: Experiment, saved: Saved, shape: tuple[int, int, int], classes: int) -> Trained:
    """`reload` without the data, whose (C, H, W) and number of classes are given."""
    net = experiment.net.build(shape, classes, experiment.seed)
    try:
        restore(net, experiment.compression, saved.state)
    except (RuntimeError, KeyError) as error:
        raise DataError(f"{saved.path} does not fit its config: {error}") from error
    return Trained(net, saved.decode(DECODES), saved.widths, {}, {}, ())


def grids_of(trained: Trained) -> Mapping[str, Grid]:
    """Where each compressed tensor of a baked network lives: value = code x step."""
    return grids(trained.net)


def bound(experiment: Experiment) -> dict[str, float]:
    """Memory, energy and latency that no training of this experiment can undercut: known before it is trained."""
    data = experiment.data.load(experiment.seed)
    with torch.random.fork_rng(devices=[]):
        net = experiment.net.build(data.shape, data.classes, experiment.seed)
    steps = [step for stage in experiment.plan.stages(experiment.compression) for step in stage]
    if any(getattr(step, "structure", "") == "channel" for step in steps):
        smallest(net)
    for step in steps:
        if step.family == "prepare":  # folding leaves a bias, which has a width of its own
            step.check(net)
            step.attach(net)
    widths: dict[str, int] = {}
    for step in steps:
        widths |= step.widths(net)
    price = floor(net, data.shape, data.timesteps, widths, experiment.accelerator).metrics()
    SpikingNeuron.instances.clear()
    return {name: price[name] for name in PRICES if name in price}


def size(experiment: Experiment, samples: int = 1) -> tuple[int, float]:
    """Weights of the untrained network without any compression, and the bits of memory that it works in."""
    data = experiment.data.load(experiment.seed)
    with torch.random.fork_rng(devices=[]):
        net = experiment.net.build(data.shape, data.classes, experiment.seed)
    few = next(iter(data.batches("validation", samples, seed=0)))
    loads = measure(net, [few], {})
    SpikingNeuron.instances.clear()
    return sum(load.synapses for load in loads), cost(loads, experiment.accelerator).memory_bits


def size_bits(experiment: Experiment) -> float:
    """Memory of the untrained network without any compression: every weight of a float network is stored."""
    return size(experiment, 8)[1]


def layer_losses(
    experiment: Experiment, saved: Saved, budget_s: float
) -> tuple[dict[str, dict[str, float]], int]:
    """What each layer of a float model loses when it alone is compressed, and on how many validation samples.

    As many batches, at most four, as `budget_s` allows by the time of the first.
    """
    data = experiment.data.load(experiment.seed)
    net = experiment.net.build(data.shape, data.classes, experiment.seed)
    net.load_state_dict(saved.state)
    net.eval()
    decode = saved.decode(DECODES)
    batches = list(islice(data.batches("validation", evaluation_batch(net, data), seed=0), 4))
    with torch.no_grad():
        begin = time.monotonic()
        decode(net(batches[0].x))
        spent = time.monotonic() - begin
        batches = batches[: max(1, int(budget_s / max(spent, 1e-6) / alone.count(net)))]
        samples = sum(len(batch.y) for batch in batches)

        def accuracy() -> float:
            return sum(int((decode(net(x)) == y).sum()) for x, y in batches) / samples

        found = alone.losses(net, accuracy)
    SpikingNeuron.instances.clear()
    return found, samples


def calibration(data: Dataset, seed: int) -> list[torch.Tensor]:
    """Input batches of the training split on which ranges are measured."""
    batches = data.batches("train", CALIBRATION_BATCH, seed, shuffle=True)
    return [batch.x for batch, _ in zip(batches, range(CALIBRATION_BATCHES), strict=False)]


def check(experiment: Experiment) -> Dataset:
    """Read the data, build the net and check the compression against it: what can fail before trial 0 does so here.

    Raises:
        DataError: files are missing or damaged.
        ValueError: a compression step names what the net lacks; the net does not fit the memory, or the learner.
    """
    data = experiment.data.load(experiment.seed)
    try:
        net = experiment.net.build(data.shape, data.classes, experiment.seed)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate" in str(error):
            raise ValueError(f"net has more weights than there is memory for ({error}).") from error
        raise
    except ValueError as error:
        raise ValueError(f"net.{error}") from error
    for name, step in experiment.compression.items():
        try:
            step.check(net)
        except ValueError as error:
            raise ValueError(f"compression.{name}.{error}") from error
    fits = getattr(experiment.learner, "check", None)
    if fits is not None:
        fits(net, data)
    return data


def sketch(experiment: Experiment, data: Dataset) -> tuple[nn.Module, Mapping[str, Grid], Widths]:
    """The untrained network, compressed as its plan would and baked: its numeric form, which no training changes.

    Raises:
        ValueError: the plan cannot work on this network, with the key.
    """

    def answer(spikes: torch.Tensor) -> torch.Tensor:
        return spikes.sum(0).argmax(-1)

    with torch.random.fork_rng(devices=[]):
        net = experiment.net.build(data.shape, data.classes, experiment.seed)
        experiment.plan.check(net, experiment.compression)
        plan = replace(experiment.plan, scheme="ptq")
        _, widths = compress(net, experiment.compression, plan, lambda _epochs, _progress, _span=None: answer)
    SpikingNeuron.instances.clear()
    return net, grids(net), widths


def rehearse(experiment: Experiment, samples: int = 32) -> None:
    """One epoch over a few samples and no result: what is imported, compiled or loaded once is so afterwards."""
    data = experiment.data.load(experiment.seed)
    train, validation = (
        Split(split.x[:samples], split.y[:samples]) for split in (data.train, data.validation)
    )
    short = replace(data, train=train, validation=validation)
    with torch.random.fork_rng(devices=[]), suppress(TrialEnded):
        net = experiment.net.build(data.shape, data.classes, experiment.seed)
        decode = experiment.learner.fit(net, short, lambda step, metrics: None, experiment.seed, epochs=1)
        measured(net, decode, short, "validation", {})
    SpikingNeuron.instances.clear()


def measured(
    net: nn.Module, decode: Decode, data: Dataset, split: SplitName, widths: Widths
) -> tuple[dict[str, float], tuple[LayerLoad, ...]]:
    """Accuracy and layer loads in one pass over a split."""
    right = _Right(decode)
    with torch.no_grad():
        net.eval()
        if isinstance(data.encode, Encoder) and isinstance(net, Responds):
            loads = measure(net, _responded(net, data.encode, data.split(split), right), widths)
        else:
            loads = measure(
                net, data.batches(split, evaluation_batch(net, data), seed=0), widths, observe=right
            )
    accuracy = right.count / max(right.samples, 1)
    metrics = {
        f"{split}_accuracy": accuracy,
        f"{split}_error": 1.0 - accuracy,
        f"{split}_samples": float(right.samples),
    }
    return metrics, loads


def counted(
    net: nn.Module, decode: Decode, data: Dataset, widths: Widths, counting: Counting
) -> tuple[LayerLoad, ...]:
    """What each layer does for one of the samples that prices are about."""
    return measured(net, decode, counting.of(data), counting.split, widths)[1]


def evaluation_batch(net: nn.Module, data: Dataset) -> int:
    """Samples of a batch of an evaluation: what random encodings draw depends on it."""
    return EVALUATION_BATCH if isinstance(net, Responds) else data.at_once


@runtime_checkable
class Responds(Protocol):
    """A network that takes spikes as events, and counts what it does (nets/stdp.py)."""

    def respond(self, *args: Any) -> npt.NDArray[np.int32]: ...


def _responded(net: Responds, encode: Encoder, split: Split, right: _Right) -> Iterator[Batch]:
    """A split shown to the network as events: the spikes of `Dataset.batches` without spreading them over a tensor,
    which takes three times as long as the network itself."""
    generator = torch.Generator().manual_seed(0)
    for x, y in split.parts(None, EVALUATION_BATCH):
        starts, pixels = encode.events(x, int(torch.randint(2**62, (1,), generator=generator)))
        counts = torch.from_numpy(net.respond(starts, pixels, len(y), encode.timesteps, 0))
        batch = Batch(x, y)
        right(batch, counts.unsqueeze(0))
        yield batch


def detail(net: nn.Module, layers: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """What the report draws per layer, as plain JSON; the accumulator's width where the weights are on a grid."""
    widths = {found.layer: found.bits for found in accumulators(net)}
    return {"layers": [{**layer, "accumulator_bits": widths.get(str(layer["name"]))} for layer in layers]}


@dataclass
class _Right:
    """Counts correct answers while `measure` runs the network."""

    decode: Decode
    count: int = 0
    samples: int = 0

    def __call__(self, batch: Batch, spikes: torch.Tensor) -> None:
        self.count += int((self.decode(spikes) == batch.y).sum())
        self.samples += len(batch.y)
