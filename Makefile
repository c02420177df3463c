# Every target sets up what it needs: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEVELOPERS := --editable ".[test,export]"
DEMO ?= demo
# of its own: the pages are built from the text of the docstrings, without torch
DOCS_VENV := .venv-docs
# of its own, with constraints of its own: MONAI Label needs older numpy, pydicom and jsonschema
LABEL_VENV := .venv-label
# of its own: the lowest versions that setup.cfg allows
OLDEST_VENV := .venv-oldest

.PHONY: demo test test-slow test-oldest lint docs benchmark benchmark-gpu label label-server test-label test-ohif \
    constraints clean

demo: $(DEMO)/report.html

# two processes of one thread are faster than one of two; what a file's tests share stays in one of them. In the order of
# their names, as the files that take long (benchmarks, bundles) must not come last
IN_TWO := --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --cov=adapters $(IN_TWO)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

test-oldest: $(OLDEST_VENV)/.installed
	OMP_NUM_THREADS=1 $(OLDEST_VENV)/bin/python -m pytest $(IN_TWO)

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

# $(call venv,FOLDER)
define venv
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed, $(PYTHON) is %d.%d; say which: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(1)
endef

# $(call install,FOLDER,CONSTRAINTS,WHAT): in the versions that were tested, or in others and one line that says so
define install
	$(1)/bin/python -m pip install --quiet --constraint $(2) $(3) 2> $(1)/pip.log || { \
	    echo "Not all versions in $(2) are to be had ($(1)/pip.log says why): installing others that setup.cfg allows."; \
	    $(1)/bin/python -m pip install --quiet $(3); }
	touch $@
endef

$(STAMP): setup.py setup.cfg pyproject.toml constraints.txt
	$(call venv,$(VENV))
	$(call install,$(VENV),constraints.txt,$(DEVELOPERS))

$(DOCS_VENV)/.installed: setup.cfg constraints.txt
	$(call venv,$(DOCS_VENV))
	$(PYTHON) -c 'import configparser as c; s = c.ConfigParser(); s.read("setup.cfg"); print(s["options.extras_require"]["docs"])' > $(DOCS_VENV)/docs.txt
	$(call install,$(DOCS_VENV),constraints.txt,--requirement $(DOCS_VENV)/docs.txt)

$(LABEL_VENV)/.installed: setup.cfg constraints-label.txt
	$(call venv,$(LABEL_VENV))
	$(call install,$(LABEL_VENV),constraints-label.txt,--editable ".[label]" "pytest>=8")

# no other versions will do: what is allowed is what is tested
$(OLDEST_VENV)/.installed: setup.cfg tests/oldest_versions.py
	$(call venv,$(OLDEST_VENV))
	$(PYTHON) tests/oldest_versions.py > $(OLDEST_VENV)/constraints.txt
	$(OLDEST_VENV)/bin/python -m pip install --quiet --constraint $(OLDEST_VENV)/constraints.txt $(DEVELOPERS)
	touch $@

# after an upgrade that passes .ci/run
constraints: $(STAMP) $(DOCS_VENV)/.installed $(LABEL_VENV)/.installed
	{ $(BIN)/python -m pip freeze --exclude-editable; $(DOCS_VENV)/bin/python -m pip freeze; } | LC_ALL=C sort -fu > constraints.txt
	$(LABEL_VENV)/bin/python -m pip freeze --exclude-editable | LC_ALL=C sort -f > constraints-label.txt
	sed -i '1i # What everything was tested with, on Python 3.11. Written by make constraints.' constraints.txt constraints-label.txt

$(DEMO)/report.html: $(STAMP) $(shell find adapters bundles -name '*.py' -o -name '*.json' -o -name 'model.pt')
	$(BIN)/python -m adapters demo --output $(DEMO)
