"""A pretended GPU: tensors that lie `elsewhere`, in truth on the CPU, and that refuse to meet tensors that do not.

    python tests/learn/elsewhere.py      trains and compresses one network here and elsewhere; prints what came out

Machines without a GPU run the code for one nowhere, and its usual mistake, a mask or a step that stayed on the CPU, is
found by the first user who has one. Here every operation whose tensors lie on two devices ends with an error, as does
whatever asks a tensor for its memory. What is not tried: half precision, pinned memory, cuDNN.

PyTorch's hook for devices written in Python is experimental; it is used for nothing else, and in a process of its own.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

from pipeline import config, experiment
from pipeline.learn.surrogate import Surrogate
from pipeline.nets import normalisation
from pipeline.types import Decode, Report

aten = torch.ops.aten
MOVES = (aten._to_copy.default, aten.copy_.default)
"""Operations that may see two devices."""


class Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend("elsewhere", backend_module=Backend())
ELSEWHERE = torch.device("elsewhere", 0)


class There(torch.Tensor):
    """A tensor on the device `elsewhere`; `here` are its numbers."""

    here: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> There:
        made = torch.Tensor._make_wrapper_subclass(
            cls, here.size(), strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=ELSEWHERE,
        )  # fmt: skip
        made.here = here
        return made

    def __init__(self, here: torch.Tensor) -> None:
        pass

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(operation, *args, **(kwargs or {}))

    def tolist(self) -> Any:
        return self.here.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a tensor elsewhere has no numpy form: copy it to the CPU first.")

    def data_ptr(self) -> int:
        raise TypeError("a tensor elsewhere has no address in the CPU's memory.")


def run(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """The operation on the numbers; its tensors, single numbers apart, must lie on one device."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, There)]
    if there and operation not in MOVES and any(t.dim() for t in tensors if not isinstance(t, There)):
        raise RuntimeError(f"{operation} got tensors of two devices: {[str(t.device) for t in tensors]}.")
    device = kwargs.get("device")
    if operation is aten.copy_.default:
        goes = isinstance(args[0], There)
    else:
        goes = torch.device(device).type == "elsewhere" if device is not None else bool(there)
    known = {id(tensor.here): tensor for tensor in there}  # what is written in place stays the tensor it was
    words = {name: value for name, value in kwargs.items() if name not in ("device", "pin_memory")}
    if device is not None:
        words["device"] = torch.device("cpu")
    args, words = tree_map(lambda leaf: leaf.here if isinstance(leaf, There) else leaf, (args, words))
    with torch.no_grad():
        made = operation(*args, **words)

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not goes:
            return leaf
        return known[id(leaf)] if id(leaf) in known else There(leaf)

    return tree_map(placed, made)


LIBRARY = torch.library.Library("_", "IMPL")
LIBRARY.fallback(run, "PrivateUse1")


WORDS = [
    "+experiment=quickstart", "tracking=silent", "net=tcja", "compression=tcja_integer", "net.channels=8",
    "net.hidden=32", "net.group=2", "net.plain_blocks=1", "net.attention_blocks=1", "net.dropout=0.1", "net.beta=0.9",
    "net.threshold=0.5", "net.init_gain=1", "data.timesteps=4", "learner.batch_size=256",
    "learner.epochs=3", "learner.check_batches=0", "learner.label_smoothing=0", "plan.epochs=2",
]  # fmt: skip
CASES = {
    "masks and DuQ together": ["plan=joint", "compression.quantize_weights.scheme=duq"],
    "masks grow, then LSQ": [
        "plan=cumulative",
        "compression.prune_weights.schedule=gradual",
        "compression.quantize_weights.scheme=lsq",
        "compression.quantize_weights.scale=free",
    ],
    "fixed point at random": [
        "plan=joint",
        "compression.quantize_weights.rounding=stochastic",
        "learner.loss=vote_mse",
        "learner.optimizer=sgd",
        "learner.clip=1",
    ],
}
SETTINGS = {"compression.quantize_weights.bits": 4, "compression.prune_weights.sparsity": 0.3}


def trained(words: list[str], device: torch.device) -> dict[str, Any]:
    """Float training and fine-tuning on `device`, and what the network does afterwards."""
    Surrogate._device = lambda self, home: device  # type: ignore[method-assign]
    torch.Tensor.pin_memory = lambda self, *_: self  # type: ignore[method-assign, assignment]
    built = config.build_experiment(config.override(config.plain(config.compose([*WORDS, *words])), SETTINGS))
    losses: list[float] = []

    def fit(net: torch.nn.Module, train: Any, report: Report) -> Decode:
        return train(report)

    found = experiment.evaluate(built, lambda step, metrics: losses.append(metrics["loss"]), fit)
    homes = sorted({str(value.device) for value in found.net.state_dict().values()})
    metrics = {name: found.metrics[name] for name in ("validation_accuracy", "energy_pj", "sparsity")}
    return {"losses": losses, "homes": homes, **metrics}


def main() -> None:
    torch.set_num_threads(1)
    # Normalisation's kernels differ in last digits from PyTorch's, which runs elsewhere, and a spike more or less then
    # makes another training; tests/nets compares them.
    normalisation.reachable = lambda x: False
    where = {"here": torch.device("cpu"), "elsewhere": ELSEWHERE}
    found = {
        name: {at: trained(words, device) for at, device in where.items()} for name, words in CASES.items()
    }
    mixed = "accepted"
    try:
        torch.ones(2) + torch.ones(2, device=ELSEWHERE)
    except RuntimeError as error:
        mixed = str(error)
    print(json.dumps({"cases": found, "mixed": mixed}, indent=1))


if __name__ == "__main__":
    main()
