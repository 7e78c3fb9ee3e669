"""The made-up study of `studies.py`, for every test here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def studies() -> ModuleType:
    """The module beside this file, whatever the import mode."""
    spec = importlib.util.spec_from_file_location("report_studies", Path(__file__).with_name("studies.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
