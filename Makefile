# `make demo` and `make test` are all the set-up there is: each makes .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/digits
TEXT := runs/digits_text

.PHONY: demo demo-text demo-cascade test lint format clean
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

# Digits from prompts alone, 'a seven': wordings of the training, and ones that it never saw.
demo-text: .venv/installed
	$(BIN)/python main.py --config=configs/digits_text.py --workdir=$(TEXT)
	$(BIN)/python main.py --mode=evaluate --workdir=$(TEXT)
	$(BIN)/python main.py --mode=sample --workdir=$(TEXT) --prompts=prompts/digits.csv --out=$(TEXT)/demo
	@echo "Samples: $(TEXT)/demo/grid.png   judgement: $(TEXT)/evaluation.json"

# The same in two stages, 4x4 and from there to 8x8, each judged, and sampled as one.
demo-cascade: .venv/installed
	$(BIN)/python main.py --config=configs/digits_text.py:size=4 --workdir=runs/digits_text4
	$(BIN)/python main.py --config=configs/digits_text.py:low=4 --workdir=runs/digits_text8
	$(BIN)/python main.py --mode=evaluate --workdir=runs/digits_text8
	$(BIN)/python main.py --mode=sample --config=configs/imagen.py:digits --prompts=prompts/digits.csv --workdir=runs/digits_cascade
	@echo "Samples: runs/digits_cascade/grid.png   judgement: runs/digits_text8/evaluation.json"

test: .venv/installed-test
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile --durations=25

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .cache runs
