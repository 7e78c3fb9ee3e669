"""All weights of a net through their grids and masks at once: one node of autograd, however many tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.compress.kernels import Job, done, gated
from pipeline.compress.learned_kernels import Ranges, gradients, onto

Task = Job | Ranges


def fits(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0


class _Together(torch.autograd.Function):
    """Every x [C, ...] and what becomes of it; the parameters of learned ranges come behind the tensors.

    Backward is zero where an entry saturated or is pruned.
    """

    @staticmethod
    def forward(ctx: Any, jobs: Sequence[Task], *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        made: list[Tensor] = []
        kept: list[Tensor] = []
        scales: list[Tensor | None] = []
        for x, job in zip(tensors, jobs, strict=False):
            out, other = onto(x, job) if isinstance(job, Ranges) else done(x, job)
            made.append(out)
            kept.append(x if isinstance(job, Ranges) else other)
            scales.append(other if isinstance(job, Ranges) else None)
        ctx.save_for_backward(*kept)
        ctx.jobs, ctx.scales = jobs, scales
        ctx.set_materialize_grads(False)
        return tuple(made)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        of_xs: list[Tensor | None] = []
        of_parameters: list[Tensor | None] = []
        for g, kept, scale, job in zip(grads, ctx.saved_tensors, ctx.scales, ctx.jobs, strict=True):
            if isinstance(job, Ranges):
                of_x, *both = (None, None, None) if g is None else gradients(g, kept, scale, job)
                of_parameters += both
            else:
                of_x = None if g is None else gated(g, kept)
            of_xs.append(of_x)
        return None, *of_xs, *of_parameters


def together(xs: Sequence[Tensor], jobs: Sequence[Task]) -> tuple[Tensor, ...]:
    """What the jobs make of the tensors, all float32 on the CPU (see `fits`), each in the memory layout it has."""
    learned = [parameter for job in jobs if isinstance(job, Ranges) for parameter in (job.a, job.c)]
    out: tuple[Tensor, ...] = _Together.apply(jobs, *xs, *learned)  # type: ignore[no-untyped-call]
    return out


def quantize_masked(
    x: Tensor, step: Tensor, low: int, high: int, rounding: int, key: int, snap: bool, keep: Tensor | None
) -> Tensor:
    """``keep * fake_quantize(x, ...)``, with the same gradient. x float32 on the CPU; keep bool or None."""
    return together([x], [Job(step, low, high, rounding, key, snap, keep)])[0]


def masked(x: Tensor, keep: Tensor) -> Tensor:
    """``x * keep``, gradient included, in the memory layout of x."""
    return together([x], [Job(keep=keep)])[0] if fits(x) else x * keep
