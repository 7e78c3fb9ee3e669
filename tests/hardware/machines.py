"""The accelerators of the configuration, as the config layer builds them."""

from __future__ import annotations

from pipeline.config import CONF, instantiate, members
from pipeline.hardware.accelerator import Accelerator


def load_accelerator(name: str) -> Accelerator:
    import yaml

    built = instantiate(yaml.safe_load((CONF / "accelerator" / f"{name}.yaml").read_text()), "accelerator")
    assert isinstance(built, Accelerator)
    return built


MACHINES = {name: load_accelerator(name) for name in members("accelerator")}
