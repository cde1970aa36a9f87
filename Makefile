# Complete on a machine that has Python >= 3.11, a C++ compiler and make: what else is needed is
# installed into .venv. Pass PYTHON=python3.12 to choose the interpreter.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Options of pytest, for example PYTEST="-k simulate".
PYTEST ?=

SOURCES := pyproject.toml CMakeLists.txt examples/digits.toml $(shell find csrc python -type f -not -path '*/__pycache__/*')

.PHONY: demo test lint clean

# Theory and trained networks on scikit-learn's digits: digits.nc and digits.png.
demo: $(VENV)/.demo
	$(BIN)/dmftcore demo

# One process per core, so one thread of linear algebra in each.
test: $(VENV)/.test
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow" $(PYTEST)

# Formatting, lint and types, with the versions pinned in pyproject.toml.
lint: $(VENV)/.nox
	$(BIN)/nox -s lint types

clean:
	rm -rf $(VENV) .nox build dist

# An extra of the package, installed again when a source has changed.
$(VENV)/.demo $(VENV)/.test: $(VENV)/.%: $(VENV)/.created $(SOURCES)
	$(BIN)/python -m pip install --quiet ".[$*]"
	@touch $@

$(VENV)/.nox: $(VENV)/.created
	$(BIN)/python -m pip install --quiet nox
	@touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	  "dmftcore needs Python >= 3.11, $(PYTHON) is " + sys.version.split()[0] + ": pass PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@
