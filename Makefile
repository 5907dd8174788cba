# Everything from a fresh clone, with nothing but Python 3.11-3.13 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test lint types pytest test-slow chaos bench pictures test-ray test-jax test-lowest lock image image-cpu test-docker sky-schema schema clean
.DEFAULT_GOAL := run

run: $(VENV)/.installed  ## train the quickstart job, or go on with it
	$(BIN)/runner submit jobs/quickstart.json

test: lint types pytest  ## all that CI checks

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

TESTS := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10
pytest: $(VENV)/.installed-dev  # 3 is an error of pytest or of its workers, and no test's
	$(TESTS) || { [ $$? -eq 3 ] && echo "pytest itself has failed: once more" && $(TESTS); }

test-slow: $(VENV)/.installed-dev  ## what `make test` leaves out: of each guarantee more cases
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10 -m "slow and not chaos"

chaos: $(VENV)/.installed-dev  ## long: many kills, many schedules
	$(BIN)/pytest -m chaos

bench: $(VENV)/.installed-bench  ## measurements, printed as tables
	$(BIN)/pytest -m bench -s tests/benchmarks

pictures: $(VENV)/.installed-dev  ## the README's, of a real run; needs a Chromium
	$(BIN)/python -m tests.pictures

test-ray: $(VENV)/.installed-dev  ## workers on a Ray cluster of this machine
	$(BIN)/pytest -m ray --durations=10 tests/ray

SKY_BIN := $(VENV)-sky/bin
sky-schema:  ## SkyPilot reads docker/skypilot.yaml; its schemas are written for the tests
	$(PYTHON) -m venv $(VENV)-sky
	$(SKY_BIN)/python -m pip install --quiet skypilot
	$(SKY_BIN)/python -m tests.docker.skypilot

# one file of hashes for each layer of packages; it holds for Python 3.11 to 3.13 and all Linux processors
LOCK := UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile --quiet --upgrade --universal \
  --python-version 3.11 --generate-hashes --no-annotate
IMAGE_EXTRAS := --extra s3 --extra notify

lock: $(VENV)/.installed-dev  ## the container's packages, the newest that pyproject.toml allows
	$(LOCK) pyproject.toml $(IMAGE_EXTRAS) -o docker/requirements-cpu.txt
	$(LOCK) pyproject.toml $(IMAGE_EXTRAS) --extra cuda -c docker/requirements-cpu.txt \
	  -o docker/requirements-gpu.txt
	echo hatchling | $(LOCK) - -o docker/requirements-build.txt

IMAGE := runner
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git describe --always --dirty --abbrev=40 --exclude "*")
image image-cpu: image%:  ## the container image, with CUDA or without
	docker build -f docker/Dockerfile --build-arg VARIANT=$(or $(*:-%=%),gpu) \
	  --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
	  -t $(IMAGE):$(or $(*:-%=%),gpu) $(DOCKER_BUILD_OPTIONS) .

test-docker: $(VENV)/.installed-dev  ## builds the container image, runs it, kills it; needs a Docker Engine
	$(BIN)/pytest -s -m docker tests/docker

schema: $(VENV)/.installed  ## write jobs/.schema.json anew after a change of the spec
	$(BIN)/runner schema > jobs/.schema.json

# all that pyproject.toml asks for, but JAX in TensorFlow's place
JAX_BIN := $(VENV)-jax/bin
test-jax: $(VENV)-jax/.installed  ## the tests of KERAS_BACKEND=jax, where TensorFlow is not installed
	$(JAX_BIN)/pytest -n 2 -m "not chaos" tests/training/test_jax.py tests/training/test_devices.py

$(VENV)-jax/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m venv $(VENV)-jax
	$(JAX_BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*p["dependencies"], *p["optional-dependencies"]["jax"], sep="\n")' \
	  | grep -v '^tensorflow' | $(JAX_BIN)/python -m pip install --quiet -r /dev/stdin
	$(JAX_BIN)/python -m pip install --quiet pytest pytest-timeout pytest-xdist
	$(JAX_BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# the oldest versions that pyproject.toml allows; Python 3.11 or 3.12, as NumPy 1.26
LOWEST_BIN := $(VENV)-lowest/bin
test-lowest: $(VENV)-lowest/.installed  ## training, records and models with the oldest packages
	$(LOWEST_BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder tests/training tests/models \
	  tests/test_earlier_stores.py tests/queue/test_job.py tests/checkpoint/test_manifest.py

$(VENV)-lowest/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m venv $(VENV)-lowest
	$(BIN)/python -c 'import re, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*(re.sub(r">=([\d.]+).*", r"==\1.*", one) for one in p["dependencies"]), sep="\n")' \
	  | $(LOWEST_BIN)/python -m pip install --quiet -r /dev/stdin
	$(LOWEST_BIN)/python -m pip install --quiet pytest pytest-timeout pytest-xdist
	$(LOWEST_BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "runner needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# the stamps are older than pyproject.toml when the dependencies may have changed
$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev,s3]'
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-jax $(VENV)-lowest $(VENV)-sky build dist *.egg-info
