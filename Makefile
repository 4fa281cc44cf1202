# One command per job, the same for people and CI. `make help` lists them.
PYTHON ?= python3
TRIREME := .venv/bin/trireme
PYTEST := .venv/bin/python -m pytest
DEVELOP = $(PYTHON) tools/bootstrap.py --extra dev --extra loadtest
.DEFAULT_GOAL := help
.PHONY: help setup models serve demo test test-all chaos soak check compose-test bench vllm vllm-test clean

help:  ## list these commands
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## make .venv and fetch tritonserver (the other commands do it themselves)
	@$(PYTHON) tools/bootstrap.py

models: setup  ## fetch and export every model that is not exported yet
	@$(TRIREME) export --all

serve: models  ## start the real Triton on this machine and print how to call it
	@$(TRIREME) serve

demo: models  ## start it, ask every task a real question, check the answers, stop it
	@$(TRIREME) demo

test: models  ## unit, contract and the important end-to-end tests, on the real server: under 10 minutes
	@$(DEVELOP)
	@$(PYTEST) -n 2 tests/unit
	@$(PYTEST) -n 3 --no-loadscope-reorder tests/contract tests/deploy tests/e2e

test-all: models  ## every test, also those that are long by nature, chaos, containers and vLLM: over an hour
	@$(DEVELOP) --extra export --perf-analyzer --vllm
	@$(TRIREME) export generation_premium_engine
	@TRIREME_HYPOTHESIS_PROFILE=thorough $(PYTEST) -n 2 -m "" tests/unit
	@$(PYTEST) -n 3 --no-loadscope-reorder -m "not docker" tests/contract tests/deploy tests/e2e
	@$(PYTEST) -m "not docker" -o faulthandler_timeout=3600 tests/chaos
	@.venv/bin/python -m tests.deploy.prepare
	@$(PYTEST) -m docker tests/deploy
	@$(PYTEST) -m "" tests/vllm

chaos: models  ## replicas, zones, networks, releases fail under traffic; the report is in reports/chaos
	@$(DEVELOP)
	@$(PYTEST) tests/chaos

soak: models  ## 30 minutes at 60 % load, and 50 releases: memory, files and shared memory must stay flat
	@$(DEVELOP)
	@TRIREME_SOAK_SECONDS=1800 $(PYTEST) -m "" -o faulthandler_timeout=3600 tests/chaos/test_platform_soak.py
	@TRIREME_RELEASE_CYCLES=50 $(PYTEST) -m "" tests/chaos/test_release_chaos.py -k cycles

check:  ## ruff, mypy --strict, the import rules and dead code
	@$(DEVELOP)
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache
	@.venv/bin/vulture

bench: models  ## measure our variants beside the in-process limit and a naive server
	@$(PYTHON) tools/bootstrap.py --extra loadtest --perf-analyzer
	@$(TRIREME) bench serving

compose-test: models  ## the same repository in containers, on a real Docker engine
	@$(DEVELOP)
	@.venv/bin/python -m tests.deploy.prepare
	@$(PYTEST) -m "docker and not slow" tests/deploy

vllm:  ## make the environment of vLLM on a CPU, 2.5 GB, and the model that it serves
	@$(PYTHON) tools/bootstrap.py --vllm
	@$(TRIREME) export generation_premium_engine

vllm-test:  ## real vLLM behind the contract, in the server's process and as a server of its own
	@$(DEVELOP) --vllm
	@$(PYTEST) tests/vllm

clean:  ## remove all that set-up, export and servers made
	rm -rf .venv .trireme reports .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	for recipe in model_repository/*/export.toml; do rm -rf "$${recipe%/*}/1" "$${recipe%/*}/warmup"; done
