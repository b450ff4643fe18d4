# Each target first checks the environment and sets it up if it is missing.
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test test-fast lint sample data new-competition folds advise compete freeze train cv grid tta calibrate adapt smooth derive ladder ensemble people submit export predict status audit report wandb-sync dashboard search sweep bundle restore pictures docs bench torture gpu-check clean check-venv check-dev always
SHELL := /bin/sh

# Variables count only when they come from the command line: an exported NAME must not rename a run.
given = $(if $(filter command line,$(origin $(1))),$(strip $($(1))))
typed = $(if $(call given,$(1)),$(value $(1)))
quoted = '$(subst ','\'',$(1))'
option = $(if $(call given,$(1)),$(2) $(call quoted,$(call given,$(1))))
# A path may hold several spaces in a row, and a $.
path = $(if $(call typed,$(1)),$(2) $(call quoted,$(call typed,$(1))))
flag = $(if $(filter 1 yes true,$(call given,$(1))),$(2),$(if $(filter-out 0 no false,$(call given,$(1))),$(error $(1)=$($(1)): expected 1 or 0),$(if $(call given,$(1)),$(3))))
export SETTINGS := $(if $(call given,SET),$(value SET))

PYTHON ?= python3
ENV := $(or $(call given,VENV),.venv)
PY := $(call quoted,$(ENV)/bin/python)
STAMP := $(if $(call given,VENV),check-venv,.venv/.stamp)
DEV_STAMP := $(if $(call given,VENV),check-dev,.venv/.stamp-dev)
INSTALL = scripts/install.py $(call option,EXTRAS,--extras) $(call option,TORCH_INDEX,--torch-index)
DATA_OPT = $(call path,DATA,--data)
PARALLEL = $(shell $(PY) -c 'import xdist' 2>/dev/null && echo --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder)
RUN_OPT = $(DATA_OPT) --set "$$SETTINGS" $(call option,NAME,--name) $(call flag,FORCE,--force) $(call flag,LEAKY,--leaky) $(call option,TIME_LIMIT,--time-limit)

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP)  ## Run the whole job on the embedded sample, from photographs to a submission
	@$(PY) scripts/demo.py $(call flag,SHORT,--short)

test: $(DEV_STAMP)  ## Run all tests
	@$(PY) -m pytest $(PARALLEL)

test-fast: $(DEV_STAMP)  ## Run the tests that take under two minutes in all
	@$(PY) -m pytest $(PARALLEL) -m "not slow"

lint: $(DEV_STAMP)  ## Check style, types and known vulnerabilities of the locked packages
	@$(PY) -m ruff check --no-cache . && $(PY) -m ruff format --check . && $(PY) -m mypy && $(PY) scripts/vulnerabilities.py

sample: $(STAMP)  ## Render the embedded sample (SUBJECTS= TEST_SUBJECTS= FRAMES= SIZE= SEED=)
	@$(PY) scripts/sample.py $(call option,SUBJECTS,--subjects) $(call option,TEST_SUBJECTS,--test-subjects) $(call option,FRAMES,--frames) $(call option,SIZE,--size) $(call option,SEED,--seed)

data: $(STAMP)  ## Download the competition with your own Kaggle credentials (DATA=)
	@$(PY) scripts/download.py $(DATA_OPT)

new-competition: $(STAMP)  ## Look at a folder in any layout and write configs/data/<name>.yaml (FOLDER= NAME= SET="data.metric=auc" FORCE=1)
	@$(PY) scripts/new_competition.py --folder $(call quoted,$(call typed,FOLDER)) $(call option,NAME,--name) --set "$$SETTINGS" $(call flag,FORCE,--force)

folds: $(STAMP)  ## Check the data, make the folds and audit them (DATA= SET=)
	@$(PY) scripts/folds.py $(DATA_OPT) --set "$$SETTINGS"

advise: $(STAMP)  ## Measure backbones on the data and recommend a recipe (MODELS= DATA= SET=)
	@$(PY) scripts/advise.py $(call option,MODELS,--models) $(DATA_OPT) --set "$$SETTINGS"

compete: $(STAMP)  ## Measure, screen, plan, train, blend and submit in the time given; it goes on after a stop (HOURS=8 MODELS= CLUSTER=auto DATA= SET= SEND=1)
	@$(PY) scripts/compete.py $(call option,HOURS,--hours) $(call option,MODELS,--models) $(call option,CLUSTER,--cluster) $(call flag,SEND,--send) $(DATA_OPT) --set "$$SETTINGS"

freeze: $(STAMP)  ## Show a network's blocks and which of them each phase trains (MODEL= DATA= SET=)
	@$(PY) scripts/freeze.py --model $(call quoted,$(call given,MODEL)) $(DATA_OPT) --set "$$SETTINGS"

train: $(STAMP)  ## Train one fold of one model (FOLD= MODEL= DATA= SET= NAME= FORCE=1 LEAKY=1 GPUS= TIME_LIMIT=8h30m)
	@$(PY) scripts/train.py --model $(call quoted,$(call given,MODEL)) --fold $(call quoted,$(or $(call given,FOLD),0)) $(call option,GPUS,--gpus) $(RUN_OPT)

cv: $(STAMP)  ## Train all folds of one model (MODEL= DATA= SET= NAME= FORCE=1 LEAKY=1 GPUS= TIME_LIMIT=8h30m)
	@$(PY) scripts/train.py --model $(call quoted,$(call given,MODEL)) $(call option,GPUS,--gpus) $(RUN_OPT)

grid: $(STAMP)  ## Train models x folds x seeds, here or on a Ray cluster (MODELS= FOLDS= SEEDS= CLUSTER=auto JOBS= DATA= SET= FORCE=1 TIME_LIMIT=8h30m)
	@$(PY) scripts/grid.py --models $(call quoted,$(or $(call given,MODELS),$(call given,MODEL))) $(call option,FOLDS,--folds) $(call option,SEEDS,--seeds) $(call option,CLUSTER,--cluster) $(call option,JOBS,--jobs) $(RUN_OPT)

tta: $(STAMP)  ## Average a run over views of each image (RUN= VIEWS="centre scales" AVERAGE=probs NAME= DATA= FORCE=1)
	@$(PY) scripts/tta.py --run $(call quoted,$(call given,RUN)) --views $(call quoted,$(call given,VIEWS)) $(call option,AVERAGE,--average) $(DATA_OPT) --set "$$SETTINGS" $(call option,NAME,--name) $(call flag,FORCE,--force)

calibrate: $(STAMP)  ## Fit class bias, temperature and clip, each fold's on the other folds (RUNS= PARTS= NAME= DATA= FORCE=1)
	@$(PY) scripts/calibrate.py --set "$$SETTINGS" --runs $(call quoted,$(call given,RUNS)) $(call option,PARTS,--parts) $(DATA_OPT) $(call option,NAME,--name) $(call flag,FORCE,--force)

adapt: $(STAMP)  ## Remove what each test subject adds to its predictions, where clusters are subjects (RUNS= MODEL= NAME= DATA= SET= FORCE=1)
	@$(PY) scripts/adapt.py --runs $(call quoted,$(call given,RUNS)) $(call option,MODEL,--model) $(DATA_OPT) --set "$$SETTINGS" $(call option,NAME,--name) $(call flag,FORCE,--force)

smooth: $(STAMP)  ## Average predictions over images that look alike (RUNS= SPACES="own resnet50" METHODS= HOW= NAME= DATA= FORCE=1)
	@$(PY) scripts/smooth.py --runs $(call quoted,$(call given,RUNS)) $(call option,SPACES,--spaces) $(call option,METHODS,--methods) $(call option,HOW,--how) $(DATA_OPT) --set "$$SETTINGS" $(call option,NAME,--name) $(call flag,FORCE,--force)

derive: $(STAMP)  ## Apply any step to runs, each fold's fitted on the other folds (STEP= RUNS= HOW= NAME= DATA= FORCE=1)
	@$(PY) scripts/derive.py --set "$$SETTINGS" --step $(call quoted,$(call given,STEP)) --runs $(call quoted,$(call given,RUNS)) $(call option,HOW,--how) $(DATA_OPT) $(call option,NAME,--name) $(call flag,FORCE,--force)

ladder: $(STAMP)  ## Take the winners' steps one after another and measure each (MODELS= STEPS= VIEWS= SPACES= METHODS= TRUTH= DATA= SET= FORCE=1)
	@$(PY) scripts/ladder.py --models $(call quoted,$(or $(call given,MODELS),$(call given,MODEL))) $(call option,STEPS,--steps) $(call option,VIEWS,--views) $(call option,SPACES,--spaces) $(call option,METHODS,--methods) $(call option,TRUTH,--truth) $(DATA_OPT) --set "$$SETTINGS" $(call flag,FORCE,--force)

ensemble: $(STAMP)  ## Blend the runs in oof/ (RUNS="vgg16 resnet50" BLENDERS= NAME= DATA= FORCE=1 LEAKY=1)
	@$(PY) scripts/ensemble.py --set "$$SETTINGS" $(DATA_OPT) $(call option,RUNS,--runs) $(call option,BLENDERS,--blenders) $(call option,NAME,--name) $(call flag,FORCE,--force) $(call flag,LEAKY,--leaky)

people: $(STAMP)  ## Estimate how many people the test set shows, for the expected score (MODEL= DATA= SET= FORCE=1)
	@$(PY) scripts/people.py $(call option,MODEL,--model) $(DATA_OPT) --set "$$SETTINGS" $(call flag,FORCE,--force)

submit: $(STAMP)  ## Check and write the submission (NAME= DATA= PARTIAL=1 FORCE=1; SEND=1 sends it to Kaggle)
	@$(PY) scripts/submit.py --set "$$SETTINGS" $(DATA_OPT) $(call option,NAME,--name) $(call flag,PARTIAL,--partial) $(call flag,SEND,--send) $(call flag,FORCE,--force)

export: $(STAMP)  ## Write one fold's network as an ONNX model (MODEL= or NAME=, FOLD= DATA=)
	@$(PY) scripts/export.py --run $(call quoted,$(or $(call given,NAME),$(call given,MODEL))) --fold $(call quoted,$(or $(call given,FOLD),0)) $(DATA_OPT) --set "$$SETTINGS"

predict: $(STAMP)  ## Predict a folder of new photographs (IMAGES= NAME= OUT= DATA= SET=)
	@$(PY) scripts/predict.py --images $(call quoted,$(call typed,IMAGES)) $(call option,NAME,--name) $(call path,OUT,--out) $(DATA_OPT) --set "$$SETTINGS"

status: $(STAMP)  ## Show which folds of each run are done, running, failed or missing, and what to run next (DATA= SET=)
	@$(PY) scripts/status.py $(DATA_OPT) --set "$$SETTINGS"

audit: $(STAMP)  ## Look for odd and duplicate images, subjects that look alike, and wrong labels (RUN= DROPS=1 MODEL= DATA= FORCE=1)
	@$(PY) scripts/audit.py $(call option,MODEL,--model) $(call option,RUN,--run) $(call flag,DROPS,--drops) $(DATA_OPT) --set "$$SETTINGS" $(call flag,FORCE,--force)

report: $(STAMP)  ## Write runs/<data>/report.html: everything on one page that works offline (RUN= HEAT=0 DATA= FORCE=1)
	@$(PY) scripts/report.py $(DATA_OPT) $(call option,RUN,--run) $(call flag,HEAT,,--no-heat) --set "$$SETTINGS" $(call flag,FORCE,--force)

wandb-sync: $(STAMP)  ## Send offline recordings and the runs' lineage to W&B (DATA= SET= FORCE=1)
	@$(PY) scripts/wandb_sync.py $(DATA_OPT) --set "$$SETTINGS" $(call flag,FORCE,--force)

dashboard: $(STAMP)  ## Build the workspace on W&B: leaderboard, curves, errors, blend weights (DATA= SET=)
	@$(PY) scripts/dashboard.py $(DATA_OPT) --set "$$SETTINGS"

search: $(STAMP)  ## Search settings of a model by successive halving, and choose honestly (MODEL= TRIALS=16 HOURS= FILE= SAMPLER=quasi CLUSTER=auto NAME= DATA= SET=)
	@$(PY) scripts/search.py --model $(call quoted,$(call given,MODEL)) $(call option,TRIALS,--trials) $(call option,HOURS,--hours) $(call path,FILE,--file) $(call option,SAMPLER,--sampler) $(call option,CLUSTER,--cluster) $(call option,NAME,--name) $(DATA_OPT) --set "$$SETTINGS"

sweep: $(STAMP)  ## Train settings that W&B proposes, and choose the best, each fold's on the other folds (MODEL= TRIALS= SWEEP= DATA= SET=)
	@$(PY) scripts/sweep.py --model $(call quoted,$(call given,MODEL)) $(call option,TRIALS,--trials) $(call option,SWEEP,--sweep) $(DATA_OPT) --set "$$SETTINGS"

bundle: $(STAMP)  ## Put runs, networks, checkpoints, configs and code into one folder, to go on elsewhere (OUT= RUNS= CODE=0 WHEELS=1 DATA= SET=)
	@$(PY) scripts/bundle.py --out $(call quoted,$(call typed,OUT)) $(call option,RUNS,--runs) $(call flag,CODE,,--no-code) $(call flag,WHEELS,--wheels) $(DATA_OPT) --set "$$SETTINGS"

restore: $(STAMP)  ## Check a bundle and put its runs into this workspace (BUNDLE= FORCE=1)
	@$(PY) scripts/restore.py --bundle $(call quoted,$(call typed,BUNDLE)) $(call flag,FORCE,--force)

pictures: $(STAMP)  ## Draw sheets of the data, its regions and the augmentation (DATA= SET=; default: the sample)
	@$(PY) scripts/pictures.py $(DATA_OPT) --set "$$SETTINGS"

docs: $(STAMP)  ## Write docs/config.md from the schema
	@$(PY) scripts/config_docs.py

bench: $(DEV_STAMP)  ## Compare the speed with other libraries (PARTS="loader train features predict blend smooth growth" FOLDER=)
	@PYTHONPATH=scripts $(PY) bench/run.py $(call option,PARTS,--parts) $(call option,FOLDER,--folder)

torture: $(STAMP)  ## Kill one fold's training again and again, and compare the result with an undisturbed one (KILLS=30 MODEL= DATA= SET= FOLDER=)
	@PYTHONPATH=scripts $(PY) bench/torture.py --folder $(call quoted,$(or $(call given,FOLDER),cache/torture)) $(call option,KILLS,--kills) $(call option,MODEL,--model) $(DATA_OPT) --set "$$SETTINGS"

gpu-check: $(STAMP)  ## Check and time training and prediction on this machine's card, in 10 minutes (PARTS= OUT= FOLDER= SHORT=1)
	@PYTHONPATH=scripts $(PY) bench/gpu_check.py $(call option,PARTS,--parts) $(call path,OUT,--out) $(call path,FOLDER,--folder) $(call flag,SHORT,--short)

clean:  ## Remove the environment, caches and the rendered sample, which can all be remade
	rm -rf .venv cache input/sample src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(if $(call given,VENV),,$(STAMP))  ## Set up .venv for users, or add the project to VENV= and keep its torch (EXTRAS="onnx cluster" TORCH_INDEX=)
	@$(if $(call given,VENV),$(PY) $(INSTALL),echo '.venv is ready')

setup-dev: $(DEV_STAMP)  ## Set up .venv for developers: tests, lint, all extras
	@echo '$(ENV) is ready'

.venv/.stamp: pyproject.toml requirements.lock $(if $(call given,EXTRAS)$(call given,TORCH_INDEX),always)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=... names one")'
	@$(PYTHON) $(INSTALL) --venv
	@touch $@

.venv/.stamp-dev: .venv/.stamp
	@.venv/bin/python scripts/install.py --extras dev
	@touch $@

always:

check-venv:
	@$(PY) -c 'import distracted' 2>/dev/null || { echo "VENV="$(call quoted,$(ENV))": the project is not installed there; make setup VENV="$(call quoted,$(ENV))" installs it and keeps its torch"; exit 1; }

check-dev: check-venv
	@$(PY) -c 'import pytest' 2>/dev/null || { echo "VENV="$(call quoted,$(ENV))": pytest is not installed there; make setup EXTRAS=dev VENV="$(call quoted,$(ENV))" installs what developers need"; exit 1; }
