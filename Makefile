# A fresh machine needs Python >= 3.11 and make; everything else goes into .venv.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --no-input install --quiet \
	--no-compile --constraint constraints.txt
# Tried in turn when nobody chose an interpreter and python3 is too old.
FALLBACKS := $(if $(filter file,$(origin PYTHON)),python3.13 python3.12 python3.11 python3.14)

# Modules are compiled when first used, which takes a third off the installation.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo demo-runtime test benchmark benchmark-runtime gpu clean

help:
	@echo 'make demo   compare seven systems on one T4 and write demo.html'
	@echo 'make demo-runtime  run two of them for real on this CPU and write demo-runtime.html'
	@echo 'make test   lint, types, import rules, tests and examples'
	@echo 'make benchmark  time the engine and a whole generation'
	@echo 'make benchmark-runtime  tokens/s of every schedule on this CPU, and what recording costs'
	@echo 'make gpu PYTHON=python3  check and measure on a CUDA machine, into $$OUT or gpu-results'
	@echo 'make clean  remove .venv and everything else that was made'
	@echo 'Another interpreter (Python >= 3.11): make test PYTHON=python3.12'

demo: $(VENV)/base.stamp
	$(VENV)/bin/moelab compare cgopipe fastdecode flexgen flexgen-cpu zero-inference accelerate \
		gpu-only --model mixtral-8x7b --hardware gcp-t4-24c --workload mtbench --gen-len 128 \
		--report demo.html

# The weights do not fit into the budget, and take longer to arrive than to be computed with, as on a
# GPU behind PCIe.
DEMO := build/demo-runtime
SMALL := --checkpoint $(DEMO)/model --prompts $(DEMO)/prompts.jsonl --gen-len 16 --micro-batch 6 \
	--device cpu --gpu-memory 176MiB --link-bandwidth 0.5GB/s --ignore-eos --verify

demo-runtime: $(VENV)/runtime.stamp
	@rm -rf $(DEMO)
	$(VENV)/bin/python -m runtime.demo $(DEMO)
	$(VENV)/bin/moelab run cgopipe $(SMALL) --out $(DEMO)/cgopipe
	$(VENV)/bin/moelab run flexgen $(SMALL) --out $(DEMO)/flexgen
	$(VENV)/bin/moelab replay $(DEMO)/cgopipe $(DEMO)/flexgen --report demo-runtime.html

test: $(VENV)/dev.stamp
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

benchmark: $(VENV)/base.stamp
	$(VENV)/bin/python benchmarks/engine.py

benchmark-runtime: $(VENV)/dev.stamp
	$(VENV)/bin/python benchmarks/throughput.py

# With the Python that is named, which must have everything: such machines may have no network.
gpu:
	PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) benchmarks/gpu.py $(GPU_FLAGS)

$(VENV)/bin/python:
	@for python in '$(PYTHON)' $(FALLBACKS); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Creating $(VENV) with $$("$$python" --version)"; \
			"$$python" -m venv --clear $(VENV) && exit 0; \
			rm -rf $(VENV); exit 1; \
		fi; \
	done; \
	echo "moelab needs Python 3.11 or newer, and '$(PYTHON)' is not: install one or name it," \
		'as in: make PYTHON=/path/to/python3.12' >&2; exit 1

# setuptools first, so that the build uses the pinned one and downloads no other.
$(VENV)/base.stamp: pyproject.toml constraints.txt $(VENV)/bin/python
	@echo 'Installing moelab and what it needs'
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/runtime.stamp: $(VENV)/base.stamp
	@echo 'Installing what runs schedules for real: PyTorch and transformers'
	@$(PIP) --no-build-isolation --editable '.[runtime]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/base.stamp
	@echo 'Installing the tools for tests'
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo.html demo-runtime.html gpu-results .hypothesis .benchmarks \
		.mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
