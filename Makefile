# Everything that a clone needs. Each target works in a fresh clone: install, demo, test,
# test-faults, test-containers, soak, check, docs, coverage, bench, profile, clean. For versions and
# releases: constraints, checksums, pin-images, audit, dist, sbom.

PYTHON ?= python3
BIN := .venv/bin
FOLDERS := tutelage schemas transport producers consumers tools cli deploy/local augmentation on_policy integrations examples

# Many Python images set this. Every program that tests start would then recompile torch's modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install constraints checksums pin-images audit dist sbom
.PHONY: demo test test-faults test-containers soak check docs coverage bench profile clean FORCE

install: .venv/installed

# A strict editable install links each file. It is repeated when a file is added or removed, not
# when one changes.
.venv/files: FORCE
	@mkdir -p .venv
	@find $(FOLDERS) -name '__pycache__' -prune -o -type f -print | LC_ALL=C sort > .venv/files.new
	@cmp -s .venv/files.new $@ && rm .venv/files.new || mv .venv/files.new $@

.venv/installed: .venv/files pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Tutelage needs Python 3.11 or newer; name one: make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/[^\\]$$/p' constraints.txt > .venv/uv.txt
	@test -x $(BIN)/uv || { echo "installing uv"; \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.txt; }
	@echo "installing tutelage and what it needs (about 5 GB with torch, the first time)"
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r constraints.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --require-build-hashes -b constraints.txt \
	  --config-settings editable_mode=strict -e .
	@touch $@

# Resolves the dependencies again, with their hashes. UPGRADE=--upgrade takes new versions of all,
# and UPGRADE='-P torch' of one. Look at the difference before you commit it.
UPGRADE ?=
constraints: install
	@printf 'uv\nsetuptools\n' > .venv/tools.in
	@$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-annotate --python-version 3.11 --extra dev \
	  $(UPGRADE) pyproject.toml .venv/tools.in -o constraints.txt
	@printf '%s\n' '# Versions that everything was tested with, and the hashes of their files: wheels of every platform, and sources.' \
	  '# `make install`, the image and CI install nothing else; users need not. `make constraints` writes this file.' \
	  | cat - constraints.txt > .venv/constraints.new && mv .venv/constraints.new constraints.txt
	@$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-annotate --python-version 3.11 $(UPGRADE) .github/tools.in -o .github/tools.txt

# Lists the checksums of the local stack's jars again, after a version was changed.
checksums: install
	$(BIN)/python deploy/write_checksums.py

# Writes today's digests of the images of others.
pin-images:
	$(PYTHON) deploy/pin_images.py

# These three need no torch and therefore no `make install`. GitHub runs them.
TOOLS := .tools/bin
.tools/installed: .github/tools.txt
	@test -x $(TOOLS)/python || $(PYTHON) -m venv .tools
	@$(TOOLS)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r .github/tools.txt
	@touch $@

# Checks everything that is installed for known advisories.
audit: .tools/installed
	$(TOOLS)/pip-audit --require-hashes --disable-pip -r constraints.txt

dist: .tools/installed
	$(TOOLS)/uv build -q --require-hashes --build-constraints constraints.txt --out-dir dist

# Writes a bill of materials in CycloneDX: what the wheel and its extras need.
sbom: .tools/installed
	@mkdir -p dist
	@$(TOOLS)/uv pip compile -q --universal --generate-hashes --no-header --no-annotate --python-version 3.11 -c constraints.txt \
	  --extra demo --extra watch --extra stack pyproject.toml -o .tools/runtime.txt
	$(TOOLS)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON --sv 1.6 -o dist/tutelage.cdx.json .tools/runtime.txt

demo: install
	$(BIN)/tutelage demo

# Tests run in JOBS processes, each with its own broker and registry; JOBS=0 runs them in one.
JOBS ?= 3
test: install
	$(BIN)/pytest --ignore=tests/faults -n $(JOBS) --dist worksteal

# Kills processes and cuts connections, on a cluster of three brokers in each of two processes.
test-faults: install
	$(BIN)/pytest tests/faults -n 2 --maxschedchunk 1

# Runs the compose file in docker with Compose: images, users, volumes, restarts.
test-containers: install
	docker compose -f deploy/docker-compose.yml build
	$(BIN)/pytest tests/deploy/test_containers.py

# The percentage of lines and branches below which `make coverage` fails.
FLOOR ?= 86
MINUTES ?= 20
soak: install
	$(BIN)/python tests/faults/soak.py $(MINUTES)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# From another folder: here the folder `tutelage` would hide the installed package.
	cd .venv && bin/mypy --config-file ../pyproject.toml -p tutelage
	MYPYPATH=$$(echo build/__editable__*):tests $(BIN)/mypy --allow-untyped-calls --explicit-package-bases benchmarks deploy/pin_images.py deploy/write_checksums.py $$(find tests -name '*.py' ! -name conftest.py)
	$(BIN)/pytest -q tests/test_layout.py

# Builds the site in build/docs. A warning, such as a dead link, is an error.
docs: install
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs
	@echo "the site is in build/docs/index.html"

# Runs most tests of `make test`, and counts the lines and branches that they run in this process.
# CONTRIBUTING.md says what is not counted.
coverage: install
	@mkdir -p build/coverage
	$(BIN)/pytest -q --ignore=tests/faults --ignore=tests/deploy --ignore=tests/test_benchmarks.py --ignore=tests/test_package.py \
	  --cov --cov-report=term --cov-report=html --cov-fail-under=$(FLOOR)

bench: install
	$(BIN)/python -m benchmarks

profile: install
	$(BIN)/python -m benchmarks.profile

clean:
	rm -rf .venv .tools build dist *.egg-info demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis

FORCE:
