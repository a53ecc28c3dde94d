# make demo    a photograph through a Vulkan device
# make test    the test suite, on every Vulkan device found
# make lint    ruff, and mypy in strict mode
# make shaders compile what changed in shaders/
#
# Each makes the virtual environment and installs pwconv into it first, and a Vulkan driver where the
# machine has none. PYTHON=python3.12 make … chooses another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHADERS := $(wildcard shaders/* shaders/include/* build_tools/*.py)

.PHONY: demo test lint shaders clean

demo: $(VENV)/installed-demo
	@build_tools/ensure_vulkan.sh $(BIN)/python
	$(BIN)/pwconv demo

test: $(VENV)/installed-test
	@build_tools/ensure_vulkan.sh $(BIN)/python --validation
	$(BIN)/python -m pytest

lint: $(VENV)/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

shaders: $(VENV)/installed-test
	$(BIN)/python build_tools/compile_shaders.py

clean:
	rm -rf $(VENV) src/pwconv/spirv

# An editable install compiles the shaders too; it is repeated when one of them has changed.
$(VENV)/installed-%: pyproject.toml $(SHADERS) | $(VENV)/bin/python
	@echo "installing pwconv and what '$*' needs into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
