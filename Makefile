# make demo and make test set up all they need in .venv; no other target has to be run before them.
PYTHON ?= python3
BIN := .venv/bin
BACKBONES := resnext50,densenet161,inception_v3,wide_resnet50

.PHONY: help setup demo test test-fast lint notebooks docs clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: .venv/installed  ## install the tested versions into .venv

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,tensorboard,mlflow,launchers,tune,timm,lungmask,dicom,dicomweb,engines,hub,pacs,portable]'
	touch $@

demo: setup  ## train and evaluate the whole pipeline on a synthetic cohort, without GPU or downloads of data
	$(BIN)/python train.py -m experiment=demo model=$(BACKBONES)
	$(BIN)/python aggregate.py study=demo ensemble=all

test: setup  ## run all tests, on up to four cores
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test-fast: setup  ## the tests that train nothing and open no browser
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "not slow and not browser and not gpu"

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: setup  ## run the notebooks again and keep what they show
	$(BIN)/jupyter execute --inplace --timeout=900 notebooks/*.ipynb

docs: setup  ## build the pages of docs/ into site/
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict

clean:  ## remove runs, stores and phantom cohorts (not .venv)
	rm -rf runs cache site
