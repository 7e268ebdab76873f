# Everything a newcomer needs: `make demo` rolls a video, `make test` runs the checks. Both set up .venv first.
ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
PYTHON ?= python3
VENV := $(ROOT)/.venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BROWSER := $(VENV)/.browser
PARALLEL := --numprocesses auto --dist worksteal
TOGETHER := $(MAKE) --no-print-directory --file=$(ROOT)/Makefile --jobs=2

.PHONY: demo test test-all lower-bounds lint style types suite wording docs docs-test docs-refresh catalogue directory gallery dist pocket gpu clean

demo: $(READY)
	@cd $(ROOT) && $(BIN)/rollforge predict --config configs/quickstart.yaml

# The code is checked while the tests run, which takes half a minute of one core. If one fails, so does make, when all have ended.
test: $(READY) $(BROWSER)
	@$(TOGETHER) style suite types

# Adds the full matrix of kills and what takes many minutes.
test-all: $(READY) $(BROWSER)
	@ROLLFORGE_FUZZ=$${ROLLFORGE_FUZZ:-2} $(TOGETHER) style suite types SELECT="-m ''"

# One process of one thread for each core. Tests start many interpreters, so compiled modules are kept.
suite: $(READY)
	cd $(ROOT) && PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) $(SELECT)

# Installs the lowest version that pyproject.toml states of every dependency (some 7 GB), and rolls a video with them.
lower-bounds:
	$(PYTHON) $(ROOT)/tests/lower_bounds.py $(ROOT)/.venv-lowest

lint: style types

style: $(READY) wording
	cd $(ROOT) && $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

types: $(READY)
	cd $(ROOT) && $(BIN)/mypy

# Spelling, and the words and phrases that this project avoids. CHANGELOG.md and docs/log.md are history.
wording: $(READY)
	cd $(ROOT) && $(BIN)/codespell -D - -D tests/wording/words.txt
	cd $(ROOT) && ! grep -rniwE -f tests/wording/phrases.txt --include='*.py' --include='*.md' --include='*.yaml' --exclude=log.md \
		README.md CONTRIBUTING.md SECURITY.md configs docs plugins rollforge tests

docs: $(READY)
	cd $(ROOT) && NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Runs the code of the tutorials and compares what comes out with what they show; `make test` does it, too.
docs-test: $(READY)
	cd $(ROOT) && OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) tests/docs

# Writes outputs and pictures of the tutorials again. Read the difference before you commit it.
docs-refresh: $(READY)
	cd $(ROOT) && ROLLFORGE_DOCS_REFRESH=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) tests/docs

# Builds wheel and source archive of rollforge and of every plugin into dist/, and checks them as a package index does.
dist: $(READY)
	cd $(ROOT) && rm -rf dist && $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[release]'
	cd $(ROOT) && for file in pyproject.toml plugins/*/pyproject.toml; do \
		$(BIN)/python -m build --no-isolation --outdir dist "$$(dirname "$$file")" >/dev/null || exit 1; done
	cd $(ROOT) && $(BIN)/twine check --strict dist/*

# Draws the plan of every cache policy, and writes docs/catalogue.md (a few minutes). `make catalogue ONLY=Window` draws one again.
catalogue: $(READY)
	cd $(ROOT) && $(BIN)/python tests/helpers/packages.py $(BIN)/python docs/catalogue.py $(ONLY)

# Writes docs/directory.md: the packages of plugins/, and others that are installed.
directory: $(READY)
	cd $(ROOT) && $(BIN)/python tests/helpers/packages.py $(BIN)/python docs/directory.py

# Rolls every cache policy on Pocket for docs/gallery.md (some ten minutes). `make gallery ONLY=Window` rolls one again.
gallery: $(READY)
	cd $(ROOT) && $(BIN)/python tests/helpers/packages.py $(BIN)/python docs/gallery.py $(ONLY)

# Checks a CUDA card with $(PYTHON) as it is: makes no environment, installs nothing. Without CUDA: results on the CPU.
gpu:
	cd $(ROOT) && PYTHONPATH=$(ROOT) $(PYTHON) -m rollforge gpu $(GPU)

# Trains Pocket from nothing, stage by stage (hours on two cores); configs/pocket/README.md says what comes out.
pocket: $(READY)
	cd $(ROOT) && configs/pocket/train.sh $(BIN)/rollforge

$(READY): $(ROOT)/pyproject.toml $(ROOT)/constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("rollforge needs Python 3.11 or newer; name one with: make PYTHON=python3.12 demo")'
	@echo "Setting up $(VENV) (once, about two minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(ROOT)/constraints.txt --editable '$(ROOT)[dev,docs]'
	@touch $@

# Chromium for the tests of report.html: installed in continuous integration only, and only where root may.
$(BROWSER): $(READY)
	@if [ -n "$$CI" ] && [ "$$(id -u)" = 0 ] && ! command -v chromium >/dev/null && command -v apt-get >/dev/null; then \
		echo "Installing Chromium ..."; \
		{ apt-get -qq update && apt-get -qq --yes install chromium chromium-driver; } >/dev/null 2>&1 \
			|| echo "Chromium cannot be installed; the tests that need it are skipped."; \
	fi
	@touch $@

clean:
	rm -rf $(VENV) $(ROOT)/.venv-lowest $(ROOT)/outputs $(ROOT)/site $(ROOT)/dist
