# The door: `make demo` to see it work, `make test` to trust it. Both prepare .venv first, once.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTHON ?=
LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --all-extras --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header

.PHONY: setup demo test test-servers test-sanitized bad-input simulate chaos mutants bench test-slow check format reference lock dll fuzz clean help
.DEFAULT_GOAL := help

help: ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

setup: $(STAMP) ## prepare .venv: the engine with every extra, and the developer's tools, all pinned by hash

$(STAMP): requirements/dev.txt pyproject.toml
	@$(BIN)/python -c 'import pip' 2>/dev/null || { $(FIND_PYTHON); \
	echo "Preparing $(VENV) with $$($$python --version), once"; rm -rf $(VENV); $$python -m venv $(VENV); }
	@$(PIP) --require-hashes -r requirements/dev.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## a master and followers on simulated brokers, in memory: nothing else needed
	@$(BIN)/mt-copier demo

test: setup ## the tests that need no server
	@$(BIN)/python -m pytest -n auto --dist worksteal

test-servers: setup ## the tests against real servers (Redis, PostgreSQL), which they start and stop themselves
	@$(BIN)/python -m pytest -m server -n auto --dist worksteal

test-sanitized: setup ## the bridges' promises on programs that watch their memory and arithmetic, every carrier once
	@COPIER_SANITIZED=1 $(BIN)/python -m pytest -m sanitized -n auto --dist worksteal

test-slow: setup ## the long shares: real child processes, three months replayed, every case of the sampled families
	@$(BIN)/python -m pytest -m "slow and not server" --ignore=tests/simulation -n auto --dist worksteal

bench: setup ## every measurement under benchmarks/ in five minutes: tables, JSON, a picture, and docs/performance.md anew
	@$(BIN)/python -m benchmarks

SECONDS ?= 20
bad-input: setup ## knock at every door that takes what others wrote, for SECONDS= each
	@$(BIN)/python -m tests.badinput --seconds $(SECONDS)

HISTORIES ?= 300
SEED ?= 0
simulate: setup ## play HISTORIES= random histories from SEED= on, with kills and faults, and tell the first that goes wrong
	@$(BIN)/python -m tests.simulation --histories $(HISTORIES) --seed $(SEED)

STARTS ?= 15
mutants: setup ## take the protocol's rules out one by one, measure how soon the histories notice, and write the table into docs/
	@$(BIN)/python -m tests.mutants --starts $(STARTS)

RUNS ?= 3
chaos: setup ## RUNS= runs of real processes under faults from SEED= on: kills, frozen processes, a torn network, full disks
	@$(BIN)/python -m tests.chaos --runs $(RUNS) --seed $(SEED)

check: setup ## style, types on Linux and Windows, and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --platform linux
	@$(BIN)/mypy --platform win32
	@$(BIN)/lint-imports --no-cache

format: setup ## put every file into the one style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

reference: setup ## write docs/configuration.md anew from the settings
	@$(BIN)/python -m copier.settings_reference docs/configuration.md

lock: setup ## resolve pyproject.toml anew into requirements/
	@$(PIP) uv
	@$(LOCK) --group dev --upgrade --output-file requirements/dev.txt
	@$(LOCK) --group build --constraints requirements/dev.txt --output-file requirements/run.txt

dll: ## CopierLink.dll for MetaTrader 5 and 4 into dist/dll, with mingw-w64
	@$(MAKE) --no-print-directory -C mql/dll windows OUT=$(CURDIR)/dist/dll

SECONDS ?= 60
fuzz: setup ## throw bytes at the DLL's readers and at an Expert Advisor, SECONDS= each; needs clang
	@$(BIN)/python -m tests.dll.fuzz --seconds $(SECONDS)

clean: ## remove what setup and the tests made
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Sets $$python to the first interpreter that is new enough and can make an environment, or says what is missing.
define FIND_PYTHON
python=; old=; bare=; \
for name in $(or $(PYTHON),python3.13 python3.12 python3.11 python3.14 python3 python); do \
	version=$$($$name -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	if ! $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then old="$$old $$name=$$version"; continue; fi; \
	if ! $$name -c 'import venv, ensurepip' 2>/dev/null; then bare=$$version; continue; fi; \
	python=$$name; break; \
done; \
if [ -z "$$python" ]; then \
	if [ -n "$$bare" ]; then echo "Python $$bare has no venv module: install it first (Debian, Ubuntu: apt install python$$bare-venv)" >&2; \
	else echo "Python 3.11 or newer is needed; found:$${old:- none}. Name one with: make setup PYTHON=/path/to/python3" >&2; fi; \
	exit 1; \
fi
endef
