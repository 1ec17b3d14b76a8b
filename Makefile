# Everything a person or a machine does with this repository. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DISTRIBUTIONS := sdk/python runtime-image/python operator sdk/cli
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo dev test check unit integration facts e2e chaos mutants gen bench images cluster-up cluster-down demo-cluster kind-demo clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

setup: $(STAMP) ## Make .venv with everything pinned in constraints.txt

$(STAMP): constraints.txt requirements-dev.txt $(DISTRIBUTIONS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Bema needs Python 3.11 or later, found {sys.version.split()[0]}; set PYTHON=")'
	@echo "Setting up $(VENV) (about a minute)…"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet -c constraints.txt $(patsubst %,-e %,sdk/python[kubernetes,nats] $(filter-out sdk/python,$(DISTRIBUTIONS))) -r requirements-dev.txt
	@touch $@

demo: setup ## Run examples/orders in `bema dev`: 1,000 orders, a killed worker, an audit
	@$(BIN)/python -m tools.demo dev

dev: setup ## Run examples/orders in `bema dev` and stay up
	@$(BIN)/bema dev --dir examples/orders

test: setup ## Run every tier; ends with a line of counts
	@$(BIN)/python -m tools.tiers

check: setup ## Formatting, lint, types, imports, generated files
	@$(BIN)/python -m tools.tiers check

unit integration facts e2e: setup ## One tier of the tests
	@$(BIN)/python -m tools.tiers $@

chaos: setup ## Break everything around a bank, 20,000 runs a time: ARGS="--seed 7 --kind R3" repeats
	@$(BIN)/python -m tests.chaos $(ARGS)

mutants: setup ## Remove each rule of the protocol once, in a copy, and see its test go red
	@$(BIN)/python -m tools.mutants $(ARGS)

gen: setup ## Write what is made from the code: CRD, JSON Schemas, golden vectors, reference
	@$(BIN)/python -m tools.gen

bench: setup ## Measure beside a bare client; writes bench/out/latest.json
	@$(BIN)/python -m bench

images: setup ## Build the runtime's, the operator's and NATS's image; prints their sizes
	@$(BIN)/python -m tools.images build

cluster-up: setup ## A real Kubernetes on this machine, in namespaces of its own (Linux, root)
	@$(BIN)/python -m tools.cluster up

cluster-down: setup ## Take it down without residue
	@$(BIN)/python -m tools.cluster down

demo-cluster: setup ## The demo on a real Kubernetes, with inline code and from an image
	@$(BIN)/python -m tools.demo cluster

kind-demo: setup ## The same on a cluster of kind's (Linux, Docker, kind, root)
	@$(BIN)/python -m tools.demo cluster --kind

clean: ## Remove what was built and cached in this folder
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/out
