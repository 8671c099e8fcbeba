# The same recipes for people and for CI. `make up` and `make test` need Python 3.11+, make and a package index.
PYTHON ?= python3
VENV ?= .venv
PORT ?= 8080
# Test processes at once; each takes up to 2 GB.
JOBS ?= 2
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test
NATIVE := setup.py $(wildcard src/headrace/kernels/native/*)

.PHONY: up test check fmt unit slow bench wheel help clean

help:  ## list the recipes
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

up: $(RUN_STAMP)  ## install into .venv and serve the bundled model on 127.0.0.1:8080
	@$(BIN)/headrace serve --no-auth --port $(PORT)

test: check unit  ## everything CI runs: linters, then tests

check: $(TEST_STAMP)  ## ruff, pyright strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

unit: $(TEST_STAMP)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --durations=15

slow: $(TEST_STAMP)  ## the minutes-long tests
	$(BIN)/python -m pytest -q -m slow --timeout=1800

fmt: $(TEST_STAMP)  ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(RUN_STAMP)  ## time to first token and throughput of the bundled model on this machine
	$(BIN)/headrace bench latency
	$(BIN)/headrace bench startup

wheel: | $(BIN)/python  ## build dist/*.whl, native kernels for all instruction sets included
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist .
	@for wheel in dist/*.whl; do $(BIN)/python -m zipfile -l $$wheel | grep -q _native_ || { echo "$$wheel has no native kernels: a C++20 compiler is needed" >&2; exit 1; }; done

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "headrace needs Python 3.11+; set PYTHON=python3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): pyproject.toml $(NATIVE) | $(BIN)/python
	@echo "Installing headrace into $(VENV) (once; torch is the large part) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(TEST_STAMP): pyproject.toml $(NATIVE) | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(RUN_STAMP)

clean:  ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis src/*.egg-info
