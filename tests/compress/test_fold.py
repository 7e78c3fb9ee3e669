from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.compress.bake import bake, grids, restore
from pipeline.compress.fold import FoldBatchNorm
from pipeline.compress.plan import Plan, compress
from pipeline.compress.prune import PruneWeights
from pipeline.compress.quantize import QuantizeWeights
from tests.compress.nets import first_class


def net(bias: bool = False, affine: bool = True) -> nn.Sequential:
    """conv -> norm -> relu -> fc -> norm, trained a little so that its statistics are its own."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(2, 5, 3, bias=bias), nn.BatchNorm2d(5, affine=affine), nn.ReLU(), nn.Flatten(),
        nn.Linear(80, 4, bias=bias), nn.BatchNorm1d(4, affine=affine),
    )  # fmt: skip
    for _ in range(20):
        made(torch.rand(16, 2, 6, 6) * 3 - 1)
    for module in made:
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and affine:
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return made.eval()


X = torch.rand(7, 2, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_the_outputs_stay(bias, affine) -> None:
    folded = net(bias, affine)
    before = folded(X)
    FoldBatchNorm().check(folded)
    FoldBatchNorm().attach(folded)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in folded)
    assert torch.allclose(folded(X), before, atol=1e-5)


def one_by_one() -> nn.Sequential:
    """w = 2, then mean 3, var 4, g = 5, beta = 1."""
    made = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, eps=0.0)).eval()
    with torch.no_grad():
        made[0].weight.fill_(2.0)
        made[1].running_mean.fill_(3.0)
        made[1].running_var.fill_(4.0)
        made[1].weight.fill_(5.0)
        made[1].bias.fill_(1.0)
    return made


def test_by_hand() -> None:
    # w = 2, mean 3, var 4 - eps, g = 5, beta = 1: w' = 2 * 5 / 2 = 5, b' = (0 - 3) * 5 / 2 + 1 = -6.5.
    made = one_by_one()
    FoldBatchNorm().attach(made)
    assert (made[0].weight.item(), made[0].bias.item()) == (5.0, -6.5)


def test_folds_first_then_quantizes_and_restores() -> None:
    steps = {"quantize": QuantizeWeights(4), "fold": FoldBatchNorm()}
    made = net()
    _, widths = compress(made, steps, Plan("ptq"), lambda epochs, on_progress: first_class)
    assert widths == {"0.weight": 4, "0.bias": 16, "4.weight": 4, "4.bias": 16}
    other = restore(net(), steps, {k: v.clone() for k, v in made.state_dict().items()}).eval()
    assert torch.equal(other(X), made(X))


AFTER = FoldBatchNorm(when="after")


class TestAfter:
    def test_normalisation_stays_until_baked_and_follows_the_compressed_weights(self) -> None:
        made = net()
        PruneWeights(0.9, "layer").attach(made)
        AFTER.attach(made)
        norm = made[1]
        assert isinstance(norm, nn.BatchNorm2d)
        before = norm.running_var.clone()
        made.train()
        for _ in range(60):  # the statistics of a layer of which little is left are smaller
            made(torch.rand(16, 2, 6, 6) * 3 - 1)
        assert bool((norm.running_var < 0.6 * before).all())
        made.eval()
        out = made(X)
        bake(made)
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in made)
        assert torch.allclose(made(X), out, atol=1e-5)

    @pytest.mark.parametrize(
        ("steps", "scale", "bits"),
        [
            ("free", "auto", 32),
            ("power_of_two", "auto", 8),
            ("power_of_two", "free", 32),
            ("free", "free", 32),
        ],
    )
    def test_a_step_is_a_shift_only_where_both_factors_are(self, steps, scale, bits) -> None:
        # Of a channel: the quantizer's own step times the normalisation's scale.
        made = net()
        chosen = {
            "fold": FoldBatchNorm(when="after", steps=steps),
            "quantize": QuantizeWeights(4, "symmetric", granularity="per_channel", scale=scale),
        }
        _, widths = compress(made, chosen, Plan("ptq"), lambda epochs, on_progress: first_class)
        assert [widths[name] for name in ("0.step", "4.step")] == [bits, bits]
        exponents = torch.log2(grids(made)["0.weight"].step)
        assert bool((exponents == exponents.round()).all()) == (bits == 8)

    @pytest.mark.parametrize("scheme", ["duq", "symmetric", "fixed_point", "lsq"])
    def test_codes_stay_and_each_channel_has_its_step(self, scheme) -> None:
        made = net()
        with torch.no_grad():
            made[1].weight[0] = -1.5  # a negative gain turns the codes, not the step
        quantize = QuantizeWeights(3, scheme)
        AFTER.attach(made)
        quantize.attach(made)
        quantizer = made[0].parametrizations["weight"][0].quantizer
        codes = torch.round(made[0].weight / quantizer.grid().step).detach()
        out = made(X)
        assert AFTER.widths(made) == {"0.step": 32, "4.step": 32}
        assert quantize.widths(made) == {"0.weight": 3, "0.bias": 16, "4.weight": 3, "4.bias": 16}
        bake(made)
        grid = grids(made)["0.weight"]
        assert grid.step.shape == (5, 1, 1, 1)
        assert bool((grid.step > 0).all())
        sign = torch.tensor([-1.0, 1, 1, 1, 1]).reshape(5, 1, 1, 1)
        kept = (codes * sign).clamp(grid.low, grid.high)
        assert torch.equal(torch.round(made[0].weight / grid.step), kept)
        if scheme != "fixed_point":  # whose lowest code has no counterpart above zero
            assert torch.allclose(made(X), out, atol=2e-3)  # biases of 16 bits
        biases = made[0].bias / grids(made)["0.bias"].step
        assert torch.allclose(biases, biases.round(), atol=1e-3)

    def test_by_hand(self) -> None:
        # ternary by DuQ: w = 2 is its own mean, +-3 std = 0: a = c = 2, code 1, step 2. Folded as above: scale 2.5.
        made = one_by_one()
        AFTER.attach(made)
        QuantizeWeights(2, "duq").attach(made)
        bake(made)
        assert made[0].weight.item() == 5.0
        assert grids(made)["0.weight"].step.item() == 5.0
        assert made[0].bias.item() == pytest.approx(-6.5, abs=1e-3)

    @pytest.mark.parametrize("scheme", ["qat", "ptq"])
    def test_the_whole_plan_and_back_from_a_file(self, scheme) -> None:
        steps = {"quantize": QuantizeWeights(4, "duq"), "fold": AFTER, "prune": PruneWeights(0.5)}
        made = net()

        def refit(epochs, on_progress):
            made.train()
            made(torch.rand(16, 2, 6, 6) * 3 - 1)
            made.eval()
            return first_class

        _, widths = compress(made, steps, Plan(scheme, epochs=1 if scheme == "qat" else None), refit)
        assert widths["0.step"] == 32
        other = restore(net(), steps, {k: v.clone() for k, v in made.state_dict().items()}).eval()
        assert torch.equal(other(X), made.eval()(X))
        gone = int((made[0].weight == 0).sum()) + int((made[4].weight == 0).sum())
        assert gone >= (made[0].weight.numel() + made[4].weight.numel()) // 2


SHIFTS = {
    "fold": FoldBatchNorm(when="after", steps="power_of_two"),
    "quantize": QuantizeWeights(4, scheme="duq", scale="power_of_two"),
}


class TestPowersOfTwo:
    """Folded after tuning, with steps that are shifts."""

    def test_by_hand(self) -> None:
        """g / sqrt(var) = 3 / 2 and -0.3 / 2: the nearest shifts are 2 (1.5 > sqrt 2) and -1/8 (0.15 < 0.177); 3/4 and
        6/5 go into the weights."""
        made = nn.Sequential(nn.Linear(1, 2, bias=False), nn.BatchNorm1d(2, eps=0.0)).eval()
        with torch.no_grad():
            made[0].weight.fill_(1.0)
            made[1].running_mean.fill_(1.0)
            made[1].running_var.fill_(4.0)
            made[1].weight.copy_(torch.tensor([3.0, -0.3]))
        SHIFTS["fold"].attach(made)
        assert made[0].weight.flatten().tolist() == pytest.approx([0.75, 1.2])
        assert made[1].weight.tolist() == pytest.approx(
            [3.0, -0.3]
        )  # as much as the sums have grown: * 3/4 * 4/3
        bake(made)
        assert made[0].weight.flatten().tolist() == pytest.approx([1.5, -0.15])
        assert made[0].bias.tolist() == pytest.approx([-1.5, 0.15])

    def test_outputs_stay_when_it_is_attached(self) -> None:
        made = net(bias=True)
        before = made(X)
        SHIFTS["fold"].attach(made)
        assert torch.allclose(made(X), before, atol=1e-5)
        norm = made[1]
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        assert torch.allclose(torch.log2(scale.abs()), torch.log2(scale.abs()).round(), atol=1e-5)

    @pytest.mark.parametrize("scheme", ["ptq", "qat"])
    def test_steps_are_powers_of_two_and_outputs_stay_when_baked(self, scheme) -> None:
        made = net()
        seen = []

        def refit(epochs, on_progress):
            """A little training, then a look at the network that is still alive."""
            trained = torch.optim.SGD(made.parameters(), lr=0.01)
            made.train()
            for _ in range(20 * (epochs or 0)):
                trained.zero_grad()
                nn.functional.cross_entropy(made(X), torch.arange(7) % 4).backward()
                trained.step()
            made.eval()
            seen.append(made(X).detach())
            return first_class

        _, widths = compress(made, SHIFTS, Plan(scheme, epochs=1), refit)
        assert widths["0.step"] == 8
        if scheme == "qat":
            assert torch.allclose(made(X), seen[-1], atol=1e-4)
        for name, layer in (("0", made[0]), ("4", made[4])):
            grid = grids(made)[f"{name}.weight"]
            assert torch.equal(torch.log2(grid.step), torch.log2(grid.step).round())
            codes = layer.weight / grid.step
            assert torch.equal(codes, codes.round())
            assert codes.abs().max() <= 7

    def test_tuning_moves_the_weight_behind_it(self) -> None:
        made = net()
        SHIFTS["fold"].attach(made)
        made.train()
        made(X).square().sum().backward()
        assert made[1].parametrizations.weight.original.grad.abs().sum() > 0

    def test_it_needs_a_weight_to_shift(self) -> None:
        with pytest.raises(ValueError, match="steps must be free where 1 has no weight of its own"):
            SHIFTS["fold"].check(net(affine=False))


def test_refusals_name_the_field() -> None:
    with pytest.raises(ValueError, match=r"scheme must be ptq or qat to fold, but got 'in_training'"):
        Plan("in_training").stages({"fold": FoldBatchNorm()})
    blind = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    with pytest.raises(ValueError, match="enabled must be false where 1 keeps no running statistics"):
        FoldBatchNorm().check(blind)
    late = net()
    QuantizeWeights(4).attach(late)
    with pytest.raises(ValueError, match="must come before masks and quantizers"):
        FoldBatchNorm().attach(late)
    with pytest.raises(ValueError, match=r"when must be one of .*, but got 'never'"):
        FoldBatchNorm(when="never")
