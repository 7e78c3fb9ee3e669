#!/usr/bin/env bash
# The opponents of the benchmarks, in an environment of their own that borrows torch and numpy from the project's.
# BindsNET 0.3.4 declares torch >= 2.14 (it runs on 2.13), and torchvision's wheel wants a torch built for CUDA: hence
# --no-deps, and an empty torchvision, of which BindsNET only names data sets when it is imported.
#   benchmarks/peers.sh [project environment] [peers' environment]
set -euo pipefail
main=${1:-.venv}
peers=${2:-.venv-peers}
site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
test -x "$peers/bin/python" || "$main/bin/python" -m venv --without-pip "$peers"
here=$(site "$peers")
site "$main" > "$here/project.pth"
"$main/bin/python" -m pip install -q --disable-pip-version-check --no-deps --upgrade --target "$here" \
  bindsnet==0.3.4 spikingjelly==2.0.0 neurobench==2.3.0 tensorboardX loguru gymnasium ale_py opencv-python-headless
mkdir -p "$here/torchvision"
cat > "$here/torchvision/__init__.py" <<'PYTHON'
"""Stands in for torchvision: any name is an empty class."""
import sys
__path__ = []
for _part in ("datasets", "transforms", "utils", "transforms.functional", "io"):
    sys.modules[f"{__name__}.{_part}"] = globals()[_part] = sys.modules[__name__]
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
PYTHON
"$peers/bin/python" - <<'PYTHON'
import importlib

for name in ("bindsnet.models", "bindsnet.network", "spikingjelly.activation_based.neuron", "neurobench.metrics"):
    importlib.import_module(name)
    print("ready:", name)
PYTHON
