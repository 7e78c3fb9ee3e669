"""Synaptic operations of one baked network, counted by `measure`, by SpikingJelly 2.0 and by NeuroBench 2.3.

    PYTHONPATH=. .venv-peers/bin/python benchmarks/counters.py        (after `make peers`) prints JSON

Where both are right they are equal, to the last operation; where they are not, a row shows it:
- SpikingJelly's SynOpCounter counts every weight behind a spike, pruned ones too (compare with `all_weights`), and
  nothing at all for a layer that sees anything but spikes.
- NeuroBench's SynapticOperations sets the weights of a copied layer to 0 and 1. With a quantizer still attached the
  copy computes its weights anew and adds those up: a small number, even a negative one. Spikes of another size than 1
  (after an average pool) it calls MACs, although a constant scale folds into the weights. Its sums are
  float32, exact to 2^24.
"""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.utils import parametrize

from pipeline.compress.quantize import QuantizeWeights
from pipeline.hardware.load import measure
from pipeline.nets.conv import Conv
from pipeline.nets.feedforward import FeedForward
from pipeline.types import Batch

SAMPLES = 3
Case = tuple[nn.Module, torch.Tensor]


def networks() -> dict[str, Case]:
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(5, SAMPLES, 2, 12, 12, generator=generator) < 0.3).float()
    counts = torch.poisson(torch.full_like(x, 0.4), generator)
    padded = Conv(channels=(4, 6), kernel=3, padding="same")
    pruned, coarse, attached = (padded.build((2, 12, 12), 5, 0) for _ in range(3))
    with torch.no_grad():
        for weight in pruned.parameters():
            if weight.ndim > 1:
                weight[torch.rand(weight.shape, generator=generator) < 0.5] = 0.0
    for net in (coarse, attached):
        QuantizeWeights(3).attach(net)
    for module in coarse.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return {
        "fully connected": (FeedForward(hidden=(20,)).build((2, 12, 12), 5, 0), x),
        "convolution, valid": (Conv(channels=(4, 6), kernel=3).build((2, 12, 12), 5, 0), x),
        "convolution, edges padded": (padded.build((2, 12, 12), 5, 0), x),
        "half pruned": (pruned, x),
        "3 bits, baked": (coarse, x),
        "3 bits, quantizer attached": (attached, x),
        "counts of events": (padded.build((2, 12, 12), 5, 0), counts),
        "spikes of 1/2": (padded.build((2, 12, 12), 5, 0), x / 2),
    }


def spikingjelly(net: nn.Module, x: torch.Tensor) -> dict[str, float]:
    from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter

    counter = SynOpCounter()
    with DispatchCounterMode([counter]):
        net(x)
    return {"spikingjelly": float(counter.get_total())}


def neurobench(net: nn.Module, x: torch.Tensor) -> dict[str, float]:
    from neurobench.hooks.layer import LayerHook
    from neurobench.metrics.workload import SynapticOperations

    hooks = [LayerHook(module) for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    metric = SynapticOperations()
    with torch.no_grad():
        net(x)
        found = metric(SimpleNamespace(connection_hooks=hooks), None, (x.transpose(0, 1),))
    for hook in hooks:
        hook.close()
    names = {
        "Effective_ACs": "neurobench_acs",
        "Effective_MACs": "neurobench_macs",
        "Dense": "neurobench_dense",
    }
    return {ours: round(SAMPLES * float(found[theirs])) for theirs, ours in names.items()}


def compare() -> dict[str, dict[str, float]]:
    """Name -> operations over all samples, whole numbers: ours and theirs."""
    found = {}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for name, (net, x) in networks().items():
            net.eval()
            loads = measure(net, [Batch(x, torch.zeros(SAMPLES))], {})
            macs = [load for load in loads if load.multiplies]
            found[name] = {
                "effective": round(SAMPLES * sum(load.mean.synops for load in loads)),
                "effective_macs": round(SAMPLES * sum(load.mean.synops for load in macs)),
                "all_weights": round(SAMPLES * sum(load.mean.synops_event for load in loads)),
                "dense": round(SAMPLES * sum(load.mean.synops_dense for load in loads)),
                **spikingjelly(net, x),
                **neurobench(net, x),
            }
    return found


if __name__ == "__main__":
    print(json.dumps(compare()))
