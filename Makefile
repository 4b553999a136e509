# Deep MR. `make help` lists what can be done.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install run test unit lint docs clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

install: $(STAMP) ## Make .venv from the lock, with everything in it

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

run: $(STAMP) ## Run the shipped example on this machine
	$(BIN)/snakemake --profile profiles/local $$(test -t 2 && echo --logger rich)
	@echo "Report: $(CURDIR)/results/report.html"

test: lint ## Lint, then run all tests with coverage
	$(BIN)/python -m pytest --cov --cov-report=term --cov-fail-under=90

unit: $(STAMP) ## Run only the fast tests
	$(BIN)/python -m pytest tests/unit

lint: $(STAMP) ## Check style, types, layers, the workflow and the generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakemake --lint
	$(BIN)/python -m deepmr.config_reference --check

docs: $(STAMP) ## Write config/README.md anew from the schema
	$(BIN)/python -m deepmr.config_reference

clean: ## Remove the results of the shipped example
	rm -rf results
