# `make train`, `make test` and `make check` need only Python 3.11+, make and a package index.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
# Most modules are never imported; the others are compiled on first import.
PIP_OPTIONS := --quiet --disable-pip-version-check --no-compile

# One stamp per requirements file, so that a second call installs nothing.
$(VENV)/requirements.stamp: requirements.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install $(PIP_OPTIONS) -r requirements.txt
	touch $@

$(VENV)/requirements-dev.stamp: requirements-dev.txt $(VENV)/requirements.stamp
	$(RUN) -m pip install $(PIP_OPTIONS) -r requirements-dev.txt
	touch $@

$(VENV)/requirements-torch.stamp: requirements-torch.txt $(VENV)/requirements-dev.stamp
	$(RUN) -m pip install $(PIP_OPTIONS) -r requirements-torch.txt
	touch $@

$(VENV)/requirements-onnx.stamp: requirements-onnx.txt $(VENV)/requirements-dev.stamp
	$(RUN) -m pip install $(PIP_OPTIONS) -r requirements-onnx.txt
	touch $@

.PHONY: train test test-all faults slurm slurm-packages check newest docs dist torch onnx

# One process per core; an idle one takes over tests from others.
PYTEST := $(RUN) -m pytest -n logical --dist=worksteal

train: $(VENV)/requirements.stamp  ## Train dbl_conv_relu; ARGS= passes flags on.
	$(RUN) -m mnist_jax.train --model=dbl_conv_relu $(ARGS)

test: $(VENV)/requirements-dev.stamp  ## Run the quick tests; ARGS= passes options on.
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(VENV)/requirements-dev.stamp  ## Run all tests; ARGS= passes options on.
	$(PYTEST) $(ARGS)

faults: $(VENV)/requirements-dev.stamp  ## Run the long version of the fault and fuzz tests.
	MNIST_JAX_FAULTS=long $(RUN) -m pytest tests/test_caches.py tests/test_checkpoint.py tests/test_faults.py tests/test_file_operations.py tests/test_fuzz.py $(ARGS)

slurm-packages:  ## Install Debian's Slurm if possible; otherwise the tests that need it are skipped.
	test -x /usr/sbin/slurmctld || { apt-get update && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurm-wlm munge; } || \
	  echo "Slurm can't be installed here; its tests will be skipped."

slurm: $(VENV)/requirements-dev.stamp slurm-packages  ## Test on a Slurm cluster of two virtual nodes.
	$(PYTEST) tests/slurm $(ARGS)

check: $(VENV)/requirements-dev.stamp  ## Lint, and check formatting and types.
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

newest:  ## Run the quick tests with the newest releases of the dependencies, without PyTorch; ARGS= passes options on.
	$(PYTHON) -m venv build/newest
	sed 's/==.*//' requirements.txt requirements-dev.txt requirements-onnx.txt | \
	  build/newest/bin/python -m pip install $(PIP_OPTIONS) --upgrade -r /dev/stdin
	build/newest/bin/python -m pytest -n logical --dist=worksteal -m "not slow" $(ARGS)

docs: $(VENV)/requirements-dev.stamp  ## Build docs/api/: the API reference, with the guides.
	$(RUN) -m docs.build_pages docs/api

dist: $(VENV)/requirements-dev.stamp  ## Build dist/, and test the wheel in a fresh environment outside the checkout.
	rm -rf dist
	$(RUN) -m build
	$(RUN) -m twine check --strict dist/*
	fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	  $(RUN) -m venv "$$fresh/environment" && \
	  "$$fresh/environment/bin/python" -m pip install $(PIP_OPTIONS) dist/*.whl && \
	  tried=$(CURDIR)/tests/installed.py && cd "$$fresh" && environment/bin/python -I "$$tried"

torch: $(VENV)/requirements-torch.stamp  ## Install PyTorch for the cross-framework tests and the benchmark.

onnx: $(VENV)/requirements-onnx.stamp  ## Install ONNX and ONNX Runtime, for export and its tests.
