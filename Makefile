# `make run` starts the demo, `make test` checks a change. Both need only bash and Python 3.11+ with pip.
SHELL := bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt

# Tests start hundreds of Python processes. Without bytecode files each would compile Sundog again.
unexport PYTHONDONTWRITEBYTECODE

ONLY ?=
TAG ?=
REQUIRE ?=
comma := ,

# Tests that share an expensive start share a process (tests/conftest.py). The slowest groups start first.
GROUPED := --dist loadgroup --no-loadscope-reorder --durations=25
# Excludes the tests that run in `make test-all` only.
GATE := not extended and not campaign

.PHONY: run test e2e e2e-api e2e-pods test-all more-local more-fuzz more-fuzz-parsers more-fuzz-openapi more-cluster nodes chaos check unit binaries all-binaries cluster-up cluster-down bench campaigns generate pictures record-rollout docs images locks release-check format clean

# Run the demo: two small networks for handwritten digits, a canary and a broken release.
run: $(VENV)/.local
	$(BIN)/sundog demo

# Run the tests that gate a change: each promise once on real Ray and a real HAProxy, and all tests that need
# neither. Some 20 minutes on two cores.
test: check
	$(BIN)/pytest tests/contract tests/unit tests/fuzz bench/tests tests/integration -m 'not cluster and $(GATE)' \
	    -n 3 $(GROUPED) --hypothesis-profile gate --tier 'make test'

# Check style, types and import layers, in under a minute.
check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_language.py

# Run the tests that need neither Ray nor HAProxy.
unit: $(VENV)/.dev
	$(BIN)/pytest tests/unit tests/contract tests/fuzz bench/tests -m 'not cluster and $(GATE)' -n 2 $(GROUPED) --hypothesis-profile gate

# Run the tests on a real Kubernetes: one that they start, or that of SUNDOG_TEST_KUBECONFIG. First those that need only
# the API server; then those with pods, which install the chart, serve, promote and roll back digits, and kill the operator.
# They run in turn: two clusters at once leave two cores no time to renew a Lease. Needs Go once, and root for a node.
e2e:
	@$(MAKE) --no-print-directory --keep-going e2e-api e2e-pods

e2e-api: $(VENV)/.dev binaries
	$(BIN)/pytest tests/contract tests/integration tests/cluster -m 'cluster and not node and $(GATE)' \
	    --durations=25 --hypothesis-profile gate --tier 'make e2e-api'

e2e-pods: $(VENV)/.dev binaries
	$(BIN)/pytest tests/cluster -m 'node and $(GATE)' --durations=25 --hypothesis-profile gate --tier 'make e2e-pods'

# Run all tests, in nine to eleven hours: `test`, `e2e`, all longer cases, and last `campaigns`, which take half of them.
# A part that fails does not stop the next one.
test-all: $(VENV)/.dev
	@$(MAKE) --no-print-directory --keep-going test e2e more-local more-fuzz more-cluster nodes chaos campaigns

# Run further cases of the model server, the edge and local mode, and many generated examples.
more-local: $(VENV)/.dev all-binaries
	$(BIN)/pytest tests/integration tests/contract tests/unit bench/tests -m 'not cluster and not campaign and (extended or hypothesis)' \
	    -n 2 $(GROUPED) --hypothesis-profile many --tier 'make more-local'

# Run both fuzzers. One that fails does not stop the other.
more-fuzz: more-fuzz-parsers more-fuzz-openapi

more-fuzz-parsers: $(VENV)/.dev
	SUNDOG_FUZZ_RUNS=1000000 $(BIN)/pytest tests/fuzz/test_fuzz.py -n 2 --durations=25 --tier 'make more-fuzz-parsers'

more-fuzz-openapi: $(VENV)/.dev
	SUNDOG_FUZZ_RUNS=40000 $(BIN)/pytest tests/fuzz/test_openapi.py --durations=25 --tier 'make more-fuzz-openapi'

# Run further cases on a real Kubernetes.
more-cluster: $(VENV)/.dev all-binaries
	$(BIN)/pytest tests/contract tests/integration tests/cluster -m 'cluster and extended and not campaign' \
	    -n 2 $(GROUPED) --hypothesis-profile many --tier 'make more-cluster'

# Lose nodes of a Kubernetes that has three.
nodes: $(VENV)/.dev all-binaries
	$(BIN)/pytest tests/nodes --durations=25 --tier 'make nodes'

# Kill processes at random moments, and run whole experiments on real traffic.
chaos: $(VENV)/.dev all-binaries
	$(BIN)/pytest tests/integration tests/cluster -m campaign --durations=25 --tier 'make chaos'

# Compile the programs of that Kubernetes from Go modules. The user's cache folder keeps them for every checkout.
binaries: $(VENV)/.dev
	@PYTHONPATH=tests/support $(BIN)/python -m real_kubernetes build

# Compile also KEDA, the metrics server and the model stores that longer cases use.
all-binaries: $(VENV)/.dev
	@PYTHONPATH=tests/support $(BIN)/python -m real_kubernetes build --all

# Start the same Kubernetes to work with. `make cluster-up NODE=--no-node` starts one without pods, in seconds.
cluster-up: $(VENV)/.dev
	@PYTHONPATH=tests/support $(BIN)/python -m real_kubernetes up $(NODE)

# Stop that Kubernetes, and the processes that a killed test run left in this checkout.
cluster-down: $(VENV)/.dev
	@PYTHONPATH=tests/support $(BIN)/python -m real_kubernetes down

# Run the benchmarks, in about an hour and a half. Writes numbers to out/bench and tables to docs/benchmarks/archive.md, even if a part fails.
# `make bench ONLY=edge,peers` runs some parts and keeps the tables of the others. Needs wrk (apt-get install wrk).
bench: $(VENV)/.dev
	$(BIN)/pytest bench --ignore bench/tests -s -m 'not campaign' --only '$(ONLY)'; measured=$$?; \
	PYTHONPATH=bench $(BIN)/python -m measuring.record && exit $$measured

# Run whole rollouts on real Ray Serve and a real edge, in four to six hours: good, bad and equal revisions, stalls, and
# kill -9 throughout. `make campaigns ONLY=real_harm` runs some parts. Each part is recorded like those of `bench`, as soon as
# it has a result.
campaigns: $(VENV)/.dev
	$(BIN)/pytest bench --ignore bench/tests -s -m campaign --only '$(ONLY)' --tier 'make campaigns'; measured=$$?; \
	PYTHONPATH=bench $(BIN)/python -m measuring.record && exit $$measured

# Generate all that is generated: the CRDs, the reference pages, and the schema, table and golden files of the chart.
generate: $(VENV)/.dev
	PYTHONPATH=tools:tests/support $(BIN)/python -m charting.generate
	PYTHONPATH=tools $(BIN)/python -m reference

# Draw the pictures of the documentation again: of the recorded rollout, and of the benchmarks' tables. Record that rollout on real
# Ray Serve and a real edge, in six to eight minutes, by `make record-rollout`.
pictures: $(VENV)/.dev
	PYTHONPATH=tools $(BIN)/python -m pictures

record-rollout: $(VENV)/.dev
	PYTHONPATH=bench:tests/support $(BIN)/python -m campaigning.rollout_recording

# The documentation site, in out/site; search needs a server: `python -m http.server -d out/site`.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

# Lock the packages of the images again, with versions and hashes, after a change of pyproject.toml or constraints.txt.
locks: $(VENV)/.dev
	PYTHONPATH=tools $(BIN)/python -m releasing locks

# Check all of a release that needs no account, and write its files to out/release: `make release-check TAG=v0.1.0` before
# a tag. Needs Go once, and gpg for the chart's signature. A check that cannot run says so, and fails if REQUIRE names it.
release-check: $(VENV)/.dev
	PYTHONPATH=tools $(BIN)/python -m releasing check --tag '$(TAG)' $(if $(REQUIRE),--require '$(REQUIRE)')

# Build the images: `make images REGISTRY=registry.example.com/sundog ONLY=operator-edge`. See images/README.md.
images:
	images/build $(subst $(comma), ,$(ONLY))

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Install one extra with uv: the one on the PATH, or one that pip installs into the environment. pip installs instead if it
# has an index of its own, which uv would not read, or if uv fails. Messages are shown on one line.
# PyTorch's CPU build has a tenth of the size. If the index has none, the installer chooses.
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
define install
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@echo "Installing sundog[$(1)] into $(VENV): a minute or a few the first time, most of it for PyTorch."
	@set -o pipefail; uv=$$($(find_uv)); \
	if ! { [ "$$uv" ] && $(call install_by,$$uv pip install --python $(BIN)/python,$(1)) 2>&1 | $(one_line); }; then \
	    $(call install_by,$(BIN)/pip install --progress-bar off,$(1)) | $(one_line); \
	fi
endef
find_uv = command -v uv || { ! $(BIN)/pip config list | grep -q index-url && \
    $(BIN)/pip install --quiet --constraint constraints.txt uv && echo $(BIN)/uv; }
install_by = { $(1) --quiet --no-deps 'torch==$(TORCH)+cpu' 2>/dev/null; \
    $(1) --constraint constraints.txt --editable '.[$(2)]'; }
one_line = if [ -t 1 ]; then awk '{ printf "\r\033[K%.78s", $$0; fflush() } END { print "" }'; else cat >/dev/null; fi

$(VENV)/.local: $(SOURCES)
	$(call install,local)
	@touch $@

# The extra `dev` includes `local`.
$(VENV)/.dev: $(SOURCES)
	$(call install,dev)
	@touch $(VENV)/.local $@

clean:
	[ ! -d .cluster ] || $(MAKE) --no-print-directory cluster-down
	rm -rf .cluster $(VENV) .venv-peers out .mypy_cache .ruff_cache .pytest_cache .hypothesis
