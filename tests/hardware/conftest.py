"""Accelerators as the config builds them, without the config layer."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml

from pipeline.hardware.accelerator import Accelerator

CONF = (
    next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").exists())
    / "conf"
    / "accelerator"
)


def build(node: object) -> object:
    if isinstance(node, dict):
        fields = {key: build(value) for key, value in node.items() if key != "_target_"}
        if "_target_" not in node:
            return fields
        module, _, name = node["_target_"].rpartition(".")
        return getattr(importlib.import_module(module), name)(**fields)
    return tuple(build(item) for item in node) if isinstance(node, list) else node


def load_accelerator(name: str) -> Accelerator:
    machine = build(yaml.safe_load((CONF / f"{name}.yaml").read_text()))
    assert isinstance(machine, Accelerator)
    return machine


@pytest.fixture(params=sorted(path.stem for path in CONF.glob("*.yaml")))
def machine(request: pytest.FixtureRequest) -> Accelerator:
    return load_accelerator(request.param)
