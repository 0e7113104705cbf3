# Everything runs in .venv, made by `make install`; `make ci` needs none of it.
BIN := .venv/bin

.PHONY: install test quick lint format bench docs ci

install: ## the package, editable, with tests and linters
	python3 -m venv .venv
	$(BIN)/pip install -e '.[dev]'

test: ## all tests
	$(BIN)/python -m pytest

quick: ## the tests that need neither seconds nor a package index
	$(BIN)/python -m pytest -q -m 'not slow'

lint: ## what CI checks beside the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: ## put the code in its shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: ## CPU time of a command against the bare interpreter
	$(BIN)/python tests/benchmarks/cold_start.py --check
	$(BIN)/python tests/benchmarks/plan_speed.py --check

docs: ## renew docs/cli.md, the JSON Schemas and the catalog's generated files
	$(BIN)/python -m moeplan.cli.docs --write
	$(BIN)/python -m moeplan.readers.catalog --write

ci: ## exactly what CI runs, on a copy
	.ci/run
