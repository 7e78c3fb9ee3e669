"""What every compression step owes, whatever it does. A new step is one more row in STEPS."""

from __future__ import annotations

import itertools

import pytest
import torch

from pipeline.compress.bake import bake, grids
from pipeline.compress.plan import Compression
from pipeline.compress.prune import PruneWeights
from pipeline.compress.quantize import QuantizeNeurons, QuantizeWeights
from pipeline.compress.rounding import ROUNDINGS
from pipeline.compress.stack import original
from tests.compress.nets import Spiking, frames

STEPS: dict[str, Compression] = {
    "prune one-shot": PruneWeights(0.6),
    "prune gradual": PruneWeights(0.6, "layer", "gradual"),
    "prune channels": PruneWeights(0.4, "layer", structure="channel"),
    "prune 2:4": PruneWeights(0.5, structure="2:4"),
    "neurons": QuantizeNeurons(beta=6, threshold=5, membrane=7),
    "neurons stochastic": QuantizeNeurons(beta=6, threshold=5, membrane=7, rounding="stochastic"),
    **{f"weights {r}": QuantizeWeights(4, rounding=r) for r in ROUNDINGS},
    "weights per channel": QuantizeWeights(4, "symmetric", granularity="per_channel", scale="free"),
    "weights duq": QuantizeWeights(3, "duq"),
    "weights lsq per channel": QuantizeWeights(3, "lsq", granularity="per_channel"),
    "weights lsq stochastic power of two": QuantizeWeights(3, "lsq", "stochastic", scale="power_of_two"),
    "weights binary": QuantizeWeights(1, "binary"),
}
WEIGHT_STEPS = {name: step for name, step in STEPS.items() if "weights" in name}
PRUNE_STEPS = {name: step for name, step in STEPS.items() if "prune" in name}
OFF: list[Compression] = [PruneWeights(0.0), QuantizeWeights(32), QuantizeNeurons()]


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
class TestEveryStep:
    def test_baking_leaves_the_outputs_unchanged(self, step: Compression) -> None:
        net = Spiking().eval()
        step.attach(net)
        step.advance(net, 1.0)
        before = net(frames())
        bake(net)
        assert torch.equal(net(frames()), before)
        assert not any("parametrizations" in name for name, _ in net.named_modules())

    def test_it_changes_the_net_and_says_so(self, step: Compression) -> None:
        net = Spiking().eval()
        before = net(frames())
        step.check(net)
        step.attach(net)
        step.advance(net, 1.0)
        assert step.active
        assert not torch.equal(net(frames()), before)
        widths = step.widths(net)
        steps = {name: bits for name, bits in widths.items() if name.endswith(".step")}
        values = {name: bits for name, bits in widths.items() if name not in steps}
        assert all(1 <= bits < 32 for bits in values.values())
        assert set(steps.values()) <= {8, 32}  # one per channel: an exponent, or a free scale as a float
        bake(net)
        assert {name: grid.bits for name, grid in grids(net).items()} == values

    def test_gradients_reach_the_original_weights(self, step: Compression) -> None:
        net = Spiking().train()
        step.attach(net)
        step.advance(net, 0.5)
        net(frames()).sum().backward()
        grad = original(net.fc1, "weight").grad
        assert grad is not None
        assert float(grad.abs().sum()) > 0
        assert bool(torch.isfinite(grad).all())

    def test_the_same_seed_gives_the_same_net(self, step: Compression) -> None:
        outs = []
        for _ in range(2):
            net = Spiking().train()
            step.attach(net)
            net(frames())
            step.advance(net, 1.0)
            outs.append(bake(net).eval()(frames()))
        assert torch.equal(*outs)

    def test_widths_are_known_before_and_after_baking(self, step: Compression) -> None:
        net = Spiking()
        step.attach(net)
        attached = step.widths(net)
        assert attached == step.widths(bake(net))


@pytest.mark.parametrize("step", OFF, ids=lambda step: type(step).__name__)
def test_off_changes_nothing(step: Compression) -> None:
    net = Spiking().eval()
    before = net(frames())
    step.attach(net)
    assert not step.active
    assert step.widths(net) == {}
    assert torch.equal(net(frames()), before)


@pytest.mark.parametrize(("prune", "quantize"), list(itertools.product(PRUNE_STEPS, WEIGHT_STEPS)))
class TestMaskAndQuantizerStack:
    def test_in_either_order(self, prune: str, quantize: str) -> None:
        baked, masks = [], []
        for names in ((prune, quantize), (quantize, prune)):
            net = Spiking().eval()
            for name in names:
                STEPS[name].attach(net)
            for name in names:
                STEPS[name].advance(net, 1.0)
            masks.append(net.fc1.parametrizations["weight"][0].mask.keep)
            baked.append(bake(net).fc1.weight.detach())
        assert torch.equal(*masks)
        assert bool((baked[0][~masks[0]] == 0).all())
        assert bool((baked[1][~masks[0]] == 0).all())
        learned = any(scheme in quantize for scheme in ("duq", "lsq", "binary"))
        if not learned:  # those start from the survivors
            assert torch.equal(*baked)

    def test_raw_writes_stay_masked_and_on_the_grid(self, prune: str, quantize: str) -> None:
        net = Spiking().eval()
        STEPS[prune].attach(net)
        STEPS[quantize].attach(net)
        STEPS[prune].advance(net, 1.0)
        gone = ~net.fc1.parametrizations["weight"][0].mask.keep
        draw = torch.randn(net.fc1.weight.shape, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            original(net.fc1, "weight").copy_(draw)
        in_place = net.fc1.weight.detach().clone()
        with torch.no_grad():
            net.fc1.weight = draw
        assert torch.equal(net.fc1.weight, in_place)
        assert bool((in_place[gone] == 0).all())
        grid = net.fc1.parametrizations["weight"][0].quantizer.grid()
        codes = in_place / grid.step
        assert torch.allclose(codes, codes.round(), atol=1e-4)
        assert float(codes.round().min()) >= grid.low
        assert float(codes.round().max()) <= grid.high
