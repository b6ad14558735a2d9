# Everything from a bare Debian 12 or 13 with python3, make and apt. `make help` lists the targets.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-input
UV := $(firstword $(wildcard $(BIN)/uv) uv)

.DEFAULT_GOAL := help
.PHONY: help regress test test-fast image lock clean system

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

regress: $(STAMP) ## look at this machine, then run every scenario and judge it (ARGS="--scenario add" passes on)
	@$(BIN)/dcd doctor || true # what it misses, ARGS may bring; else the emulator stands in, loudly
	$(BIN)/dcd regress --backend auto $(ARGS)

test: $(STAMP) ## lint, types, layers and every test, those in a VM included (ARGS="tests/test_wire.py" passes on)
	$(BIN)/python -m pytest $(ARGS)

test-fast: $(STAMP) ## the same without VMs and slow tests
	$(BIN)/python -m pytest -m "not vm and not slow" $(ARGS)

image: $(STAMP) ## fetch and build the guest image and the private QEMU, if they are not there
	$(BIN)/dcd image build $(ARGS)

lock: ## requirements.lock anew from pyproject.toml (needs uv)
	echo "setuptools>=77" | $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --extra dev --output-file requirements.lock \
	    --custom-compile-command "make lock" pyproject.toml -

clean: ## remove what was made in this directory (the image cache stays: dcd image rm)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find dcdbackend images tests -name __pycache__ -type d -prune -exec rm -rf {} +

system:
	@.ci/system $(PYTHON)

# Made anew when the lock or the project changes; from the lock alone, every file checked by its hash.
$(STAMP): requirements.lock pyproject.toml | system
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) --require-hashes --requirement requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@
