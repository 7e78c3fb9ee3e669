"""A program as a NIR graph (Pedersen et al. 2024), read back as a program or as a snnTorch network.

snnTorch's own exporter fails for neurons whose decay is one number, writes every reset as a reset to zero and knows
no maximum pooling; this one writes per-neuron vectors, says in the nodes' metadata what NIR has no word for, and
writes a maximum over spikes as an average and a neuron without memory (decay 0, threshold 0), which is the same.

    tau = dt / (1 - beta),  r = tau / dt,  v_leak = v_reset = 0,  dt = 1e-4 as snnTorch reads it
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, cast

import numpy as np
import snntorch
import torch
from torch import Tensor, nn

from pipeline.export.check import check
from pipeline.export.kinds import AnyProgram
from pipeline.export.program import (
    Accumulator,
    Fixed,
    Form,
    Input,
    Neurons,
    Pool,
    Program,
    Reset,
    Rounding,
    Shape,
    Stage,
    Synapses,
)
from pipeline.export.stdp_program import LAYER, StdpProgram
from pipeline.types import DataError

DT = 1e-4
_FOREVER = 2.0**60
"""tau of a membrane that never decays, in steps: 1 - 1 / 2^60 is 1 in float64."""


def missing(program: AnyProgram) -> list[str]:
    """What NIR has no node or field for, one sentence each; an importer that ignores metadata gets it wrong."""
    if isinstance(program, StdpProgram):
        return _missing_of_stdp(program)
    said, graded = [], _graded_maxima(program)
    for stage in program.stages:
        neurons, name = stage.neurons, stage.neurons.name
        if neurons.reset != "zero":
            said.append(f"{name}: NIR resets to a value; reset={neurons.reset} is in the node's metadata.")
        if neurons.bits < 32:
            said.append(
                f"{name}: NIR membranes are real numbers; the {neurons.bits}-bit format is in its metadata."
            )
        for pool in stage.pools:
            if pool.kind == "attention":
                said.append(f"{pool.name}: NIR has no attention: no graph is written.")
            if pool.name in graded:
                said.append(f"{pool.name}: a maximum of graded inputs has no NIR form: no graph is written.")
            elif pool.kind == "max":
                said.append(
                    f"{pool.name}: NIR has no maximum pooling; written as an average and an OR neuron."
                )
        said += _missing_of_convolution(stage.synapses)
    return said


def _graded_maxima(program: Program) -> set[str]:
    """Maximum pools of anything but zeros and ones, of which alone a maximum is an OR."""
    given, found = program.input, set()
    spikes = (given.exponent, given.high, given.signed) == (0, 1, False)
    for stage in program.stages:
        for pool in stage.pools:
            if pool.kind == "max" and not spikes:
                found.add(pool.name)
            spikes = spikes and pool.kind == "max"
        spikes = True
    return found


def _missing_of_convolution(synapses: Synapses) -> list[str]:
    """What the format, or the check of shapes in `nir` (1.0.8), does not know."""
    said, kernel = [], synapses.weight.codes.shape[2:]
    if _padding(synapses) is None:
        said.append(f"{synapses.name}: NIR has no padding of {synapses.padding}: no graph is written.")
    if synapses.groups > 1:
        said.append(
            f"{synapses.name}: nir checks shapes without groups ({synapses.groups}): no graph is written."
        )
    if len(set(kernel)) > 1:
        sides = " x ".join(map(str, kernel))
        said.append(
            f"{synapses.name}: nir checks shapes of square kernels, not {sides}: no graph is written."
        )
    return said


def _missing_of_stdp(program: StdpProgram) -> list[str]:
    said = [f"{LAYER}: NIR membranes are real numbers; the {program.bits}-bit format has no place."]
    if program.winner != "all":
        said.append(
            f"{LAYER}: NIR has no competition, of which one neuron ({program.winner}) is heard per step."
        )
    if program.refractory or program.inhibitory:
        said.append(f"{LAYER}: NIR has no refractory time ({program.refractory} steps).")
    if program.lowest is not None:
        said.append(f"{LAYER}: NIR has no floor of the membrane.")
    said.append("inhibition: NIR's edges have no delay of one step: no graph is written.")
    return said


def writable(program: AnyProgram) -> bool:
    """Whether there is a graph at all."""
    return not any(line.endswith("no graph is written.") for line in missing(program))


def graph(program: Program) -> Any:
    """The `nir.NIRGraph`; fully connected networks take flat inputs, convolutional ones [C, H, W].

    Raises:
        DataError: `missing` says that no graph can be written.
    """
    import nir

    if not writable(program):
        raise DataError(f"{missing(program)[-1]}")
    flat = program.stages[0].synapses.kind == "linear" and not program.stages[0].pools
    shape = (math.prod(program.input.shape),) if flat else program.input.shape
    given = program.input
    about = {
        "timesteps": program.timesteps, "classes": program.classes, "exponent": given.exponent, "high": given.high,
        "signed": int(given.signed), "shape": np.array(given.shape),
    }  # fmt: skip
    nodes: dict[str, Any] = {"input": nir.Input(input_type={"input": np.array(shape)}, metadata=about)}
    for stage in program.stages:
        for pool in stage.pools:
            sides = [np.array(each) for each in (pool.kernel, pool.stride, (0, 0))]
            nodes[pool.name] = nir.AvgPool2d(*sides)
            if pool.kind == "max":
                zeros = np.zeros(pool.out_shape)
                nodes[f"{pool.name}_or"] = _lif(zeros, zeros, {"role": "or"})
        _add_stage(nodes, stage, flat and not stage.pools)
        flat = stage.synapses.kind == "linear"
    nodes["output"] = nir.Output(output_type={"output": np.array(_out(program.stages[-1].synapses))})
    names = list(nodes)
    return nir.NIRGraph(nodes, list(pairwise(names)), metadata={})


def _add_stage(nodes: dict[str, Any], stage: Stage, flat: bool) -> None:
    import nir

    synapses, neurons = stage.synapses, stage.neurons
    weight = synapses.weight.values.astype(np.float32)
    bias = None if synapses.bias is None else synapses.bias.values.astype(np.float32)
    about = {**_numbers("weight", synapses.weight), "accumulator_bits": stage.accumulator.bits}
    about |= {"overflow": stage.accumulator.overflow}
    if synapses.bias is not None:
        about |= _numbers("bias", synapses.bias)
    if synapses.kind == "linear":
        if not flat:
            nodes[f"{synapses.name}_flat"] = nir.Flatten({"input": np.array(synapses.in_shape)}, 0, -1)
        made = (
            nir.Linear(weight, metadata=about) if bias is None else nir.Affine(weight, bias, metadata=about)
        )
    else:
        made = nir.Conv2d(
            synapses.in_shape[1:], weight, synapses.stride, _padding(synapses), synapses.dilation, synapses.groups,
            np.zeros(len(weight), np.float32) if bias is None else bias, metadata=about,
        )  # fmt: skip
    nodes[synapses.name] = made
    said = {
        **_numbers("beta", neurons.beta), **_numbers("threshold", neurons.threshold), "role": "neurons",
        "mem_bits": neurons.bits, "mem_exponent": neurons.exponent, "mem_low": neurons.low, "mem_high": neurons.high,
        "rounding": neurons.rounding, "reset": neurons.reset, "delay": int(neurons.delay),
    }  # fmt: skip
    shape = _out(synapses)
    beta, threshold = (
        np.array(np.broadcast_to(each.values if each.codes.size > 1 else each.values[0], synapses.out_shape))
        for each in (neurons.beta, neurons.threshold)
    )
    nodes[neurons.name] = _lif(beta.reshape(shape), threshold.reshape(shape), said)


def _out(synapses: Synapses) -> tuple[int, ...]:
    return synapses.out_shape[:1] if synapses.kind == "linear" else synapses.out_shape


def _lif(beta: np.ndarray, threshold: np.ndarray, about: Mapping[str, object]) -> Any:
    import nir

    left = 1.0 - beta
    tau = DT * np.divide(1.0, left, out=np.full(beta.shape, _FOREVER), where=left > 0)
    return nir.LIF(tau, tau / DT, np.zeros(beta.shape), threshold.astype(np.float64), metadata=dict(about))


def _numbers(name: str, tensor: Fixed) -> dict[str, object]:
    return {f"{name}_bits": tensor.bits, f"{name}_exponents": tensor.exponents, f"{name}_form": tensor.form}


def _padding(synapses: Synapses) -> tuple[int, int] | Literal["same"] | None:
    """As NIR says it; None where it cannot."""
    above, below, left, right = synapses.padding
    if (above, left) == (below, right):
        return above, left
    if synapses.kind == "linear" or synapses.stride != (1, 1):
        return None
    kernel = synapses.weight.codes.shape[2:]
    total = [d * (k - 1) for d, k in zip(synapses.dilation, kernel, strict=True)]
    same = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
    return "same" if synapses.padding == same else None


def file_bytes(program: AnyProgram) -> bytes | None:
    """The HDF5 file of the graph; None where `nir` is not installed or no graph can be written."""
    try:
        import nir
    except ImportError:
        return None
    if isinstance(program, StdpProgram) or not writable(program):
        return None
    memory = io.BytesIO()
    nir.write(memory, graph(program))
    return memory.getvalue()


def program_of(read: Any) -> Program:
    """The program of a graph that `graph` made (and `nir.read` read).

    Raises:
        DataError: a node or a piece of metadata that this project did not write.
    """
    import nir

    names = _chain(read)
    start = read.nodes[names[0]].metadata
    shape = cast(Shape, tuple(int(side) for side in start["shape"]))
    given = Input(shape, int(start["exponent"]), int(start["high"]), bool(start["signed"]))
    stages: list[Stage] = []
    pools: list[Pool] = []
    synapses: Synapses | None = None
    accumulator = Accumulator()
    at = shape
    for name in names[1:-1]:
        node = read.nodes[name]
        if isinstance(node, nir.AvgPool2d):
            pools.append(_pool(name, node, at))
            at = pools[-1].out_shape
        elif isinstance(node, nir.LIF) and _text(node.metadata["role"]) == "or":
            old = pools[-1]
            pools[-1] = Pool(old.name, "max", old.kernel, old.stride, old.in_shape, old.out_shape)
        elif isinstance(node, (nir.Linear, nir.Affine, nir.Conv2d)):
            synapses = _synapses(name, node, at)
            about = node.metadata
            overflow: Literal["saturate", "wrap"] = (
                "wrap" if _text(about["overflow"]) == "wrap" else "saturate"
            )
            accumulator = Accumulator(int(about["accumulator_bits"]), overflow)
            at = synapses.out_shape
        elif isinstance(node, nir.LIF) and synapses is not None:
            stages.append(Stage(tuple(pools), synapses, _neurons(name, node, at), accumulator))
            pools, synapses = [], None
        elif not isinstance(node, nir.Flatten):
            raise DataError(f"{name} ({type(node).__name__}) is no node of this project")
    return check(Program(given, int(start["timesteps"]), int(start["classes"]), tuple(stages)))


def _chain(read: Any) -> list[str]:
    """Node names from the input to the output; the graph is one chain."""
    after = dict(read.edges)
    name = next(iter(read.inputs))
    found = [name]
    while name in after and len(found) <= len(read.nodes):
        name = after[name]
        found.append(name)
    if len(found) != len(read.nodes):
        raise DataError("the graph is not one chain of nodes")
    return found


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _pool(name: str, node: Any, at: Shape) -> Pool:
    kernel, stride = ((int(side[0]), int(side[1])) for side in (node.kernel_size, node.stride))
    sides = [(n - k) // s + 1 for n, k, s in zip(at[1:], kernel, stride, strict=True)]
    out = (at[0], sides[0], sides[1])
    return Pool(name, "sum", kernel, stride, at, out, math.prod(kernel).bit_length() - 1)


def _fixed(name: str, values: np.ndarray, about: Mapping[str, Any]) -> Fixed:
    exponents = np.atleast_1d(np.asarray(about[f"{name}_exponents"], np.int64))
    shape = (-1,) + (1,) * (values.ndim - 1) if len(exponents) > 1 else (1,) * values.ndim
    codes = np.rint(np.ldexp(values.astype(np.float64), exponents.reshape(shape).astype(np.int32)))
    form = cast(Form, _text(about[f"{name}_form"]))
    return Fixed(codes.astype(np.int64), exponents, int(about[f"{name}_bits"]), form)


def _synapses(name: str, node: Any, at: Shape) -> Synapses:
    import nir

    weight = _fixed("weight", node.weight, node.metadata)
    bias = _fixed("bias", node.bias, node.metadata) if "bias_bits" in node.metadata else None
    if not isinstance(node, nir.Conv2d):
        return Synapses(name, "linear", weight, bias, at, (len(node.weight), 1, 1))
    kernel = node.weight.shape[2:]
    dilation, stride = ((int(side[0]), int(side[1])) for side in (node.dilation, node.stride))
    if isinstance(node.padding, (str, bytes)):
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pads = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
    else:
        pads = (int(node.padding[0]),) * 2 + (int(node.padding[1]),) * 2
    sides = [
        (at[1 + i] + pads[2 * i] + pads[2 * i + 1] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    ]
    out = (len(node.weight), sides[0], sides[1])
    return Synapses(name, "conv", weight, bias, at, out, stride, pads, dilation, int(node.groups))


def _neurons(name: str, node: Any, shape: Shape) -> Neurons:
    about = node.metadata

    def shared(values: np.ndarray) -> np.ndarray:
        return values.reshape(-1)[:1] if (values == values.reshape(-1)[0]).all() else values.reshape(shape)

    return Neurons(
        name,
        _fixed("beta", shared(1.0 - DT / node.tau), about),
        _fixed("threshold", shared(node.v_threshold), about),
        int(about["mem_bits"]), int(about["mem_exponent"]), int(about["mem_low"]), int(about["mem_high"]),
        cast(Rounding, _text(about["rounding"])), cast(Reset, _text(about["reset"])), bool(about["delay"]),
    )  # fmt: skip


class Format(nn.Module):
    """A membrane's fixed-point format for snnTorch's `state_quant` hook."""

    def __init__(self, exponent: int, low: int, high: int, rounding: Rounding) -> None:
        super().__init__()
        self.step, self.low, self.high = 2.0**-exponent, low, high
        self.offset = 0.5 if rounding == "nearest" else 0.0

    def forward(self, mem: Tensor) -> Tensor:
        return (mem / self.step + self.offset).floor().clamp(self.low, self.high) * self.step


class Imported(nn.Module):
    """What `snntorch.import_from_nir` makes of a graph, with the metadata obeyed: [T, ...] -> [T, N] of one sample."""

    def __init__(self, read: Any) -> None:
        super().__init__()
        from snntorch.import_nir import import_from_nir

        self.read = read
        with contextlib.redirect_stdout(io.StringIO()):
            self.executor = import_from_nir(read)
        for name in _chain(read)[1:-1]:
            about = read.nodes[name].metadata
            if "role" in about:
                setattr(self.executor, name, _neuron(self.executor.get_submodule(name), about))

    def forward(self, x: Tensor) -> Tensor:
        for module in self.executor.modules():
            if isinstance(module, snntorch.Leaky):
                module.reset_mem()  # snnTorch goes on from the last sample where it is given no state
        state, out = None, []
        for step in x:
            spikes, state = self.executor(step, state)
            out.append(spikes)
        return torch.stack(out)


def _neuron(read: nn.Module, about: Mapping[str, Any]) -> snntorch.Leaky:
    """An imported neuron with reset, delay and format as the metadata say; decays back to float32."""
    or_gate = _text(about["role"]) == "or"
    made = snntorch.Leaky(
        torch.as_tensor(read.beta).float(),
        torch.as_tensor(read.threshold).float(),
        init_hidden=True,  # as the importer's own neurons: the graph hands no state around
        reset_mechanism="zero" if or_gate else _text(about["reset"]),
        reset_delay=not or_gate and bool(about["delay"]),
    )
    if not or_gate and int(about["mem_bits"]) < 32:
        made.state_quant = Format(
            int(about["mem_exponent"]), int(about["mem_low"]), int(about["mem_high"]),
            cast(Rounding, _text(about["rounding"])),
        )  # fmt: skip
    snntorch.SpikingNeuron.instances.remove(made)  # snnTorch keeps every neuron ever built
    return made
