# `make` lists the targets. All that is needed is make and a Python of at least 3.11.

# The first Python that runs (a pyenv shim may not), is new enough and can make a venv.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	>/dev/null 2>&1; then echo $$python; break; fi; done)
PYTEST_ARGS ?= -n 2 --dist worksteal
SEED ?= 42
DEMO ?= runs/demo
AGAIN = $(if $(wildcard $(DEMO)/config.json), --resume)

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# What the demo needs, and what the tests need besides.
READY := $(VENV)/.ready
INSTALLED := $(VENV)/.installed
TYPED := build/types

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow lint types check docs build clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

venv: $(INSTALLED) ## make .venv and install diffsurrogate into it, editable, with its tools

$(READY): pyproject.toml constraints.txt
	@$(BIN)/python -c '' 2>/dev/null || { test -n "$(PYTHON)" && \
	echo "making $(VENV) with $(PYTHON)" && "$(PYTHON)" -m venv --clear $(VENV); } || \
	{ echo "No working Python >= 3.11 with venv found; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PIP_INSTALL) --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(PIP_INSTALL) --constraint constraints.txt --editable ".[vmas]"
	@touch $@

$(INSTALLED): $(READY)
	$(PIP_INSTALL) --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: $(READY) ## train SHAC++ on the paper's Dispersion with 1 agent, into runs/demo (SEED=42)
	$(BIN)/diffsurrogate train shac++ paper/dispersion --agents 1 --seed $(SEED) --eval-every 5 --out $(DEMO)$(AGAIN)

test: venv ## run the tests, less the slow ones
	$(BIN)/python -m pytest -q $(PYTEST_ARGS)

test-slow: venv ## run the longer learning runs, and the wheel in an environment of its own
	$(BIN)/python -m pytest -q $(PYTEST_ARGS) -m slow

lint: venv ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# In the checkout, wrappers/ and algorithms/ lie beside the package they are installed into; mypy
# gets a tree of links that looks as installed, with the scripts beside it.
types: venv ## mypy, strict: the package, the examples and the benchmarks
	@rm -rf $(TYPED) && mkdir -p $(TYPED)/diffsurrogate
	@ln -s "$(CURDIR)"/diffsurrogate/* "$(CURDIR)/wrappers" "$(CURDIR)/algorithms" \
	$(TYPED)/diffsurrogate/
	@ln -s "$(CURDIR)"/examples/*.py "$(CURDIR)"/examples/benchmarks/*.py $(TYPED)/
	cd $(TYPED) && "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml" \
	--cache-dir "$(CURDIR)/.mypy_cache" .

check: lint types test ## the whole ritual before a commit

docs: venv ## the documentation into build/docs, warnings as errors; open build/docs/index.html
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -d build/doctrees . build/docs

build: venv ## wheel and sdist into dist/, and a check of what is in them
	@rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/python .ci/check_dist.py

clean: ## remove what make made, less .venv and runs/
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
