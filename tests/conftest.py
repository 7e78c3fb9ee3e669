"""No test speaks to another machine: sockets to loopback only here (pytest-socket), a dead proxy in subprocesses.

But for the slow one that installs the benchmarks' opponents.
"""

import os
from pathlib import Path

import pytest
import torch

DEAD = "http://127.0.0.1:9"
for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
    os.environ[name] = os.environ[name.lower()] = DEAD
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost,::1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DVC_NO_ANALYTICS"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recordings and images that PIPELINE_DATA names."""
    folder = os.environ.get("PIPELINE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PIPELINE_DATA names no folder with real data")
    return Path(folder)
