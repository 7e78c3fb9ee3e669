from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.compress.accumulate import accumulators, check_accumulators, signed_bits
from pipeline.compress.bake import bake
from pipeline.compress.quantize import QuantizeWeights
from pipeline.nets.stdp import Stdp
from tests.compress.nets import Spiking


@given(st.integers(-5000, 0), st.integers(0, 5000))
def test_the_fewest_bits_that_hold_both(low, high) -> None:
    bits = signed_bits(low, high)
    assert -(2 ** (bits - 1)) <= low
    assert high <= 2 ** (bits - 1) - 1
    if bits > 1:
        assert low < -(2 ** (bits - 2)) or high > 2 ** (bits - 2) - 1


def test_by_hand() -> None:
    # Q0.3 codes: 7 3 -2 | -8 -8 1. Sums reach 7 + 3 = 10 and -8 - 8 = -16: 5 bits hold -16 to 15.
    net = nn.Sequential(nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[7, 3, -2], [-8, -8, 1]]) / 8)
    QuantizeWeights(4, integer_bits=0, calibrate="percentile").attach(net)
    (found,) = accumulators(bake(net))
    assert found == ("0", -16, 10, 5)
    with pytest.raises(
        ValueError, match=r"width must be at least 5 for 0 \(sums reach -16 to 10\), but got 4"
    ):
        check_accumulators(net, 4)
    assert check_accumulators(net, 5) == (found,)


def test_no_spikes_overflow_it() -> None:
    net = Spiking()
    QuantizeWeights(5).attach(net)
    bake(net)
    for found in accumulators(net):
        codes = net.get_submodule(found.layer).weight.detach()
        codes = (
            codes / codes.abs()[codes != 0].min()
        ).round()  # any spikes: at most the range of the codes' sums
        spikes = (torch.rand(500, codes.shape[1], generator=torch.Generator().manual_seed(0)) < 0.5).float()
        sums = spikes @ codes.T
        assert float(sums.max()) <= found.highest
        assert float(sums.min()) >= found.lowest


def test_an_stdp_network_adds_over_pixels() -> None:
    net = Stdp(neurons=2, inhibition="direct").build((1, 1, 3), 10, 0)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.5, 0.25], [0.25, 0.0], [0.75, 0.5]]))
    QuantizeWeights(2, integer_bits=0, signed=False).attach(net)
    (found,) = accumulators(bake(net))
    assert found == ("input", 0, 6, 4)  # codes of neuron 0 are 2, 1, 3
