# From a bare Python 3.11+ to the demo: `make demo`.
#
#   PYTHON  interpreter that the virtual environment is made of
#   TORCH   version of torch to install where the environment has none
#   WORKERS processes that run tests, each on one thread
#   ARGS    more arguments for demo, test, test-all and bench, as in `make test ARGS="-k quota"`

PYTHON ?= python3
TORCH ?= 2.13.0
WORKERS ?= 2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.dllmc-installed

.PHONY: demo test test-all check format bench records clean
.DEFAULT_GOAL := test

demo: $(READY)
	$(BIN)/python -m dllmc.cli.demo $(ARGS)

test: $(READY)
	$(BIN)/pytest -q -n $(WORKERS) $(ARGS)

test-all: $(READY)
	$(BIN)/pytest -q -n $(WORKERS) -m "slow or not slow" --hypothesis-profile=more $(ARGS)

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict -p dllmc
	$(BIN)/lint-imports --no-logo

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Every benchmarks/bench_*.py, one after the other: at once they would time each other.
bench: $(READY)
	@set -e; for script in $(sort $(wildcard benchmarks/bench_*.py)); do \
		echo "$$script"; $(BIN)/python "$$script" $(ARGS); \
	done

# The records that come with dllmc: of the embedded model, as the compiler makes it, on one thread
# of whatever processor this is; others of its architecture find them as STALE_SPEED. Takes the
# budget per task; what could not be confirmed is not shipped.
RECORDED ?= copy sort pick-template json-record reverse words-to-sentence replace shuffle
RECORD_BUDGET ?= 75s
records: $(READY)
	@set -e; for task in $(RECORDED); do \
		OMP_NUM_THREADS=1 $(BIN)/dllmc tune embedded --backend inductor --task "$$task" \
			--budget $(RECORD_BUDGET) --db build/records; \
	done
	rm -f build/records.json
	$(BIN)/dllmc db export build/records.json --status confirmed --db build/records
	$(BIN)/dllmc db import build/records.json --db tuning_db/records

# Only caches: build/ also holds training runs, and .venv takes minutes to make again.
clean:
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -rf build/lib build/bdist.* dist src/*.egg-info
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

# torch goes first and alone, so that a wheel that fits the machine (one for CPUs, say) is kept.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"dllmc needs Python 3.11 or newer, $(PYTHON) is {v[0]}.{v[1]}: set PYTHON=")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c "import torch" 2>/dev/null || { \
		echo "installing torch $(TORCH) into $(VENV): this can take some minutes"; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH); }
	@echo "installing dllmc and its tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@
