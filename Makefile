# make demo, make test: both set up a .venv by themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install extra demo test gpu kill fuzz soak bench lint format clean

install: $(VENV)/installed

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# what single features want besides; the tests run them all
extra: $(VENV)/installed-extra

$(VENV)/installed-extra: requirements-extra.txt $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-extra.txt
	touch $@

demo: install
	$(BIN)/python scripts/demo.py

# Two tests at a time, of one thread each. The second run stands for a CPU with matrix units for
# bfloat16, where precision auto chooses it.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
test: install extra lint
	$(PYTEST)
	$(PYTEST) -m auto_precision --auto-precision bfloat16

# on a machine with a CUDA GPU: tests, golden numbers, speed, a profile, the first 500 iterations
gpu: install extra
	$(BIN)/python -m benchmarks.gpu $(ARGS)

# a run killed at random moments and resumed until it ends, against one left alone
KILLS ?= 100
kill: install
	KILLS=$(KILLS) $(BIN)/python -m pytest -s tests/scripts/test_kill.py

# damaged volumes, configs and checkpoints
CASES ?= 20000
fuzz: install extra
	$(BIN)/python -m tests.fuzz --cases $(CASES) --seed 1000
	$(BIN)/python -m pytest --hypothesis-profile fuzz tests/prediction/test_properties.py

# memory, file handles and threads of an hour of training
soak: install
	$(BIN)/python -m benchmarks.soak

# make bench ARGS=--quick takes two minutes
bench: install
	$(BIN)/python -m benchmarks.bench $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
