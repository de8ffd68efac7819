# `make run` shows it working, `make test` checks it; both need Python 3.11+ with pip, and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt

ONLY ?=
comma := ,

.PHONY: run test check unit integration cluster cluster-up cluster-down bench prove generate images format clean

# The demo: two small networks on real handwritten digits, through a canary and a broken release.
run: $(VENV)/.ready
	$(BIN)/sundog demo

# Everything that gates a change; a part that fails does not hide what the next would say.
# Stores and Kubernetes are compiled meanwhile, out of the way of the tests that need none.
test: check
	@mkdir -p .cluster .tools
	@export PYTHONPATH=tests/support; \
	nice -n 19 $(BIN)/python -m store_processes >.tools/build.log 2>&1 & builders=$$!; \
	nice -n 19 $(BIN)/python -m real_kubernetes build >.cluster/build.log 2>&1 & builders="$$builders $$!"; \
	trap 'kill $$builders 2>/dev/null' EXIT; unset PYTHONPATH; \
	$(MAKE) --no-print-directory --keep-going unit integration cluster

# Style, types and layers; under a minute.
check: $(VENV)/.ready
	$(BIN)/ruff format --check operator serving tests
	$(BIN)/ruff check operator serving tests
	$(BIN)/mypy
	$(BIN)/lint-imports

# No Ray, no HAProxy: two processes, since the tests share nothing.
unit: $(VENV)/.ready
	$(BIN)/pytest tests/unit tests/contract tests/fuzz -m 'not cluster' -n 2 --dist loadfile

# Real Ray, real HAProxy, one after the other.
integration: $(VENV)/.ready
	$(BIN)/pytest tests/integration -m 'not cluster and not campaign'

# A real Kubernetes that the tests start themselves, or the one of SUNDOG_TEST_KUBECONFIG. Needs Go once, and root for a node.
cluster: $(VENV)/.ready
	$(BIN)/pytest tests/contract tests/integration tests/cluster -m 'cluster and not campaign'

# The same Kubernetes to work with, until it is taken down; `make cluster-up NODE=--no-node` without pods, in seconds.
cluster-up: $(VENV)/.ready
	@PYTHONPATH=tests/support $(BIN)/python -m real_kubernetes up $(NODE)

# Ends it, and whatever a killed test run left in this checkout.
cluster-down: $(VENV)/.ready
	@PYTHONPATH=tests/support $(BIN)/python -m real_kubernetes down

# Measurements, in about an hour: raw numbers below out/bench, tables in docs/benchmarks.md, also where a part fails.
# `make bench ONLY=edge,peers` runs some parts and keeps the tables of the others. Needs wrk (apt-get install wrk).
bench: $(VENV)/.ready
	$(BIN)/pytest tests/bench -s --only '$(ONLY)'; measured=$$?; \
	PYTHONPATH=tests/support $(BIN)/python -m measuring.record && exit $$measured

# Long campaigns: what dies on a cluster while it serves, a demo that stays up, the fuzzer for a quarter of an hour, then the measurements.
prove: $(VENV)/.ready
	$(BIN)/pytest tests/cluster tests/integration -m campaign
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
	[ ! -d .cluster ] || $(MAKE) --no-print-directory cluster-down
	rm -rf .cluster .tools $(VENV) .venv-peers out .mypy_cache .ruff_cache .pytest_cache .hypothesis
