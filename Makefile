# Everything is done in .venv, which the first target that needs it makes.  A stamp says what has been installed; it is
# older than pyproject.toml exactly when something must be installed again, so a second run needs no network.
#
#     .venv/cli   the package with what `make demo` needs
#     .venv/dev   that and the tools; making it makes .venv/cli too, never the other way round

PYTHON ?= python3
JOBS ?= 2
PYTEST_ARGS ?=
SEEDS ?= 10000
FROM ?= 2000
BROKER_PORT ?= 9092
DEMO ?= topologies.flights:topology --input departures=topologies/data/flights.jsonl.gz --state demo.sqlite

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
TYPED := $(wildcard streamproc topologies deploy tests/typing/good)
CHAOS := $(wildcard tests/kafka/chaos/*.py)
EXAMPLES := $(filter-out %/__init__.py topologies/test_%,$(wildcard topologies/*.py tests/typing/good/*.py))

# Without this pyright asks at every run whether there is a newer one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.NOTPARALLEL:
.PHONY: help demo test lint format types check mutants sim chaos boards bench broker clean

help:
	@echo 'make demo     run the example on its own data      make mutants  every planted bug must be caught'
	@echo 'make test     all tests                            make bench    how fast, with how it was measured'
	@echo 'make check    lint, types, tests: what CI runs     make clean    remove what make made'
	@echo 'make broker   a Kafka on this machine, by java and mvn      make chaos    an hour of faults on a real Kafka'
	@echo 'make sim      more simulated worlds: SEEDS=10000 FROM=2000      make boards    dashboards and rules anew'
	@echo 'make lint | format | types'

demo: .venv/cli
	@rm -f demo.sqlite demo.sqlite-*
	$(BIN)/streamproc run $(DEMO)

test: .venv/dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: .venv/dev
	$(BIN)/mypy $(TYPED)
	$(if $(EXAMPLES),$(BIN)/pyright $(EXAMPLES),@echo 'no public examples yet')

check: lint types test

mutants: .venv/dev
	$(BIN)/python tests/mutants.py
	$(BIN)/python -m tests.simulation.planted --jobs $(JOBS)

# Each seed is a world of its own; those of the tests come first.
sim: .venv/dev
	$(BIN)/python -m tests.simulation.workers all $(FROM) $$(($(FROM) + $(SEEDS))) --jobs $(JOBS)

boards: .venv/dev
	$(BIN)/python deploy/dashboards.py

# One at a time and in this order: they measure how long it takes until everything goes on.
chaos: .venv/dev
	$(BIN)/python -m pytest -p no:randomly -s $(CHAOS) $(PYTEST_ARGS)

bench: .venv/dev
	$(BIN)/python -m bench

broker: # no need of .venv
	@$(PYTHON) tests/kafka/brokers.py --port $(BROKER_PORT)

clean:
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "streamproc needs Python 3.11 or newer, and '$(PYTHON)' is not: make PYTHON=/path/to/python3.11" >&2; \
	    exit 1; }
	$(PYTHON) -m venv .venv

.venv/cli: pyproject.toml | .venv/bin/python
	$(PIP) --editable '.[cli]'
	@touch $@

.venv/dev: pyproject.toml | .venv/bin/python
	$(PIP) --editable '.[cli,dev]'
	@$(BIN)/pyright --version
	@touch .venv/cli $@
