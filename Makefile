# Everything runs in a local .venv that the first command makes (a few minutes; needs Python 3.11 or later and a C
# compiler, which pyradiomics is built with for the tests).
#
#   make demo    measure, remove, change, move, grow and insert a real lung tumour; prints where the results are
#   make test    lint, then all tests, in JOBS processes of about 3 GB each (default: 2)

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint format types venv clean

demo: $(READY)
	$(BIN)/tumorsynth demo

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff format .

types: $(READY)
	$(PIP) install -q -e ".[types]" -c constraints.txt
	$(BIN)/mypy

venv: $(READY)

# torch first and alone: pip then takes the build that it finds for this machine, and nothing later replaces it.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo-output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
