# Every target sets up what it needs: a private environment in .venv, locked by version and hash.
#
#   make compare              train every optimizer on the embedded text and write the report
#   make compare ARGS=--quick the same in about two minutes
#   make test                 the test suite
#   make test-library         that of the library alone: its tests and doctests
#   make test-floor           the same on the oldest JAX that the library supports
#   make torture              kill, damage and fill up for real: every promise of docs/train/faults.md
#   make fuzz                 feed every reader of files with broken ones: an hour
#   make bench                all benchmarks (CPU; wants a quiet machine)
#   make bench-gpu            the same on a GPU, into results/gpu: at most 25 minutes
#   make bench-torch          our train step beside PyTorch's
#   make bench-h100           count what the optimizers move on an H100, without one
#   make bench-h100-step      the same of a whole train step of 134M parameters
#   make slurm-test           two processes on a SLURM cluster of this machine (root, Debian)
#   make study                tune everything, then compare: about two hours on two cores
#   make results-pages        the tables of README and docs/, from results/
#   make docs                 the documentation, into docs/_build/html; runs the notebooks if
#                             anything that they call has changed: about four minutes
#   make docs-check           and look at every page in Chromium, light and dark, wide and narrow
#   JAX=cuda12 make compare   on a GPU (cpu, cuda12, cuda13 or tpu)

JAX ?= cpu
PYTHON ?= python3
VENV ?= .venv
ARGS ?=

READY := $(VENV)/.ready-$(JAX)
PY := $(VENV)/bin/python

.PHONY: compare test test-all test-library test-floor torture fuzz lint types wheel bench bench-gpu bench-torch bench-h100 bench-h100-step slurm-test study results-pages docs docs-check check clean help

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

study: $(READY)
	@$(PY) -m train study --workers 2 $(ARGS)

test: $(READY)
	@$(PY) -m pytest -n 2 --dist worksteal -m 'not slow and not torture' $(ARGS)

test-all: $(READY)
	@$(PY) -m pytest -n 2 --dist worksteal -m 'not torture' $(ARGS)

test-library: $(READY)
	@$(PY) -m pytest -n 2 --dist worksteal -m 'not slow' optax_strat tests/optax_strat $(ARGS)

test-floor:
	@$(MAKE) --no-print-directory test-library JAX=floor VENV=$(VENV)-floor

torture: $(READY)
	@$(PY) -m pytest -n 2 --dist worksteal -m 'torture or faults' $(ARGS)

# Fuzzing needs a package that has wheels for few versions of Python; it lies beside the environment.
FUZZ := $(VENV)-fuzz
$(FUZZ)/.ready: $(READY)
	@$(PY) -m pip --disable-pip-version-check install --quiet --no-deps --only-binary :all: --upgrade --target $(FUZZ) atheris==3.0.0
	@touch $@

fuzz: $(FUZZ)/.ready
	@PYTHONPATH=$(FUZZ) $(PY) -m tests.fuzz $(ARGS)

lint: $(READY)
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .

types: $(READY)
	@$(PY) -m mypy

wheel: $(READY)
	@bash tests/wheel.sh $(PY)

# PyTorch is a rival and no dependency: where it is installed, beside the environment, it is timed.
TORCH := $(VENV)-torch
$(TORCH)/.ready: $(READY)
	@$(PY) -m pip --disable-pip-version-check install --quiet --upgrade --target $(TORCH) torch==2.13.0
	@touch $@

bench: $(READY)
	@PYTHONPATH=$(wildcard $(TORCH)) $(PY) -m benchmarks --output-folder results/cpu $(ARGS)

bench-gpu: $(READY)
	@PYTHONPATH=$(wildcard $(TORCH)) $(PY) -m benchmarks --device gpu --output-folder results/gpu $(ARGS)

bench-torch: $(TORCH)/.ready
	@PYTHONPATH=$(TORCH) $(PY) -m benchmarks.train_step $(ARGS)

# JAX's CUDA plugin compiles for a described GPU; four wheels do, beside the environment.
H100 := $(VENV)-h100
$(H100)/.ready: locks/h100.txt $(READY)
	@$(PY) -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes --only-binary :all: --upgrade --target $(H100) -r locks/h100.txt
	@touch $@

bench-h100: $(H100)/.ready
	@PYTHONPATH=$(H100) $(PY) -m benchmarks.h100_traffic $(ARGS)

bench-h100-step: $(H100)/.ready
	@PYTHONPATH=$(H100) $(PY) -m benchmarks.step_traffic $(ARGS)

slurm-test: $(READY)
	@bash tests/slurm.sh $(abspath $(PY))

results-pages: $(READY)
	@$(PY) -m train publish

docs: $(READY)
	@$(PY) -m sphinx --fail-on-warning --keep-going --nitpicky --fresh-env --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

docs-check: docs
	@$(PY) docs/_checks/pages.py docs/_build/html $(ARGS)

check: lint types test wheel

clean:
	rm -rf .venv* cache dist build docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
