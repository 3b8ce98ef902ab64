# A few words. Needed: make, and Python 3.11 or newer. The rest comes by hash into .venv.
#
# A default stands where its variable is used, and never before a word (`kills: SEED ?= 1`): there
# GNU make keeps SEED=7 of the environment from the programs of all words.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo quick test prove check fix sim mutants mutation kills bench backend pictures deploy docs floors sbom fuzz

help: ## show these words
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.ready ## start the whole chain, tell its stories, show the books (DATABASE=postgres)
	@$(BIN)/stage demo --database $(or $(DATABASE),sqlite)

# Rooms that need no process of their own; new rooms are in.
quick: $(VENV)/.ready ## run the unit tests of the rooms, without those that need a server
	@$(BIN)/python -m pytest -q -n 4 --dist worksteal -k "not postgres" tests/unit \
	    --ignore tests/unit/cli --ignore tests/unit/stubs --ignore tests/unit/benchmarks

# Six workers on two processors: a test of real processes waits for more than half of its time.
# A test that failed runs once more, alone; one that passes then is named in the last lines.
test: $(VENV)/.ready ## run all tests, with a small helping of each fault kit (WORKERS=6)
	@$(BIN)/python -m pytest -n $(or $(WORKERS),6) --dist worksteal -p tests.second_run

# The sizes of both tiers stand in tests/sizes.py. A kit that does not reach its size is an error.
# Kits that measure a speed run last, by themselves.
prove: $(VENV)/.ready ## run every fault kit at level G, and print what each has struck
	@$(BIN)/python -m tests.prove

# Level L of the simulation: that many worlds, from seed FIRST on, of so many sagas each.
sim: $(VENV)/.ready ## simulate SEEDS=20000 worlds and write docs/evidence/simulation.json
	@$(BIN)/python -m tests.simulation.level_l --first $(or $(FIRST),0) \
	    --seeds $(or $(SEEDS),20000) --sagas $(or $(SAGAS),50)

mutants: $(VENV)/.ready ## plant defects of our own rules and find each of them
	@$(BIN)/python -m tests.simulation.find_mutants

# Every change that the rooms offer takes hours: a sample of them says the share.
mutation: $(VENV)/.ready ## change our source by rule, and see whether a test notices (SAMPLE=600)
	@$(BIN)/python -m tests.mutation --sample $(or $(SAMPLE),600) --seed $(or $(SEED),1)

# Level L of the kills, and its seed.
kills: $(VENV)/.ready ## kill real processes under load: KILLS=1800 SAGAS=250000 SEED=1
	@$(BIN)/python -m tests.acceptance.kills --kills $(or $(KILLS),1800) \
	    --sagas $(or $(SAGAS),250000) --seed $(or $(SEED),1) --out docs/evidence/kills.json

bench: $(VENV)/.ready ## measure against handlers without a stage, and DBOS (needs wrk, nginx)
	@$(BIN)/python -m benchmarks

# The backend has some 150 requirements of its own, so it gets an environment of its own.
backend: $(VENV)/.ready .venv-backend/.ready ## send the demo's traces to a real backend, ask it for them
	@$(BIN)/python -m pytest -q -p no:cacheprovider tests/acceptance/real_backend.py

pictures: $(VENV)/.ready ## make the pictures of the console anew (needs Chromium)
	@$(BIN)/python -m pytest -q -p no:cacheprovider tests/acceptance/console_pictures.py

.venv-backend/.ready: requirements/backend.txt
	@echo "Installing the backend ..."
	@$(PYTHON) -m venv --clear .venv-backend
	@.venv-backend/bin/python -m pip --quiet --disable-pip-version-check --no-input \
	    install --no-deps --require-hashes -r requirements/backend.txt
	@touch $@

# Its tools have some 100 MB, Helm's own code among them, so they get an environment of their own.
deploy: $(VENV)/.ready .venv-deploy/.ready ## let the tools of their platforms judge deploy/
	@$(BIN)/python -m pytest -q -p no:cacheprovider tests/acceptance/judged_deploy.py

.venv-deploy/.ready: requirements/deploy.txt
	@echo "Installing the tools that judge deploy/ ..."
	@$(PYTHON) -m venv --clear .venv-deploy
	@.venv-deploy/bin/python -m pip --quiet --disable-pip-version-check --no-input \
	    install --no-deps --require-hashes --only-binary :all: -r requirements/deploy.txt
	@touch $@

# Its tool has some 30 requirements of its own, so it gets an environment of its own.
fuzz: $(VENV)/.ready .venv-fuzz/.ready ## let schemathesis judge our OpenAPI document: EXAMPLES=400 SEED=1
	@$(BIN)/python -m pytest -q -p no:cacheprovider tests/acceptance/judged_api.py

.venv-fuzz/.ready: requirements/fuzz.txt
	@echo "Installing the tool that judges the API ..."
	@$(PYTHON) -m venv --clear .venv-fuzz
	@.venv-fuzz/bin/python -m pip --quiet --disable-pip-version-check --no-input \
	    install --no-deps --require-hashes --only-binary :all: -r requirements/fuzz.txt
	@touch $@

# Its tools have some 40 requirements of their own, so they get an environment of their own.
docs: .venv-docs/.ready ## make the pages a site in dist/site, which needs no network
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs --quiet build
	@echo "docs: dist/site/index.html"

.venv-docs/.ready: requirements/docs.txt
	@echo "Installing the tools that make the site ..."
	@$(PYTHON) -m venv --clear .venv-docs
	@.venv-docs/bin/python -m pip --quiet --disable-pip-version-check --no-input \
	    install --no-deps --require-hashes --only-binary :all: -r requirements/docs.txt
	@touch $@

check: $(VENV)/.ready ## ruff, mypy strict, import-linter
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo
	@echo "check: all is well"

fix: $(VENV)/.ready ## let ruff mend and format what it can
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

# The builders come first, so that no build fetches anything by itself.
# Installed in place when the interpreter still fits, made anew when it does not.
$(VENV)/.ready: requirements/build.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	    echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@version='import sys; print(sys.version_info[:2])'; \
	if [ "$$($(BIN)/python -c "$$version" 2>/dev/null)" != "$$($(PYTHON) -c "$$version")" ]; then \
	    echo "Making $(VENV) with $$($(PYTHON) --version) ..."; \
	    $(PYTHON) -m venv --clear $(VENV) || { \
	        echo "This Python cannot make a virtual environment: install its venv package." >&2; exit 1; }; \
	fi
	@echo "Installing the pinned requirements ..."
	@$(PIP) install --require-hashes --only-binary :all: -r requirements/build.txt
	@$(PIP) install --require-hashes --no-build-isolation --use-pep517 -r requirements/dev.txt
	@$(PIP) install --no-deps --no-index --no-build-isolation --editable .
	@touch $@

# An environment of what the product needs and nothing else, not even pip.
sbom: $(VENV)/.ready ## write dist/stage.cdx.json and dist/licences.txt of the pinned requirements
	@$(PYTHON) -m venv --clear --without-pip .venv-sbom
	@$(BIN)/python -m pip --quiet --disable-pip-version-check --no-input --python .venv-sbom/bin/python \
	    install --no-deps --require-hashes --only-binary :all: -r requirements/run.txt
	@mkdir -p dist
	@.venv-sbom/bin/python deploy/sbom.py > dist/stage.cdx.json
	@.venv-sbom/bin/python deploy/sbom.py --licences > dist/licences.txt
	@echo "sbom: dist/stage.cdx.json, dist/licences.txt"

# The lowest versions that we say we run with, without hashes: those of the newest are pinned.
floors: ## tell the stories of the demo with the lowest versions that are allowed
	@$(PYTHON) -m venv --clear .venv-floors
	@sed 's/>=/==/' requirements/run.in > .venv-floors/floors.txt
	@.venv-floors/bin/python -m pip --quiet --disable-pip-version-check --no-input \
	    install -r .venv-floors/floors.txt
	@PYTHONPATH=. .venv-floors/bin/python -m stage demo
