# make paper   run what is missing and render the HTML edition (SCALE=smoke|cpu|paper, WORKERS=2)
# make test    check everything (WORKERS=4 where there are cores and memory for it)
# make bench   training, measures and commands against plain ways and floors (nothing else should run meanwhile)
# make torture kills, faults, crowds and damaged files, for an hour and a half; its record is data/results/torture
# make coverage  whether tests take every branch of what keeps nets and decides claims (two minutes)
# make lab     open JupyterLab
# make bundle  pack the study for a GPU machine without a network; make gpu-run  there: eight minutes of it (MINUTES=8)
# make clean   remove what is made again in minutes; trained nets and results stay
# make venv LOCKED=1   the packages of .venv by their hashes (requirements.lock); then make test and make paper take these
# Both of the first need only Python 3.11 or newer, a package index and this file: they make .venv themselves.
PY      ?= python3
VENV    ?= .venv
SCALE   ?= smoke
WORKERS ?= 2
PYTHON  := $(VENV)/bin/python
SHELL   := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: paper test bench torture coverage lab bundle gpu-run venv clean
.DEFAULT_GOAL := paper

export PATH := $(abspath $(VENV))/bin:$(PATH)
export PYTHONHASHSEED := 0
export JUPYTER_PREFER_ENV_PATH := 1
export MPLBACKEND := Agg
# the installer leaves compiling to the first import: without this each process would compile torch anew
unexport PYTHONDONTWRITEBYTECODE

# uv does not read pip's settings: hand over those it understands, only where they are set
empty :=
comma := ,
space := $(empty) $(empty)
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(subst $(space),$(comma),$(PIP_FIND_LINKS))
endif
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_EXTRA_INDEX_URL
export UV_INDEX ?= $(PIP_EXTRA_INDEX_URL)
export UV_INDEX_STRATEGY ?= unsafe-best-match
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
endif
ifdef PIP_DEFAULT_TIMEOUT
export UV_HTTP_TIMEOUT ?= $(PIP_DEFAULT_TIMEOUT)
endif

# uv is several times faster; where it cannot be had or does not succeed, pip does the same
define install
	if $(PYTHON) -m uv pip install -q --python $(PYTHON) -c constraints.txt --build-constraints constraints.txt -e '.[$(1)]'; \
	then :; else echo 'installing with pip'; $(PYTHON) -m pip install -q -c constraints.txt -e '.[$(1)]'; fi
endef

$(VENV)/.installed: settings.ini constraints.txt setup.py pyproject.toml
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed (make PY=python3.12 uses another), this is " + sys.version.split()[0])'
	@echo 'installing into $(VENV)'
	@$(PY) -m venv '$(VENV)'
	@$(PYTHON) -m pip install -q --disable-pip-version-check -c constraints.txt uv || echo 'uv cannot be had'
	@$(if $(LOCKED),$(PYTHON) -m pip install -q --require-hashes --no-deps -r requirements.lock)
	@$(call install,run$(comma)dev$(comma)kernel$(comma)imagenet$(comma)cluster)
	@touch $@

$(VENV)/.installed-lab: $(VENV)/.installed
	@$(call install,run$(comma)dev$(comma)kernel$(comma)imagenet$(comma)cluster$(comma)lab)
	@touch $@

venv: $(VENV)/.installed

paper: $(VENV)/.installed
	@$(VENV)/bin/fmm paper --scale $(SCALE) --workers $(WORKERS)

test: $(VENV)/.installed
	@$(PYTHON) tests/run_all.py $(if $(filter command,$(firstword $(origin WORKERS))),$(WORKERS))

bench: $(VENV)/.installed
	@$(PYTHON) tests/benchmarks/bench.py
	@$(PYTHON) tests/benchmarks/measures.py
	@$(PYTHON) tests/benchmarks/commands.py

torture: $(VENV)/.installed
	@OMP_NUM_THREADS=1 $(PYTHON) tests/torture.py

COVERING := claims comparisons judgement mutations rules statistics store wrong_use
coverage: $(VENV)/.installed
	@mkdir -p build
	@OMP_NUM_THREADS=1 $(PYTHON) -m coverage run -m pytest -p no:cacheprovider tests/cells.py $(COVERING:%=tests/test_%.py)
	@$(PYTHON) -m coverage report

lab: $(VENV)/.installed-lab
	@$(PYTHON) -m jupyterlab --notebook-dir nbs

bundle: $(VENV)/.installed
	@$(VENV)/bin/fmm bundle --scale paper

# no environment of its own: the machine's torch, and beside it the wheels of the bundle
MINUTES ?= 8
gpu-run: export PYTHONPATH := $(CURDIR):$(CURDIR)/build/gpu-site
gpu-run: export FMM_DATA := $(CURDIR)/images
gpu-run:
	@test -f build/gpu-site/installed || { $(PY) -m pip install -q --upgrade --no-index --no-deps --no-compile --target build/gpu-site wheels/*.whl && touch build/gpu-site/installed; }
	@$(PY) -c 'import sys; from fmm_nb.cli import main; sys.exit(main())' slice $(PAGES) --scale paper --minutes $(MINUTES) --workers $$(nproc)

# trained nets and results of runs take hours: they stay (build/store, build/SCALE, build/imagenet)
clean:
	rm -rf '$(VENV)' dist *.egg-info .pytest_cache .hypothesis
	@test ! -d build || find build -mindepth 1 -maxdepth 1 ! -name store ! -name smoke ! -name cpu ! -name paper ! -name imagenet -exec rm -rf {} +
