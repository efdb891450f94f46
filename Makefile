# The front door: `make help` lists what a person does here.

PYTHON ?= python3.11
SPEC ?= specs/notification.yaml
DATA ?=
REQUEST ?= -
EVENTS ?= -
ARGS ?=

PY := .venv/bin/python
# Ends a command when make is killed, so that nothing is left for the next one to trip over.
TIED := exec $(PY) -I -S serve/tether.py $$PPID $(PY)

# Recipes read these from the environment, quoted, so that a path may hold any character.
export PYTHON SPEC DATA REQUEST EVENTS
# What a shell sets for another Python has no business here.
unexport PYTHONPATH PYTHONHOME
# Threads that wait sleep instead of spinning: on a busy machine a training step takes a fifth of the time.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help setup lock run up down status import validate apply materialize train evaluate prompts archive deploy decide drain \
	ingest skew test lint clean bench bench-store bench-storage bench-features bench-train bench-control experiments-offline soak

help: ## List the targets
	@echo "Pacer. Targets, in the order of the main job:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile
	@echo "Settings: SPEC=$(SPEC)  DATA=<folder with a decision log>  PYTHON=$(PYTHON)"

setup: ## Make .venv from requirements.lock (every other target does so first)
	@command -v "$$PYTHON" >/dev/null || { echo "Pacer needs Python 3.11 and there is no '$$PYTHON'; install it or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@"$$PYTHON" .ci/make_venv.py

run: setup ## Do the main job: a log in, decisions over REST out (SPEC=, DATA=)
	@$(TIED) -m workflows run --spec "$$SPEC" $${DATA:+--data "$$DATA"} $(ARGS)

up: setup ## Start Redis and TorchServe and leave them up; does the main job first where no model is trained
	@$(PY) -m workflows up --spec "$$SPEC" $${DATA:+--data "$$DATA"}

down: setup ## Stop what `make up` started
	@$(PY) -m serve down

status: setup ## Show which servers run, and where
	@$(PY) -m serve status

import: setup ## Check a decision log and its feature tables and take them in (DATA=)
	@$(PY) -m importers import --spec "$$SPEC" --data "$${DATA:?name the folder of the log: make import DATA=folder}"

validate: setup ## Validate log and feature tables with Great Expectations
	@$(PY) -m validation all --spec "$$SPEC"

apply: setup ## Register the feature definitions (feast apply)
	@$(PY) -m feature_repo apply

materialize: setup ## Fill the online store (feast materialize-incremental); Redis must be up
	@$(PY) -m feature_repo materialize --spec "$$SPEC"

train: setup ## Join the training set, train, write a model artifact
	@$(PY) -m feature_repo training-set --spec "$$SPEC"
	@$(PY) -m models train --spec "$$SPEC"

evaluate: setup ## Evaluate the newest artifact on held-out members; write a report (HTML, JSON)
	@$(PY) -m models evaluate --spec "$$SPEC"

prompts: setup ## Show predicted returns and actions at prompt levels (ARGS='--prompt {"click":0.9}')
	@$(PY) -m models prompts --spec "$$SPEC" $(ARGS)

archive: setup ## Pack the newest artifact for TorchServe
	@$(PY) -m serve archive --spec "$$SPEC"

deploy: setup ## Pack the newest artifact and restart TorchServe with it
	@$(PY) -m serve deploy --spec "$$SPEC"

decide: setup ## Send one request and show the reply (REQUEST=file.json, or standard input)
	@$(PY) -m serve decide --spec "$$SPEC" "$$REQUEST"

drain: setup ## Move the decisions made from Redis to Parquet files, the next log
	@$(PY) -m serve drain --spec "$$SPEC"

ingest: setup ## Count events (visits, clicks, sends) and push what they change (EVENTS=file.jsonl, or standard input)
	@$(PY) -m feature_repo ingest --spec "$$SPEC" "$$EVENTS"

skew: setup ## Compare the features that decisions were served with the offline store's; fails where one differs
	@$(PY) -m serve skew --spec "$$SPEC"

test: setup ## Run all tests (ARGS= for pytest, e.g. ARGS="-m unit")
	@$(TIED) -m pytest $(ARGS)

bench: bench-store bench-storage bench-features bench-train bench-control ## Measure everything that the docs quote

bench-store: setup ## Measure the ring store beside what one would use instead
	@$(TIED) -m benchmarks.store $(ARGS)

bench-storage: setup ## Measure what the ring's storage types cost in accuracy and pinball loss (SPEC=)
	@$(TIED) -m benchmarks.storage_effect --spec "$$SPEC" $(ARGS)

bench-features: setup ## Measure feature reads, materialization and joins beside Feast's own stores
	@$(TIED) -m benchmarks.features $(ARGS)

experiments-offline: setup ## The paper's offline tables and figures on the simulator's log and HeartSteps, 5 seeds (ARGS="--quick")
	@$(TIED) -m experiments offline $(ARGS)

bench-control: setup ## Measure what the model earns on a public control task beside d3rlpy's, from one log
	@$(TIED) -m benchmarks.control $(ARGS)

bench-train: setup ## Measure training, inference and trajectories beside Hugging Face's and d3rlpy's Decision Transformers
	@$(TIED) -m benchmarks.training $(ARGS)

soak: setup ## Run the store's long tests: writers, crashes, failover, damage, maintenance
	@$(TIED) -m benchmarks.soak $(ARGS)

lint: setup ## Check style, format and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

lock: setup ## Write requirements.lock anew from requirements.in (downloads everything)
	@rm -rf .venv/lock && $(PY) -m venv .venv/lock
	@.venv/lock/bin/python -m pip install --quiet --requirement requirements.in
	@.venv/lock/bin/python -m pip freeze --all --exclude pip | sed 's/+.*//' | grep -v -E '^(nvidia|cuda)-|^triton=' >.venv/lock.txt
	@sed -n '/^#/p' requirements.lock | cat - .venv/lock.txt >.venv/lock.new && mv .venv/lock.new requirements.lock
	@rm -rf .venv/lock .venv/lock.txt

clean: ## Stop the servers of this checkout; remove var/ (data, models) and caches; .venv stays
	@test ! -x $(PY) || env -u PACER_VAR $(PY) -m serve down
	@rm -rf var build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
