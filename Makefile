# Commands of this project; CI runs the same ones (.ci/run). `make help` lists them.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARGS ?=
# Where it is set, each of the hundreds of processes that the tests start would compile everything
# of ours again.
unexport PYTHONDONTWRITEBYTECODE
JOBS ?= 4
MINUTES ?= 20
ROLLING_S ?= 60
# What a change in one file needs, on the embedded default: the unit tests without the slowest files (wild streams, sizes,
# crashes), and of each area over HTTP one file.
FAST ?= tests/service tests/template tests/test_architecture.py tests/test_documents.py \
  tests/application/test_config.py tests/application/test_health.py tests/documented/test_documented_names.py \
  tests/e2e/test_walk.py tests/streams/test_streams.py
SLOW ?= tests/service/llm/test_ai_streams_in_the_wild.py tests/service/llm/test_ai_failures.py \
  tests/service/llm/test_ai_integrations.py tests/service/cache/test_cache_embedded.py \
  tests/template/base/test_request_body_cost.py tests/template/chat/persistence/test_recovery.py \
  tests/template/chat/persistence/test_older_shards.py tests/template/chat/replies/test_lost_slots.py
# Of the tests over HTTP, what depends most on which process answers: one life, streams, clients,
# stories beside a model.
ON_WORKERS ?= tests/e2e/test_walk.py tests/streams/test_streams.py tests/examples \
  tests/story/test_story.py::test_stories_with_server_processes_that_are_killed

.DEFAULT_GOAL := help
.PHONY: help install run test test-fast workers chaos rolling soak bench format lint typecheck check docs lock fuzz

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv with everything (run and test do it by themselves)

run: $(INSTALLED) ## start the server with the embedded default; data in ./data
	@exec $(BIN)/python -m application.base_web_server --env LOCAL $(ARGS)

test: $(INSTALLED) ## all tests that can run here; names what it skipped (REQUIRE_REAL=1: missing backends fail; JOBS=4 at a time)
	@exec $(BIN)/python -m pytest -rs -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: $(INSTALLED) ## what a change in one file needs, within 60 s: unit tests and one file per area over HTTP, on the embedded default
	@exec $(BIN)/python -m pytest --embedded -n 2 --dist loadfile --no-loadscope-reorder $(FAST) $(SLOW:%=--ignore=%) $(ARGS)

workers: $(INSTALLED) ## some tests over HTTP on servers of four workers, a random one each request (ARGS="tests/e2e tests/story": more)
	@exec env SERVER_WORKERS=4 $(BIN)/python -m pytest -rs -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ON_WORKERS) $(ARGS)

chaos: $(INSTALLED) ## break real servers, Redis and MySQL for MINUTES=20; what failed is kept in ./chaos-failed (ARGS="--seed N")
	@exec $(BIN)/python -m tests.faults.chaos --minutes $(MINUTES) $(ARGS)

rolling: $(INSTALLED) ## the version before and this one side by side for ROLLING_S=60 s, as upgrade and as downgrade, while players play
	@exec env ROLLING_S=$(ROLLING_S) $(BIN)/python -m pytest -rs tests/faults/test_rolling_upgrade.py $(ARGS)

bench: $(INSTALLED) ## our figures beside limits and peers, in one run: RESULTS.md (ARGS="--only requests --seconds 2")
	@exec $(BIN)/python -m benchmarks $(ARGS)

soak: $(INSTALLED) ## players, every fifth of whom misbehaves, for MINUTES=20; fails unless memory, descriptors and tasks stay flat
	@exec $(BIN)/python -m benchmarks.soak --minutes $(MINUTES) $(ARGS)

fuzz: $(INSTALLED) ## bytes of all kinds at the strict parser, for FUZZ_S seconds (60); brings its own fuzzer
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/fuzz/requirements.txt
	@found=$$(mktemp -d); exec $(BIN)/python tests/fuzz/fuzz_request_body.py -max_total_time=$${FUZZ_S:-60} -max_len=1048576 \
	  -timeout=10 -rss_limit_mb=512 -artifact_prefix=$$found/ $$found tests/fuzz/corpus

format: $(INSTALLED) ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(INSTALLED) ## format and rules, nothing rewritten
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

typecheck: $(INSTALLED) ## mypy, strict
	$(BIN)/python -m mypy

check: lint typecheck workers test ## all that CI runs; the documents are checked by tests/test_documents.py

docs: $(INSTALLED) ## rewrite the tables in the documents that are printed from code
	$(BIN)/python docs/generate.py

lock: $(INSTALLED) ## compile requirements.lock and requirements-server.lock again from pyproject.toml (needs uv)
	@command -v uv >/dev/null || { echo "uv is not on PATH: pip install uv" >&2; exit 1; }
	UV_PYTHON_DOWNLOADS=never uv pip compile pyproject.toml --universal --generate-hashes --no-header --group dev \
	  --python $(BIN)/python -o requirements.lock
	UV_PYTHON_DOWNLOADS=never uv pip compile pyproject.toml --universal --generate-hashes --no-header \
	  --constraints requirements.lock --python $(BIN)/python -o requirements-server.lock

# The stamp is written last: an interrupted install is done again, a finished one costs nothing. It
# holds this folder's path, for a virtual environment does not survive a move.
ifneq ($(shell cat $(INSTALLED) 2>/dev/null),$(realpath $(CURDIR)))
.PHONY: $(INSTALLED)
endif
$(INSTALLED): requirements.lock pyproject.toml
	@set -e; python=; \
	for name in python3.11 python3 python3.12 python3.13 python3.14; do \
	  if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python="$$name"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11 or newer is needed and not on PATH (Debian 12 or newer: apt-get install python3 python3-venv)." >&2; \
	  exit 1; \
	fi; \
	if ! "$$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	  echo "$$python has no venv (Debian: apt-get install python3-venv)." >&2; exit 1; \
	fi; \
	echo "Installing into $(VENV), once; about a minute ..."; \
	"$$python" -m venv $(VENV); \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .; \
	pwd -P >$@
