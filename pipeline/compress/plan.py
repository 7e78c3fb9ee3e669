"""When the steps act: after training, during fine-tuning, or from the first epoch; together or one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args, runtime_checkable

from torch import Tensor, nn

from pipeline.compress.bake import bake
from pipeline.compress.compact import compact
from pipeline.compress.stdp_neurons import is_stdp
from pipeline.types import Decode, Span, Widths, require

Scheme = Literal["ptq", "qat", "in_training", "isolated", "cumulative", "joint"]
Mode = Literal["isolated", "cumulative", "joint"]
Order = Literal["prune_first", "quantize_first"]
Family = Literal["prepare", "prune", "quantize"]


class Refit(Protocol):
    """``refit(epochs, on_progress)``: train on, with on_progress(share done) after each epoch; 0 only decodes.

    `span`, where one training is cut in two: which part of it this is.
    """

    def __call__(
        self, epochs: int | None, on_progress: Callable[[float], None], span: Span | None = None
    ) -> Decode: ...


@runtime_checkable
class Compression(Protocol):
    """One step of a compression config, a frozen dataclass; all state lives in the net."""

    @property
    def family(self) -> Family:
        """prepare: a part of the network, whatever a plan leaves out; it is done when it is attached."""
        ...

    @property
    def active(self) -> bool:
        """False for settings that mean "off" (bits 32, sparsity 0)."""
        ...

    def check(self, net: nn.Module) -> None:
        """Raise ValueError for what cannot work on this net; called before any training."""
        ...

    def attach(self, net: nn.Module) -> None: ...
    def advance(self, net: nn.Module, progress: float) -> None: ...
    def widths(self, net: nn.Module) -> dict[str, int]: ...


@dataclass(frozen=True)
class Plan:
    """When and in which order the steps act.

    Args:
        scheme: ptq changes a trained net without more training; qat fine-tunes it `epochs` more;
            in_training starts untrained, so learning sees compressed values from the first update.
            isolated, cumulative and joint are qat in that mode, whatever `mode` says: with ptq, one axis of a search.
        mode: isolated uses only the family named first in `order`; cumulative fine-tunes half of the epochs
            with the first family and the rest with both, under one schedule of the learning rate (the optimizer's
            moments start anew with the second; at least 2 epochs); joint has both from the first epoch on.
        order: prune_first calibrates quantizers on the survivors; quantize_first on all weights. Where ranges are the
            largest magnitude (calibrate=max), which survives, it matters to isolated and cumulative alone.
        epochs: of fine-tuning (qat), or of training (in_training; None: as the learner is configured).
    """

    scheme: Scheme = "ptq"
    mode: Mode = "joint"
    order: Order = "prune_first"
    epochs: int | None = None

    def __post_init__(self) -> None:
        require(self.scheme in get_args(Scheme), "scheme", f"be one of {get_args(Scheme)}", self.scheme)
        require(self.mode in get_args(Mode), "mode", f"be one of {get_args(Mode)}", self.mode)
        require(self.order in get_args(Order), "order", f"be one of {get_args(Order)}", self.order)
        require(self.epochs is None or self.epochs >= 0, "epochs", "be at least 0", self.epochs)
        tunes = self.scheme not in ("ptq", "in_training")
        require(
            not tunes or bool(self.epochs), "epochs", f"be at least 1 with scheme={self.scheme}", self.epochs
        )
        if self.scheme in get_args(Mode):
            object.__setattr__(self, "mode", self.scheme)
            object.__setattr__(self, "scheme", "qat")
        if self.mode == "cumulative" and self.scheme != "ptq":  # one of these would silently be joint
            require(self.scheme == "qat", "mode", "be joint or isolated with in_training", self.mode)
            require(
                (self.epochs or 0) >= 2, "epochs", "be at least 2 with cumulative, a half each", self.epochs
            )

    def stages(self, steps: Mapping[str, Compression]) -> list[list[Compression]]:
        """Active steps in the order in which they are attached; what isolated leaves out is missing.

        Preparing steps (folding) come with the first stage, before its other steps.

        Raises:
            ValueError: a preparing step of a net that is not trained yet.
        """
        first: Family = "prune" if self.order == "prune_first" else "quantize"
        active = [step for step in steps.values() if step.active]
        prepare = [step for step in active if step.family == "prepare"]
        require(not prepare or self.scheme != "in_training", "scheme", "be ptq or qat to fold", self.scheme)
        early = prepare + [step for step in active if step.family == first]
        late = [step for step in active if step.family not in (first, "prepare")]
        stages = [early] if self.mode == "isolated" else [early, late]
        return [stage for stage in stages if stage]

    def plainest(self, steps: Mapping[str, Compression]) -> tuple[Plan, list[str]]:
        """The plan in its fewest words, and the names of the steps that act at all: what `compress` does with these
        alone is, call for call, what it does with this plan and all of `steps`.

        Where a family is left out (by isolated, or because its steps are off), masks alone or quantizers alone are one
        training whether it is called isolated, joint or cumulative. Where both act the plan is returned as it is:
        every word may count.

        Raises:
            ValueError: a preparing step of a net that is not trained yet.
        """
        stages = self.stages(steps)
        acting = [step for stage in stages for step in stage]
        names = [name for name, step in steps.items() if any(step is one for one in acting)]
        if {"prune", "quantize"} <= {step.family for step in acting}:
            return self, names
        early = any(step.family == "prepare" and hasattr(step, "observe") for step in acting)
        trains = self.scheme == "in_training" or (self.scheme == "qat" and bool(stages))
        plain = replace(
            self,
            scheme=self.scheme if trains else "ptq",
            mode="joint",
            order=self.order if early else "prune_first",
            epochs=self.epochs if trains else None,
        )
        return plain, names

    def check(self, net: nn.Module, steps: Mapping[str, Compression]) -> None:
        """Raise ValueError where this plan cannot work on `net` with these steps: the key, the rule, what came."""
        try:
            stages = self.stages(steps)
        except ValueError as error:
            raise ValueError(f"plan.{error}") from error
        active = [step for stage in stages for step in stage]
        for name, step in steps.items():
            learns = getattr(step, "check_learning", None)
            if self.scheme != "ptq" and learns is not None and step in active:
                try:
                    learns(net)
                except ValueError as error:
                    raise ValueError(f"compression.{name}.{error}") from error


def compress(
    net: nn.Module, steps: Mapping[str, Compression], plan: Plan, refit: Refit, samples: Sequence[Tensor] = ()
) -> tuple[Decode, Widths]:
    """Run the plan on `net` in place and bake it; returns the decoding of the compressed net and its widths.

    Args:
        samples: a few input batches [T, B, C, H, W] of the training split, to calibrate membranes on.

    An evaluation of the net right before and right after baking gives the same outputs.
    """
    stages = plan.stages(steps)
    widths: dict[str, int] = {}
    decode: Decode | None = None
    if plan.scheme == "in_training":
        _attach(net, [step for stage in stages for step in stage], samples=())
        decode = _train(net, [step for stage in stages for step in stage], refit, plan.epochs)
    elif plan.scheme == "qat" and stages:
        decode = _fine_tune(net, stages, plan, refit, samples)
    else:
        for stage in stages:
            _attach(net, stage, samples)
            for step in stage:
                step.advance(net, 1.0)
    for step in (step for stage in stages for step in stage):
        widths |= step.widths(net)
    bake(net)
    structured = any(getattr(step, "structure", "") == "channel" for stage in stages for step in stage)
    fewer = structured and compact(net)
    if decode is None or (fewer and is_stdp(net)):  # labels belong to neurons, some of which are gone
        decode = refit(0, lambda _: None)
    return decode, widths


def _fine_tune(
    net: nn.Module, stages: list[list[Compression]], plan: Plan, refit: Refit, samples: Sequence[Tensor]
) -> Decode:
    epochs = plan.epochs or 0
    alone = all(
        step.family == "prepare" for step in stages[0]
    )  # folding, and no first family: nothing to wait for
    if plan.mode != "cumulative" or len(stages) < 2 or alone:
        for stage in stages:
            _attach(net, stage, samples)
        return _train(net, [step for stage in stages for step in stage], refit, epochs)
    half = epochs // 2
    _attach(net, stages[0], samples)
    _train(net, stages[0], refit, half, Span(0, epochs))
    _attach(net, stages[1], samples)
    return _train(net, stages[1], refit, epochs - half, Span(half, epochs))


def _attach(net: nn.Module, stage: Sequence[Compression], samples: Sequence[Tensor]) -> None:
    for step in stage:
        step.attach(net)
    for step in stage:
        observe = getattr(step, "observe", None)
        if observe is not None and samples:
            observe(net, list(samples))


def _train(
    net: nn.Module,
    active: Sequence[Compression],
    refit: Refit,
    epochs: int | None,
    span: Span | None = None,
) -> Decode:
    def on_progress(progress: float) -> None:
        for step in active:
            step.advance(net, progress)

    on_progress(0.0)
    return refit(epochs, on_progress) if span is None else refit(epochs, on_progress, span)
