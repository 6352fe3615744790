# Everything a fresh machine needs is Python >= 3.11 and make. A C compiler makes it faster, nothing more.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml hatch_build.py $(shell find aquasim calibrate runtime scenarios -name '*.py' -o -name '*.toml' -o -name '*.json' -o -name '*.[ch]' -o -name '*.html' -o -name '*.css' -o -name '*.js')
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test plain check bench peer browser cluster clean

demo: $(VENV)/installed
	$(BIN)/aquasim compare burst-h100

# The suite runs over the package as it is installed, compiled where a C compiler is at hand; two processes, by file.
test: $(VENV)/dev
	$(BIN)/pytest -q -n 2 --dist loadfile

# Core and simulator once more over the plain source.
plain: $(VENV)/dev
	$(BIN)/python -m pytest tests/core tests/sim -m 'not slow'

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev
	cd tests/bench && ../../$(BIN)/python __main__.py

peer: $(VENV)/dev
	tests/peer/setup.sh .venv-peer
	$(BIN)/pytest tests/peer -m peer

# Pages in Debian's Chromium, headless: they draw, answer and load nothing. Without it, and without root, they are skipped.
browser: $(VENV)/dev
	command -v chromedriver > /dev/null || ! command -v apt-get > /dev/null || test "$$(id -u)" != 0 || \
	  { apt-get update -q && apt-get install -y -q chromium chromium-driver; } || echo "no Chromium: its tests are skipped"
	$(PIP) 'selenium>=4.20,<5' # as in the extra `browser`, without building the package again
	$(BIN)/pytest tests/browser -m browser

# Sweeps on a real Ray cluster: two nodes on this machine, which are gone afterwards.
cluster: $(VENV)/dev
	$(PIP) 'ray>=2.30' # as in the extra `cluster`
	$(BIN)/pytest tests/cluster -m cluster

$(VENV)/python:
	$(PYTHON) -c 'import sys; sys.exit("aquasim needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/python $(SOURCES)
	$(PIP) .
	touch $@

# Tests need torch on the CPU only. TORCH_INDEX=https://download.pytorch.org/whl/cpu spares Linux several GB of CUDA.
$(VENV)/torch: $(VENV)/python
	$(PIP) torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	touch $@

$(VENV)/dev: $(VENV)/torch $(SOURCES)
	$(PIP) '.[dev]'
	touch $(VENV)/installed $@

clean:
	rm -rf $(VENV) .venv-peer build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
