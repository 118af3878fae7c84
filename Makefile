# Daily work. `make results` and `make test` each work first, on a fresh clone.
VENV ?= .venv
PYTHON ?= python3
CONFIG ?= config/config.yaml
STUDY = $(shell sed -n 's/^study: *//p' $(CONFIG))
ENV = $(VENV)/.installed
HOW = --cores all --configfile $(CONFIG) --workflow-profile config/profiles/default
PORT ?= 5000
WORKERS ?= 3

.PHONY: help results report plan track ui audit doctor test test-system packages lint check format lock environments benchmark architectures clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(ENV): requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@

results: $(ENV)  ## run the embedded study (CONFIG=config/smoke.yaml for another one)
	$(VENV)/bin/snakemake $(HOW)
	@echo "report: results/$(STUDY)/report.html   runs: make ui"

report: $(ENV)  ## only what the report needs
	$(VENV)/bin/snakemake report $(HOW)

plan: $(ENV)  ## jobs, disk, memory, hours of a study before it runs; afterwards ARGS=--compare, with what was measured
	$(VENV)/bin/python scripts/plan.py $(CONFIG) $(ARGS)

track: $(ENV)  ## bring the jobs that have ended into MLflow now, also while the study runs
	$(VENV)/bin/python scripts/track.py --config $(CONFIG) $(ARGS)

audit: $(ENV)  ## which jobs made a file, from what, and is it all as it was recorded (FILE=results/demo/report.html)
	$(VENV)/bin/python scripts/audit.py $(FILE) $(ARGS)

ui: $(ENV)  ## look at the runs in MLflow, on this machine only (PORT=5000)
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(VENV)/bin/mlflow server --workers 1 \
	  --backend-store-uri sqlite:///results/mlflow/mlflow.db --artifacts-destination results/mlflow/artifacts \
	  --host 127.0.0.1 --port $(PORT)

doctor: $(ENV)  ## look at a model before a study: supported, right, how fast, how much disk (MODEL=, ARGS='--study x.yaml')
	$(VENV)/bin/python scripts/doctor.py $(MODEL) $(ARGS)

test: $(ENV)  ## all tests but those of test-system, three processes at a time, for some wait more than they work (WORKERS=3)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m "not system" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-system: $(ENV)  ## a study through a real SLURM, and in conda environments (some minutes; see packages)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m system

packages:  ## Debian packages that some tests want (as root): a browser, and SLURM
	apt-get update -qq
	apt-get install -qq -y --no-install-recommends chromium slurmctld slurmd slurm-client munge rsync > /dev/null

lint: $(ENV)  ## ruff, snakefmt, mypy, snakemake --lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/snakefmt --check Snakefile rules
	$(VENV)/bin/mypy
	$(VENV)/bin/snakemake --lint

check: lint test  ## what CI runs

format: $(ENV)  ## put Python and Snakemake files into shape
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/snakefmt Snakefile rules
	find scripts config/schemas -type f ! -path '*/__pycache__/*' ! -name files.txt | LC_ALL=C sort > scripts/files.txt

lock:  ## renew requirements.lock from the ranges in pyproject.toml
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet 'torch==2.13.0' '.[dev]'
	@# A CPU build calls itself 2.13.0+cpu; the lock means the version, whatever the build.
	build/lock/bin/python -m pip freeze --exclude moemui | sed 's/+cpu$$//' > requirements.lock

environments: $(ENV)  ## envs/*.yaml anew, from what scripts import and the lock
	PYTHONPATH=tests $(VENV)/bin/python -m conda.write_environments

benchmark: $(ENV)  ## what extraction costs over a plain forward pass, and the analyses at scale (some minutes)
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/extraction.py
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/analysis.py
	if [ -d results/demo/records ]; then $(VENV)/bin/python benchmarks/tracking.py; fi

architectures: $(ENV)  ## docs/architectures.md anew, for another version of transformers
	PYTHONPATH=scripts:tests OMP_NUM_THREADS=1 $(VENV)/bin/python -m conformance.write_table

clean:  ## remove all results
	find results -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
