# Everything that people do here; `make` alone lists it. Each target does all set-up it needs.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PROFILE ?= quick
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NOTEBOOKS := $(sort $(basename $(notdir $(wildcard notebooks/*.ipynb))))

# NAME=VALUE on make's command line is a notebook parameter, unless make itself uses the name.
OWN := PROFILE=% TESTS=% PORT=% PYTHON=%
PARAMETERS = $(foreach v,$(filter-out $(OWN),$(MAKEOVERRIDES)),-p '$(v)')
EXECUTE = $(BIN)/fedutils notebook --profile '$(PROFILE)' $(PARAMETERS)

.PHONY: help
help:  ## List the targets
	@echo 'make TARGET [PROFILE=smoke|quick|full] [NOTEBOOK_PARAMETER=VALUE ...]'
	@echo
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  %-24s %s\n", $$1, $$2}' Makefile
	@printf '  %-24s Execute this notebook alone\n' $(NOTEBOOKS)
	@echo
	@echo 'Examples: make reproduce'
	@echo '          make reproduce DATASET=emnist ROUNDS=100 SEED=2'
	@echo '          make 02_compressed_aggregator PROFILE=smoke'

.PHONY: setup
setup: $(READY)  ## Install the locked packages into .venv (Python 3.11, Linux x86-64)

# uv installs the lock some ten times faster than pip, so pip installs the locked uv first.
$(READY): requirements.lock pyproject.toml
	@eval "$$find_python"
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.lock
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r $(VENV)/uv.lock
	@echo 'Installing the locked packages (about 2.7 GB on disk)'
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $(READY)

define find_python
python=
for candidate in $(PYTHON) python3.11 python3 python; do
  if $$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    python=$$candidate; break
  fi
done
if [ -n "$$python" ]; then
  echo "Creating $(VENV) with $$($$python --version)"
  $$python -m venv --clear $(VENV)
elif command -v uv >/dev/null; then
  echo 'Creating $(VENV) with a Python 3.11 that uv finds or fetches'
  uv venv --quiet --clear --seed --python 3.11 $(VENV)
else
  echo 'Python 3.11 with venv was not found, and TensorFlow Federated runs on no newer one.' >&2
  echo 'Get it in one of these ways, then run make again:' >&2
  echo '  uv:     install uv (docs.astral.sh/uv); make then lets it fetch Python 3.11' >&2
  echo '  conda:  conda env create -f environment.yml && conda activate fedutils' >&2
  echo '  Debian: apt-get install python3.11 python3.11-venv   (where the release has it)' >&2
  exit 1
fi
endef
export find_python

.PHONY: check
check: setup  ## Check the installation: versions, a kernel, TFF says hello, one round
	@$(BIN)/fedutils check

.PHONY: reproduce
reproduce: setup  ## Execute all notebooks; figures, tables and records go to results/PROFILE
	@$(EXECUTE) $(NOTEBOOKS)

.PHONY: $(NOTEBOOKS)
$(NOTEBOOKS): setup
	@$(EXECUTE) $@

.PHONY: test
test: setup  ## Run all tests (TESTS=path or options of pytest choose some)
	@$(BIN)/python -m pytest $(TESTS)

.PHONY: lint
lint: setup  ## Check style and formatting
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

.PHONY: lab
lab: setup  ## Open the notebooks in JupyterLab
	@$(BIN)/jupyter lab --notebook-dir=. notebooks

.PHONY: html
html: setup  ## Render the executed notebooks of results/PROFILE as web pages in build/html
	@$(BIN)/jupyter nbconvert --log-level WARN --to html --output-dir build/html/$(PROFILE) results/$(PROFILE)/notebooks/*.ipynb
	@echo 'build/html/$(PROFILE)'

.PHONY: lock
lock: setup  ## Resolve requirements.in anew into requirements.lock (hashed; no index named)
	@$(BIN)/uv pip compile --quiet --upgrade --no-annotate --no-header --no-emit-index-url \
	  --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
	  --override requirements.overrides --output-file requirements.lock requirements.in

.PHONY: clean
clean:  ## Remove .venv, build and the local run folders (published results stay)
	rm -rf $(VENV) build results/runs .pytest_cache .ruff_cache fedutils.egg-info
