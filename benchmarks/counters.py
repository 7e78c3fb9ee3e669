"""Synaptic operations of one baked network, counted by `measure` and by SpikingJelly 2.0's SynOpCounter.

    PYTHONPATH=. .venv-peers/bin/python benchmarks/counters.py        (after `make peers`) prints JSON

SpikingJelly counts every weight behind a spike, pruned ones too, so it is compared with `synops_event`, and the input
must be spikes (it does not count layers that see anything else). Weighted layers without bias, no padding trick.
"""

from __future__ import annotations

import json
import warnings

import torch
from torch import nn

from pipeline.hardware.load import measure
from pipeline.nets.conv import Conv
from pipeline.nets.feedforward import FeedForward
from pipeline.types import Batch

SAMPLES = 3


def networks() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(5, SAMPLES, 2, 12, 12, generator=generator) < 0.3).float()
    pruned = Conv(channels=(4, 6), kernel=3, padding="same").build((2, 12, 12), 5, 0)
    with torch.no_grad():
        for weight in pruned.parameters():
            if weight.ndim > 1:
                weight[torch.rand(weight.shape, generator=generator) < 0.5] = 0.0
    return {
        "fully connected": (FeedForward(hidden=(20,)).build((2, 12, 12), 5, 0), x),
        "convolution, valid": (Conv(channels=(4, 6), kernel=3).build((2, 12, 12), 5, 0), x),
        "convolution, edges padded": (
            Conv(channels=(4, 6), kernel=3, padding="same").build((2, 12, 12), 5, 0),
            x,
        ),
        "half pruned": (pruned, x),
    }


def compare() -> dict[str, dict[str, float]]:
    """Name -> operations over all samples: ours (effective and with all weights) and theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter

    found = {}
    for name, (net, x) in networks().items():
        net.eval()
        loads = measure(net, [Batch(x, torch.zeros(SAMPLES))], {})
        counter = SynOpCounter()
        with torch.no_grad(), DispatchCounterMode([counter]):
            net(x)
        found[name] = {
            "effective": SAMPLES * sum(load.mean.synops for load in loads),
            "all_weights": SAMPLES * sum(load.mean.synops_event for load in loads),
            "spikingjelly": float(counter.get_total()),
        }
    return found


if __name__ == "__main__":
    print(json.dumps(compare()))
