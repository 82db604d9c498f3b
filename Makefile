# Everything works on a machine that has only Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: study test compare slow numerics docs conformance dist oldest newest environments lint types format \
  notes clean
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

$(VENV)/.docs: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

study: $(VENV)/.study  ## clipping and schedules, measured on small problems; ARGS="--quick" passes options
	$(BIN)/stabjax study $(ARGS)

test: $(VENV)/.dev  ## the default tests; ARGS="-k clip" passes options
	$(BIN)/python -m pytest -n 2 --junitxml $(VENV)/test.xml $(ARGS)

compare: $(VENV)/.compare  ## schedules against PyTorch and transformers
	$(BIN)/python -m pytest -n 2 -m 'slow or not slow' $(ARGS) \
	  tests/compat/test_compat_torch_installed.py tests/compat/test_compat_huggingface_installed.py

slow: $(VENV)/.dev  ## what takes longer
	$(BIN)/python -m pytest -n 2 -m slow --junitxml $(VENV)/slow.xml $(ARGS)

docs: $(VENV)/.docs  ## the site, in site/index.html
	$(BIN)/python -m sphinx --jobs 2 --fail-on-warning --keep-going --quiet docs site

conformance: $(VENV)/.dev  ## docs/conformance.md, after `make test slow`
	$(BIN)/python docs/conformance.py

# Numerics again, optimised as users have it; the other tests compile with less.
numerics: $(VENV)/.dev
	XLA_FLAGS=--xla_backend_optimization_level=3 $(BIN)/python -m pytest -n 2 $(ARGS) \
	  tests/test_norms.py tests/clipping/test_clipping.py tests/clipping/test_clipping_derivatives.py \
	  tests/clipping/test_clipping_like_optax.py tests/clipping/test_transformations.py \
	  tests/train/test_train.py tests/train/test_convolutions.py

# The newest Python: by its name, or the one pyenv keeps (its shim answers to no version
# that is not chosen). Empty where there is none.
PYTHON_NEWEST = $(shell python3.13 -c 'import sys; print(sys.executable)' 2>/dev/null || \
  PYENV_VERSION=$$(pyenv versions --bare 2>/dev/null | grep '^3\.13' | tail -n 1) \
  python3.13 -c 'import sys; print(sys.executable)' 2>/dev/null)

# What leans most on JAX, Optax and Flax.
CORE := tests/test_norms.py tests/test_metrics.py tests/clipping/test_clipping.py \
  tests/clipping/test_transformations.py tests/guards \
  tests/schedules/test_schedules.py tests/train tests/sweep/test_sweep.py tests/sweep/test_space.py \
  tests/sweep/test_lanes.py tests/sweep/test_fusion.py tests/sweep/test_layouts.py

.venv-oldest/.dev: pyproject.toml .ci/floors.py
	$(PYTHON) -m venv .venv-oldest
	$(PYTHON) .ci/floors.py > .venv-oldest/floors.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check \
	  -e '.[dev]' -c .venv-oldest/floors.txt
	touch $@

.venv-newest/.dev: pyproject.toml
	$(PYTHON_NEWEST) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check \
	  --upgrade --upgrade-strategy eager -e '.[dev]'
	touch $@

environments: .venv-oldest/.dev
	$(if $(PYTHON_NEWEST),$(MAKE) .venv-newest/.dev)

# Built twice, from the tree and from the unpacked sdist: the same bytes.
dist: $(VENV)/.dev  ## a wheel and an sdist, in dist/
	rm -rf dist build && mkdir -p build/empty build/sources
	$(BIN)/python -m hatchling build -d dist
	tar xzf dist/*.tar.gz -C build/sources --strip-components 1 --exclude PKG-INFO
	cd build/sources && ../../$(BIN)/python -m hatchling build -d ../again
	cmp dist/*.whl build/again/*.whl
	cmp dist/*.tar.gz build/again/*.tar.gz

# Tests what users install: the wheel, from a directory without the sources.
WHEEL_TESTS = $(1)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --force-reinstall --no-deps dist/*.whl && \
	cd build/empty && ../../$(1)/bin/python -m pytest -n 2 -p no:cacheprovider \
	  -c ../../pyproject.toml --rootdir ../.. $(addprefix ../../,$(CORE)) $(ARGS)

oldest: .venv-oldest/.dev dist  ## the oldest versions that pyproject.toml allows
	$(call WHEEL_TESTS,.venv-oldest)

newest:  ## the newest versions, on Python 3.13
	@if [ -z "$(PYTHON_NEWEST)" ]; then \
	  echo "no Python 3.13: the newest versions are not tested"; \
	else \
	  $(MAKE) .venv-newest/.dev && \
	  $(MAKE) dist && $(MAKE) .newest; \
	fi

.newest:
	$(call WHEEL_TESTS,.venv-newest)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notes:  ## release notes of VERSION, from the changelog
	@awk '/^## / { shown = ($$2 == "$(or $(VERSION),Unreleased)") } shown' CHANGELOG.md

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest dist build site docs/api
