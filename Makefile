# Each target makes .venv and installs what it needs when it is missing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all versions lowest bench lint docs clean

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# The two stamps keep `make demo` from installing test and documentation tools.
$(VENV)/.demo: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --editable '.[kmat]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/kmat demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# What `make test` leaves out.
test-all: $(VENV)/.dev versions lowest
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m 'exhaustive and not gpu'

# pyproject.toml's lowest torch, with its Triton; and the newest Triton there was.
LOWEST_TORCH := 2.9.0
TRITONS := 3.5.0 3.9.0

.cache/triton/%: | $(BIN)/pip
	$(BIN)/pip install --quiet --no-deps --target $@ triton==$*

# Kernels compile without a GPU, and without another torch.
versions: $(VENV)/.dev $(TRITONS:%=.cache/triton/%)
	for version in $(TRITONS); do \
	  PYTHONPATH=.cache/triton/$$version $(BIN)/python -m pytest -q -rP -m 'sample and not gpu' tests/fgwot/kernels || exit; \
	done

# The solver, on the CPU.
lowest: .venv-lowest/.done
	PYTHONPATH=$(CURDIR) .venv-lowest/bin/python -m pytest -q -n auto --dist loadfile tests/fgwot --ignore=tests/fgwot/kernels

.venv-lowest/.done: Makefile pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet torch==$(LOWEST_TORCH) numba numpy scipy jax matplotlib POT hypothesis pytest pytest-benchmark pytest-timeout pytest-xdist
	touch $@

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/sphinx-build -E -W --keep-going -q -b html docs docs/_build/html

clean:
	rm -rf $(VENV) .venv-lowest .cache docs/_build docs/auto_gallery runs
