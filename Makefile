# Every target does its own set-up first (scripts/bootstrap); it is done once, and again when the lock changes.
BIN := .venv/bin

.PHONY: help setup demo test unit coverage lint bench lock

help:
	@echo "make demo    two hospitals' extracts into a real FHIR server, checked (ARGS=--keep stays up)"
	@echo "make test    linters, types, import rules and all tests (PYTEST='-k name' chooses)"
	@echo "make unit    the tests that need no server: a minute or two (PYTEST= as above)"
	@echo "make coverage  branches covered, by package, while all tests run"
	@echo "make bench   rows a second of each layer"
	@echo "make lint    linters, types, import rules, known vulnerabilities, secrets"
	@echo "make lock    resolve pyproject.toml into requirements.lock anew (needs uv)"

setup:
	@scripts/bootstrap

demo: setup
	@$(BIN)/fhir-writeback demo $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	scripts/supply

test: lint
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile $(PYTEST)

unit: setup
	$(BIN)/pytest -m unit -n auto --maxprocesses 4 --dist loadfile $(PYTEST)

coverage: setup
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --cov --cov-branch --cov-report=term:skip-covered $(PYTEST)

bench: setup
	@$(BIN)/python -m benchmarks $(ARGS)

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --all-extras pyproject.toml -o requirements.lock
