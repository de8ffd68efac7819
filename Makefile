# `make run` shows it working, `make test` checks it; both need Python 3.11+ with pip, and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt

ONLY ?=
comma := ,

.PHONY: run test check unit integration cluster cluster-up cluster-down bench campaigns prove generate images format clean

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

# Real HAProxy, stores and processes two at a time, for they wait more than they compute; then real Ray, one test after the other.
integration: $(VENV)/.ready
	$(BIN)/pytest tests/integration -m 'not ray and not cluster and not campaign' -n 2 --dist loadfile; apart=$$?; \
	$(BIN)/pytest tests/integration -m 'ray and not cluster and not campaign' && exit $$apart

# A real Kubernetes that the tests start themselves, or the one of SUNDOG_TEST_KUBECONFIG. Needs Go once, and root for a node.
# One step of a rollout loses there its operator, Ray's head, a worker and an edge, in two minutes; each by itself and for longer in `make prove`.
# What an API server is enough for runs beside what needs pods, and is shown after it.
cluster: $(VENV)/.ready
	@mkdir -p .cluster
	$(BIN)/pytest tests/contract tests/integration tests/cluster -m 'cluster and not node and not campaign' \
	    >.cluster/control-plane-tests.log 2>&1 & beside=$$!; \
	$(BIN)/pytest tests/contract tests/integration tests/cluster -m 'node and not campaign'; pods=$$?; \
	wait $$beside; control_plane=$$?; cat .cluster/control-plane-tests.log; [ $$pods = 0 ] && exit $$control_plane

# The same Kubernetes to work with, until it is taken down; `make cluster-up NODE=--no-node` without pods, in seconds.
cluster-up: $(VENV)/.ready
	@PYTHONPATH=tests/support $(BIN)/python -m real_kubernetes up $(NODE)

# Ends it, and whatever a killed test run left in this checkout.
cluster-down: $(VENV)/.ready
	@PYTHONPATH=tests/support $(BIN)/python -m real_kubernetes down

# Measurements, in about an hour: raw numbers below out/bench, tables in docs/benchmarks.md, also where a part fails.
# `make bench ONLY=edge,peers` runs some parts and keeps the tables of the others. Needs wrk (apt-get install wrk).
bench: $(VENV)/.ready
	$(BIN)/pytest tests/bench -s -m 'not campaign' --only '$(ONLY)'; measured=$$?; \
	PYTHONPATH=tests/support $(BIN)/python -m measuring.record && exit $$measured

# Whole rollouts on real Ray Serve and a real edge, in four to six hours: good, bad and alike revisions, stalls, and kill -9 all the while.
# `make campaigns ONLY=real_harm` runs some parts. Each part is recorded as `bench` does, and as soon as there is anything of it.
campaigns: $(VENV)/.ready
	$(BIN)/pytest tests/bench -s -m campaign --only '$(ONLY)'; measured=$$?; export PYTHONPATH=tests/support; \
	$(BIN)/python -m campaigning.plotting && $(BIN)/python -m measuring.record && exit $$measured

# Long campaigns: each thing that dies on a cluster while it serves, at random moments, candidates in place, two rollouts at once, whole experiments, a flood of units, a demo that stays up, the fuzzer for a quarter of an hour, then the measurements and whole rollouts.
prove: $(VENV)/.ready
	$(BIN)/pytest tests/cluster tests/integration -m campaign
	SUNDOG_FUZZ_RUNS=1000000 $(BIN)/pytest tests/fuzz/test_fuzz.py
	SUNDOG_FUZZ_RUNS=40000 $(BIN)/pytest tests/fuzz/test_openapi.py
	$(MAKE) bench
	$(MAKE) campaigns

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
