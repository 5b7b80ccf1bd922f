# Everything here sets itself up on a machine that has Python (3.11 or newer) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests of one file stay together for the most part: many share what took long to make.
SHARED_OUT := -n 2 --dist worksteal

.PHONY: help demo bench test check docs clean

help:
	@echo "make demo   train IADB between two densities and draw the animation, into runs/demo"
	@echo "make bench  run the benchmark suite's smallest budget, into runs/bench"
	@echo "make test   run every test, the examples in docstrings and README included"
	@echo "make check  lint, types and layers"
	@echo "make docs   build the pages, every example and doctest run, and look at them in a browser if there is one"
	@echo "make clean  remove the environment and what the tools left behind"

demo: $(VENV)/.demo
	$(BIN)/interpolants demo --out runs/demo --overwrite

bench: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks run all --budget smoke --out runs/bench

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHARED_OUT)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.docs
	rm -rf docs/_build docs/gallery docs/idea_scripts
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky -d docs/_build/doctrees docs docs/_build/html
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHARED_OUT) -rs tests/docs interpolants
	@echo "the pages: docs/_build/html/index.html"

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed; set PYTHON=..."'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cli]"
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) docs/_build docs/gallery docs/idea_scripts docs/extending/layers.svg .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build *.egg-info
