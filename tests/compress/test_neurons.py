"""Formats of neuron parameters and states: snnTorch's Synaptic, shifts, and STDP networks."""

from __future__ import annotations

import math

import pytest
import snntorch as snn
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.compress.bake import bake, grids, restore
from pipeline.compress.plan import Plan, compress
from pipeline.compress.prune import PruneWeights
from pipeline.compress.quantize import QuantizeNeurons, QuantizeWeights
from pipeline.compress.quantizers import DecayFactor, quantize_decay
from pipeline.nets.stdp import Stdp, StdpNet
from tests.compress.nets import first_class


@given(st.floats(0.01, 0.999), st.integers(2, 12))
def test_a_shift_decay_is_one_minus_a_power_of_two(beta, bits) -> None:
    value = float(quantize_decay(torch.tensor(beta), bits, True))
    assert torch.frexp(torch.tensor(1 - value)).mantissa == 0.5
    assert 0 < value < 1


def test_hand_worked_decays() -> None:
    # 0.9 with 4 bits: 0.9 * 8 = 7.2 -> 7/8. As a shift: -log2(0.1) = 3.32 -> k = 3, also 7/8.
    assert float(quantize_decay(torch.tensor(0.9), 4, False)) == 0.875
    assert float(quantize_decay(torch.tensor(0.9), 4, True)) == 0.875
    # 0.99 with 4 bits would round to 1, a neuron that never forgets: it stays one step below.
    assert float(quantize_decay(torch.tensor(0.99), 4, False)) == 0.875
    # -log2(0.01) = 6.64 -> k = 7: 127/128.
    assert float(quantize_decay(torch.tensor(0.99), 4, True)) == 127 / 128


@given(st.floats(1e-6, 0.999), st.integers(2, 12), st.booleans())
def test_a_decay_is_exactly_on_its_grid_and_its_gradient_passes(beta, bits, shift) -> None:
    exact = torch.tensor(beta, requires_grad=True)
    held = DecayFactor(bits, shift)(exact)
    # x + (q - x) would miss q by a rounding error for a beta far from it.
    assert torch.equal(held, quantize_decay(exact.detach(), bits, shift))
    held.backward()
    assert exact.grad == 1


class Synapsing(nn.Module):
    """fc -> Synaptic, stepped one by one; keeps the states it has seen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(6, 8)
        self.neuron = snn.Synaptic(alpha=0.8, beta=0.9, threshold=0.5)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        syn = mem = torch.zeros(x.shape[1], 8)
        out = []
        for step in x:
            spikes, syn, mem = self.neuron(self.fc(step), syn, mem)
            self.seen.append((syn.detach(), mem.detach()))
            out.append(spikes)
        return torch.stack(out)


def test_current_and_membrane_of_a_synaptic_neuron_have_their_own_formats() -> None:
    net = Synapsing().eval()
    step = QuantizeNeurons(membrane=9, current=5, alpha=6, beta=7)
    step.attach(net)
    x = torch.rand(5, 3, 6, generator=torch.Generator().manual_seed(1))
    step.observe(net, [x])
    bake(net)
    net.seen.clear()
    net(x)
    where = grids(net)
    assert step.widths(net) == {name: grid.bits for name, grid in where.items()}
    assert where["neuron.syn"].bits == 5
    for at, name in enumerate(("neuron.syn", "neuron.mem")):
        codes = torch.stack([states[at] for states in net.seen]) / where[name].step
        assert torch.equal(codes, codes.round())
        assert float(codes.abs().max()) <= -where[name].low
    saved = {name: tensor.clone() for name, tensor in net.state_dict().items() if tensor.numel()}
    other = restore(Synapsing(), {"neurons": step}, saved).eval()
    assert torch.equal(other(x), net(x))


def stdp(**changes: object) -> StdpNet:
    return Stdp(neurons=20, inhibition="direct", **changes).build((1, 6, 6), 10, 0)  # type: ignore[arg-type]


def images(samples: int = 8, steps: int = 60) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return (torch.rand(steps, samples, 1, 6, 6, generator=generator) < 0.2).float()


class TestStdpNetworks:
    ALL = QuantizeNeurons(membrane=10, threshold=6, beta=8, reset=5, inhibition=6, theta=8, trace=6)

    def test_constants_land_on_their_grids(self) -> None:
        net = stdp()
        self.ALL.attach(net)
        cell = net.spec.cell()
        # 13 mV in 6 bits: 31 steps must reach 13, so the step is 1/2. 5 mV in 5 bits: 15 steps, 1/2.
        # 120 mV in 6 bits: 31 steps, step 4. exp(-1/100) * 128 = 126.7 -> 127/128.
        assert (cell.threshold, cell.reset, cell.w_inh) == (13.0, 5.0, 120.0)
        assert cell.decay == pytest.approx(127 / 128, abs=1e-12)
        coarse = stdp(threshold_mv=-52.3, w_inh_mv=118.0)
        QuantizeNeurons(threshold=4, inhibition=4).attach(coarse)
        # 12.7 mV in 4 bits: 7 steps of 2 -> 12; 118 mV: 7 steps of 32 -> 128.
        assert (coarse.spec.cell().threshold, coarse.spec.cell().w_inh) == (12.0, 128.0)

    def test_states_go_to_the_kernel(self) -> None:
        net = stdp()
        self.ALL.attach(net)
        # Untrained, 8 thresholds of 13 mV are 104: 511 steps of 1/4 reach 127.75. Theta: 91 mV, 127 steps of 1.
        assert net.numerics["membrane"] == (0.25, -128.0, 127.75, "nearest")
        assert net.numerics["theta"] == (1.0, -128.0, 127.0, "nearest")
        assert net.numerics["trace"] == (1 / 32, -1.0, 31 / 32, "nearest")
        assert self.ALL.widths(net) == {
            "membrane": 10, "theta": 8, "trace": 6, "threshold": 6, "reset": 5, "inhibition": 6, "beta": 8,
        }  # fmt: skip

    @pytest.mark.parametrize(("headroom", "again"), [(4.0, False), (None, True)])
    def test_thresholds_that_rise_stay_within_the_membrane(self, headroom: float | None, again: bool) -> None:
        """A spike lifts a threshold from 13 to 73 mV: beyond 4 thresholds (64 mV), where the neuron never fires again,
        and within the default's 128."""
        net = stdp(theta_plus_mv=60.0, w_input_mv=20.0)
        QuantizeNeurons(membrane=10, headroom=headroom).attach(net)
        rule = {
            "eta_pre": 0.0, "eta_post": 0.0, "mu": 0.0, "w_max": 1.0, "pre_decay": 0.95, "post_decay": 0.95,
            "additive": False, "window": 0, "k": 1.0, "spikes_per_k": 0.0, "norm": 0.0, "weight_decay": 0.0,
        }  # fmt: skip
        counts = net.learn(*_events(images()), 8, 60, 0, rule)
        assert (int(counts.sum(0).max()) > 1) == again

    @pytest.mark.parametrize(
        ("membrane", "reset", "kept"), [(6, 4, 8.0), (6, 32, 8.0), (8, 4, 4.0), (12, 4, 5.0)]
    )
    def test_a_rebuilt_net_resets_to_the_same_code(self, membrane: int, reset: int, kept: float) -> None:
        """Reset 5 mV, theta 200 mV, threshold 13: the trained membrane has steps of 8, 2 and 1/8 mV, so the reset is 8,
        4 (2.5 steps, to the even one) or 5. A fresh net has no theta and another grid when it is quantized."""
        steps = {"neurons": QuantizeNeurons(membrane=membrane, reset=reset)}
        net = stdp()
        net.theta.fill_(200.0)
        compress(net, steps, Plan("ptq"), lambda epochs, on_progress: first_class)
        assert net.spec.reset_mv - net.spec.rest_mv == kept
        other = restore(stdp(), steps, {k: v.clone() for k, v in net.state_dict().items()})
        assert other.spec == net.spec
        assert other.numerics == net.numerics

    @pytest.mark.parametrize("steps", [{}, {"mask": PruneWeights(0.5)}])
    def test_compress_and_restore(self, steps) -> None:
        steps = {"weights": QuantizeWeights(5, integer_bits=0), "neurons": self.ALL, **steps}
        net = stdp()
        net.theta.copy_(torch.linspace(0.03, 3.0, 20))
        _, widths = compress(net, steps, Plan("ptq"), lambda epochs, on_progress: first_class)
        assert widths["weight"] == 5
        assert widths["membrane"] == 10
        codes = net.theta * 32  # the largest theta is 3: 127 steps of 1/32 reach it
        assert torch.equal(codes, codes.round())
        x = images()
        out = net(x)
        assert float(out.sum()) > 0
        saved = {name: tensor.clone() for name, tensor in net.state_dict().items() if tensor.numel()}
        other = restore(stdp(), steps, saved)
        assert other.numerics == net.numerics
        assert other.spec.cell() == net.spec.cell()
        assert torch.equal(other(x), out)

    def test_restore_leaves_alone_what_the_plan_left_out(self) -> None:
        steps = {"neurons": self.ALL, "mask": PruneWeights(0.5)}
        net = stdp()
        compress(net, steps, Plan("ptq", "isolated", "prune_first"), lambda epochs, on_progress: first_class)
        saved = {name: tensor.clone() for name, tensor in net.state_dict().items() if tensor.numel()}
        other = restore(stdp(), steps, saved)
        assert other.spec == stdp().spec
        assert other.numerics == {}
        assert torch.equal(other(images()), net(images()))

    def test_learning_stays_on_every_grid_and_under_the_mask(self) -> None:
        net = stdp()
        for step in (QuantizeWeights(6, rounding="stochastic", integer_bits=0), self.ALL, PruneWeights(0.4)):
            step.attach(net)
        gone = net.weight == 0
        starts, pixels = _events(images())
        rule = {
            "eta_pre": 0.0, "eta_post": 0.05, "mu": 0.0, "w_max": 1.0, "pre_decay": 0.95, "post_decay": 0.95,
            "additive": False, "window": 0, "k": 1.0, "spikes_per_k": 0.0, "norm": 10.0, "weight_decay": 0.0,
        }  # fmt: skip
        before = net.weight.clone()
        net.learn(starts, pixels, 8, 60, 0, rule)
        assert not torch.equal(net.weight, before)
        assert bool((net.weight[gone & (before == 0)] == 0).all())
        codes = net.weight * 32
        assert torch.equal(codes, codes.round())
        assert torch.equal(net.theta * 4, (net.theta * 4).round())
        assert not math.isnan(float(net.weight.sum()))


def _events(x: Tensor):
    from pipeline.nets.stdp_kernel import events_of

    starts, pixels, _ = events_of(x.reshape(x.shape[0], x.shape[1], -1).numpy())
    return starts, pixels
