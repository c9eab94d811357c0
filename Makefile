# `make demo` and `make test` each set themselves up; nothing has to be installed first but Python 3.11+ and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
DEMO_LAKE ?= demo-lake

.PHONY: setup demo test test-slow lint fmt bench audit lock clean

setup: $(STAMP)

# Bytecode is compiled once here: without it every Ray worker compiles torch and ray again.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Masklake needs Python 3.11 or newer; set PYTHON=python3.x")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	@UV=$$(command -v uv || echo $(BIN)/uv); \
	  $$UV pip sync --python $(BIN)/python --require-hashes --compile-bytecode --quiet requirements.lock && \
	  $$UV pip install --python $(BIN)/python --no-deps --no-build-isolation --quiet -e .
	@touch $@

demo: setup
	$(BIN)/masklake demo --lake $(DEMO_LAKE)

# Two processes, a file of tests in one of them. More need about 4 GB each: make test JOBS=8
JOBS ?= 2
test: setup
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(JOBS) --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m tests.bench

# Known vulnerabilities of what is locked. pip-audit runs in an environment of its own and asks a database on the network;
# a package that the database does not know fails it (--strict): what was not looked at is not safe.
audit: setup
	@UV=$$(command -v uv || echo $(BIN)/uv); \
	  $$UV tool run --quiet pip-audit --version >/dev/null 2>&1 || \
	    { echo "audit: pip-audit cannot be installed here (no network?); nothing was audited"; exit 1; }; \
	  $$UV tool run --quiet pip-audit --requirement requirements.lock --require-hashes --disable-pip --strict --progress-spinner off

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet \
	  --extra dev pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) demo-lake
