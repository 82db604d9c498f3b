# Everything works on a machine that has only Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: study test compare slow numerics lint types format clean
.DEFAULT_GOAL := study

# A stamp for each extra: installing again only when pyproject.toml changed.
$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.study: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[study]'
	touch $@

$(VENV)/.dev: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# PyTorch first and alone, so that a small build for CPUs is taken where there is one.
$(VENV)/.compare: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[compare]'
	touch $@

study: $(VENV)/.study  ## clipping and schedules, measured on small problems; ARGS="--quick" passes options
	$(BIN)/stabjax study $(ARGS)

test: $(VENV)/.dev  ## the default tests; ARGS="-k clip" passes options
	$(BIN)/python -m pytest -n 2 $(ARGS)

compare: $(VENV)/.compare  ## schedules against PyTorch and transformers
	$(BIN)/python -m pytest -n 2 -m 'slow or not slow' $(ARGS) \
	  tests/compat/test_compat_torch_installed.py tests/compat/test_compat_huggingface_installed.py

slow: $(VENV)/.dev  ## what takes longer
	$(BIN)/python -m pytest -n 2 -m slow $(ARGS)

# Numerics again, optimised as users have it; the other tests compile with less.
numerics: $(VENV)/.dev
	XLA_FLAGS=--xla_backend_optimization_level=3 $(BIN)/python -m pytest -n 2 $(ARGS) \
	  tests/test_norms.py tests/clipping/test_clipping.py tests/clipping/test_clipping_derivatives.py \
	  tests/clipping/test_clipping_like_optax.py tests/clipping/test_transformations.py tests/train

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)
