# make demo | test | test-slow | test-fault | sbom | lint | format | docs | clean
# PYTHON chooses the interpreter; TORCH, if given, is what pip installs first, such as TORCH=torch==2.13.0.

PYTHON ?= python3
TORCH ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUFF_PATHS := src tests docs benchmarks examples

export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-slow test-fault sbom lint format docs clean

help:
	@sed -n '1,2s/^# //p' $(firstword $(MAKEFILE_LIST))

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): minutes the first time, about 5 GB with PyTorch's default build"
	$(if $(strip $(TORCH)),$(BIN)/python -m pip install -q $(TORCH))
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/metapl demo

test: lint
	$(BIN)/python -m pytest -n 2

test-slow: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m slow --timeout 3600

test-fault: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m fault --timeout 3600 tests/fault

lint: $(STAMP)
	$(BIN)/ruff check $(RUFF_PATHS)
	$(BIN)/ruff format --check $(RUFF_PATHS)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix $(RUFF_PATHS)
	$(BIN)/ruff format $(RUFF_PATHS)

docs: $(STAMP)
	$(BIN)/python -m pip install -q -e '.[docs]'
	$(BIN)/mkdocs build --strict

sbom: $(STAMP)
	test -x .venv-sbom/bin/cyclonedx-py || { $(PYTHON) -m venv .venv-sbom && .venv-sbom/bin/python -m pip install -q cyclonedx-bom; }
	.venv-sbom/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --of JSON -o sbom.json

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site
	find src tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
