# Every target installs what it needs, so `make test` or `make demo` can be the first command on a fresh machine.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# One process per core, each with one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses=8

.DEFAULT_GOAL := help
.PHONY: help install format lint types docs test test-unit test-integration test-regression test-gpu test-lowest fuzz fuzz-decoders kills check smoke demo bench dist clean

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
	$(BIN)/hadolint Dockerfile

types: $(STAMP)  ## Check the types of src/
	$(BIN)/mypy

test: $(STAMP)  ## Run all tests (unit, doctests, integration, regression)
	$(PYTEST)

test-unit: $(STAMP)  ## Run the unit tests and doctests only
	$(PYTEST) tests/unit src

test-integration: $(STAMP)  ## Run the commands end to end on small trees
	$(PYTEST) tests/integration

test-regression: $(STAMP)  ## Run the tests that need real data, published weights or a GPU
	$(PYTEST) tests/regression

test-gpu: $(STAMP)  ## Run the tests that need a GPU; they are skipped where there is none
	$(BIN)/python -m pytest -m gpu tests/regression/test_gpu.py

fuzz: $(STAMP)  ## Feed damaged and odd pictures, overrides, checkpoints, run folders and archives to the code; half an hour
	AFR_CLIP_FUZZ=1 $(PYTEST) tests/fuzz

kills: $(STAMP)  ## Kill every command at random moments, run it again, and compare it with an undisturbed run; half an hour
	AFR_CLIP_KILLS=60 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s tests/kills

fuzz-decoders: $(STAMP)  ## Let atheris search for pictures and masks that break the decoders, two minutes each
	$(BIN)/pip install --quiet atheris
	$(BIN)/python tests/fuzz/coverage_guided.py image -max_total_time=120
	$(BIN)/python tests/fuzz/coverage_guided.py mask -max_total_time=120

test-lowest: pyproject.toml  ## Run the unit tests with the lowest versions that pyproject.toml allows, in .venv-lowest
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet uv
	.venv-lowest/bin/uv pip compile --quiet --resolution lowest-direct $(LOWEST) pyproject.toml -o .venv-lowest/versions.txt
	.venv-lowest/bin/pip install --quiet -r .venv-lowest/versions.txt -e '.[test]' -c .venv-lowest/versions.txt
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -W default -n logical --maxprocesses=8 tests/unit tests/integration/test_commands.py

docs: $(STAMP)  ## Build the documentation into docs/_build/html; warnings are errors, and no network is needed
	$(BIN)/python -m sphinx -q -W --keep-going -j auto -b html docs docs/_build/html
	@echo "page: docs/_build/html/index.html"

check: lint types docs test  ## Exactly what CI runs

smoke: $(STAMP)  ## Train and score a few small drawn pictures, end to end, in under a minute
	$(BIN)/python -m afr_clip.train experiment=smoke

demo: $(STAMP)  ## Train on drawn pictures, score unseen categories, write heat maps and a page; no download, no data needed
	$(BIN)/python -m afr_clip.train experiment=demo
	@echo "With the paper's backbone and data:  afr-clip train dataset=visa protocol.targets=[mvtec_ad] data_dir=DIR"

bench: $(STAMP)  ## Measure what AFR-CLIP costs on this machine next to its peers; a quarter of an hour
	$(BIN)/python benchmarks/bench.py

dist: $(STAMP)  ## Build wheel and sdist into dist/ and check their metadata
	$(BIN)/pip install --quiet build twine
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

clean:  ## Remove caches and the virtual environment (never outputs/)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist docs/_build docs/reference/generated
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
