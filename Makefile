# Each target does all of its own set-up: a virtual environment in .venv with the exact versions of
# constraints.txt. Needs Python 3.11 or newer, and a package index that pip can reach.

PYTHON ?= python3
JOBS ?= 2
ARGS ?=
READY := .venv/ready
BIN := .venv/bin

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help test test-slow demo bench-speed bench-accuracy lint format venv wheel clean

help:
	@echo "make test        run the tests (ARGS='-k ties' passes arguments to pytest)"
	@echo "make demo        fine-tune a real model on three tasks, store the deltas, merge them, score them"
	@echo "make demo QUICK=1  the same with a few training steps a task"
	@echo "make bench-speed  measure what merges cost (ARGS='--size 1.1b'; ARGS=--help tells more)"
	@echo "make bench-accuracy  score every strategy on real models, text and images"
	@echo "make test-slow   run the tests that take long"
	@echo "make lint        check style, format and types"
	@echo "make format      put the sources into the one format"
	@echo "make wheel       build dist/deltakit_merge-*.whl"
	@echo "make venv        only set up .venv (the targets above do that by themselves)"
	@echo "make clean       remove .venv, build leftovers and tool caches"
	@echo
	@echo "Variables: PYTHON=python3.12 picks the interpreter, JOBS=4 the number of test processes."

# One torch thread a process: the test processes share the cores.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow $(ARGS) || [ $$? -eq 5 ]  # 5: there are none

demo: $(READY)
	$(BIN)/python -m benchmarks.demo $(if $(QUICK),--quick) $(ARGS)

bench-speed: $(READY)
	$(BIN)/python -m benchmarks.merge_speed $(ARGS)

bench-accuracy: $(READY)
	$(BIN)/python -m benchmarks.strategy_accuracy $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(READY)
	rm -rf build dist
	$(BIN)/python -m build --quiet --wheel --no-isolation

venv: $(READY)

# The stamp is written last and removed first, so an interrupted set-up starts over. torch comes
# first and alone: then no later requirement can replace it with another build.
$(READY): pyproject.toml setup.py constraints.txt
	@rm -f $@
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0 setuptools
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	mkdir -p .venv/types
	ln -sfn ../../cli .venv/types/deltakit_cli
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
