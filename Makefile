# Every target sets up what it needs: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO ?= demo
# of its own: the pages are built from the text of the docstrings, without torch
DOCS_VENV := .venv-docs
# of its own: MONAI Label needs older pydicom than others want
LABEL_VENV := .venv-label

.PHONY: demo test test-slow lint docs benchmark label label-server test-label test-ohif benchmark-gpu clean

demo: $(DEMO)/report.html

# two processes of one thread are faster than one of two; what a file's tests share stays in one of them
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --cov=adapters --numprocesses 2 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS_VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict

label: $(LABEL_VENV)/.installed

label-server: $(LABEL_VENV)/.installed
	@test -n "$(STUDIES)" || { echo "say which folder holds the scans: make label-server STUDIES=DIR"; exit 2; }
	$(LABEL_VENV)/bin/python -m adapters label_server --studies "$(STUDIES)" $(LABEL_OPTIONS)

test-label: $(LABEL_VENV)/.installed
	$(LABEL_VENV)/bin/python -m pytest tests/label

# the script adds what it needs to MONAI Label's environment
test-ohif: $(LABEL_VENV)/.installed
	$(LABEL_VENV)/bin/python tests/ohif/run.py

# such as make benchmark BENCHMARK_OPTIONS="--quick"
benchmark: $(STAMP)
	$(BIN)/python -m tests.benchmarks $(BENCHMARK_OPTIONS)

# all that a GPU is measured by, as a table and as benchmark-gpu.json
benchmark-gpu: $(STAMP)
	$(BIN)/python -m tests.benchmarks --device cuda --output benchmark-gpu.json \
	    --what network,training,batch,training_batch,crops,clicks,gpu_memory $(BENCHMARK_OPTIONS)

clean:
	rm -rf $(DEMO) site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage htmlcov
	find adapters tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed; say which: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[test,export]"
	touch $@

$(DOCS_VENV)/.installed: setup.cfg
	$(PYTHON) -m venv $(DOCS_VENV)
	$(PYTHON) -c 'import configparser as c; s = c.ConfigParser(); s.read("setup.cfg"); print(s["options.extras_require"]["docs"])' > $(DOCS_VENV)/docs.txt
	$(DOCS_VENV)/bin/python -m pip install --quiet --requirement $(DOCS_VENV)/docs.txt
	touch $@

$(LABEL_VENV)/.installed: setup.cfg
	$(PYTHON) -m venv $(LABEL_VENV)
	$(LABEL_VENV)/bin/python -m pip install --quiet --editable ".[label]" "pytest>=8"
	touch $@

$(DEMO)/report.html: $(STAMP) $(shell find adapters bundles -name '*.py' -o -name '*.json' -o -name 'model.pt')
	$(BIN)/python -m adapters demo --output $(DEMO)
