# Everything a fresh machine needs is Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench peer clean

demo: $(VENV)/installed
	$(BIN)/aquasim compare burst-h100

test: $(VENV)/dev
	$(BIN)/python -m pytest

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev
	$(BIN)/python -m tests.bench

peer: $(VENV)/dev
	tests/peer/setup.sh .venv-peer
	$(BIN)/python -m pytest tests/peer -m peer

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("aquasim needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-peer build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
