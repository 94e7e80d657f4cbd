# Everything needs python3 (3.11 or newer, with venv) and make, and puts what it installs into $(VENV).
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV ?= .venv
RUN := $(VENV)/bin/python -m
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo bench test chaos soak lint types check format pins clean

help: ## Show this list.
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

setup: $(READY) ## Set up $(VENV) with the package and the pinned tools.

$(READY): pyproject.toml requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer on PATH: install one, or name it: make PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(RUN) pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

demo: $(READY) ## Show the main job on a throw-away home; takes about 15 seconds.
	@$(VENV)/bin/python examples/demo.py

bench: $(READY) ## Measure detection and cost; takes about 35 minutes; ARGS="--no-peers" for less.
	$(VENV)/bin/python benchmarks/detection.py $(ARGS)
	$(VENV)/bin/python benchmarks/idle.py $(ARGS)
	$(VENV)/bin/python benchmarks/wrap.py $(ARGS)
	$(VENV)/bin/python benchmarks/scale.py $(ARGS)
	$(VENV)/bin/python benchmarks/calls.py $(ARGS)

test: $(READY) ## Run the tests; ARGS="-k word" for some of them.
	$(RUN) pytest -n 3 --dist loadfile $(ARGS)

chaos: $(READY) ## Attack everything at once for 150 seconds and judge every run; ARGS="--seconds 60 --seed 7".
	PYTHONPATH=tests $(RUN) chaos $(ARGS)

soak: $(READY) ## Load the daemon for 20 minutes and see that nothing grows; ARGS="--minutes 5".
	PYTHONPATH=tests $(RUN) chaos.soak $(ARGS)

lint: $(READY) ## Check style and format.
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: $(READY) ## Check types.
	$(RUN) mypy

check: lint types test ## All of it.

format: $(READY) ## Format, and mend what can be mended.
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

pins: ## Pin the newest development tools anew (needs uv).
	{ sed -n 1p requirements-dev.txt; \
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --upgrade --no-header --no-annotate --quiet; } >requirements-dev.new
	mv requirements-dev.new requirements-dev.txt

clean: ## Remove what was set up and built.
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
