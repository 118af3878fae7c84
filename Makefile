# Daily work. `make results` and `make test` each work first, on a fresh clone.
VENV ?= .venv
PYTHON ?= python3
CONFIG ?= config/config.yaml
STUDY = $(shell sed -n 's/^study:[^A-Za-z0-9_]*\([A-Za-z0-9._-]*\).*/\1/p' $(CONFIG))
ENV = $(VENV)/.installed
HOW = --cores all --configfile $(CONFIG) --workflow-profile config/profiles/default
PORT ?= 5000
WORKERS ?= 3
PACKAGES ?= chromium slurmctld slurmd slurm-client munge rsync
REPORT_AS ?= html

.PHONY: help results report exports experiments snakemake-report plan track ui audit doctor move-stores test check-report test-simulations test-system check lint \
  format lock environments dictionary architectures packages benchmark clean

help:  ## this list
	@awk -F ':.*## ' '/^##@ / { print "\n" substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' \
	  $(firstword $(MAKEFILE_LIST))

$(ENV): requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@

##@ A study: CONFIG=config/olmoe.yaml for another one than the embedded
doctor: $(ENV)  ## look at a model first: supported, right, speed, disk (MODEL=, ARGS='--study x.yaml')
	$(VENV)/bin/python scripts/doctor.py $(MODEL) $(ARGS)

plan: $(CONFIG) $(ENV)  ## jobs, disk, memory, hours before it runs (ARGS=--compare: beside what was measured)
	$(VENV)/bin/python scripts/plan.py $(CONFIG) $(ARGS)

results: $(CONFIG) $(ENV)  ## run it, or what is left of it, from checkpoints to the report
	$(VENV)/bin/snakemake $(HOW)
	@echo "report: results/$(STUDY)/report.html   runs: make ui   Snakemake's own report: make snakemake-report"

report: $(CONFIG) $(ENV)  ## only what the report needs
	$(VENV)/bin/snakemake report $(HOW)

exports: $(CONFIG) $(ENV)  ## key neurons, expert sets and masks for other tools, after results
	$(VENV)/bin/snakemake exports $(HOW)

experiments: $(CONFIG) $(ENV)  ## ask what the paper leaves open, of models trained here (config/experiments.yaml; under two hours)
	$(VENV)/bin/snakemake experiments $(HOW)
	@echo "page: results/$(STUDY)/experiments.html"

##@ Looking at it
ui: $(ENV)  ## the runs in MLflow, on this machine only (PORT=5000)
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(VENV)/bin/mlflow server --workers 1 \
	  --backend-store-uri sqlite:///results/mlflow/mlflow.db --artifacts-destination results/mlflow/artifacts \
	  --host 127.0.0.1 --port $(PORT)

snakemake-report: $(CONFIG) $(ENV)  ## Snakemake's report of a finished study: tables, figures, captions, jobs (REPORT_AS=zip)
	$(VENV)/bin/snakemake $(HOW) --report results/$(STUDY)/snakemake.$(REPORT_AS)
	@echo "results/$(STUDY)/snakemake.$(REPORT_AS)"

audit: $(ENV)  ## how a file was made, and is all as recorded (FILE=results/demo/report.html)
	$(VENV)/bin/python scripts/audit.py $(FILE) $(ARGS)

track: $(ENV)  ## bring the jobs that have ended into MLflow now, also while the study runs
	$(VENV)/bin/python scripts/track.py --config $(CONFIG) $(ARGS)

move-stores: $(CONFIG) $(ENV)  ## move finished contributions to S3, where contributions.storage says
	$(VENV)/bin/python scripts/move_stores.py $(CONFIG) $(ARGS)

##@ Changing the code
test: $(ENV)  ## all tests but those of test-simulations and test-system, several processes at a time (WORKERS=3)
	@# More processes than cores, for some wait more than they work.
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m "not system and not simulation" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check-report: $(ENV)  ## open a finished study's report in a browser as the tests do; pictures in results/STUDY/screenshots
	MOEMUI_REPORT=results/$(STUDY) MOEMUI_REPORT_STUDY=results/$(STUDY) MOEMUI_SCREENSHOTS=results/$(STUDY)/screenshots \
	  OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest tests/workflow/test_report_in_browser.py tests/moemui/test_prose_numbers.py

test-simulations: $(ENV)  ## do intervals keep their level, does the largest report work? (minutes; after a change of either)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m simulation -n $(WORKERS) --dist worksteal

test-system: $(ENV)  ## a study through a real SLURM, and in conda environments (some minutes; see packages)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m system

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

dictionary: $(ENV)  ## docs/tables.md anew, from the tables' definitions
	PYTHONPATH=scripts $(VENV)/bin/python -m moemui.tables.dictionary > docs/tables.md.new
	mv docs/tables.md.new docs/tables.md

architectures: $(ENV)  ## docs/architectures.md anew, for another version of transformers
	PYTHONPATH=scripts:tests OMP_NUM_THREADS=1 $(VENV)/bin/python -m conformance.write_table

packages:  ## Debian packages that some tests want (as root): a browser, and SLURM
	apt-get update -qq
	apt-get install -qq -y --no-install-recommends $(PACKAGES) > /dev/null

benchmark: $(ENV)  ## what extraction costs over a plain forward pass, analyses and the report at scale (some minutes)
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/extraction.py
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/analysis.py
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/report.py
	if [ -d results/demo/records ]; then $(VENV)/bin/python benchmarks/tracking.py; fi

clean:  ## remove all results
	find results -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
