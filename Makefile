# make demo          a photograph through a Vulkan device, then a trained network that finds text
# make test          the test suite, on every Vulkan device found, in minutes
# make test-all      the same, and what is exhaustive: sweeps over every tile and type, and fuzz
# make test-drivers  make test-all on each of DRIVERS, software drivers that it fetches
# make coverage      make test, and which lines and branches of src/ it does not reach: 5 % at most
# make lint          ruff, mypy in strict mode, and known vulnerabilities of what CI installs
# make requirements  pin what CI installs anew, with hashes
# make shaders       compile what changed in shaders/
#
# Each makes the virtual environment and installs pwconv into it first, and a Vulkan driver where the
# machine has none. PYTHON=python3.12 make … chooses another interpreter, PYTEST='-k linear' make …
# gives pytest arguments.

PYTHON ?= python3
PYTEST ?=
# As many processes as processors, the next test to whichever is free.
PROCESSES ?= -n auto --dist worksteal
DRIVERS ?= lavapipe-bookworm lavapipe-sid swiftshader
VENV := .venv
BIN := $(VENV)/bin
SHADERS := $(wildcard shaders/* shaders/include/* build_tools/*.py)

.PHONY: demo test test-all test-drivers coverage lint requirements shaders clean

demo: $(VENV)/installed-demo
	@build_tools/ensure_vulkan.sh $(BIN)/python
	$(BIN)/python examples/photograph.py
	$(BIN)/python examples/find_text.py

# On a CPU most of the time goes into compiling kernels that run once: LLVM does not optimize them, and
# vectors of four lanes compile faster than wider ones.
test: $(VENV)/installed-test
	@build_tools/ensure_vulkan.sh $(BIN)/python --validation
	GALLIVM_PERF=nopt LP_NATIVE_VECTOR_WIDTH=128 $(BIN)/python $(UNDER) -m pytest $(PROCESSES) $(PYTEST)

test-all: $(VENV)/installed-test
	@build_tools/ensure_vulkan.sh $(BIN)/python --validation
	$(BIN)/python -m pytest $(PROCESSES) --exhaustive $(PYTEST)

test-drivers: $(VENV)/installed-test
	$(BIN)/python tests/drivers/run.py $(DRIVERS) --pytest $(PROCESSES) --exhaustive $(PYTEST)

coverage: $(VENV)/installed-test
	@$(BIN)/coverage erase
	@$(MAKE) --no-print-directory test UNDER='-m coverage run'
	@$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(VENV)/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python build_tools/audit.py .ci/requirements.txt

requirements: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --extra lint --all-build-deps --generate-hashes --allow-unsafe \
		--strip-extras --no-emit-find-links --no-emit-index-url --no-header \
		--output-file .ci/requirements.txt pyproject.toml

shaders: $(VENV)/installed-test
	$(BIN)/python build_tools/compile_shaders.py

clean:
	rm -rf $(VENV) .drivers src/pwconv/spirv

# An editable install compiles the shaders too; it is repeated when one of them has changed.
$(VENV)/installed-%: pyproject.toml $(SHADERS) | $(VENV)/bin/python
	@echo "installing pwconv and what '$*' needs into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
