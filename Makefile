# make demo: train and run a ControlNet on this machine. make test: all but the slow tests. make check: lint and these.
# The environment is made once, in .venv, and again when what it is made of changes.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN := .venv/bin/python
PYTEST_ARGS ?=
DEMO_ARGS ?=

.PHONY: demo test test-slow lint check clean-venv

demo: .venv/installed
	$(RUN) tool_demo.py $(DEMO_ARGS)

test: .venv/installed
	$(RUN) -m pytest $(PYTEST_ARGS)

test-slow: .venv/installed
	$(RUN) -m pytest -m slow $(PYTEST_ARGS)

lint: .venv/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

check: lint test

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv: some minutes, a few gigabytes with PyTorch."
	$(RUN) -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean-venv:
	rm -rf .venv
