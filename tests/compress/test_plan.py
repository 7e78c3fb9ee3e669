from __future__ import annotations

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipeline.compress.bake import restore, sparsity
from pipeline.compress.plan import Plan, compress
from pipeline.compress.prune import PruneWeights
from pipeline.compress.quantize import QuantizeNeurons, QuantizeWeights
from pipeline.compress.stack import stack_of
from pipeline.types import Decode, Span
from tests.compress.nets import Spiking, first_class, frames

PRUNE, QUANTIZE = PruneWeights(0.5, schedule="gradual"), QuantizeWeights(bits=4)


class Trainer:
    """A refit that moves the weights a little each epoch and notes what it saw."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.epochs: list[int | None] = []
        self.seen: list[tuple[bool, bool]] = []
        self.inside: list[torch.Tensor] = []
        self.spans: list[Span | None] = []

    def __call__(
        self, epochs: int | None, on_progress: Callable[[float], None], span: Span | None = None
    ) -> Decode:
        self.epochs.append(epochs)
        self.spans.append(span)
        stack = stack_of(self.net.fc1, "weight")
        self.seen.append((stack is not None and stack.mask is not None, bool(stack and stack.quantizer)))
        generator = torch.Generator().manual_seed(9)
        for epoch in range(epochs or 0):
            self.net.train()
            self.net(frames())
            with torch.no_grad():
                for weight in self.net.parameters():
                    weight.add_(0.01 * torch.randn(weight.shape, generator=generator))
            on_progress((epoch + 1) / (epochs or 1))
        self.net.eval()
        self.inside.append(self.net(frames()))
        return first_class


@pytest.mark.parametrize(
    ("plan", "epochs", "seen"),
    [
        (Plan("ptq"), [0], [(False, False)]),
        (Plan("qat", "joint", epochs=4), [4], [(True, True)]),
        (Plan("qat", "cumulative", "prune_first", 5), [2, 3], [(True, False), (True, True)]),
        (Plan("qat", "cumulative", "quantize_first", 4), [2, 2], [(False, True), (True, True)]),
        (Plan("qat", "isolated", "prune_first", 4), [4], [(True, False)]),
        (Plan("qat", "isolated", "quantize_first", 4), [4], [(False, True)]),
        (Plan("in_training", epochs=3), [3], [(True, True)]),
    ],
)
def test_each_plan_trains_when_and_with_what_it_says(plan, epochs, seen) -> None:
    net = Spiking()
    train = Trainer(net)
    decode, widths = compress(net, {"prune_weights": PRUNE, "quantize_weights": QUANTIZE}, plan, train)
    assert train.epochs == epochs
    assert train.seen == seen
    if len(epochs) == 2:  # two parts of one training
        assert train.spans == [Span(0, sum(epochs)), Span(epochs[0], sum(epochs))]
    else:
        assert train.spans == [None]
    assert decode is first_class
    pruned = plan.mode != "isolated" or plan.order == "prune_first"
    assert (widths.get("fc1.weight", 32) == 4) == (plan.mode != "isolated" or plan.order == "quantize_first")
    assert sparsity(net) == pytest.approx(0.5, abs=0.01) if pruned else sparsity(net) < 0.5
    assert not hasattr(net.fc1, "parametrizations")
    assert torch.equal(net.eval()(frames()), train.inside[-1]), "baking changed the outputs"


@pytest.mark.parametrize("mode", ["isolated", "cumulative", "joint"])
def test_a_mode_may_stand_in_the_place_of_the_scheme(mode) -> None:
    """So that a search asks post-training, isolated, cumulative or joint as one question."""
    assert Plan(mode, epochs=3) == Plan("qat", mode, epochs=3)
    assert Plan(mode, "joint", "quantize_first", 3) == Plan("qat", mode, "quantize_first", 3)
    assert dataclasses.replace(Plan(mode, epochs=3), scheme="ptq").scheme == "ptq"


@dataclasses.dataclass(frozen=True)
class Told:
    """A step that changes nothing and tells what it is asked to do."""

    name: str
    family: str
    log: list[object]
    active: bool = True

    def attach(self, net: nn.Module) -> None:
        self.log.append(("attach", self.name))

    def advance(self, net: nn.Module, progress: float) -> None:
        if self.family != "prepare":  # has nothing to advance
            self.log.append(("advance", self.name, progress))

    def widths(self, net: nn.Module) -> dict[str, int]:
        return {self.name: 8}


class Sees(Told):
    def observe(self, net: nn.Module, samples: object) -> None:
        self.log.append(("observe", self.name))


def course(plan: Plan, chosen: dict[str, bool]) -> list[object]:
    """Every call that compress makes of the steps (name -> whether it is on) and of the training."""
    log: list[object] = []
    kinds = {"fold": "prepare", "prune": "prune", "weights": "quantize", "neurons": "quantize"}
    steps = {
        name: (Sees if name == "neurons" else Told)(name, kinds[name], log, on) for name, on in chosen.items()
    }

    def refit(epochs: int | None, on_progress: Callable[[float], None], span: Span | None = None) -> Decode:
        if epochs != 0:
            log.append((epochs, span))
            on_progress(0.5)
        return first_class

    widths = compress(Spiking(), steps, plan, refit, [frames()])[1]
    return [*log, widths]


def test_the_plainest_plan_does_the_same_with_the_steps_that_act_and_only_equal_courses_have_an_equal_one() -> (
    None
):
    """All plans, each with all choices of steps that are on: call for call, with progress, epochs and spans."""
    plans = [
        Plan(scheme, mode, order, epochs)
        for scheme, mode, order, epochs in itertools.product(
            ("ptq", "qat", "in_training"),
            ("isolated", "cumulative", "joint"),
            ("prune_first", "quantize_first"),
            (2, 3),
        )
        if (scheme, mode) != ("in_training", "cumulative")
    ]
    courses, left = defaultdict(set), Counter()
    for plan, *on in itertools.product(plans, *[(False, True)] * 4):
        chosen = dict(zip(("fold", "prune", "weights", "neurons"), on, strict=True))
        if plan.scheme == "in_training" and chosen["fold"]:
            continue
        steps = {
            name: dataclasses.replace(Told(name, family, []), active=chosen[name])
            for name, family in (("fold", "prepare"), ("prune", "prune"), ("weights", "quantize"))
        }
        steps["neurons"] = Sees("neurons", "quantize", [], chosen["neurons"])
        plain, names = plan.plainest(steps)
        found = course(plan, chosen)
        assert course(plain, dict.fromkeys(names, True)) == found, (plan, chosen)
        both = "prune" in names and {"weights", "neurons"} & set(names)
        assert not both or plain == plan, "where both act every word may count"
        if not both:
            courses[repr((plain, names))].add(repr((plan.scheme == "in_training", found)))
            left[repr((plain, names))] += 1
    assert all(len(found) == 1 for found in courses.values())
    assert len({next(iter(found)) for found in courses.values()}) == len(courses), "no course has two names"
    assert max(left.values()) > 10


def test_nothing_to_do_only_decodes() -> None:
    net = Spiking()
    train = Trainer(net)
    _, widths = compress(net, {"quantize_weights": QuantizeWeights(bits=32)}, Plan("qat", epochs=3), train)
    assert train.epochs == [0]
    assert widths == {}


def test_order_decides_what_the_quantizer_calibrates_on() -> None:
    # By percentile 60 the pruned half counts as zeros when it is not left out.
    steps = {
        "prune_weights": PruneWeights(0.5, "layer"),
        "quantize_weights": QuantizeWeights(4, calibrate="percentile", percentile=60),
    }
    weights = []
    for order in ("prune_first", "quantize_first"):
        net = Spiking()
        compress(net, steps, Plan("ptq", order=order), Trainer(net))
        weights.append(net.fc1.weight.detach())
    assert not torch.equal(*weights)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_restore_rebuilds_the_same_net(rounding, granularity) -> None:
    steps = {
        "quantize_weights": QuantizeWeights(5, rounding=rounding, granularity=granularity, seed=2),
        "quantize_neurons": QuantizeNeurons(beta=6, threshold=6, membrane=6, rounding=rounding, seed=2),
        "prune_weights": PruneWeights(0.4),
    }
    net = Spiking()
    compress(net, steps, Plan("qat", epochs=2), Trainer(net), samples=[frames(seed=4)])
    saved = {name: tensor.clone() for name, tensor in net.state_dict().items() if tensor.numel()}
    other = restore(Spiking(seed=7), steps, saved).eval()
    assert torch.equal(other(frames(seed=5)), net.eval()(frames(seed=5)))
    assert set(saved) == {name for name, tensor in other.state_dict().items() if tensor.numel()}


def test_restore_knows_what_an_isolated_plan_left_out() -> None:
    steps = {"quantize_neurons": QuantizeNeurons(membrane=6), "prune_weights": PruneWeights(0.4)}
    net = Spiking()
    compress(net, steps, Plan("ptq", "isolated", "prune_first"), Trainer(net))
    saved = {name: tensor.clone() for name, tensor in net.state_dict().items() if tensor.numel()}
    other = restore(Spiking(seed=7), steps, saved).eval()
    assert other.lif1.state_quant is False
    assert torch.equal(other(frames()), net.eval()(frames()))


def test_restore_names_what_does_not_fit() -> None:
    net = Spiking()
    compress(net, {"quantize_weights": QUANTIZE}, Plan("ptq"), Trainer(net))
    saved = dict(net.state_dict())
    del saved["fc2.weight"]
    with pytest.raises(RuntimeError, match=r"fc2\.weight"):
        restore(Spiking(), {"quantize_weights": QUANTIZE}, saved)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scheme": "later"}, "scheme must be one of"),
        ({"mode": "all"}, "mode must be one of"),
        ({"order": "any"}, "order must be one of"),
        ({"scheme": "joint"}, "epochs must be at least 1 with scheme=joint, but got None"),
        ({"scheme": "qat"}, "epochs must be at least 1 with scheme=qat, but got None"),
        (
            {"scheme": "cumulative", "epochs": 1},
            "epochs must be at least 2 with cumulative, a half each, but got 1",
        ),
        ({"scheme": "in_training", "mode": "cumulative"}, "mode must be joint or isolated with in_training"),
    ],
)
def test_bad_plans_name_the_field(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(**wrong)
