# Everything runs in a local .venv that the first command makes (a few minutes; needs Python 3.11 or later and a C
# compiler, which pyradiomics is built with for the tests).
#
#   make demo    measure, remove, change, move, grow and insert a real lung tumour; prints where the results are
#   make quick   lint, then the fastest tests of every package: under a minute
#   make test    lint, then all tests, in JOBS processes of about 3 GB each (default: 2)

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check

QUICK := bank choose dependencies differentiable docs_features donor found_place goals judge_numbers layouts modality \
	models_bundle options outputs panel_request panel_source population provenance radiomics_extract radiomics_ibsi \
	radiomics_settings recipes score_bundle scoring slicer_nodes study_plan terminal texture volume_files \
	volume_formats volume_region volume_resampling shape_model.py::test_a_request_is_reached_on_voxels

.PHONY: demo test quick lint format venv clean

demo: $(READY)
	$(BIN)/tumorsynth demo

test: lint
	PYTHONUTF8=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

quick: lint
	PYTHONUTF8=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(foreach n,$(QUICK),Testing/test_$(if $(findstring .py,$n),$n,$n.py))

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python Testing/support/type_errors.py

format: $(READY)
	$(BIN)/ruff format .

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
