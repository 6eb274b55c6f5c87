# Everything a clone needs, each as the first thing typed: install, demo, test, test-faults, test-containers, soak, check,
# bench, profile, clean; and for versions and releases: constraints, checksums, pin-images, audit, dist, sbom.

PYTHON ?= python3
BIN := .venv/bin
FOLDERS := schemas producers consumers cli deploy/local examples
TYPED := $(addprefix -p tutelage.,schemas producers consumers cli deploy.local examples.toy examples.digits)

.PHONY: install constraints checksums pin-images audit dist sbom demo test test-faults test-containers soak check bench profile clean FORCE

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
	@sed -n '/^uv==/,/[^\\]$$/p' constraints.txt > .venv/uv.txt
	@test -x $(BIN)/uv || { echo "installing uv"; \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.txt; }
	@echo "installing tutelage and what it needs (about 5 GB with torch, the first time)"
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r constraints.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --require-build-hashes -b constraints.txt \
	  --config-settings editable_mode=strict -e .
	@touch $@

# New versions of what we need, with their hashes: UPGRADE=--upgrade for all, UPGRADE='-P torch' for one. Look at the difference before you commit it.
UPGRADE ?=
constraints: install
	@printf 'uv\nsetuptools\n' > .venv/tools.in
	@$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-annotate --python-version 3.11 --extra dev \
	  $(UPGRADE) pyproject.toml .venv/tools.in -o constraints.txt
	@printf '%s\n' '# Versions that everything was tested with, and the hashes of their files: wheels of every platform, and sources.' \
	  '# `make install`, the image and CI install nothing else; users need not. `make constraints` writes this file.' \
	  | cat - constraints.txt > .venv/constraints.new && mv .venv/constraints.new constraints.txt
	@$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-annotate --python-version 3.11 $(UPGRADE) .github/tools.in -o .github/tools.txt

# The jars of the local stack, after a version was changed.
checksums: install
	$(BIN)/python deploy/write_checksums.py

# Today's digests of the images that others made.
pin-images:
	$(PYTHON) deploy/pin_images.py

# These three need no torch, and so not `make install`: GitHub runs them.
TOOLS := .tools/bin
.tools/installed: .github/tools.txt
	@test -x $(TOOLS)/python || $(PYTHON) -m venv .tools
	@$(TOOLS)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r .github/tools.txt
	@touch $@

# Whether an advisory is known for anything that we install.
audit: .tools/installed
	$(TOOLS)/pip-audit --require-hashes --disable-pip -r constraints.txt

dist: .tools/installed
	$(TOOLS)/uv build -q --require-hashes --build-constraints constraints.txt --out-dir dist

# A bill of materials, CycloneDX: what the wheel and its extras need.
sbom: .tools/installed
	@mkdir -p dist
	@$(TOOLS)/uv pip compile -q --universal --generate-hashes --no-header --no-annotate --python-version 3.11 -c constraints.txt \
	  --extra demo --extra watch --extra stack pyproject.toml -o .tools/runtime.txt
	$(TOOLS)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON --sv 1.6 -o dist/tutelage.cdx.json .tools/runtime.txt

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

MINUTES ?= 20
soak: install
	$(BIN)/python tests/faults/soak.py $(MINUTES)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(TYPED)
	MYPYPATH=tests $(BIN)/mypy --allow-untyped-calls --explicit-package-bases benchmarks deploy/pin_images.py deploy/write_checksums.py $$(find tests -name '*.py' ! -name conftest.py)
	$(BIN)/pytest -q tests/test_layout.py

bench: install
	$(BIN)/python -m benchmarks

profile: install
	$(BIN)/python -m benchmarks.profile

clean:
	rm -rf .venv .tools build dist *.egg-info demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis

FORCE:
