# make demo, make test: both set up a .venv by themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install extra demo test kill fuzz soak bench lint format clean

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

# The second run stands for a CPU with matrix units for bfloat16, where precision auto chooses it.
NETWORK_TESTS = $(addprefix tests/test_,$(addsuffix .py,beyond commands distributed golden losses \
	plain prediction published_configs rounds shipped_models))
test: install extra lint
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest --auto-precision bfloat16 $(NETWORK_TESTS)

# a run killed at random moments and resumed until it ends, against one left alone
KILLS ?= 100
kill: install
	KILLS=$(KILLS) $(BIN)/python -m pytest -s tests/test_kill.py

# damaged volumes, configs and checkpoints
CASES ?= 20000
fuzz: install extra
	$(BIN)/python -m tests.fuzz --cases $(CASES) --seed 1000
	$(BIN)/python -m pytest --hypothesis-profile fuzz tests/test_properties.py

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
