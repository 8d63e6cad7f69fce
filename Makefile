VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# More than the cores of a small machine: the tests wait for sockets and disks half of their time.
WORKERS ?= 3
GENERATED := pdp/v1/decision registry_store/v1/sync

.PHONY: install demo test postgresql soak mutation check lint format protos drift roles

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/python examples/demo.py

test: install
	@$(BIN)/python -m tests.postgresql
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope

postgresql: install
	@$(BIN)/python -m tests.postgresql installed || { apt-get update --quiet && apt-get install --quiet --yes postgresql; }

soak: install
	$(BIN)/python -m pytest -m soak -o faulthandler_timeout=3600

mutation: install
	$(BIN)/python -m pip install --quiet --editable '.[mutation]'
	$(BIN)/python benchmarks/mutation.py

check: lint test

lint: install drift
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

roles: install
	$(BIN)/python -m registry_store.rest.roles > docs/roles.md

protos: install
	$(BIN)/python -m grpc_tools.protoc --proto_path=protos --python_out=. --pyi_out=. --grpc_python_out=. \
	    $(GENERATED:%=protos/%.proto)

drift: install
	@new=$$(mktemp -d) && trap 'rm -r $$new' EXIT && \
	$(BIN)/python -m grpc_tools.protoc --proto_path=protos --python_out=$$new --pyi_out=$$new \
	    --grpc_python_out=$$new $(GENERATED:%=protos/%.proto) && \
	for name in $(GENERATED); do for end in _pb2.py _pb2.pyi _pb2_grpc.py; do \
	    cmp $$new/$$name$$end $$name$$end || { echo "generated code is stale: run make protos"; exit 1; }; \
	done; done
