"""The networks of benchmarks/integer.py: trained for a moment on real data, compressed, lowered to integers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.compress.attention import TableAttention
from pipeline.compress.fold import FoldBatchNorm
from pipeline.compress.plan import Plan, compress
from pipeline.compress.quantize import QuantizeNeurons, QuantizeWeights
from pipeline.compress.stack import grids
from pipeline.data.digits import Digits
from pipeline.data.encode import Direct, Rate
from pipeline.data.events import Nmnist
from pipeline.data.framing import Framing
from pipeline.data.mnist import Mnist
from pipeline.data.poisson import Poisson
from pipeline.data.synthetic import Simulation, SyntheticGesture
from pipeline.export.codes import input_format
from pipeline.export.integer import Engine
from pipeline.export.lower import lower
from pipeline.export.stdp_integer import StdpEngine
from pipeline.export.stdp_lower import lower_stdp
from pipeline.learn.labels import LabelDecode
from pipeline.learn.stdp import StdpRule
from pipeline.learn.surrogate import Surrogate
from pipeline.learn.unsupervised import Unsupervised
from pipeline.nets.conv import Conv
from pipeline.nets.feedforward import FeedForward
from pipeline.nets.stdp import Stdp, StdpNet
from pipeline.nets.tcja import Tcja
from pipeline.types import Dataset

STEPS = 10
STDP_STEPS = 250
PER_ROUND = 64
"""Event recordings and Poisson trains that are timed at most: one takes as long as dozens of images."""


class Contest(NamedTuple):
    """A network and its integer twin on the same samples, both from the encoded float input and from a form of it that
    each is handed ready: integers, or for an STDP network the list of events that an evaluation shows it."""

    x: Tensor
    """[T, B, C, H, W] float32."""
    network: Callable[[Tensor], Tensor]
    """x -> output spikes [T, B, N]."""
    engine: Engine | StdpEngine
    calls: dict[str, Callable[[], object]]
    """network, integer, handed_network, handed_integer: x, or what is handed, to answers."""


@dataclass(frozen=True)
class Case:
    """How a contest is made, and the ratio it should reach."""

    make: Callable[[int], Contest]
    wanted: float


def images_of(encoding: Any, images: int, steps: int = STEPS, train: int = 1000) -> Dataset:
    """Real images: a few to train on, `images` to time."""
    if os.environ.get("PIPELINE_DATA"):
        root = os.environ["PIPELINE_DATA"]
        return Mnist(timesteps=steps, encoding=encoding, root=root, limit=train, validation=images).load(0)
    return Digits(timesteps=steps, encoding=encoding, validation=images).load(0)


def events_of(recordings: int) -> Dataset:
    """Recordings of a real event camera at 32x32 where they are at hand, else simulated gestures."""
    if os.environ.get("PIPELINE_DATA"):
        framing = Framing(crop=32, values="root")
        root = os.environ["PIPELINE_DATA"]
        return Nmnist(
            timesteps=STEPS, framing=framing, root=root, stabilize=True, validation=recordings
        ).load(0)
    return simulated(STEPS, Framing(size=32, values="root"), max(1, recordings // 11), None)


def simulated(timesteps: int, framing: Framing, users: int, limit: int | None) -> Dataset:
    """Short recordings of simulated people, some of them for validation."""
    return SyntheticGesture(
        timesteps=timesteps, framing=framing, root=os.path.join(tempfile.gettempdir(), "integer-benchmark"),
        simulation=Simulation(seconds=0.4, lightings=1), validation_users=users, limit=limit, scale=1.0,
    ).load(0)  # fmt: skip


def layered(spec: Any, encoding: Any) -> Callable[[int], Contest]:
    """A row of fully connected or convolutional layers on images."""

    def make(images: int) -> Contest:
        steps = {
            "weights": QuantizeWeights(bits=8),
            "neurons": QuantizeNeurons(beta=8, threshold=8, membrane=14),
        }
        return _trained(spec, images_of(encoding, images), steps, Surrogate(epochs=2, device="cpu"), images)

    return make


def attended(images: int) -> Contest:
    """The network of `gesture_simulated` (conf/net/tcja_small) on events, in the formats of `tcja_integer`."""
    spec = Tcja(
        timesteps=STEPS, channels=32, hidden=128, plain_blocks=1, attention_blocks=2, beta=0.75, threshold=1.0,
        slope=2.0, init_gain=0.6, dropout=0.0,
    )  # fmt: skip
    steps = {
        "fold": FoldBatchNorm(), "attention": TableAttention(),
        "weights": QuantizeWeights(bits=8, scale="power_of_two"),
        "neurons": QuantizeNeurons(beta=8, threshold=8, membrane=14),
    }  # fmt: skip
    images = min(images, PER_ROUND)
    learner = Surrogate(epochs=4, batch_size=32, device="cpu")
    return _trained(spec, events_of(images), steps, learner, images)


def published(images: int) -> Contest:
    """TCJA-SNN at its published size, 1,831,296 weights at 128x128 and T = 20, in the formats of `gesture_joint`."""
    steps = {
        "fold": FoldBatchNorm(), "attention": TableAttention(),
        "weights": QuantizeWeights(bits=8, scheme="duq", scale="power_of_two"),
        "neurons": QuantizeNeurons(beta=8, threshold=8, membrane=16),
    }  # fmt: skip
    data = simulated(20, Framing(), 1, 11)
    learner = Surrogate(epochs=1, batch_size=2, check_batches=0, device="cpu")
    return _trained(Tcja(init_gain=0.6), data, steps, learner, min(images, 4), momentum=0.5)


def _trained(
    spec: Any, data: Dataset, steps: Any, learner: Surrogate, images: int, momentum: float = 0.1
) -> Contest:
    """`momentum`: of batch normalisation; a few batches want more than its usual tenth."""
    net: nn.Module = spec.build(data.shape, data.classes, 0)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = momentum
    learner.fit(net, data, lambda step, metrics: None, 0)
    samples = [next(iter(data.batches("train", min(128, len(data.train)), 0))).x]
    _, widths = compress(
        net, steps, Plan(), lambda e, p: learner.fit(net, data, lambda s, m: None, 0, 0), samples
    )
    net.eval()
    given = input_format([batch.x for batch in data.batches("validation", 256, 0)], data.shape)
    engine = Engine(lower(net, grids(net), widths, given, data.timesteps, data.classes))
    x = next(iter(data.batches("validation", images, 0))).x
    codes = engine.codes(x)
    calls: dict[str, Callable[[], object]] = {
        "network": lambda: net(x), "integer": lambda: engine.answers(x),
        "handed_network": lambda: net(x), "handed_integer": lambda: engine.labels(codes),
    }  # fmt: skip
    return Contest(x, net, engine, calls)


def unsupervised(images: int) -> Contest:
    """An STDP network with FSpiNN's inhibition, in the formats of `fspinn_mnist`."""
    images, encoder = min(images, PER_ROUND), Poisson(STDP_STEPS)
    data = images_of(encoder, images, STDP_STEPS, train=2000)
    net: StdpNet = Stdp(neurons=400, inhibition="direct").build(data.shape, data.classes, 0)
    learner = Unsupervised(
        rule=StdpRule(presynaptic=False, window_ms=25.0), check_samples=100, label_samples=500
    )
    learner.fit(net, data, lambda step, metrics: None, 0)
    steps = {
        "weights": QuantizeWeights(bits=8, integer_bits=0, signed=False, calibrate="percentile"),
        "neurons": QuantizeNeurons(membrane=14, threshold=8, beta=10, reset=8, inhibition=8, theta=16),
    }  # fmt: skip
    refit = learner.fit
    decode, _ = compress(net, steps, Plan(), lambda e, p: refit(net, data, lambda s, m: None, 0, 0), ())
    assert isinstance(decode, LabelDecode)
    net.eval()
    engine = StdpEngine(lower_stdp(net, grids(net), STDP_STEPS), decode)
    shown = data.validation.x[:images]
    generator = torch.Generator().manual_seed(0)
    starts, pixels = encoder.events(shown, int(torch.randint(2**62, (1,), generator=generator)))
    x = encoder(shown, torch.Generator().manual_seed(0))  # the same draws, spread over a tensor
    codes = engine.codes(x)

    def evaluated() -> Tensor:
        return decode.of_counts(torch.from_numpy(net.respond(starts, pixels, images, STDP_STEPS, 0)))

    assert np.array_equal(evaluated().numpy(), engine.labels(codes))
    calls: dict[str, Callable[[], object]] = {
        "network": lambda: decode(net(x)), "integer": lambda: engine.labels(engine.codes(x)),
        "handed_network": evaluated, "handed_integer": lambda: engine.labels(codes),
    }  # fmt: skip
    return Contest(x, net, engine, calls)


CASES = {
    "fc 128": Case(layered(FeedForward(hidden=128), Direct()), 5.0),
    "fc 512": Case(layered(FeedForward(hidden=512), Direct()), 5.0),
    "fc 128, rate input": Case(layered(FeedForward(hidden=128), Rate()), 5.0),
    "conv 12-32": Case(layered(Conv(), Direct()), 1.0),
    "conv 32-64": Case(layered(Conv(channels=(32, 64), kernel=3), Direct()), 1.0),
    "TCJA 32, events": Case(attended, 1.0),
    "TCJA as published, 128x128": Case(published, 1.0),
    "STDP 400, Poisson input": Case(unsupervised, 1.0),
}
