# One command per job, for people and CI. `make help` lists them.
PYTHON ?= python3
TRIREME := .venv/bin/trireme
PYTEST := .venv/bin/python -m pytest
DEVELOP = $(PYTHON) tools/bootstrap.py --extra dev --extra loadtest
.DEFAULT_GOAL := help
.PHONY: help setup models serve demo test test-all chaos soak check compose-test bench vllm vllm-test clean

help:  ## list the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## create .venv and download tritonserver (the other commands do this themselves)
	@$(PYTHON) tools/bootstrap.py

models: setup  ## download and export every missing model
	@$(TRIREME) export --all

serve: models  ## start Triton on this machine and print how to call it
	@$(TRIREME) serve

demo: models  ## start Triton, check the answers of every task, stop it
	@$(TRIREME) demo

test: models  ## unit and contract tests, main end-to-end tests on the real server: under 10 minutes
	@$(DEVELOP)
	@$(PYTEST) -n 2 tests/unit
	@$(PYTEST) -n 3 --no-loadscope-reorder tests/contract tests/deploy tests/e2e

test-all: models  ## all tests, including long ones, chaos, containers and vLLM: over an hour
	@$(DEVELOP) --extra export --perf-analyzer --vllm
	@$(TRIREME) export generation_premium_engine
	@TRIREME_HYPOTHESIS_PROFILE=thorough $(PYTEST) -n 2 -m "" tests/unit
	@$(PYTEST) -n 3 --no-loadscope-reorder -m "not docker" tests/contract tests/deploy tests/e2e
	@$(PYTEST) -m "not docker" -o faulthandler_timeout=3600 tests/chaos
	@.venv/bin/python -m tests.deploy.prepare
	@$(PYTEST) -m docker tests/deploy
	@$(PYTEST) -m "" tests/vllm

chaos: models  ## inject faults into replicas, zones, networks and releases under traffic; report in reports/chaos
	@$(DEVELOP)
	@$(PYTEST) tests/chaos

soak: models  ## 30 minutes at 60 % load and 50 releases; memory, open files and shared memory must not grow
	@$(DEVELOP)
	@TRIREME_SOAK_SECONDS=1800 $(PYTEST) -m "" -o faulthandler_timeout=3600 tests/chaos/test_platform_soak.py
	@TRIREME_RELEASE_CYCLES=50 $(PYTEST) -m "" tests/chaos/test_release_chaos.py -k cycles

check:  ## ruff, mypy --strict, import rules, dead code
	@$(DEVELOP)
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache
	@.venv/bin/vulture
	@.venv/bin/python tools/check_language.py

bench: models  ## compare our variants with the in-process limit and a naive server
	@$(PYTHON) tools/bootstrap.py --extra loadtest --perf-analyzer
	@$(TRIREME) bench serving

compose-test: models  ## test the containers on a real Docker engine
	@$(DEVELOP)
	@.venv/bin/python -m tests.deploy.prepare
	@$(PYTEST) -m "docker and not slow" tests/deploy

vllm:  ## create the vLLM environment for CPU (2.5 GB) and export its model
	@$(PYTHON) tools/bootstrap.py --vllm
	@$(TRIREME) export generation_premium_engine

vllm-test:  ## test vLLM in Triton and as an external server
	@$(DEVELOP) --vllm
	@$(PYTEST) tests/vllm

clean:  ## remove everything that set-up, export and servers created
	rm -rf .venv .trireme reports .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	for recipe in model_repository/*/export.toml; do rm -rf "$${recipe%/*}/1" "$${recipe%/*}/warmup"; done
