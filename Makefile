# Everything a reader, a teacher or an editor does, one word each: `make help`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Options of `make course`; what is empty is left to the lesson.
LESSONS  ?=
PROFILE  ?= quick
DATASET  ?=
DATA_DIR ?=
SEED     ?=
JOBS     ?=
OUT      ?=
TIMEOUT  ?=
RESUME   ?=
WORKERS  ?= auto
SCALE    ?= 0

export NO_ALBUMENTATIONS_UPDATE := 1

.DEFAULT_GOAL := help
.PHONY: help setup course full test lab site refresh bench lint format lock clean

help:  ## list what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

setup: $(READY)  ## create .venv and install the locked packages, nothing more

# The lock's hash is part of the stamp: a new lock installs again, an unchanged one costs nothing.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else \
	  f"segkit needs Python 3.11, 3.12 or 3.13, and {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -E '^uv==' requirements.txt)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

course: $(READY)  ## run the lessons: LESSONS="00 04" PROFILE= DATASET= DATA_DIR= SEED= JOBS= OUT= RESUME=1
	@$(BIN)/segkit course run $(LESSONS) --profile $(PROFILE) \
	  $(if $(DATASET),--dataset $(DATASET)) $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") \
	  $(if $(SEED),--seed $(SEED)) $(if $(JOBS),--jobs $(JOBS)) $(if $(OUT),--out "$(OUT)") \
	  $(if $(TIMEOUT),--timeout $(TIMEOUT)) $(if $(RESUME),--resume)

# The code of the full profile at the sizes of quick (SCALE=0) or any share of its own, on the
# lessons' own data and, where SEGKIT_REAL_DATA names their folder, on the real pets.
full: export SEGKIT_FULL_SCALE := $(SCALE)
full: $(READY)  ## run the full profile at SCALE= (0 to 1) of its sizes, own data and real pets: JOBS=
	@$(BIN)/segkit course run --profile full --out build/full $(if $(JOBS),--jobs $(JOBS))
	@test -z "$$SEGKIT_REAL_DATA" || $(BIN)/segkit course run --profile full --out build/full-pets \
	  --dataset oxford-pet --data-dir "$$SEGKIT_REAL_DATA" $(if $(JOBS),--jobs $(JOBS))

# One thread for each of as many workers as there are cores: more threads would only get in the way.
test: export OMP_NUM_THREADS ?= 1
test: $(READY) lint  ## check style, the package and every lesson's outputs
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests notebooks \
	  --nbval --nbval-current-env --nbval-sanitize-with notebooks/nbval.cfg --nbval-cell-timeout 120

lab: $(READY)  ## open JupyterLab on the lessons
	@$(BIN)/jupyter lab --notebook-dir notebooks

site: $(READY)  ## build the course as a static site in build/site
	@$(BIN)/python docs/assemble.py build/site-source
	@$(BIN)/sphinx-build -q -W --keep-going -b html build/site-source build/site
	@echo "open build/site/index.html"

refresh: $(READY)  ## run the committed lessons again and keep their outputs: LESSONS="04"
	@$(BIN)/segkit course refresh $(LESSONS) $(if $(JOBS),--jobs $(JOBS))
	@$(BIN)/python docs/assemble.py --readme

bench: $(READY)  ## measure speed on this machine and print ratios
	@for bench in tests/bench/bench_*.py; do $(BIN)/python $$bench || exit 1; done

lint: $(READY)  ## check style, notebooks included
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "run: make format"; exit 1; }

format: $(READY)  ## put style right, notebooks included
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(READY)  ## write requirements.txt anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras \
	  --no-emit-index-url --no-annotate pyproject.toml -o requirements.txt

clean:  ## remove what was built, not what you wrote; .venv and data stay
	rm -rf build .pytest_cache .ruff_cache .hypothesis notebooks/.ipynb_checkpoints
	find segkit tests notebooks -name __pycache__ -prune -exec rm -rf {} +
