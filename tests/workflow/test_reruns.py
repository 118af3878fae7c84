"""What a change costs, proved by the jobs that it plans on a finished study: its own, what follows from it, no more.

Every expected set of jobs is written by hand for the smoke study: two models, three checkpoints each, one suite of
three tasks, one variant scored on the first and last checkpoint, sixteen gathered tables.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager

import pytest
import yaml
from workflow.conftest import PARTS, SMOKE, copy_study, imported, planned_jobs, snakemake

import _code
from moemui.tables import table as tables
from moemui.tables.catalog import TABLES

pytestmark = pytest.mark.slow

SETS = {"key_neurons_synthetic": 6, "key_neurons_synthetic_no_gate": 4}
SCORES = {"contributions_synthetic": 6, "contributions_synthetic_no_gate": 4}
MODEL = {"model_utilization": 2, "model_experts": 2, "model_expert_structure": 2, "model_diversity": 2}
STUDY = {
    "enrichment": 1, "sensitivity": 1, "threshold_selection": 1, "comparisons": 1, "dynamics": 1, "laws": 1,
    "diagnostics": 1,
}  # fmt: skip
PAGE = {"report": 1, "tracking": 1}
OF_KEY_NEURONS = 13  # gathered tables: all but training, masking and masking_effect
FROM_SETS = {**SETS, **MODEL, **STUDY, "gather": OF_KEY_NEURONS, **PAGE}
FROM_RESPONSES = {"responses_synthetic": 6, **SCORES, "masking_synthetic": 2, **FROM_SETS, "gather": 15}


@pytest.fixture(scope="module")
def study(smoke, tmp_path_factory):
    """A copy of the finished study, for dry-runs; whoever changes a file of it puts it back."""
    return copy_study(smoke, tmp_path_factory.mktemp("reruns") / "study")


def planned(folder, config="config/smoke.yaml", *words):
    run = snakemake(folder, "-n", "--configfile", config, *SMOKE[2:], *words)
    assert run.returncode == 0, run.stdout[-4000:]
    assert "Job stats:" in run.stdout or "Nothing to be done" in run.stdout
    return planned_jobs(run.stdout)


def of(study, name, change):
    """A config file of the smoke study as `change` leaves it."""
    config = yaml.safe_load((study / "config/smoke.yaml").read_text())
    change(config)
    (study / name).write_text(yaml.safe_dump(config, sort_keys=False))
    return name


@contextmanager
def changed(file, text):
    before = file.read_bytes()
    file.write_text(text)
    try:
        yield
    finally:
        file.write_bytes(before)


def more_checkpoints(config):
    before, *after = config["models"]["smoke-olmoe"]["checkpoints"]
    config["models"]["smoke-olmoe"]["checkpoints"] = [before, {"name": "step-30", "step": 30}, *after]


def more_tasks(config):
    config["tasks"]["given"] = {"responses": "config/responses/code.jsonl", "domain": "code"}


def more_models(config):
    config["models"]["smoke-more"] = config["models"]["smoke-olmoe"]


def a_larger_threshold(config):
    config["contributions"]["thresholds"].append(0.05)


def a_smaller_threshold(config):
    config["contributions"]["thresholds"].append(0.005)


def a_smaller_threshold_that_is_masked(config):
    a_smaller_threshold(config)
    config["masking"]["thresholds"].append(0.005)


def another_server(config):
    config["tracking"] = {"uri": "sqlite:///results/elsewhere.db"}


def another_expert_threshold(config):
    config["analysis"]["expert_thresholds"] = [0.4, 0.5, 0.6, 0.7]


CHANGES = [
    (
        more_checkpoints,
        {"checkpoint": 1, "responses_synthetic": 1, "contributions_synthetic": 1, "key_neurons_synthetic": 1}
        | dict.fromkeys(MODEL, 1) | STUDY | {"gather": OF_KEY_NEURONS} | PAGE,
    ),
    (
        more_tasks,
        {"responses_given": 6, "contributions_given": 6, "contributions_given_no_gate": 4, "key_neurons_given": 6,
         "key_neurons_given_no_gate": 4, "masking_given": 2}
        | MODEL | STUDY | {"gather": OF_KEY_NEURONS + 2} | PAGE,
    ),
    (
        more_models,
        {"train": 1, "checkpoint": 3, "responses_synthetic": 3, "contributions_synthetic": 3,
         "contributions_synthetic_no_gate": 2, "key_neurons_synthetic": 3, "key_neurons_synthetic_no_gate": 2,
         "masking_synthetic": 1}
        | dict.fromkeys(MODEL, 1) | STUDY | {"gather": OF_KEY_NEURONS + 3} | PAGE,
    ),
    (a_smaller_threshold, FROM_SETS),
    # masking selects from the scores, too
    (a_smaller_threshold_that_is_masked, FROM_SETS | {"masking_synthetic": 2, "gather": OF_KEY_NEURONS + 2}),
    (a_larger_threshold, SCORES | FROM_SETS | {"masking_synthetic": 2, "gather": OF_KEY_NEURONS + 2}),
    (
        another_expert_threshold,
        {"model_experts": 2, "enrichment": 1, "sensitivity": 1, "threshold_selection": 1, "laws": 1, "diagnostics": 1,
         "gather": 2} | PAGE,
    ),
    (another_server, {"tracking": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("change", "jobs"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_a_change_of_the_study_costs_its_own_jobs_and_what_follows(study, change, jobs):
    """Verified: a dry-run of the changed study plans exactly these numbers of jobs by rule, none beside them."""
    assert planned(study, of(study, "changed.yaml", change)) == jobs


def test_one_more_checkpoint_is_run_as_planned_and_joins_the_tables(smoke, tmp_path):
    """Verified on one of the tables: the jobs that Snakemake really runs are those planned for it, of all that a
    dry-run plans, no store is touched, and the table then holds four checkpoints."""
    folder, table = copy_study(smoke, tmp_path / "study"), "results/smoke/tables/utilization.parquet"
    config = of(folder, "more.yaml", more_checkpoints)
    before = {file: file.stat().st_mtime_ns for file in (folder / "results").rglob("*.zarr/manifest.json")}
    run = snakemake(folder, table, "--configfile", config, *SMOKE[2:])
    assert run.returncode == 0, run.stdout[-4000:]
    done = (
        "checkpoint",
        "responses_synthetic",
        "contributions_synthetic",
        "key_neurons_synthetic",
        "model_utilization",
    )
    assert planned_jobs(run.stdout) == dict.fromkeys([*done, "gather"], 1)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    utilization = tables.read([folder / table], TABLES["utilization"])
    of_model = utilization[utilization["model"] == "smoke-olmoe"]
    assert of_model.drop_duplicates("checkpoint").sort_values("order")["checkpoint"].tolist() == [
        "step-0", "step-30", "step-60", "step-120",
    ]  # fmt: skip
    assert planned(folder, config, table) == {}
    rest = Counter(CHANGES[0][1]) - Counter(planned_jobs(run.stdout))
    assert planned(folder, config) == rest


# Imported where they are needed.
OF_OTHER_STUDIES: set[str] = set()
# All jobs that a change of a module plans; which stages import it, test_every_stage_counts_what_its_jobs_import says.
OF_TABLES = {**MODEL, **STUDY, "gather": OF_KEY_NEURONS, **PAGE}
MASKING = {"masking_synthetic": 2, "gather": OF_KEY_NEURONS + 2}
MODULES = {
    "tap/heads.py": FROM_RESPONSES,
    "answers/harness.py": FROM_RESPONSES,
    "scores/ranking.py": SCORES | FROM_SETS | MASKING,
    "key_neurons/rules.py": FROM_SETS | MASKING,
    "statistics/intervals.py": OF_TABLES | MASKING,
    "mui/rarefaction.py": OF_TABLES,
    "tables/utilization.py": OF_TABLES | {"gather": 16},
    "diversity/lexical.py": {"model_diversity": 2, "gather": 2} | PAGE,
    "report/wording.py": PAGE,
}


@pytest.mark.parametrize("module", MODULES)
def test_a_changed_module_reruns_the_stages_that_import_it_and_what_follows(study, module):
    """Verified: a dry-run after a change of meaning in the module plans exactly these numbers of jobs by rule."""
    file = study / "scripts/moemui" / module
    with changed(file, file.read_text() + "\nCHANGED = True\n"):
        assert planned(study) == MODULES[module]


def test_every_stage_counts_what_its_jobs_import(smoke):
    """Verified: the files of the package that count in a stage's digest are those that its jobs really had loaded when
    they ended, as they noted themselves; what counts beside them is code for other kinds of studies, named here."""
    loaded = imported(smoke)
    assert len(loaded) == 21
    for script, files in loaded.items():
        paths = _code._closure(_code.SCRIPTS / script) - {_code.SCRIPTS / script}
        counted = {path.relative_to(_code.SCRIPTS).as_posix() for path in paths}
        assert files <= counted, script
        assert counted - files <= OF_OTHER_STUDIES, script


def test_book_keeping_around_jobs_reruns_nothing(study):
    """Verified: an edit of every file of scripts/_*.py and scripts/_*/ at once (records, secrets, tracking, audit,
    plan) plans no job."""
    scripts = study / "scripts"
    files = sorted([*scripts.glob("_*.py"), *scripts.glob("_*/*.py")])
    assert {scripts / "_job.py", scripts / "_provenance/secrets.py"} <= set(files)
    with ExitStack() as edits:
        for file in files:
            edits.enter_context(changed(file, file.read_text() + "\nCHANGED = True\n"))
        assert planned(study) == {}


def test_looks_of_code_and_config_rerun_nothing(smoke, tmp_path):
    """Verified: with every Python file reformatted to another width, its docstrings changed, a comment added and its
    time renewed, and the config file with other order of keys, quotes and comments, no job is planned."""
    folder = copy_study(smoke, tmp_path / "study")
    before = (folder / "scripts/moemui/scores/ranking.py").read_text()
    for file in (folder / "scripts").rglob("*.py"):
        text = re.sub(r'^( *)"""(\w)', r'\1"""Said otherwise: \2', file.read_text(), flags=re.MULTILINE)
        file.write_text(text + "\n# one more comment\n")
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "70", "scripts"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    after = (folder / "scripts/moemui/scores/ranking.py").read_text()
    assert "Said otherwise" in after
    assert after.count("\n") > before.count("\n") + 10
    for file in [folder / "Snakefile", *(folder / "rules").glob("*.smk"), *(folder / "envs").glob("*.yaml")]:
        file.touch()

    def backwards(value):
        if isinstance(value, list):
            return [backwards(item) for item in value]
        return {key: backwards(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    config = yaml.safe_load((folder / "config/smoke.yaml").read_text())
    # The order of models and tasks is that of figures and tables, and belongs to the study.
    ordered = {key: config.pop(key) for key in ("models", "tasks")}
    ordered["models"] = {name: backwards(model) for name, model in ordered["models"].items()}
    ordered["tasks"] = {name: backwards(task) for name, task in ordered["tasks"].items()}
    text = "# a comment\n" + yaml.safe_dump({**ordered, **backwards(config)}, sort_keys=False, default_style='"')
    (folder / "config/smoke.yaml").write_text(text)
    assert planned(folder) == {}


def test_a_study_that_is_moved_reruns_nothing(smoke, tmp_path):
    """Verified: after `mv` of the folder to another place no job is planned there."""
    copy_study(smoke, tmp_path / "before")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "before", tmp_path / "elsewhere" / "after")
    assert planned(tmp_path / "elsewhere" / "after") == {}


def test_results_taken_to_a_clone_rerun_nothing(smoke, tmp_path):
    """Verified: in a fresh `git clone`, where every file of the project is newer than the results that were copied
    into it, no job is planned."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    origin.mkdir()
    for part in PARTS:
        subprocess.run(["cp", "-a", smoke / part, origin / part], check=True)
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *words], cwd=origin, check=True)
    subprocess.run(["git", "clone", "-q", origin, clone], check=True)
    for part in ("results", ".snakemake"):
        subprocess.run(["cp", "-a", smoke / part, clone / part], check=True)
    newest = max(file.stat().st_mtime for file in (clone / "results").rglob("*.*"))
    assert min(file.stat().st_mtime for file in (clone / "config").rglob("*.*")) > newest
    assert planned(clone) == {}
