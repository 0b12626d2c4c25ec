PYTHON ?= python3
BACKEND ?= jax tensorflow torch
ARGS ?=
# Further arguments of pip; on Linux, "--extra-index-url https://download.pytorch.org/whl/cpu" spares torch's CUDA packages.
PIP_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# pip leaves the compiling to the first import: many modules are never imported, and many processes import the others.
export PYTHONDONTWRITEBYTECODE :=
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS)
DEMO_READY := $(VENV)/.demo-ready
TEST_READY := $(VENV)/.test-ready

.PHONY: help demo test slow check report wheel clean

help:  ## Shows this help.
	@echo "make TARGET [BACKEND=jax|tensorflow|torch] [ARGS=...]"
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' Makefile | expand -t 10

demo: $(DEMO_READY)  ## Trains a small LM with each residual join on real text (JAX); ARGS="--help" explains.
	$(BIN)/python -m applications.tiny_lm $(ARGS)

# JAX's programs in tests are small and run a few times: LLVM's optimizations take longer than they save, and many
# processes make the same programs. So do its fusion emitters and its code in parallel parts.
test wheel: export JAX_DISABLE_MOST_OPTIMIZATIONS = true
test wheel: export XLA_FLAGS = --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1
test wheel: export JAX_COMPILATION_CACHE_DIR = $(CURDIR)/$(VENV)/jax-cache
test wheel: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS = 0

test: $(TEST_READY) wheel  ## Runs the tests on JAX, TensorFlow and PyTorch, or on BACKEND.
	@for backend in $(BACKEND); do \
		echo "== $$backend"; \
		KERAS_BACKEND=$$backend TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS) || exit 1; \
	done

slow: override ARGS += -m slow
slow: test  ## Runs the tests that take too long for every day, on all or on BACKEND.

wheel: $(TEST_READY)  ## Builds the wheel, installs it elsewhere, compares its files and runs a few tests against it.
	bash tests/wheel.sh $(BIN)/python

check: $(TEST_READY)  ## Lints, checks types, and compares README with the recorded results.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m benchmarks.report --check

report: $(TEST_READY)  ## Makes the tables and plots of all documents anew from the recorded results.
	$(BIN)/python -m benchmarks.report

clean:  ## Removes the environment and what was built.
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(DEMO_READY): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable ".[jax,applications]"
	@touch $@

$(TEST_READY): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable ".[jax,tensorflow,torch,lm,images,text,applications,dev]"
	@touch $@ $(DEMO_READY)
