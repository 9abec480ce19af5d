# A newcomer needs python3 (3.11 or newer) and make; everything else comes from here. `make` alone lists the targets.
PYTHON ?= python3
WORKERS ?= auto
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.installed
COMPILE := $(BIN)/uv pip compile --universal --no-header --no-annotate --quiet
HASHED := $(COMPILE) --constraint constraints.txt --generate-hashes

.DEFAULT_GOAL := help
.PHONY: help install system demo test lint format docs lock bench soak chaos fuzz clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

install: $(STAMP) ## the product and the development tools in .venv, as locked

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one: make PYTHON=python3.13" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a minute or two, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

system: ## the real servers that tests drive (Debian packages; needs root)
	@sh tests/needs.sh

demo: install ## an asynchronous export, end to end, against the stand-in (ARGS=--serve keeps it running)
	@$(BIN)/vb365-async-proxy demo $(ARGS)

test: install system lint ## lint, types and the whole suite
	$(BIN)/pytest -n $(WORKERS) -m "not slow" -ra --cov --cov-report=term $(ARGS)

lint: install ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## let ruff lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install ## write config/proxy.toml and the tables of docs/configuration.md anew from the schema
	$(BIN)/python -m proxy.config.text config/proxy.toml docs/configuration.md

lock: install ## resolve constraints.txt and the three .lock files again
	$(COMPILE) pyproject.toml --all-extras --upgrade --output-file constraints.txt
	$(HASHED) pyproject.toml --all-extras --output-file requirements.lock
	$(HASHED) pyproject.toml --output-file requirements-runtime.lock
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(HASHED) - --output-file requirements-build.lock

bench: install ## what docs/performance.md claims, measured
	$(BIN)/python -m benchmarks $(ARGS)

soak: install system ## long-lived streams, on demand
	$(BIN)/pytest -m slow -ra tests/http tests/e2e tests/balancers $(ARGS)

chaos: install system ## faults by the hundred, on demand
	$(BIN)/pytest -m slow -ra tests/faults $(ARGS)

fuzz: install ## property tests with many more examples, on demand
	$(BIN)/pytest --hypothesis-profile=fuzz --timeout=0 -n $(WORKERS) -ra tests/core tests/smuggling/test_fuzz.py tests/transparency/test_generated.py $(ARGS)

clean: ## remove everything that was made here, .venv included
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
