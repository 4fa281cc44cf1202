# One command per job, the same for people and CI. `make help` lists them.
PYTHON ?= python3
TRIREME := .venv/bin/trireme
.DEFAULT_GOAL := help
.PHONY: help setup models serve demo test chaos soak check compose-test bench vllm vllm-test clean

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

test:  ## run all tests, on the real server
	@$(PYTHON) tools/bootstrap.py --extra dev --extra loadtest
	@$(TRIREME) export --all
	@.venv/bin/python -m pytest

chaos:  ## replicas, zones, networks, releases fail under traffic; the report is in reports/chaos
	@$(PYTHON) tools/bootstrap.py --extra dev --extra loadtest
	@$(TRIREME) export --all
	@.venv/bin/python -m pytest tests/chaos

soak: models  ## 30 minutes at 60 % load, and 50 releases: memory, files and shared memory must stay flat
	@$(PYTHON) tools/bootstrap.py --extra dev --extra loadtest
	@TRIREME_SOAK_SECONDS=1800 .venv/bin/python -m pytest -o faulthandler_timeout=3600 tests/chaos/test_platform_soak.py
	@TRIREME_RELEASE_CYCLES=50 .venv/bin/python -m pytest tests/chaos/test_release_chaos.py -k cycles

check:  ## ruff, mypy --strict and the import rules
	@$(PYTHON) tools/bootstrap.py --extra dev --extra loadtest
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache

bench:  ## measure our variants beside the in-process limit and a naive server
	@$(PYTHON) tools/bootstrap.py --extra loadtest
	@$(TRIREME) export --all
	@$(TRIREME) bench serving

compose-test: models  ## the same repository in containers, on a real Docker engine
	@$(PYTHON) tools/bootstrap.py --extra dev
	@.venv/bin/python -m pytest -s -m docker tests/deploy

vllm:  ## make the environment of vLLM on a CPU, 2.5 GB, and the model that it serves
	@$(PYTHON) tools/bootstrap.py --vllm
	@$(TRIREME) export generation_premium_engine

vllm-test:  ## real vLLM behind the contract, in the server's process and as a server of its own
	@$(PYTHON) tools/bootstrap.py --vllm --extra dev
	@.venv/bin/python -m pytest tests/vllm

clean:  ## remove all that set-up, export and servers made
	rm -rf .venv .trireme reports .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf model_repository/*/warmup
	find model_repository -regex '.*/[0-9]+/\(model.onnx\|model.gguf\|model.json\|tokenizer.json\|manifest.json\)' -delete
