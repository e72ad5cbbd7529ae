# Every target sets up what it needs: a private environment in .venv, locked by version and hash.
#
#   make compare              train every optimizer on the embedded text and write the report
#   make compare ARGS=--quick the same in about a minute
#   make test                 the test suite
#   JAX=cuda12 make compare   on a GPU (cpu, cuda12, cuda13 or tpu)

JAX ?= cpu
PYTHON ?= python3
VENV ?= .venv
ARGS ?=

READY := $(VENV)/.ready-$(JAX)
PY := $(VENV)/bin/python

.PHONY: compare test test-all lint types wheel check clean help

help:
	@sed -n 's/^#   //p' Makefile

$(READY): locks/$(JAX).txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed and $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	@echo "setting up $(VENV) ($(JAX)): once, about a minute"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes --only-binary :all: -r locks/$(JAX).txt
	@touch $@

compare: $(READY)
	@$(PY) -m train compare $(ARGS)

test: $(READY)
	@$(PY) -m pytest -n 2 --dist worksteal -m 'not slow' $(ARGS)

test-all: $(READY)
	@$(PY) -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(READY)
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .

types: $(READY)
	@$(PY) -m mypy

wheel: $(READY)
	@bash tests/wheel.sh $(PY)

check: lint types test wheel

clean:
	rm -rf .venv* cache dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
