from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.compress import at_once
from pipeline.compress.bake import bake, grids
from pipeline.compress.calibrate import fit_step
from pipeline.compress.quantize import QuantizeNeurons, QuantizeWeights
from pipeline.compress.rounding import ROUNDINGS
from pipeline.compress.stack import original
from pipeline.nets.stdp import Stdp
from tests.compress.nets import Spiking, frames

WEIGHTS = st.builds(
    QuantizeWeights,
    bits=st.integers(2, 12),
    scheme=st.sampled_from(["fixed_point", "symmetric"]),
    rounding=st.sampled_from(ROUNDINGS),
    granularity=st.sampled_from(["per_tensor", "per_channel"]),
    calibrate=st.sampled_from(["max", "percentile", "mse"]),
    seed=st.integers(0, 99),
)


def codes_of(net: nn.Module, name: str) -> torch.Tensor:
    grid = grids(net)[name]
    return net.get_parameter(name).detach() / grid.step


@settings(max_examples=40, deadline=None)
@given(WEIGHTS)
def test_baked_weights_are_integers_of_the_stated_width(step) -> None:
    net = Spiking()
    step.attach(net)
    bake(net)
    for name in ("fc1.weight", "fc2.weight"):
        codes = codes_of(net, name)
        assert torch.allclose(codes, codes.round(), atol=1e-4)
        codes = codes.round()
        assert float(codes.min()) >= -(2 ** (step.bits - 1))
        assert float(codes.max()) <= 2 ** (step.bits - 1) - 1
        assert grids(net)[name].bits == step.widths(net)[name] == step.bits


@pytest.mark.parametrize("power_of_two", [True, False])
def test_max_calibration_covers_every_value_and_wastes_less_than_a_bit(power_of_two) -> None:
    x = torch.randn(50, 20, generator=torch.Generator().manual_seed(1))
    step = float(fit_step(x, -128, 127, "max", power_of_two=power_of_two))
    assert 127 * step >= float(x.abs().max()) * (1 - 1e-5)
    assert 127 * step / 2 < float(x.abs().max())
    if power_of_two:
        assert torch.frexp(torch.tensor(step)).mantissa == 0.5


def test_mse_is_never_worse_than_max_and_percentile_leaves_outliers_out() -> None:
    x = torch.randn(40, 50, generator=torch.Generator().manual_seed(2))
    x[0, 0] = 40.0

    def error(step: torch.Tensor) -> float:
        return float(((x / step).round().clamp(-8, 7) * step - x).square().sum())

    top, share, least = (fit_step(x, -8, 7, how, 99.0) for how in ("max", "percentile", "mse"))
    assert error(least) <= error(top)
    assert float(share) < float(top) / 4


def test_a_channel_has_its_own_step() -> None:
    # Rows of 0.9 and 0.1 at 4 bits: 7 steps must reach 0.9 (step 1/4: 1.75) and 0.1 (step 1/64: 0.109).
    net = nn.Sequential(nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0.9] * 4, [0.1] * 4]))
    QuantizeWeights(bits=4, granularity="per_channel").attach(net)
    bake(net)
    assert grids(net)["0.weight"].step.flatten().tolist() == [0.25, 0.015625]


def test_a_channel_of_zeros_takes_the_step_of_the_largest() -> None:
    """4 bit, low -8, high 7: channels reach 3.5, 0 and 7, so their free steps are 0.5, that of 7 (1), and 1."""
    x = torch.tensor([[3.5, -1.0], [0.0, 0.0], [-7.0, 2.0]])
    assert fit_step(x, -8, 7, power_of_two=False, per_channel=True).flatten().tolist() == [0.5, 1.0, 1.0]
    # Pruned, its values count no longer: nothing is left of the second channel, either.
    kept = torch.tensor([[True, True], [False, False], [True, True]])
    x[1] = 5.0
    steps = fit_step(x, -8, 7, "percentile", 100.0, False, True, kept)
    assert steps.flatten().tolist() == [0.5, 1.0, 1.0]
    # Where there is nothing at all the step is that of a range of 1: 1/7, or the power of two above it.
    assert float(fit_step(torch.zeros(3, 2), -8, 7, power_of_two=False)) == pytest.approx(1 / 7)
    assert float(fit_step(torch.zeros(3, 2), -8, 7)) == 0.25


def test_an_stdp_network_has_no_step_per_channel() -> None:
    # Its weights are [pixels, neurons]: there were as many steps as pixels.
    net = Stdp(neurons=5).build((1, 4, 4), 10, 0)
    step = QuantizeWeights(4, granularity="per_channel", signed=False)
    for refused in (step.check, step.attach):
        with pytest.raises(
            ValueError, match="granularity must be per_tensor for an STDP network, but got 'per_ch"
        ):
            refused(net)
    QuantizeWeights(32, granularity="per_channel").check(net)
    QuantizeWeights(4, signed=False).check(net)


def test_an_unsigned_format_has_no_sign_bit() -> None:
    # U0.3: 3 bits, step 1/8, 0 to 7/8; weights of 0.30, 0.95 and 0.06 are 2.4, 7.6 and 0.48 steps.
    net = nn.Sequential(nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0.30, 0.95, 0.06]]))
    QuantizeWeights(3, integer_bits=0, signed=False, calibrate="percentile").attach(net)
    bake(net)
    assert net[0].weight.tolist() == [[0.25, 0.875, 0.0]]
    assert grids(net)["0.weight"][2:] == (0, 7)
    with pytest.raises(ValueError, match="signed must be true for weights below 0"):
        QuantizeWeights(4, signed=False).attach(Spiking())


def test_one_width_per_layer_and_32_is_off() -> None:
    net = Spiking()
    step = QuantizeWeights(bits={"fc1": 3, "default": 32})
    before = net.fc2.weight.detach().clone()
    step.attach(net)
    assert step.widths(net) == {"fc1.weight": 3, "fc1.bias": 16}
    assert torch.equal(net.fc2.weight, before)
    with pytest.raises(ValueError, match=r"bits must name layers among \['fc1', 'fc2'\].*'fc9'"):
        QuantizeWeights(bits={"fc9": 4}).check(net)


def test_stochastic_draws_anew_in_training_and_once_when_baked() -> None:
    net = Spiking()
    QuantizeWeights(bits=3, rounding="stochastic", seed=4).attach(net)
    net.train()
    assert not torch.equal(net.fc1.weight, net.fc1.weight)
    net.eval()
    before = net.fc1.weight.detach().clone()
    assert torch.equal(net.fc1.weight, before)
    bake(net)
    assert torch.equal(net.fc1.weight, before)


def test_the_range_follows_the_weights_while_training() -> None:
    net = Spiking()
    QuantizeWeights(bits=8).attach(net)
    with torch.no_grad():
        original(net.fc1, "weight")[0, 0] = 5.0
    net.train()
    assert float(net.fc1.weight.detach()[0, 0]) == pytest.approx(5.0, abs=0.04)


def test_one_computation_per_forward(monkeypatch) -> None:
    net = Spiking()
    QuantizeWeights(bits=8, bias_bits=32).attach(net)
    calls: list[int] = []
    inner = at_once.done
    monkeypatch.setattr(at_once, "done", lambda *a: (calls.append(1), inner(*a))[1])
    net(frames(steps=9))
    assert len(calls) == 2, "two layers, nine time steps"
    net(frames()).sum().backward()
    assert original(net.fc1, "weight").grad is not None


def test_a_copy_computes_its_own_weights_and_nothing_is_left_behind() -> None:
    net = Spiking()
    QuantizeWeights(bits=3).attach(net)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        original(twin.fc1, "weight").mul_(-1)
        before, after = net(frames()), twin.eval()(frames())
        assert torch.equal(net(frames()), before)
        assert not torch.equal(after, before)
        plain = twin.fc1.weight.clone()
        original(twin.fc1, "weight").zero_()
        assert not torch.equal(twin.fc1.weight, plain), "outside a forward every reading is a new one"


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 10), st.integers(3, 10), st.integers(3, 12), st.sampled_from(ROUNDINGS))
def test_neuron_parameters_and_membrane_are_on_their_grids(beta, threshold, membrane, rounding) -> None:
    net = Spiking()
    step = QuantizeNeurons(beta=beta, threshold=threshold, membrane=membrane, rounding=rounding)
    step.attach(net)
    seen: list[torch.Tensor] = []
    net.lif1.register_forward_hook(lambda _m, _i, out: seen.append(out[1].detach()))
    net.eval()
    net(frames())
    bake(net)
    where = grids(net)
    assert {name: grid.bits for name, grid in where.items()} == step.widths(net)
    for name in ("lif1.beta", "lif2.threshold"):
        owner, tensor = name.split(".")
        code = getattr(getattr(net, owner), tensor) / where[name].step
        assert torch.equal(code, code.round())
    codes = torch.stack(seen) / where["lif1.mem"].step
    assert torch.equal(codes, codes.round())
    assert float(codes.abs().max()) <= 2 ** (membrane - 1)


def test_membrane_calibration_follows_the_batches() -> None:
    net = Spiking()
    step = QuantizeNeurons(membrane=8, headroom=1000.0)
    step.attach(net)
    wide = float(net.lif1.state_quant.step)
    step.observe(net, [frames()])
    assert float(net.lif1.state_quant.step) < wide / 8
    tops: list[float] = []
    net.lif1.state_quant.register_forward_pre_hook(lambda _m, args: tops.append(float(args[0].abs().max())))
    with torch.no_grad():
        net(frames())
    assert max(tops) <= 128 * float(net.lif1.state_quant.step) * 1.2


def test_a_stochastic_membrane_answers_the_same_batch_alike() -> None:
    net = Spiking().eval()
    QuantizeNeurons(membrane=4, rounding="stochastic", seed=3).attach(net)
    bake(net)
    assert torch.equal(net(frames()), net(frames()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bits": 1}, r"bits must be in \[2, 32\], but got 1\."),
        ({"bits": {"fc1": 40}}, r"bits must be in \[2, 32\], but got 40\."),
        ({"rounding": "up"}, "rounding must be one of"),
        ({"scheme": "magic"}, "scheme must be one of"),
        ({"calibrate": "guess"}, "calibrate must be one of"),
        ({"granularity": "per_pixel"}, "granularity must be one of"),
        ({"scale": "free"}, "scale must be power_of_two with scheme=fixed_point"),
        ({"bits": 4, "integer_bits": 4}, r"integer_bits must be in \[0, 3\] with 4 bits"),
        ({"percentile": 20.0}, r"percentile must be in \(50, 100\]"),
    ],
)
def test_bad_values_name_the_field(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizeWeights(**wrong)


def test_a_format_that_cannot_hold_the_range_is_refused() -> None:
    net = Spiking()
    with torch.no_grad():
        net.fc1.weight[0, 0] = 3.2
    with pytest.raises(ValueError, match=r"integer_bits must hold the calibrated range ±3\.2"):
        QuantizeWeights(bits=8, integer_bits=0).attach(net)
    QuantizeWeights(bits=8, integer_bits=0, calibrate="percentile").attach(Spiking())
    with pytest.raises(ValueError, match=r"membrane must be in \[2, 32\], but got 64"):
        QuantizeNeurons(membrane=64)
