# One line a task; each sets up what it needs. The environment is rebuilt when pyproject.toml changes.
.DEFAULT_GOAL := help
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	command -v $$python >/dev/null 2>&1 && $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test check format guarantees bench-store bench-pipeline bench-postgres bench-channels bench-domain bench-patterns bench-scale clean

help:
	@echo "make demo            a shop with simulated customers, for ten seconds"
	@echo "make test            every proof in this repository"
	@echo "make check           format, lint, types, the import contract, the limits on size"
	@echo "make bench-store     the log against its peers and the raw limit"
	@echo "make bench-pipeline  consumers against the raw limit"
	@echo "make bench-postgres  the log on PostgreSQL against its peer and the raw limit"
	@echo "make bench-channels  five brokers against their raw clients and FastStream"
	@echo "make bench-domain    deciding, views and queries against their peer and the raw limit"
	@echo "make bench-patterns  patterns and windows against Flink CEP, Esper, Bytewax and Quix"
	@echo "make bench-scale     many producers, many processes; a picture"
	@echo "make guarantees      run the contracts on every backend and broker, and write what each gives into docs"
	@echo "make format          write the format that make check wants"
	@echo "make clean           remove the environment and everything that was made"

$(VENV)/ready: pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or later is needed; on Debian: apt install python3 python3-venv" >&2; exit 1; fi
	@echo "Making an environment in $(VENV) with $(PYTHON) ..."
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || { echo "Making it failed; on Debian: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/bench-ready: $(VENV)/ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@touch $@

demo: $(VENV)/ready
	@$(BIN)/ensue demo shop --seconds 10

test: $(VENV)/ready
	@$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/tidy

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

guarantees: $(VENV)/ready
	@ENSUE_REQUIRE_SERVICES=1 $(BIN)/python -m tests.tidy.guarantees

bench-store: $(VENV)/bench-ready
	@$(BIN)/python -m bench.store

bench-pipeline: $(VENV)/bench-ready
	@$(BIN)/python -m bench.pipeline

bench-postgres: $(VENV)/bench-ready
	@$(BIN)/python -m bench.postgres

bench-channels: $(VENV)/bench-ready
	@$(BIN)/python -m bench.channels

bench-domain: $(VENV)/bench-ready
	@$(BIN)/python -m bench.domain

bench-patterns: $(VENV)/bench-ready
	@$(BIN)/python -m bench.patterns

bench-scale: $(VENV)/bench-ready
	@$(BIN)/python -m bench.scale

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
