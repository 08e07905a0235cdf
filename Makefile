# Needs git, make and Python 3.11 or 3.12; everything else is installed into .venv on first use.

.DEFAULT_GOAL := help
.PHONY: help install train quick test unit test-all faults soak lint docs clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs
PIP := $(BIN)/python -m pip

# Name an interpreter with `make PYTHON=/path/to/python3.12`; otherwise the first that works.
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3 python)
# A pyenv shim may be on the PATH and still not run, and Debian ships a python3 without ensurepip:
# only running it tells.
USABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

# Where the interpreter behind .venv was upgraded away, nothing is installed any more.
$(if $(wildcard $(STAMP)),$(shell $(BIN)/python -c '' 2>/dev/null || rm -f $(STAMP)))

TEST_WORKERS ?= 2
# One thread each: the workers share the cores. Modules are compiled once, whatever the caller's
# settings: the tests start dozens of processes that import them.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## make .venv and install everything (the other targets do it when needed)

train: $(STAMP) ## train LSP on walker_walk for 60k env steps, evaluate it and film it
	$(BIN)/lsp train --task walker_walk --method lsp --preset fast --seed 0 --steps 60000 --logdir runs/walker_walk-lsp --video

quick: $(STAMP) ## the algorithm's tests: no training, no process, under a minute
# No quick test uses hypothesis, and its plugin imports all of it for a summary.
	$(PYTEST) -p no:hypothesispytest -m quick

# Side by side: mypy leaves a core idle.
test: $(STAMP) ## what CI runs: lint, types and all tests but the slow ones
	@$(MAKE) --no-print-directory --jobs=2 lint unit

unit: $(STAMP)
	$(PYTEST) -m "not slow"

test-all: lint ## lint, types and every test
	$(PYTEST)

faults: $(STAMP) ## kill, damage, fill up and hang real trainings, and print what they survived
	LSP_FAULTS=full $(PYTEST) tests/faults -k "not row_16"

soak: $(STAMP) ## train for two hours and measure memory and open files
	LSP_FAULTS=full $(BIN)/python -m pytest tests/faults/test_soak.py

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS_STAMP) ## build the site of the documentation in build/docs; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "The site: build/docs/index.html"

clean: ## remove .venv, caches and build outputs; runs/ and results/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find lsp tests -name __pycache__ -type d -prune -exec rm -rf {} +

# .unfinished marks an environment this file began and never finished: it is begun anew, because
# packages that pip was interrupted in look installed to it. An environment somebody else made is
# installed into, never removed.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if [ -d $(VENV) ] && [ ! -e $(VENV)/.unfinished ]; then \
	  if $(BIN)/python -c '$(USABLE)' && $(PIP) --version; then exit 0; fi >/dev/null 2>&1; \
	  echo "$(VENV) holds no working Python 3.11 or 3.12 with pip: remove it with 'make clean' and try again." >&2; \
	  exit 1; \
	fi; \
	python=; \
	for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c '$(USABLE)' >/dev/null 2>&1; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "No working Python 3.11 or 3.12 with venv among: $(CANDIDATES). Install one (Debian or Ubuntu: apt install python3 python3-venv) or name one: make PYTHON=/path/to/python3.12" >&2; \
	  exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$python" --version)"; \
	mkdir -p $(VENV); touch $(VENV)/.unfinished; \
	find $(VENV) -mindepth 1 -maxdepth 1 ! -name .unfinished -exec rm -rf {} +; \
	"$$python" -m venv $(VENV)
	@rm -f $(STAMP)
# editable_mode=compat: a plain path, which type checkers follow; they cannot follow import hooks.
# --no-deps: only torch itself comes from that index, which lacks the pinned versions of the rest.
	@torch=$$(grep '^torch==' constraints.txt); \
	if ! command -v nvidia-smi >/dev/null 2>&1; then \
	  echo "No GPU found: installing the CPU build of $$torch"; \
	  $(PIP) install -c constraints.txt --no-deps --retries 1 --timeout 15 --index-url $(TORCH_CPU_INDEX) "$$torch" 2>/dev/null && exit 0; \
	  echo "The index of CPU builds cannot be used from here: taking $$torch from pip's default index"; \
	fi; \
	$(PIP) install -c constraints.txt "$$torch"
	$(PIP) install -c constraints.txt --config-settings editable_mode=compat -e '.[ray,dev,explorer]'
	@rm -f $(VENV)/.unfinished
	@touch $(STAMP)

$(DOCS_STAMP): $(STAMP)
	$(PIP) install -c constraints.txt --config-settings editable_mode=compat -e '.[docs]'
	@touch $(DOCS_STAMP)
