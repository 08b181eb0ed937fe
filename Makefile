# make demo | test | test-slow | test-fault | lock | sbom | lint | format | docs | clean
# PYTHON chooses the interpreter; TORCH is what pip installs first, such as TORCH=torch==2.13.0; LOCK=requirements.lock
# installs exactly the packages in that file, each with its hash.

PYTHON ?= python3
TORCH ?=
LOCK ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUFF_PATHS := src tests docs benchmarks examples

export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-slow test-fault lock sbom lint format docs clean

help:
	@sed -n '1,3s/^# //p' $(firstword $(MAKEFILE_LIST))

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): minutes the first time, about 5 GB with PyTorch's default build"
	$(if $(strip $(TORCH)),$(BIN)/python -m pip install -q $(TORCH))
	$(if $(strip $(LOCK)),$(BIN)/python -m pip install -q --no-deps --require-hashes -r $(LOCK))
	$(BIN)/python -m pip install -q $(if $(strip $(LOCK)),--no-deps --no-build-isolation -e .,-e '.[dev]')
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

lock:
	test -x .venv-lock/bin/uv || { $(PYTHON) -m venv .venv-lock && .venv-lock/bin/python -m pip install -q uv; }
	printf '%s\n' hatchling editables $(TORCH) | .venv-lock/bin/uv pip compile -q --no-config --universal --python-version 3.11 \
		--generate-hashes --no-annotate --custom-compile-command "make lock" --extra dev \
		pyproject.toml - -o requirements.lock

sbom: $(STAMP)
	test -x .venv-sbom/bin/cyclonedx-py || { $(PYTHON) -m venv .venv-sbom && .venv-sbom/bin/python -m pip install -q cyclonedx-bom; }
	.venv-sbom/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --of JSON -o sbom.json

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site
	find src tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
