# Every target makes what it needs first. `make run` and `make test` are all a newcomer has to know.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONUNBUFFERED := 1

.PHONY: run test test-unit test-faults test-again reliability check check-mergekit demo bench chaos soak screenshots clean

run: .venv
	@echo "Fetching the starter model (93 MB, once) ..."
	@$(BIN)/python -m lab starter || echo "The starter model could not be fetched now; the lab starts without it."
	@echo "Starting the lab ..."
	@exec $(BIN)/python app.py

.venv: requirements.txt
	@echo "Making a Python environment in .venv (once, a few minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "  installing PyTorch ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.txt)"
	@echo "  installing the rest ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch .venv

.venv/dev: .venv requirements-dev.txt
	@echo "Installing what the tests need ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch .venv .venv/dev

test: .venv/dev chromium servers
	$(BIN)/python -m pytest tests -m "not gpu and not slow and not mergekit" -n 2 --dist loadfile --no-loadscope-reorder

test-unit: .venv/dev
	$(BIN)/python -m pytest tests -m "not browser and not fault and not server and not starter and not slow and not gpu and not mergekit"

test-faults: .venv/dev chromium servers
	$(BIN)/python -m pytest tests -m "(fault or slow) and not gpu"

# What failed in the last run, once more and by itself.
test-again: .venv/dev
	$(BIN)/python -m pytest tests -m "not gpu" --last-failed --last-failed-no-failures none

reliability: .venv/dev
	$(BIN)/python -m pytest tests/faults --collect-only -q --write-cases docs/reliability.md

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

# mergekit pins libraries of its own, so it has an environment of its own.
.mergekit-venv/ready:
	@echo "Making an environment for mergekit (once, a few minutes) ..."
	@test -x .mergekit-venv/bin/python || $(PYTHON) -m venv .mergekit-venv
	@.mergekit-venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@.mergekit-venv/bin/python -m pip install --quiet --disable-pip-version-check mergekit==0.1.5
	@touch $@

check-mergekit: .venv/dev .mergekit-venv/ready
	$(BIN)/python -m pytest tests/merge -m mergekit

demo: .venv
	@$(BIN)/python -m lab starter
	@$(BIN)/python demo.py

bench: .venv/dev chromium
	$(BIN)/python -m benchmarks

# One run ends with `chaos: N jobs, 0 lost, 0 published twice, 0 stuck`; ARGS='--jobs 100 --backend redis' and so on.
chaos: .venv/dev servers
	$(BIN)/python tests/faults/chaos.py $(ARGS)

MINUTES ?= 30
soak: .venv/dev servers
	$(BIN)/python tests/faults/chaos.py --jobs 0 --seconds $$((60 * $(MINUTES))) --every 60 --csv .cache/soak.csv $(ARGS)

screenshots: .venv/dev chromium
	PYTHONPATH=.:tests $(BIN)/python tests/browser/screenshots.py docs/images

.PHONY: servers
servers:
	@{ command -v redis-server && command -v ip && ls /usr/lib/postgresql/*/bin/postgres; } >/dev/null 2>&1 || test "$$(id -u)" != 0 || { \
	  echo "Installing PostgreSQL and Redis for the tests of several machines ..."; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql redis-server iproute2 >/dev/null; }

.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || test "$$(id -u)" != 0 || { \
	  echo "Installing Chromium for the browser tests ..."; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; }

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache
