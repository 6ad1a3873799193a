# Every target works from a bare clone: it makes .venv, installs what it needs once, and runs.
PYTHON ?= python3
# The CPU build. On another machine: make demo TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

# One thread for each process: the networks are small, and the tests run side by side.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MPLBACKEND=Agg
CHECKED := sb3_o2o examples tests benchmarks

.PHONY: help demo test lint type pytest format clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(VENV)/.installed ## pre-train on the dataset in the package, fine-tune online, show the picture's path
	$(BIN)/sb3-o2o demo $(ARGS)

test: lint type pytest ## everything that must pass: ruff, mypy, pytest with coverage

lint: $(VENV)/.installed-dev ## ruff: rules and formatting
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)

type: $(VENV)/.installed-dev ## mypy
	$(BIN)/mypy

pytest: $(VENV)/.installed-dev ## the tests, with coverage
	$(TEST_ENV) $(BIN)/pytest -n $(WORKERS) -m "not expensive" --cov --cov-report=term $(ARGS)

format: $(VENV)/.installed-dev ## let ruff put the code in order
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

clean: ## remove the environment, caches and builds (runs stay)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov

# Stamps: a second call installs nothing, a changed pyproject.toml installs again.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.torch
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed
