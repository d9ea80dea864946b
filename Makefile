PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-all lint install clean

demo: $(VENV)/.run  ## Fit a VAE to the bundled images and draw what it learned, in under 8 minutes.
	$(BIN)/ladle fit fashion-mnist-mini --minutes 3 --out $(DEMO) --resume
	$(BIN)/ladle evidence $(DEMO) --samples 100
	@echo "Look at $(DEMO)/report.html"

test: $(VENV)/.dev  ## Run the tests, except those marked slow.
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.dev  ## Run all tests.
	$(PYTEST)

lint: $(VENV)/.dev  ## Run the linter and the type checker.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.run  ## Make .venv with ladle in it.

$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Ladle needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing Ladle and torch into $(VENV) (a minute or two)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) --editable '.[dev]'
	@touch $@

clean:  ## Remove the environment and what the demo wrote.
	rm -rf $(VENV) $(DEMO) build .pytest_cache .mypy_cache .ruff_cache
