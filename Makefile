VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# More than the cores of a small machine: the tests wait for sockets and disks half of their time.
WORKERS ?= 3
PARALLEL = -n $(WORKERS) --dist loadscope --no-loadscope-reorder
MINUTES ?= 60
IMAGE ?= agent-pdp
# Further flags of `buildah build`: other bases, secrets for pip.
IMAGE_FLAGS ?=
# The tests start some hundred programs, and without bytecode on the disk each compiles the whole project.
unexport PYTHONDONTWRITEBYTECODE
# Wheels only: to build from source, pip fetches whatever builds it, and that is in no lock.
LOCKED := --quiet --require-hashes --only-binary :all:
BENCH := .venv-bench
CERBOS := benchmarks/peers/cerbos
# The commit that `make bench` measures beside this one; with `BASE=`, none.
BASE ?= 4f210fc
NODE := tests/pdp/endpoints/node
# Says which programs are missing; the tests that need them are skipped, and `make packages` installs them.
missing = for one in tests.postgresql tests.hostile.faketime tests.chromium tests.monitoring.prometheus; do \
    $(1)/python -m $$one || exit 1; done; \
    [ -d $(NODE)/node_modules ] || echo "Node's packages are not installed; a test of Connect needs: make packages" >&2
GENERATED := pdp/v1/decision pdp/v1/log registry_store/v1/sync

.PHONY: install demo test bench bench-packages bench-smoke packages soak image image-packages image-test hostile mutation check lint format protos drift breaking roles lock test-newest test-lowest

install: $(VENV)/.installed

$(VENV)/.locked: requirements/build.txt requirements/dev.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install $(LOCKED) --requirement requirements/build.txt --requirement requirements/dev.txt
	@touch $@

# Without build isolation and dependencies nothing is fetched that no lock names.
$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: install
	$(BIN)/python examples/demo.py

test: install
	@$(call missing,$(BIN))
	$(BIN)/python -m pytest $(PARALLEL)

# With UPDATE=1 the figures that it compares with become those that it measures.
bench-smoke: install
	$(BIN)/python -m benchmarks.smoke $(if $(UPDATE),--update)

# Only what is missing: Debian's npm, for one, cannot be installed beside the nodejs of its makers.
packages: install
	@missing=; \
	$(BIN)/python -m tests.postgresql installed || missing="$$missing postgresql"; \
	$(BIN)/python -m tests.hostile.faketime installed || missing="$$missing faketime"; \
	$(BIN)/python -m tests.chromium installed || missing="$$missing chromium chromium-driver"; \
	$(BIN)/python -m tests.monitoring.prometheus installed || missing="$$missing prometheus"; \
	for tool in jq curl npm valgrind; do command -v $$tool > /dev/null || missing="$$missing $$tool"; done; \
	[ -z "$$missing" ] || { apt-get update --quiet && apt-get install --quiet --yes $$missing; }
	npm ci --prefix $(NODE) --no-audit --no-fund

soak: install
	$(BIN)/python -m pytest -m soak -o faulthandler_timeout=3600

image:
	buildah build --tag $(IMAGE) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) $(IMAGE_FLAGS) \
	    --file deploy/Dockerfile .

image-packages:
	@missing=; for tool in buildah mmdebstrap; do command -v $$tool > /dev/null || missing="$$missing $$tool"; done; \
	[ -z "$$missing" ] || { apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends $$missing; }

# With IMAGE, of an image in this machine's storage; else of one that is built for it, and deleted.
image-test: install image-packages
	$(BIN)/python -m pytest -m image -o faulthandler_timeout=1800 tests/image

hostile: install
	$(BIN)/python -m tests.hostile.campaign --minutes $(MINUTES)

# What it measures and compares with is installed apart from everything else. ROWS="wire ingest" measures these alone.
bench: bench-packages $(BENCH)/.installed $(CERBOS)/node_modules/.package-lock.json
	$(BENCH)/bin/python -m benchmarks $(ROWS) $(if $(BASE),--base $(BASE)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	    $(if $(DECISIONS),--decisions $(DECISIONS))

bench-packages:
	@missing=; command -v h2load > /dev/null || missing="$$missing nghttp2-client"; \
	command -v npm > /dev/null || missing="$$missing npm"; \
	[ -z "$$missing" ] || { apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends $$missing; }

$(BENCH)/.installed: requirements/build.txt requirements/bench.txt pyproject.toml
	$(PYTHON) -m venv --clear $(BENCH)
	$(BENCH)/bin/python -m pip install $(LOCKED) --requirement requirements/build.txt --requirement requirements/bench.txt
	$(BENCH)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# `npm ci` does not make it executable, because its package does not call it a program.
$(CERBOS)/node_modules/.package-lock.json: $(CERBOS)/package-lock.json
	npm ci --prefix $(CERBOS) --no-audit --no-fund
	@chmod +x $(CERBOS)/node_modules/@cerbos/cerbos-linux-x64/cerbos-linux-x64
	@touch $@

mutation: install
	$(BIN)/python -m pip install $(LOCKED) --requirement requirements/mutation.txt
	$(BIN)/python benchmarks/mutation.py

check: lint test

lint: install drift breaking
	$(BIN)/buf lint
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

roles: install
	$(BIN)/python -m registry_store.rest.roles > docs/reference/roles.md

protos: install
	$(BIN)/python -m grpc_tools.protoc --proto_path=protos --python_out=. --pyi_out=. --grpc_python_out=. \
	    $(GENERATED:%=protos/%.proto)
	$(BIN)/python protos/agent_action.py > ascend/action.py

drift: install
	@new=$$(mktemp -d) && trap 'rm -r $$new' EXIT && \
	$(BIN)/python -m grpc_tools.protoc --proto_path=protos --python_out=$$new --pyi_out=$$new \
	    --grpc_python_out=$$new $(GENERATED:%=protos/%.proto) && \
	for name in $(GENERATED); do for end in _pb2.py _pb2.pyi _pb2_grpc.py; do \
	    cmp $$new/$$name$$end $$name$$end || { echo "generated code is stale: run make protos"; exit 1; }; \
	done; done; \
	$(BIN)/python protos/agent_action.py > $$new/action.py && cmp $$new/action.py ascend/action.py || \
	    { echo "generated code is stale: run make protos"; exit 1; }

# A shallow clone or an unpacked archive has no commit before this one.
breaking: install
	@if git cat-file -e HEAD~1:./protos 2>/dev/null; then \
	    old=$$(mktemp -d) && trap 'rm -r $$old' EXIT && \
	    git archive HEAD~1 protos | tar -x -C $$old && cp buf.yaml $$old && \
	    $(BIN)/buf breaking --against $$old; \
	else \
	    echo "buf breaking: not checked: there is no commit before this one"; \
	fi

UV := .venv-lock/bin/uv

$(UV): requirements/lock.txt
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install $(LOCKED) --requirement requirements/lock.txt
	@touch $@

COMPILE := $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --annotation-style line --custom-compile-command 'make lock'

# The lock with everything but the peers comes first: the others have its versions.
lock: $(UV)
	$(COMPILE) --extra mutation --output-file requirements/mutation.txt pyproject.toml
	$(COMPILE) --extra dev --constraint requirements/mutation.txt --output-file requirements/dev.txt pyproject.toml
	$(COMPILE) --extra bench --constraint requirements/mutation.txt --output-file requirements/bench.txt pyproject.toml
	$(COMPILE) --extra store --extra otel --constraint requirements/mutation.txt --output-file requirements/store.txt pyproject.toml
	$(COMPILE) --constraint requirements/mutation.txt --output-file requirements/sidecar.txt pyproject.toml
	$(COMPILE) --group build --constraint requirements/mutation.txt --output-file requirements/build.txt
	$(COMPILE) --group lock --output-file requirements/lock.txt

test-newest: RESOLUTION := highest
test-lowest: RESOLUTION := lowest-direct
test-newest test-lowest: test-%: $(UV)
	$(PYTHON) -m venv --clear .venv-$*
	$(UV) pip install --quiet --python .venv-$*/bin/python --resolution $(RESOLUTION) --upgrade --editable '.[dev]'
	@$(call missing,.venv-$*/bin)
	.venv-$*/bin/python -m pytest $(PARALLEL)
