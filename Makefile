# Everything that people do here; `make` alone lists it. Each target does all set-up it needs.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# What changes results is said on the command line, never by what a shell happens to have exported.
$(foreach v,PROFILE TESTS PART PORT PAYLOADS REPOSITORY REF RECIPES SEEDS DATASET DATA_DIR ROUNDS OUT, \
  $(if $(filter environment,$(origin $(v))),$(eval undefine $(v))))

PROFILE ?= quick
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NOTEBOOKS := $(sort $(basename $(notdir $(wildcard notebooks/*.ipynb))))

# Values may have spaces, which make writes with a backslash before them, and quotes.
GIVEN := $(foreach v,$(subst \ ,?,$(MAKEOVERRIDES)),$(firstword $(subst =, ,$(v))))
comma := ,
quoted = '$(subst ','\'',$(1))'
# Of a target that has no others: a mistyped one may cost hours.
only = $(foreach name,$(filter-out $(1) PYTHON,$(GIVEN)),$(error no parameter $(name) here: there is $(1)))
option = $(if $($(1)),--$(2) $(call quoted,$($(1))))

# NAME=VALUE on make's command line is a notebook parameter, unless make itself uses the name.
OWN := PROFILE TESTS PART PORT PYTHON PAYLOADS REPOSITORY REF
PARAMETERS = $(foreach name,$(filter-out $(OWN),$(GIVEN)),-p $(call quoted,$(name)=$($(name))))
# README.md tells what the quick profile found: it is written anew with that.
CHANGED = $(filter-out $(OWN) STORE DATA_DIR WORKERS store data_dir workers,$(GIVEN))
REPORT = $(if $(CHANGED)$(filter-out quick,$(PROFILE))$(if $(wildcard results/race/race.json),,x),:,$(BIN)/fedutils report)
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
	@echo '          make race DATASET=emnist DATA_DIR=DIR OUT=results/race-emnist RECIPES=own'

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
for candidate in $(if $(PYTHON),$(call quoted,$(PYTHON))) python3.11 python3 python; do
  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    python=$$candidate; break
  fi
done
if [ -n "$$python" ]; then
  echo "Creating $(VENV) with $$("$$python" --version)"
  "$$python" -m venv --clear $(VENV)
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
	@$(REPORT)

.PHONY: $(NOTEBOOKS)
$(NOTEBOOKS): setup
	@$(EXECUTE) $@

RACE_PARAMETERS := RECIPES SEEDS DATASET DATA_DIR ROUNDS OUT

.PHONY: race
race: setup  ## Run every recipe under one protocol, on emnist too if DATA_DIR is given
	$(call only,$(RACE_PARAMETERS))
	@$(BIN)/fedutils race --dataset $(or $(DATASET),mnist5k$(if $(DATA_DIR),$(comma)emnist)) \
	  $(call option,DATA_DIR,data-dir) $(call option,RECIPES,recipes) $(call option,SEEDS,seeds) \
	  $(call option,ROUNDS,rounds) $(call option,OUT,out)

.PHONY: report
report: setup  ## Write the race's tables and figures and README.md from the published records
	@$(BIN)/fedutils report

.PHONY: verify
verify: setup  ## Check that README, tables, figures, records and claims agree
	@$(BIN)/fedutils verify

# The benchmark has one parameter; its peers' environments are made in build/peers when first used.
.PHONY: bench
bench: setup  ## Measure the same updates through every peer ([PART=rate_distortion|speed|growth|round_time])
	$(call only,PART)
	@TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python benchmarks/peers.py $(call option,PART,part)

.PHONY: test
test: setup  ## Run all tests (TESTS=path or options of pytest choose some)
	$(call only,TESTS)
	@$(BIN)/python -m pytest $(or $(TESTS),-n 2 --dist loadfile)

.PHONY: fuzz
fuzz: setup  ## Decode 100,000 damaged payloads of all codecs (PAYLOADS=N for another number)
	$(call only,PAYLOADS)
	@$(BIN)/fedutils fuzz --payloads $(or $(PAYLOADS),100000)

.PHONY: lint
lint: setup  ## Check style and formatting
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

# Kernels run here, not in the notebook's folder, so that all find the same results/.
LAB := --ip=127.0.0.1 --ServerApp.root_dir=notebooks --MappingKernelManager.root_dir='$(CURDIR)' \
  $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: lab
lab: setup  ## Open the notebooks in JupyterLab, on this machine only
	@echo 'TensorBoard of all runs, in another terminal: make tensorboard'
	@$(BIN)/jupyter lab $(LAB)

.PHONY: tensorboard
tensorboard: setup  ## Open TensorBoard on all runs, on this machine only (PORT=N for another port)
	@TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/tensorboard --logdir results/runs --host 127.0.0.1 --port $(or $(PORT),6006)

.PHONY: html
html: setup  ## Make a web site of the executed notebooks of results/PROFILE in build/html/PROFILE
	@$(BIN)/fedutils html --profile '$(PROFILE)'

# What it changes in pyproject.toml changes nothing that is installed.
.PHONY: address
address: setup  ## Name REPOSITORY=https://github.com/OWNER/NAME, where Colab fetches it, [REF=tag]
	@$(BIN)/fedutils address $(call option,REPOSITORY,repository) $(call option,REF,ref)
	@touch $(READY)

.PHONY: lock
lock: setup  ## Resolve requirements.in anew into requirements.lock, and the peers' (hashed; no index named)
	@$(BIN)/uv pip compile --quiet --upgrade --no-annotate --no-header --no-emit-index-url \
	  --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
	  --override requirements.overrides --output-file requirements.lock requirements.in
	@for name in codecs flower; do \
	  $(BIN)/uv pip compile --quiet --upgrade --no-annotate --no-header --no-emit-index-url \
	    --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
	    --output-file benchmarks/peers/$$name.lock benchmarks/peers/$$name.in; \
	done

# pip-audit asks PyPI about each locked package; it is not installed here, and not in the lock.
.PHONY: audit
audit: setup  ## Ask for known vulnerabilities of all locked packages (needs internet)
	@$(BIN)/uv tool run --quiet --python $(BIN)/python pip-audit==2.10.1 \
	  --strict --require-hashes --disable-pip --requirement requirements.lock

.PHONY: clean
clean:  ## Remove .venv, build and the local run folders (published results stay)
	rm -rf $(VENV) build results/runs .pytest_cache .ruff_cache fedutils.egg-info
