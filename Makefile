# Everything a clone needs, each as the first thing typed: install, demo, test, test-faults, test-containers, soak, check, docs, coverage, bench, profile,
# clean.

PYTHON ?= python3
BIN := .venv/bin
FOLDERS := tutelage schemas transport producers consumers tools cli deploy/local examples

.PHONY: install demo test test-faults test-containers soak check docs coverage bench profile clean FORCE

install: .venv/installed

# A strict editable install links each file: it is done again when files come or go, not when they change.
.venv/files: FORCE
	@mkdir -p .venv
	@find $(FOLDERS) -name '__pycache__' -prune -o -type f -print | LC_ALL=C sort > .venv/files.new
	@cmp -s .venv/files.new $@ && rm .venv/files.new || mv .venv/files.new $@

.venv/installed: .venv/files pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Tutelage needs Python 3.11 or newer; name one: make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || { echo "installing uv"; $(BIN)/python -m pip install -q --disable-pip-version-check uv; }
	@echo "installing tutelage and what it needs (about 5 GB with torch, the first time)"
	@$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt --config-settings editable_mode=strict -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/tutelage demo

test: install
	$(BIN)/pytest --ignore=tests/faults

# Kill anything, cut anything: three brokers, twenty minutes.
test-faults: install
	$(BIN)/pytest tests/faults

# The compose file in a container engine (docker, with Compose): images, users, volumes, restarts.
test-containers: install
	docker compose -f deploy/docker-compose.yml build
	$(BIN)/pytest tests/deploy/test_containers.py

# Percent of lines and branches; `make coverage` fails below it.
FLOOR ?= 86
MINUTES ?= 20
soak: install
	$(BIN)/python tests/faults/soak.py $(MINUTES)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# From elsewhere: here, the folder `tutelage` would hide the package that is installed.
	cd .venv && bin/mypy --config-file ../pyproject.toml -p tutelage
	MYPYPATH=$$(echo build/__editable__*):tests $(BIN)/mypy --allow-untyped-calls --explicit-package-bases benchmarks $$(find tests -name '*.py' ! -name conftest.py)
	$(BIN)/pytest -q tests/test_layout.py

# The site, in build/docs. A warning is an error: a dead link, a docstring that does not parse.
docs: install
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs
	@echo "the site is in build/docs/index.html"

# The tests of `make test`, counting the lines and branches that they run in this process. CONTRIBUTING.md says what is not counted.
coverage: install
	@mkdir -p build/coverage
	$(BIN)/pytest -q --ignore=tests/faults --ignore=tests/deploy --ignore=tests/test_benchmarks.py --ignore=tests/test_package.py \
	  --cov --cov-report=term --cov-report=html --cov-fail-under=$(FLOOR)

bench: install
	$(BIN)/python -m benchmarks

profile: install
	$(BIN)/python -m benchmarks.profile

clean:
	rm -rf .venv build dist *.egg-info demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis

FORCE:
