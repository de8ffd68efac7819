# `make run` shows it working and `make test` checks it. Both need bash and Python 3.11+ with pip, and nothing else.
SHELL := bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt

# Tests start hundreds of Python processes, each of which would compile Sundog anew.
unexport PYTHONDONTWRITEBYTECODE

ONLY ?=
comma := ,

# Tests that share an expensive start share a process (tests/conftest.py); the groups that take longest come first.
GROUPED := --dist loadgroup --no-loadscope-reorder --durations=25
# What a tier leaves to `make test-all`.
GATE := not extended and not campaign

.PHONY: run test e2e e2e-api e2e-pods test-all more-local more-fuzz more-fuzz-parsers more-fuzz-openapi more-cluster chaos check unit binaries all-binaries cluster-up cluster-down bench campaigns generate docs images format clean

# The demo: two small networks on real handwritten digits, through a canary and a broken release.
run: $(VENV)/.local
	$(BIN)/sundog demo

# What gates a change: each promise once on real Ray and a real HAProxy, and all that needs neither. Some 20 minutes on two cores.
test: check
	$(BIN)/pytest tests/contract tests/unit tests/fuzz tests/integration -m 'not cluster and $(GATE)' \
	    -n 3 $(GROUPED) --hypothesis-profile gate --tier 'make test'

# Style, types and layers; under a minute.
check: $(VENV)/.dev
	$(BIN)/ruff format --check operator serving tests tools
	$(BIN)/ruff check operator serving tests tools
	$(BIN)/mypy
	$(BIN)/lint-imports

# No Ray, no HAProxy.
unit: $(VENV)/.dev
	$(BIN)/pytest tests/unit tests/contract tests/fuzz -m 'not cluster and $(GATE)' -n 2 $(GROUPED) --hypothesis-profile gate

# A real Kubernetes that the tests start themselves, or the one of SUNDOG_TEST_KUBECONFIG. What needs the API server alone
# comes first; then the chart is installed, digits are served, promoted and rolled back, and the operator is killed.
# One after the other: two clusters at once leave two cores no time to renew a Lease. Needs Go once, and root for a node.
e2e:
	@$(MAKE) --no-print-directory --keep-going e2e-api e2e-pods

e2e-api: $(VENV)/.dev binaries
	$(BIN)/pytest tests/contract tests/integration tests/cluster -m 'cluster and not node and $(GATE)' \
	    --durations=25 --hypothesis-profile gate --tier 'make e2e-api'

e2e-pods: $(VENV)/.dev binaries
	$(BIN)/pytest tests/cluster -m 'node and $(GATE)' --durations=25 --hypothesis-profile gate --tier 'make e2e-pods'

# Everything, in some hours: both of these, then every longer case. A part that fails does not hide the next.
test-all: $(VENV)/.dev
	@$(MAKE) --no-print-directory --keep-going test e2e more-local more-fuzz more-cluster chaos

# Each edge case of the model server, the edge and local mode, and many examples of what is generated.
more-local: $(VENV)/.dev all-binaries
	$(BIN)/pytest tests/integration tests/contract tests/unit -m 'not cluster and not campaign and (extended or hypothesis)' \
	    -n 2 $(GROUPED) --hypothesis-profile many --tier 'make more-local'

# A fuzzer that fails does not hide the other.
more-fuzz: more-fuzz-parsers more-fuzz-openapi

more-fuzz-parsers: $(VENV)/.dev
	SUNDOG_FUZZ_RUNS=1000000 $(BIN)/pytest tests/fuzz/test_fuzz.py -n 2 --durations=25 --tier 'make more-fuzz-parsers'

more-fuzz-openapi: $(VENV)/.dev
	SUNDOG_FUZZ_RUNS=40000 $(BIN)/pytest tests/fuzz/test_openapi.py --durations=25 --tier 'make more-fuzz-openapi'

# Each edge case on a real Kubernetes.
more-cluster: $(VENV)/.dev all-binaries
	$(BIN)/pytest tests/contract tests/integration tests/cluster -m 'cluster and extended and not campaign' \
	    -n 2 $(GROUPED) --hypothesis-profile many --tier 'make more-cluster'

# Losses at random moments, and whole experiments on real traffic.
chaos: $(VENV)/.dev all-binaries
	$(BIN)/pytest tests/integration tests/cluster -m campaign --durations=25 --tier 'make chaos'

# The programs of that Kubernetes, compiled from Go modules the first time and kept below the user's cache folder for every checkout.
binaries: $(VENV)/.dev
	@PYTHONPATH=tests/support $(BIN)/python -m real_kubernetes build

# And the stores that longer cases read models from.
all-binaries: $(VENV)/.dev
	@PYTHONPATH=tests/support $(BIN)/python -m real_kubernetes build --all

# The same Kubernetes to work with, until it is taken down; `make cluster-up NODE=--no-node` without pods, in seconds.
cluster-up: $(VENV)/.dev
	@PYTHONPATH=tests/support $(BIN)/python -m real_kubernetes up $(NODE)

# Ends it, and whatever a killed test run left in this checkout.
cluster-down: $(VENV)/.dev
	@PYTHONPATH=tests/support $(BIN)/python -m real_kubernetes down

# Measurements, in about an hour: raw numbers below out/bench, tables in docs/benchmarks.md, also where a part fails.
# `make bench ONLY=edge,peers` runs some parts and keeps the tables of the others. Needs wrk (apt-get install wrk).
bench: $(VENV)/.dev
	$(BIN)/pytest tests/bench -s -m 'not campaign' --only '$(ONLY)'; measured=$$?; \
	PYTHONPATH=tests/support $(BIN)/python -m measuring.record && exit $$measured

# Whole rollouts on real Ray Serve and a real edge, in four to six hours: good, bad and alike revisions, stalls, and kill -9 all the while.
# `make campaigns ONLY=real_harm` runs some parts. Each part is recorded as `bench` does, and as soon as there is anything of it.
campaigns: $(VENV)/.dev
	$(BIN)/pytest tests/bench -s -m campaign --only '$(ONLY)'; measured=$$?; export PYTHONPATH=tests/support; \
	$(BIN)/python -m campaigning.plotting && $(BIN)/python -m measuring.record && exit $$measured

# Everything that is generated: CRDs, reference pages, the schema, table and golden files of the chart.
generate: $(VENV)/.dev
	PYTHONPATH=tools:tests/support $(BIN)/python -m charting.generate
	PYTHONPATH=tools $(BIN)/python -m reference

# The documentation site, in out/site; search needs a server: `python -m http.server -d out/site`.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

# The images, by buildah, podman or docker: `make images REGISTRY=registry.example.com/sundog ONLY=operator-edge`. See images/README.md.
images:
	images/build $(subst $(comma), ,$(ONLY))

format: $(VENV)/.dev
	$(BIN)/ruff format operator serving tests tools
	$(BIN)/ruff check --fix operator serving tests tools

# Installs one extra by uv: that of the PATH, else one that pip puts into the environment. pip itself installs where an
# index of its own is set up for it, which uv would not read, or where uv fails; its messages are shown on one line.
# PyTorch's build for CPUs is a tenth of the size; an index that has none leaves the choice to the installer.
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

# It has all of the other.
$(VENV)/.dev: $(SOURCES)
	$(call install,dev)
	@touch $(VENV)/.local $@

clean:
	[ ! -d .cluster ] || $(MAKE) --no-print-directory cluster-down
	rm -rf .cluster $(VENV) .venv-peers out .mypy_cache .ruff_cache .pytest_cache .hypothesis
