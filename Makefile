.PHONY: help setup setup-gpu demo test quick browser full faults hosts benchmarks gpu-hour pictures audit lint clean
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Threads that spin for milliseconds would keep each other from the cores where several tests run at once.
export GOMP_SPINCOUNT ?= 1000
# Many images set it, and each of hundreds of processes would compile what it imports of Ratchet, for half a second.
unexport PYTHONDONTWRITEBYTECODE

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

# Which set of requirements .venv holds is remembered, so that a GPU environment stays one.
SET = $(or $(shell cat .venv/.set 2>/dev/null),cpu)

.venv/.ready: requirements/cpu.txt requirements/gpu.txt pyproject.toml deploy/setup.sh
	@deploy/setup.sh $(SET)
	@echo $(SET) > .venv/.set && touch $@

setup: .venv/.ready  ## Make the environment (.venv), for CPU

setup-gpu:  ## Make the environment for NVIDIA GPUs
	@deploy/setup.sh gpu
	@echo gpu > .venv/.set && touch .venv/.ready

demo: setup  ## Run three IRPO rounds with a tiny model, on CPU
	@jobs/irpo.yaml

lint: setup
	ruff check .
	ruff format --check .
	mypy
	lint-imports

# Quick tests write thousands of small files through to the disk: to memory instead, where there is enough of it.
IN_MEMORY = $(shell [ "$$(df --output=avail -B1G /dev/shm 2>/dev/null | tail -1)" -ge 4 ] 2>/dev/null && echo "-p /dev/shm")

# One more than cores: many tests wait for a moment, for a process or for their own time limits.
SIDE_BY_SIDE = $(shell echo $$(($$(nproc) + 1)))
# What takes longest begins first, so that nothing of it is left over at the end.
LONGEST = tests/hosts/test_round.py tests/real/test_real_irpo.py
# What needs more than the quick tests. To collect all the others for these few takes half a minute a process.
MARKED = $(shell grep -rlE "mark\.(real|hosts|browser)" --include='test_*.py' tests)

# What needs no real stack.
define without_the_stack
	tmp=$$(mktemp -d $(IN_MEMORY)) && trap 'rm -rf "$$tmp"' EXIT && \
	pytest -q --durations=40 -n $(SIDE_BY_SIDE) --dist worksteal --basetemp="$$tmp/tests" \
	    -m "not real and not full and not faults and not hosts and not browser"
endef

quick: lint  ## Quick checks: style, types, import rules, tests without the real stack
	$(without_the_stack) --ignore=tests/faults

test: lint  ## All tests but the slow suites
	$(without_the_stack)
	pytest -q --durations=40 -n 2 --dist loadfile --no-loadscope-reorder -m "(real or hosts or browser) and not full" \
	    $(LONGEST) $(MARKED)

browser: setup  ## The dashboard's pages in a real browser; skipped where there is no Chromium with its driver
	pytest -q -m browser tests/browser

full: test  ## The slow tests too
	pytest -q -n 2 --dist loadfile -m "full and not faults and not hosts"

faults: setup  ## The whole fault suite: drivers killed at every one of their file operations, and more
	pytest -q tests/faults
	pytest -q -m faults --ignore=tests/faults tests

hosts: setup  ## Several hosts, in network namespaces of this machine (as root): nodes that die, join, are cut off
	pytest -q -m hosts tests/hosts

benchmarks: setup  ## Benchmarks against their recorded runs, some minutes; NAMES="round ledger" takes these alone
	python -m benchmarks.watch $(NAMES)

gpu-hour:  ## What only a GPU can show, in one report; HOUR="--model FOLDER" gives it more to try
	@python3 deploy/gpu/hour.py $(HOUR)

pictures: demo  ## Make the README's pictures again, from a run of the demo
	@python docs/pictures/make.py runs/irpo

audit: setup  ## Licences and known flaws of the pinned packages; AUDIT="--database FOLDER" says where flaws are listed
	@python deploy/audit/scan.py $(AUDIT)

clean:  ## Remove the environment and caches; runs are kept
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
