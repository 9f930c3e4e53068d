# Every target makes .venv itself when it is missing or stale, so `make lab` is all that anybody
# has to know. It needs Python 3.11 or newer with venv, nothing else; uv comes into .venv for
# speed, and pip takes over where uv cannot.
#
# Written for GNU make 3.81 (which macOS ships) and a POSIX shell. Targets are relative paths only,
# because make cannot handle the spaces that the directory of a checkout may have.

.DEFAULT_GOAL := help
.SUFFIXES:
.NOTPARALLEL:
.PHONY: help lab demo notebooks reset grade slides handout book bench bench-scale chaos evidence mutants test test-all test-newest lint docs coverage \
  check check-deep compose-schema constraints clean FORCE

# Tried before the usual names: make test PYTHON=/opt/python/bin/python3.12
# A .venv of another version is made anew.
PYTHON ?=
# Another place for the environment: make test VENV=.venv-3.13 PYTHON=python3.13
VENV ?= .venv
# Passed on: make lab JUPYTER_ARGS="--no-browser --port 8899"; make test PYTEST_ARGS="-k presence"
JUPYTER_ARGS ?=
PYTEST_ARGS ?=
# make bench BENCH_ARGS="--rounds 8 --idle 1000"
BENCH_ARGS ?=
# make chaos SECONDS=600 SEED=7; without a seed, one is chosen and printed.
SECONDS ?= 60
SEED ?=
# make reset LESSON=04
LESSON ?=
# make grade DIR=handed-in GRADE_ARGS="--cell-seconds 30 --csv grades.csv"
DIR ?=
GRADE_ARGS ?=

RUN := $(VENV)/bin/python
# Written last, so whatever interrupts a set-up leaves none behind.
READY := $(VENV)/.ready

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where it is set, each of a thousand processes that the tests start compiles all modules anew.
unexport PYTHONDONTWRITEBYTECODE

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

lab: $(READY) ## Open the first notebook in JupyterLab (JUPYTER_ARGS is passed on)
	@$(LAB_ENVIRONMENT) exec $(RUN) -m jupyterlab --ServerApp.root_dir=. \
	  --LabApp.default_url=/lab/tree/$(FIRST_NOTEBOOK) $(ALLOW_ROOT) $(JUPYTER_ARGS)

demo: $(READY) ## Tell the story in the terminal
	@$(RUN) -m wsdemo.lab.demo

notebooks: $(READY) ## Build and run every notebook from its source
	$(RUN) -m tools.build_notebooks

# In the environment, so that no character of it means anything to the shell.
reset: export LESSON := $(LESSON)
reset: $(READY) ## Keep a copy of your notebook, and restore the original (LESSON=04)
	@$(RUN) -m tools.build_notebooks --reset="$$LESSON"

grade: export DIR := $(DIR)
grade: $(READY) ## Run the checks of all notebooks in a folder, print who has solved what (DIR=handed-in)
	@$(RUN) -m tools.grade "$$DIR" $(GRADE_ARGS)

# As files that open without a network; LESSON=04 makes one only.
slides: export LESSON := $(LESSON)
slides: $(READY) ## Make slides of every lesson, in build/slides (LESSON=04)
	@$(RUN) -m tools.teaching slides --lesson="$$LESSON"

handout: export LESSON := $(LESSON)
handout: $(READY) ## Make a page to print for every lesson, in build/handout (LESSON=04)
	@$(RUN) -m tools.teaching handout --lesson="$$LESSON"

bench: $(READY) ## Measure what a message costs, beside a plain port (BENCH_ARGS is passed on)
	@$(RUN) -m benchmarks $(BENCH_ARGS)

bench-scale: $(READY) ## Measure what clusters and workers cost, beside one server (BENCH_ARGS is passed on)
	@$(RUN) -m benchmarks scale $(BENCH_ARGS)

chaos: $(READY) ## Break real processes at random, check every promise, write a report (SECONDS, SEED)
	@$(RUN) -m wsdemo.proof.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# Two workers, because a laptop has two cores to spare. Tests of one group run in one worker, one
# after the other. What is left out here is marked `slow`, or `alone` where it needs both cores.
test: $(READY) ## Run the fast tests, on real servers: ten minutes (PYTEST_ARGS is passed on)
	WSDEMO_TESTS=fast $(RUN) -m pytest $(TWO_WORKERS) -m "not slow and not alone" $(PYTEST_ARGS)

test-all: $(READY) ## Run all tests, also the long ones: an hour
	@$(RUN) -m pytest $(TWO_WORKERS) -m "not alone" $(SLOWEST) $(PYTEST_ARGS); together=$$?; \
	$(RUN) -m pytest -m alone $(SLOWEST) $(PYTEST_ARGS); alone=$$?; \
	exit $$((together | alone))

test-newest: ## Run the fast tests on Python 3.13 too, where there is one
	@python=; for candidate in python3.13 "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.13.*/bin/python3.13; do \
	  if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 13))' \
	    >/dev/null 2>&1; then python=$$candidate; break; fi; \
	done; \
	if [ -n "$$python" ]; then $(MAKE) test VENV=.venv-3.13 PYTHON="$$python"; \
	else echo "Python 3.13 is not here: the tests were not run on it"; fi

lint: $(READY) ## Check style, types, and which module may import which
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

docs: $(READY) ## Build the documentation as a site, in site/
	$(RUN) -m mkdocs build --strict --quiet

# The book is a part of the site: one search, one look, one thing to serve.
book: docs ## Build the solved lessons with their outputs as a part of the site, in site/lessons
	@echo "open site/lessons/$(notdir $(FIRST_NOTEBOOK:.ipynb=.html))"

coverage: $(READY) ## Measure which lines of the product the fast tests run, also in processes
	WSDEMO_TESTS=fast $(RUN) -m pytest $(TWO_WORKERS) -m "not slow and not alone" \
	  --cov --cov-report=term-missing:skip-covered $(PYTEST_ARGS)

check: lint compose-schema docs test-all test-newest ## Check everything that must hold before a commit

evidence: $(READY) ## Try to break everything, and write the README's table of what came of it
	$(RUN) -m tools.evidence

mutants: $(READY) ## Put mistakes into the product, one by one: do the tests notice? (minutes)
	@$(RUN) -m tests.mutants

check-deep: $(READY) ## Play the scripts of presence, inboxes, devices and rooms in every order: an hour or more
	@$(RUN) -m wsdemo.proof.checker --deep

compose-schema: $(READY)
	$(RUN) -m check_jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

# This must work when the old pins contradict pyproject.toml, which is when it is needed, so it
# asks for no more than uv.
constraints: ## Pin the versions of all packages anew
	@set -e; \
	if ! $(RUN) -m uv --version >/dev/null 2>&1; then \
	  $(make_venv) \
	  $(RUN) -m pip install -q --only-binary=:all: uv; \
	fi; \
	$(RUN) -m uv pip compile pyproject.toml --universal --python-version 3.11 \
	  --extra lab --extra test --no-header --no-annotate --upgrade --quiet \
	  --output-file constraints.txt

clean: ## Remove .venv and caches
	rm -rf .venv .venv-3.13 site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis \
	  .coverage* dist build *.egg-info
	@find . -path ./.git -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune \
	  -exec rm -rf {} +

TWO_WORKERS = -n 2 --dist loadgroup
# Tells where the minutes of the whole suite go.
SLOWEST = --durations=30 --durations-min=5

# --- JupyterLab --------------------------------------------------------------------------------

# As the address that Lab opens and prints, so that the sources can be browsed beside the notebook
# (a notebook as an argument would make its directory the top), and without a browser too.
# A learner's own copy of it stands before it in the order of names.
FIRST_NOTEBOOK = $(or $(firstword $(sort $(foreach name,$(wildcard notebooks/00-*.ipynb), \
  $(if $(findstring -my-copy-,$(name)),,$(name))))),notebooks)

# A kernel called python3 that belongs to another environment must not take the place of ours, and
# `!python` in a cell, or python in one of Lab's terminals, means ours as well.
LAB_ENVIRONMENT = JUPYTER_PATH= JUPYTER_PREFER_ENV_PATH=1 PATH="$$PWD/$(VENV)/bin:$$PATH"

# In a container one is root, and Jupyter would refuse; it still listens on loopback only.
ALLOW_ROOT = $(shell [ "`id -u`" != 0 ] || echo --allow-root)

# Lab's question whether it may fetch news would be the first thing that a student sees.
LAB_SETTINGS = $(VENV)/share/jupyter/lab/settings
NO_NEWS = {"@jupyterlab/apputils-extension:notification": \
  {"checkForUpdates": false, "fetchNews": "false"}}

# --- .venv -------------------------------------------------------------------------------------

# What timestamps do not show: the directory was moved or copied (an editable install points to
# the old place), or the Python below .venv is gone (an upgrade of the system's took it away).
# Or another version is asked for.
VERSION = -c 'import sys; print(sys.version_info[:2])'
HEALTHY := $(shell [ "`cat $(READY) 2>/dev/null`" = "`pwd -P`" ] && $(RUN) -c pass && \
  { [ -z "$(PYTHON)" ] || [ "`$(PYTHON) $(VERSION)`" = "`$(RUN) $(VERSION)`" ]; } && echo yes)

# The search comes after the removal: with .venv activated, python3 is the one in .venv.
define make_venv
rm -rf $(VENV); \
python=; \
for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
  if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
    >/dev/null 2>&1; then python=$$candidate; break; fi; \
done; \
if [ -z "$$python" ]; then \
  echo "wsdemo needs Python 3.11 or newer with venv" \
    "(Debian: apt install python3-venv; macOS: brew install python)" >&2; exit 1; \
fi; \
"$$python" -m venv $(VENV);
endef

# A healthy .venv is brought up to date; anything else is made anew, since a half-made one cannot
# be told from a broken one. On a terminal the installers show their progress.
$(READY): pyproject.toml constraints.txt $(if $(HEALTHY),,FORCE)
	@set -e; \
	if [ -n "$(HEALTHY)" ]; then echo "Bringing $(VENV) up to date ..."; else \
	  echo "Setting up $(VENV); this takes a minute or two, once ..."; \
	  $(make_venv) \
	fi; \
	rm -f $@; \
	quiet=-q; if [ -t 2 ]; then quiet=; fi; \
	if ! { $(RUN) -m pip install -q --only-binary=:all: uv && \
	  $(RUN) -m uv pip install $$quiet --python $(RUN) -c constraints.txt -e '.[lab,test]'; }; \
	then \
	  echo "uv could not do it, so pip does; this takes a minute longer ..."; \
	  $(RUN) -m pip install $$quiet -c constraints.txt -e '.[lab,test]'; \
	fi; \
	mkdir -p $(LAB_SETTINGS); \
	printf '%s\n' '$(NO_NEWS)' > $(LAB_SETTINGS)/overrides.json; \
	pwd -P > $@
