# `make run` shows it working, `make test` checks it; both need Python 3.11+ with pip, and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt

ONLY ?=
comma := ,

.PHONY: run test check unit integration bench prove generate images format clean

# The demo: two small networks on real handwritten digits, through a canary and a broken release.
run: $(VENV)/.ready
	$(BIN)/sundog demo

# Everything that gates a change.
test: check unit integration

# Style, types and layers; under a minute.
check: $(VENV)/.ready
	$(BIN)/ruff format --check operator serving tests
	$(BIN)/ruff check operator serving tests
	$(BIN)/mypy
	$(BIN)/lint-imports

# No Ray, no HAProxy: two processes, since the tests share nothing.
unit: $(VENV)/.ready
	$(BIN)/pytest tests/unit tests/contract tests/fuzz -n 2 --dist loadfile

# Real Ray, real HAProxy, one after the other.
integration: $(VENV)/.ready
	$(BIN)/pytest tests/integration

# Measurements, in a quarter of an hour: raw numbers below out/bench, tables in docs/benchmarks.md, also where a part fails.
# `make bench ONLY=edge,peers` runs some parts and keeps the tables of the others. Needs wrk (apt-get install wrk).
bench: $(VENV)/.ready
	$(BIN)/pytest tests/bench -s --only '$(ONLY)'; measured=$$?; \
	PYTHONPATH=tests/support $(BIN)/python -m measuring.record && exit $$measured

# Long campaigns: the fuzzer for a quarter of an hour, then the measurements.
prove: $(VENV)/.ready
	SUNDOG_FUZZ_RUNS=1000000 $(BIN)/pytest tests/fuzz/test_fuzz.py
	SUNDOG_FUZZ_RUNS=40000 $(BIN)/pytest tests/fuzz/test_openapi.py
	$(MAKE) bench

# The CRDs and the API reference from the types; of the chart the table of its values and the golden files.
generate: $(VENV)/.ready
	$(BIN)/python -m sundog_operator.api.generate
	PYTHONPATH=tests/support $(BIN)/python -m charting.generate

# The images, by buildah, podman or docker: `make images REGISTRY=registry.example.com/sundog ONLY=operator-edge`. See images/README.md.
images:
	images/build $(subst $(comma), ,$(ONLY))

format: $(VENV)/.ready
	$(BIN)/ruff format operator serving tests
	$(BIN)/ruff check --fix operator serving tests

$(VENV)/.ready: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-peers out .mypy_cache .ruff_cache .pytest_cache .hypothesis
