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

# Peers live in environments of their own: d3rlpy pins another Gymnasium.
PEER_ENVIRONMENTS := .venv-sbx .venv-d3rlpy

.PHONY: help docs tables combinations notebooks demo bench-peers test lint type pytest coverage torture regression format clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/.installed ## pre-train on the dataset in the package, fine-tune online, show the picture's path
	$(BIN)/sb3-o2o demo $(ARGS)

bench-peers: $(VENV)/.installed .venv-sbx/.installed .venv-d3rlpy/.installed ## our speed beside SBX's and d3rlpy's: a table, and benchmarks/results/speed.*
	$(BIN)/sb3-o2o bench speed $(addprefix --peers ,$(addsuffix /bin/python,$(PEER_ENVIRONMENTS))) --out benchmarks/results $(ARGS)

test: lint type docs pytest ## everything that must pass: ruff, imports, mypy, the documentation, pytest

lint: $(VENV)/.installed-dev ## ruff: rules and formatting; who imports whom
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/lint-imports
	$(BIN)/python .ci/import_circles.py

type: $(VENV)/.installed-dev ## mypy
	$(BIN)/mypy

pytest: $(VENV)/.installed-dev ## the tests
	$(TEST_ENV) $(BIN)/pytest -n $(WORKERS) -m "not expensive" $(ARGS)

coverage: $(VENV)/.installed-dev ## the same tests, and which lines they do not reach: takes longer
	$(TEST_ENV) $(BIN)/pytest -n $(WORKERS) -m "not expensive" --cov --cov-report=term $(ARGS)

N ?= 100
torture: $(VENV)/.installed-dev ## N runs of all recipes, killed at random moments and gone on with, beside straight ones: make torture N=1000
	$(TEST_ENV) $(BIN)/python tests/torture.py --points $(N) --workers $(WORKERS) $(ARGS)

regression: $(VENV)/.installed-dev ## does this code still learn as well? Two recipes, two datasets, three seeds, beside the stored ones
	$(TEST_ENV) $(BIN)/python benchmarks/regression.py --workers $(WORKERS) $(ARGS)

tables: $(VENV)/.installed-dev ## the tables on the pages of methods, again from stored runs, recipes and combinations.json
	$(BIN)/python docs/method_tables.py

combinations: $(VENV)/.installed-dev ## what goes with what, asked of the code, in docs/combinations.json: make combinations ARGS='wsrl awac' for a part
	$(TEST_ENV) $(BIN)/python tests/combinations.py $(ARGS)

docs: $(VENV)/.installed-dev ## the documentation, in docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --jobs auto -b html docs docs/_build/html

notebooks: $(VENV)/.installed-dev ## execute the documentation's notebooks in place, so that they show what they print
	cd docs/notebooks && OMP_NUM_THREADS=1 ../../$(BIN)/jupyter execute --inplace *.ipynb

format: $(VENV)/.installed-dev ## let ruff put the code in order
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

clean: ## remove the environments, caches and builds (runs stay)
	rm -rf $(VENV) $(PEER_ENVIRONMENTS) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov

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

# Torch first, so that a peer's own requirement does not bring another build of it.
.venv-sbx/.installed:
	$(PYTHON) -m venv .venv-sbx
	.venv-sbx/bin/pip install --quiet --disable-pip-version-check $(TORCH)
	.venv-sbx/bin/pip install --quiet --disable-pip-version-check sbx-rl==0.28.0
	@touch $@

.venv-d3rlpy/.installed:
	$(PYTHON) -m venv .venv-d3rlpy
	.venv-d3rlpy/bin/pip install --quiet --disable-pip-version-check $(TORCH)
	.venv-d3rlpy/bin/pip install --quiet --disable-pip-version-check d3rlpy==2.8.1
	@touch $@
