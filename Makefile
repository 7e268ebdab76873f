# Everything a newcomer needs: `make demo` rolls a video, `make test` runs the checks. Both set up .venv first.
ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
PYTHON ?= python3
VENV := $(ROOT)/.venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint docs pocket gpu clean

demo: $(READY)
	@cd $(ROOT) && $(BIN)/rollforge predict --config configs/quickstart.yaml

test: $(READY) lint
	cd $(ROOT) && $(BIN)/python -m pytest

lint: $(READY)
	cd $(ROOT) && $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: $(READY)
	cd $(ROOT) && $(BIN)/mkdocs build --strict

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

clean:
	rm -rf $(VENV) $(ROOT)/outputs $(ROOT)/site
