# Everything a newcomer types: `make demo` and `make test`; both set up their own environment first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check format lint types imports bench soak clean

demo: $(READY)
	$(BIN)/spahgc demo --into demo-data

test: $(READY)
	$(BIN)/python -m pytest

check: format lint types imports test

format: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

# slides to measure on; synthetic ones where none are named: make bench HER2ST=… VISIUM="… …"
bench: $(READY)
	$(BIN)/python benchmarks/embedding_rate.py $(HER2ST)
	$(BIN)/python benchmarks/ingest_hd.py
	$(if $(VISIUM),$(BIN)/python benchmarks/ingest_visium.py $(VISIUM))

soak: $(READY)
	SPAHGC_KILLS=200 $(BIN)/python -m pytest tests/test_killed.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build dist demo-data *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
