# `make demo` and `make test` are all the set-up there is: each makes .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/digits

.PHONY: demo test lint format clean
.DELETE_ON_ERROR:

.venv/installed: requirements.txt
	$(PYTHON) -c "import sys; v = sys.version_info; \
	  sys.exit(None if (3, 11) <= v[:2] <= (3, 13) else f'Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.12')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/installed-test: .venv/installed requirements-test.txt requirements-text.txt
	$(BIN)/python -m pip install --quiet -r requirements-test.txt
	touch $@

demo: .venv/installed
	$(BIN)/python main.py --config=configs/digits.py --workdir=$(DEMO)
	$(BIN)/python main.py --mode=evaluate --workdir=$(DEMO)
	$(BIN)/python main.py --mode=sample --workdir=$(DEMO) --num=60 --label=balanced --out=$(DEMO)/demo
	@echo "Samples: $(DEMO)/demo/grid.png   while training: $(DEMO)/samples/   judgement: $(DEMO)/evaluation.json"

test: .venv/installed-test
	$(BIN)/python -m pytest --durations=25

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .cache runs
