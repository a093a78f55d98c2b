# Two commands do everything on a fresh machine (Debian, Python 3.11): make demo, make test.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test test-fast test-long lint docs experiments clean

demo: $(READY)  ## learn handwritten digits, then complete digits whose centre is hidden
	$(BIN)/nf fit --domain image --out runs/demo --overwrite
	$(BIN)/nf infer runs/demo --hide center:10
	$(BIN)/nf decode runs/demo --signal 7 --resolution 256 --out runs/demo/figures/signal-7-at-256.png

test: $(READY) lint  ## all tests
	$(BIN)/python -m pytest -n 2

test-fast: $(READY)  ## all but the slow ones
	$(BIN)/python -m pytest -n 2 -m "not slow and not long"

test-long: $(READY)  ## those that `make test` leaves out, to stay under 15 minutes on two cores
	$(BIN)/python -m pytest -n 2 -m long

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	$(BIN)/sphinx-build -W -b html docs docs/_build

experiments: $(READY)  ## the pages of docs/experiments, two at a time: under an hour on two cores
	$(BIN)/python benchmarks/experiments

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs docs/_build
