# Each target makes .venv and installs what it needs when it is missing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all bench lint docs clean

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
	$(BIN)/python -m pytest -n auto --dist loadfile

# What `make test` leaves out.
test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'exhaustive and not gpu'

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/sphinx-build -E -W --keep-going -q -b html docs docs/_build/html

clean:
	rm -rf $(VENV) docs/_build runs
