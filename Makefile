# The verbs people and CI share. Everything they need comes from the package index; nothing is
# installed outside .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q
STAMP  := $(VENV)/.stamp

.PHONY: demo test test-quick check format bench docs clean

demo: $(STAMP)-run      ## set up, then the gateway in front of three real services
	@$(BIN)/nexgate demo $(ARGS)

test: test-quick        ## set up, then every test
	@$(BIN)/python -m pytest -m slow $(ARGS)

test-quick: $(STAMP)-dev ## all but the long ones
	@$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

check: $(STAMP)-dev     ## format, lint, strict types, import contracts
	@$(BIN)/ruff format --check src tests bench examples
	@$(BIN)/ruff check src tests bench examples
	@$(BIN)/mypy
	@$(BIN)/lint-imports --config .importlinter

format: $(STAMP)-dev
	@$(BIN)/ruff format src tests bench examples
	@$(BIN)/ruff check --fix src tests bench examples

bench: $(STAMP)-bench   ## the table of docs/explanation/performance.md, then the toolkit's
	@$(BIN)/python -m bench $(ARGS)
	@for part in di integrations events tasks; do echo; $(BIN)/python -m bench.$$part || exit 1; done

docs: $(STAMP)-docs     ## the site, in ./site
	@$(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) site dist build

# Debian's python3 comes without ensurepip; virtualenv needs only pip.
$(BIN)/python:
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); $(PYTHON) -m pip install -q --user virtualenv && $(PYTHON) -m virtualenv -q $(VENV); }

$(STAMP)-run: $(BIN)/python pyproject.toml constraints.txt
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(STAMP)-dev: $(STAMP)-run
	@$(PIP) install -c constraints.txt 'pip>=25.1'
	@$(PIP) install -c constraints.txt --group dev
	@touch $@

$(STAMP)-bench: $(STAMP)-dev
	@$(PIP) install -c constraints.txt --group bench
	@touch $@

$(STAMP)-docs: $(STAMP)-dev
	@$(PIP) install -c constraints.txt --group docs
	@touch $@
