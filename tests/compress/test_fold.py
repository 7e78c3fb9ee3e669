from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.compress.bake import restore
from pipeline.compress.fold import FoldBatchNorm
from pipeline.compress.plan import Plan, compress
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


def test_by_hand() -> None:
    # w = 2, mean 3, var 4 - eps, g = 5, beta = 1: w' = 2 * 5 / 2 = 5, b' = (0 - 3) * 5 / 2 + 1 = -6.5.
    made = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, eps=0.0)).eval()
    with torch.no_grad():
        made[0].weight.fill_(2.0)
        made[1].running_mean.fill_(3.0)
        made[1].running_var.fill_(4.0)
        made[1].weight.fill_(5.0)
        made[1].bias.fill_(1.0)
    FoldBatchNorm().attach(made)
    assert (made[0].weight.item(), made[0].bias.item()) == (5.0, -6.5)


def test_folds_first_then_quantizes_and_restores() -> None:
    steps = {"quantize": QuantizeWeights(4), "fold": FoldBatchNorm()}
    made = net()
    _, widths = compress(made, steps, Plan("ptq"), lambda epochs, on_progress: first_class)
    assert widths == {"0.weight": 4, "0.bias": 16, "4.weight": 4, "4.bias": 16}
    other = restore(net(), steps, {k: v.clone() for k, v in made.state_dict().items()}).eval()
    assert torch.equal(other(X), made(X))


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
