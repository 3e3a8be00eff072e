# Everything a newcomer types: `make demo` and `make test`; both set up their own environment first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INTEROP := .venv-interop
INTEROP_STORE := build/interop

.PHONY: demo test test-interop check format lint types imports bench soak clean

demo: $(READY)
	$(BIN)/spahgc demo --into demo-data

# a process a core; more threads in each would only wait for one another
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

# spatialdata, squidpy and scanpy read our stores in an environment of their own: spatialdata pins
# an older dask than embedding needs
test-interop: $(READY) $(INTEROP)/.ready
	$(BIN)/python tests/interop/write_store.py $(INTEROP_STORE) > /dev/null
	SPAHGC_INTEROP=$(INTEROP_STORE) $(INTEROP)/bin/python -m pytest -c tests/interop/pytest.ini tests/interop

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
	$(BIN)/python benchmarks/forward_choices.py
	$(BIN)/python benchmarks/embedding_rate.py $(HER2ST)
	$(BIN)/python benchmarks/embedding_memory.py
	$(BIN)/python benchmarks/embedding_same.py
	$(BIN)/python benchmarks/ingest_hd.py
	$(BIN)/python benchmarks/store_reading.py
	$(BIN)/python benchmarks/index_search.py
	$(BIN)/python benchmarks/graph_building.py
	$(BIN)/python benchmarks/epoch_time.py
	$(BIN)/python benchmarks/predict_large.py
	$(if $(HER2ST),$(BIN)/python benchmarks/flagged_spots.py $(HER2ST))
	$(if $(VISIUM),$(BIN)/python benchmarks/ingest_visium.py $(VISIUM))

# kills of each of five operations on a folder, a quarter as many in a bucket, as many of the whole
# command; a line each, and fewer where asked: make soak KILLS=3 DAMAGES=20
KILLS ?= 40
DAMAGES ?= 300
soak: $(READY)
	SPAHGC_KILLS=$(KILLS) SPAHGC_DAMAGES=$(DAMAGES) $(BIN)/python -m pytest --verbose --durations 5 \
		tests/store/test_corruption.py tests/store/test_crashes.py tests/test_killed.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

$(INTEROP)/.ready: tests/interop/requirements.txt
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet --requirement tests/interop/requirements.txt
	touch $(INTEROP)/.ready

clean:
	rm -rf $(VENV) $(INTEROP) build dist demo-data *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
