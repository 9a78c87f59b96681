# make demo   the paper's method in two minutes      make test   lint has its own target
# Each target makes the virtual environment .venv-make when it is missing or pyproject.toml changed (.venv is uv's).
PYTHON ?= python3
VENV := .venv-make
BIN := $(VENV)/bin

.PHONY: demo test lint format wheel-check clean

demo: $(VENV)/installed
	$(BIN)/python experiments/demo.py

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Builds the package, installs it in a fresh environment and runs it there.
wheel-check: $(VENV)/installed
	$(BIN)/python -m pytest -m slow tests/end_to_end/test_wheel.py

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed, $(PYTHON) is older: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@echo "installing torch and the rest into $(VENV), which takes some minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev]"
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # as pip does with one core, in over a minute
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
