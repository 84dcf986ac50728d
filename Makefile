# Every target sets up what it needs. SET="key=value ..." overrides any field of a config, CONFIG=path names another one.
PYTHON ?= python3
VENV ?= .venv
SET ?=
CONFIG ?=

RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
LOWEST := .venv-lowest/bin/python
WHERE := -c "import sysconfig; print(sysconfig.get_path('purelib'))"

.DEFAULT_GOAL := help
.PHONY: help install train eval tables personalize test gpu lowest lint faceworld base clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo
	@echo 'make train SET="lr=3e-4 hypernet.iterations=2"        overrides any field of the config'
	@echo 'make train CONFIG=configs/sd15/pretrain.yaml          takes another config'

$(STAMP): pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable ".[dev,app]"
	touch $@

install: $(STAMP)  ## create .venv and install the project into it

train: $(STAMP)  ## train the hypernetwork: outputs/pretrain/{last.ckpt,metrics.json,curve.json,preview.png}
	$(RUN) -m experiments.pretrain $(or $(CONFIG),configs/faceworld/pretrain.yaml) $(SET)

eval: $(STAMP)  ## personalize unseen people with every method and score the pictures: outputs/eval/
	$(RUN) -m experiments.evaluate $(or $(CONFIG),configs/faceworld/evaluate.yaml) $(SET)

tables: $(STAMP)  ## the paper's three tables, all methods on 12 prompts, in about an hour: outputs/tables/report.html
	$(RUN) -m experiments.evaluate $(or $(CONFIG),configs/faceworld/evaluate.yaml configs/faceworld/tables.yaml) $(SET)

personalize: $(STAMP)  ## one photo to one file: SET="reference=face.png output=me.safetensors"
	$(RUN) -m experiments.personalize $(or $(CONFIG),configs/faceworld/personalize.yaml) $(SET)

faceworld: $(STAMP)  ## render the embedded world of faces into data/faceworld
	$(RUN) -m experiments.faceworld $(CONFIG) $(SET)

base: $(STAMP)  ## train what is shipped frozen: the small Stable Diffusion, the face encoder, the judges
	$(RUN) -m experiments.base $(or $(CONFIG),configs/faceworld/base.yaml) $(SET)
	$(RUN) -m experiments.measure $(or $(CONFIG),configs/faceworld/base.yaml) $(SET)

test: $(STAMP)  ## run the tests
	$(RUN) -m pytest

gpu: $(STAMP)  ## with a CUDA device, six minutes: tests, what Stable Diffusion 1.5 costs, the commands: outputs/gpu/
	$(RUN) -m experiments.gpu $(CONFIG) $(SET)

lowest: $(STAMP)  ## run the tests of files and bases with the oldest libraries that pyproject.toml allows, in .venv-lowest
	test -x $(LOWEST) || $(PYTHON) -m venv .venv-lowest
	printf '%s\n' "$$($(RUN) $(WHERE))" "$(CURDIR)" > "$$($(LOWEST) $(WHERE))/rest.pth"  # all else is that of .venv
	$(LOWEST) -m pip install --quiet --requirement tests/lowest.txt
	$(LOWEST) -m pytest tests/diffusion tests/lidb tests/test_export.py tests/test_generate.py

lint: $(STAMP)  ## check style and the direction of imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

clean:  ## remove .venv and caches; data/ and outputs/ stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find hdb experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +
