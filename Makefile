# Two commands: `make demo` and `make test`. Everything else is a convenience.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
export MLFLOW_DISABLE_TELEMETRY = true
export RAY_USAGE_STATS_ENABLED = 0
export DVC_NO_ANALYTICS = 1

.PHONY: demo test test-slow lint repro peers clean

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q --disable-pip-version-check --use-pep517 -c constraints.txt -e '.[events,export,reproduce,dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/python -m pipeline.run +experiment=quickstart

# In the order of the folders: xdist would put files of few tests, which are the long ones, last, on one core.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow --timeout=3600

lint: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# Every stage that needs no download, from data to report; a second call does nothing.
repro: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro

peers: $(READY)
	bash benchmarks/peers.sh $(VENV) .venv-peers

clean:
	rm -rf $(VENV) outputs build *.egg-info
