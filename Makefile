# Every command of the course; `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VENV ?= .venv
# What prunes and quantizes in the case study: tfmot, or the course's own code.
ENGINE ?= tfmot
# Checks side by side, each with about 1 GB; those that measure something run alone after them.
WORKERS ?= 2
# The exact versions to install: the repository's, or others (make lock-oldest, make lock-newest).
LOCK ?= requirements.lock
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
# In order: the first one measures this computer, and the others find its card.
CHAPTERS := $(sort $(wildcard chapters/[0-9][0-9]_*.ipynb))
# PyTorch is an extra that only the appendix needs, and too large to come with every setup.
APPENDIX := chapters/appendix_pytorch.ipynb
PYTORCH := $(VENV)/.pytorch
HAS_PYTORCH := $(RUN) -c 'import torch' 2>/dev/null
# What is stored is what explorers and quizzes show without a kernel.
NBVAL := HWLIMITS_STATIC=1 $(RUN) -m pytest -q --nbval --nbval-current-env --nbval-cell-timeout=900 -o addopts=
# All but pytorch, which has peers/torch.lock: Linux would get several GB of CUDA libraries with it.
EXTRAS := course accelerators classroom book peers dev
COMPILE := uv pip compile pyproject.toml $(EXTRAS:%=--extra %) --universal --python-version 3.11 --generate-hashes --no-emit-index-url
# In a container one often is root, and JupyterLab wants to be told that this is meant.
LAB_OPTIONS := $(if $(filter 0,$(shell id -u)),--allow-root)

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## make the virtual environment (once; the other commands do it when needed)

$(INSTALLED): $(LOCK) pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "hwlimits needs Python 3.11, 3.12 or 3.13, and there is no '$(PYTHON)' here. Install one and say: make PYTHON=/path/to/python3.12 ..."; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "hwlimits needs Python 3.11, 3.12 or 3.13; \"$(PYTHON)\" is %d.%d. Install one and say: make PYTHON=/path/to/python3.12 ..." % v)'
	@$(PYTHON) -c 'import platform, sys; sys.exit("TensorFlow has no wheels for Intel Macs any more: use another computer, or Colab." if (platform.system(), platform.machine()) == ("Darwin", "x86_64") else 0)'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing: on Debian and Ubuntu, apt install python3-venv"; exit 2; }
	@mkdir -p $(VENV) 2>/dev/null && test -w $(VENV) || { echo "hwlimits can't write '$(VENV)'. Say where it may: make VENV=/path/to/venv ..."; exit 2; }
	@echo "Setting up $(VENV), once: about 3 GB on disk, one minute to ten."
	@$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check --require-hashes -r $(LOCK)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

case-study: $(INSTALLED)  ## train, prune, quantize and measure the MNIST network: one seed, a report (ENGINE=own: without tfmot)
	$(RUN) -m hwlimits.training.case_study --engine $(ENGINE)

test: $(INSTALLED)  ## every check: style, library, doctests, notebooks
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pytest -q -m "not alone" -n $(WORKERS) --dist loadfile
	$(RUN) -m pytest -q -m alone
	$(NBVAL) --junitxml=build/nbval-first.xml $(firstword $(CHAPTERS))
	$(NBVAL) -n $(WORKERS) --dist loadscope --junitxml=build/nbval-others.xml $(wordlist 2,99,$(CHAPTERS))
	@if $(HAS_PYTORCH); then $(NBVAL) $(APPENDIX); else echo "left out: $(APPENDIX), because PyTorch is not installed here (make pytorch)"; fi
	$(RUN) -m pytest -q tests/notebooks/after_nbval.py

# tests/fast.py says by what rule; a file that needs no TensorFlow is in it.
test-fast: $(INSTALLED)  ## the checks without TensorFlow and without running a chapter, in under five minutes
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pytest -q -m "not alone" -n $(WORKERS) --dist loadfile $$($(RUN) tests/fast.py)

lab: $(INSTALLED)  ## open JupyterLab on the course
	$(RUN) -m jupyter lab $(LAB_OPTIONS) --LabApp.default_url=/lab/tree/chapters/index.ipynb

execute: $(INSTALLED)  ## run the chapters and keep their outputs (after editing chapters/text/)
	set -e; for text in chapters/text/*.md; do \
		notebook=chapters/$$(basename $$text .md).ipynb; \
		if [ $$notebook = $(APPENDIX) ] && ! $(HAS_PYTORCH); then echo "left out: $$notebook (make pytorch)"; continue; fi; \
		$(RUN) -m jupytext --sync $$text; \
		HWLIMITS_STATIC=1 $(RUN) -m jupyter nbconvert --to notebook --inplace --execute \
			--ExecutePreprocessor.record_timing=False --ExecutePreprocessor.timeout=1800 $$notebook; \
		$(RUN) -m jupyter nbconvert --to notebook --inplace --coalesce-streams $$notebook; \
		$(RUN) -m jupytext --sync $$notebook; \
	done
	$(RUN) chapters/make.py

index: $(INSTALLED)  ## make chapters/index.ipynb, from which the chapters open, from what they say of themselves
	$(RUN) chapters/make.py

first-cells: $(INSTALLED)  ## write each chapter's first cell, which opens it in Colab and Kaggle, and its links there
	$(RUN) chapters/first_cells.py

home: $(INSTALLED)  ## name the course's public home, URL=https://github.com/OWNER/NAME, in pyproject.toml and the chapters
	$(RUN) chapters/first_cells.py --home "$(URL)"

wheel: $(INSTALLED)  ## make dist/hwlimits-*.whl, to put beside a chapter in Colab or Kaggle
	$(RUN) -m hatchling build -t wheel

results-case-study: $(INSTALLED)  ## make data/results/case_study.json: five seeds, all of MNIST; resumes (ENGINE=own: case_study_own.json, three seeds)
	$(RUN) -m hwlimits.training.case_study --full --engine $(ENGINE)

results-choices: $(INSTALLED)  ## make data/results/case_study_choices.json: the trials behind the recipe
	$(RUN) -m hwlimits.training.choices

results-qat: $(INSTALLED)  ## make data/results/qat_bits.csv: 8, 4 and 2 bits, after and while training (20 minutes)
	$(RUN) -m hwlimits.training.qat_bits

results-frontier: $(INSTALLED)  ## make data/results/frontier.csv and frontier/*.hwz: five points, three seeds (hours; resumes)
	$(RUN) -m hwlimits.training.frontier

results-frontier-choices: $(INSTALLED)  ## make data/results/frontier_choices.csv: what its settings do, on images held out (an hour; resumes)
	$(RUN) -m hwlimits.training.frontier_choices

results-memory: $(INSTALLED)  ## make data/results/training_memory.csv: ten networks, predicted and measured (12 minutes)
	$(RUN) -m hwlimits.training.memory

results-kernel-differences: $(INSTALLED)  ## make data/results/kernel_differences.csv: XNNPACK's int8 kernels beside LiteRT's reference
	$(RUN) -m hwlimits.training.kernel_differences

results-predictions: $(INSTALLED)  ## make data/results/prediction_errors.csv: times predicted and measured (a quiet computer)
	$(RUN) -m hwlimits.training.prediction_errors

results-gains: $(INSTALLED)  ## make data/results/gain_predictions.csv: faster, slower or equal? (a quiet computer)
	$(RUN) -m hwlimits.training.gain_predictions

results-fast-cnn: $(INSTALLED)  ## make data/results/fast_cnn.json: the CNN in a third of the time; resumes (a quiet computer)
	$(RUN) -m hwlimits.training.fast_cnn

results-scaling: $(INSTALLED)  ## make data/results/scaling.csv: tasks over threads, processes, Dask and workers (a quiet computer, 6 minutes)
	$(RUN) -m hwlimits.training.scaling_bench

results-systolic: $(INSTALLED)  ## make data/results/systolic.csv: cycles of layers, counted, and by SCALE-Sim (10 minutes)
	$(RUN) -m hwlimits.training.systolic_layers

results-classroom: $(INSTALLED)  ## make data/results/classroom.csv: labs in up to 30 kernels at once (a quiet computer, 20 minutes)
	$(RUN) -m hwlimits.machine.classroom

labs: $(INSTALLED)  ## make labs/release, what students get, from labs/source
	$(RUN) labs/make.py release

teaching: $(INSTALLED)  ## make the pages for teachers: build/teaching/index.html
	$(RUN) labs/make.py teaching

book: $(INSTALLED)  ## make the course as a web site that works offline: build/book/html/index.html (npm, once)
	$(RUN) book/make.py

workers: $(INSTALLED)  ## train the case study's network with N=2 workers, processes of this computer
	$(RUN) -m hwlimits.training.workers --workers $(or $(N),2)

bench: $(INSTALLED)  ## measure the kernels beside C, OpenBLAS, scipy.sparse and LiteRT: data/results/kernels.csv (a quiet computer)
	$(RUN) -m hwlimits.training.bench

bench-compression: $(INSTALLED)  ## measure the int8 and sparse kernels alone; the other rows of that table stay
	$(RUN) -m hwlimits.training.bench --compression

bench-coding: $(INSTALLED) build/nncodec-venv/.installed  ## coders on the same integers, nncodec among them: data/results/coders.csv (10 minutes, a C++ compiler)
	$(RUN) -m hwlimits.training.coders --nncodec build/nncodec-venv/bin/python

# An environment of its own: nncodec wants NumPy 1, and the course does not want nncodec.
build/nncodec-venv/.installed: peers/nncodec-build.lock peers/nncodec.lock
	$(RUN) -m venv --clear build/nncodec-venv
	build/nncodec-venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r peers/nncodec-build.lock
	build/nncodec-venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --require-hashes -r peers/nncodec.lock
	@touch $@

gpu-bench: $(INSTALLED)  ## measure this computer's NVIDIA GPU with the course's kernels: data/results/gpu_*.json (3 minutes)
	$(RUN) -m hwlimits.kernels.gpu_bench

pytorch: $(PYTORCH)  ## install PyTorch, for the appendix (CPU build: 0.2 GB to download, 0.9 GB on disk)

# Linux takes the CPU build, from where pip is told to look: the package index's wants gigabytes of CUDA libraries.
$(PYTORCH): $(INSTALLED) peers/torch.lock
	@if $(HAS_PYTORCH); then \
		echo "PyTorch $$($(RUN) -c 'import torch; print(torch.__version__)') is in $(VENV) already, and stays."; \
	else \
		echo "Installing PyTorch into $(VENV): 0.2 GB to download, 0.9 GB on disk."; \
		$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r peers/torch.lock \
			|| { echo "pip found no build of PyTorch that peers/torch.lock knows. Install one as pytorch.org says, with $(RUN) -m pip (the CPU build is the small one), and say make pytorch again."; exit 2; }; \
		$(RUN) -c 'import torch'; \
	fi
	@touch $@

xla-bench: $(INSTALLED)  ## measure JAX's device (CPU, GPU or TPU): data/results/xla_*.json (some minutes, a quiet computer)
	$(RUN) -m hwlimits.xla --out data/results

results-decoder: $(INSTALLED)  ## measure a Transformer's prefill and decode with JAX: data/results/decoder_*.json (3 minutes, a quiet computer)
	$(RUN) -m hwlimits.xla.decoding --out data/results

lock:  ## make requirements.lock from pyproject.toml (needs uv)
	$(COMPILE) -o requirements.lock

lock-oldest:  ## make build/oldest.lock, to be tried by LOCK=build/oldest.lock VENV=build/oldest-venv (needs uv)
	mkdir -p build
	$(COMPILE) --resolution lowest-direct -o build/oldest.lock

lock-newest:  ## make build/newest.lock, likewise (needs uv)
	mkdir -p build
	$(COMPILE) --upgrade -o build/newest.lock

format: $(INSTALLED)  ## format the code
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

clean:  ## remove what was built (the virtual environment and trained models)
	rm -rf $(VENV) build dist

.PHONY: help setup case-study test test-fast lab execute index first-cells home wheel results-case-study results-choices results-qat results-frontier results-frontier-choices results-memory results-kernel-differences results-predictions results-gains results-fast-cnn results-scaling results-systolic results-classroom labs teaching book workers bench bench-compression bench-coding gpu-bench pytorch xla-bench results-decoder lock lock-oldest lock-newest format clean
