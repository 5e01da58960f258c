# Every target installs what it needs: on a fresh machine `make test` or `make demo` is the first command.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# A process per core, each with one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses=8

.DEFAULT_GOAL := help
.PHONY: help install format lint types test test-unit test-integration test-regression check smoke demo bench clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*## "} {sub(/:.*/, "", $$1); printf "  %-18s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

install: $(STAMP)  ## Create the virtual environment and install the project with its development tools

format: $(STAMP)  ## Rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP)  ## Check format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)  ## Check the types of src/
	$(BIN)/mypy

test: $(STAMP)  ## Run all tests (unit, doctests, integration, regression)
	$(PYTEST)

test-unit: $(STAMP)  ## Run the unit tests and doctests only
	$(PYTEST) tests/unit src

test-integration: $(STAMP)  ## Run the commands end to end on small trees
	$(PYTEST) tests/integration

test-regression: $(STAMP)  ## Run what needs real data, published weights or a GPU
	$(PYTEST) tests/regression

check: lint types test  ## Exactly what CI runs

smoke: $(STAMP)  ## Train and score a few small drawn pictures, end to end, in under a minute
	$(BIN)/python -m afr_clip.train experiment=smoke

demo: $(STAMP)  ## Train on drawn pictures, score unseen categories, write heat maps and a page; no download, no data needed
	$(BIN)/python -m afr_clip.train experiment=demo
	@echo "With the paper's backbone and data:  python -m afr_clip.train dataset=visa protocol.targets=[mvtec_ad] data_dir=DIR"

bench: $(STAMP)  ## Measure pixel metrics and the cost of the forward pass on this machine
	$(BIN)/python benchmarks/pixel_metrics.py
	$(BIN)/python benchmarks/forward_cost.py

clean:  ## Remove caches and the virtual environment (never outputs/)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
