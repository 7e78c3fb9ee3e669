"""Bytes on disk equal the memory that the cost model claims, to the byte: every kind of network, every encoding."""

import math
from dataclasses import replace
from functools import cache, partial

import pytest
from torch import nn

from pipeline import config
from pipeline.export.__main__ import parts
from pipeline.export.integer import Engine
from pipeline.export.kinds import said_and_stored
from pipeline.export.manifest import Store
from pipeline.export.stdp_integer import StdpEngine
from pipeline.hardware.cost import cost
from pipeline.hardware.load import measure
from pipeline.nets.neurons import Leaky
from tests.export.small import Row, attending, compressed, convolutional, flat, spikes
from tests.export.test_stdp import batches, lowered, network

ENCODINGS = ("dense", "bitmask", "rle", "cp", "uop", "smallest")
ONE = Row(("conv1", partial(nn.Conv2d, 2, 1, 3, bias=False)), ("lif1", partial(Leaky, 0.5, 0.3)))
"""Its single step is folded into constants, and no step of a channel."""
MODELS = {
    "fully connected": lambda: flat(sparsity=0.7, bias=True, beta=0.5, neurons={"beta": 32}),
    "convolutional": lambda: convolutional(sparsity=0.6, bias=True, weights={"granularity": "per_channel"}),
    "attention": lambda: attending({"bits": 3}),
    "one channel": lambda: compressed(ONE, spikes((2, 8, 8)), {"granularity": "per_channel"}),
}


@cache
def machine(encoding):
    plain = config.plain(config.compose(["+experiment=quickstart"]))
    return replace(config.build_experiment(plain).accelerator, weight_encoding=encoding)


@cache
def model_of(kind):
    return MODELS[kind]()


def same_bytes(encoding, program, net, widths, seen):
    price = cost(measure(net, seen, widths), machine(encoding))
    stored = said_and_stored(program, Store(encoding, machine(encoding).run_bits))[1]
    assert len(stored) == math.ceil(sum(parts(price, True).values()) / 8)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", MODELS)
def test_layers_take_the_bytes_that_are_claimed(kind, encoding):
    model = model_of(kind)
    program = Engine(model.program()).program
    same_bytes(encoding, program, model.net, model.widths, model.batches())


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("changes", [{}, {"inhibition": "layer"}, {"w_inh_mv": 0.0}])
def test_stdp_networks_take_the_bytes_that_are_claimed(changes, encoding):
    net = network(weights={"bits": 2}, **changes)
    program = StdpEngine(lowered(net)).program
    widths = {
        "weight": 2,
        "membrane": 12,
        **dict.fromkeys(("threshold", "beta", "inhibition", "reset", "theta"), 8),
    }
    same_bytes(encoding, program, net, widths, list(batches(1)))
