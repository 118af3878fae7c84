"""What people see of a study in MLflow's UI, in a real browser, from the server that `make ui` starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from browser import browser, look, see  # noqa: F401
from mlflow import MlflowClient
from mlflow_server import Server

from _tracking.runs import bring_in
from _tracking.store import Store

pytestmark = pytest.mark.slow
STUDY = "smoke"


@pytest.fixture(scope="module")
def server(browser, smoke, tmp_path_factory):  # noqa: F811
    """The UI over a copy of the finished smoke study, and beside it over an experiment without runs."""
    folder = tmp_path_factory.mktemp("ui")
    shutil.copytree(smoke / "results", folder / "results")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        store = "sqlite:///" + str(folder / "results/mlflow/mlflow.db")
        bring_in(Path("results", STUDY), store, STUDY, progress=lambda done, total: None)
        Store(store, "nothing")
    started = Server(folder)
    started.start()
    yield started
    started.kill()


def experiment(server: Server, study: str) -> str:
    return MlflowClient(server.url).get_experiment_by_name(study).experiment_id


def find(server: Server, stage: str):
    """The last run of a stage."""
    return MlflowClient(server.url).search_runs([experiment(server, STUDY)], f"tags.stage = '{stage}'")[0]


def test_the_server_listens_on_loopback_alone(server):
    assert server.addresses() == {"127.0.0.1"}


def test_the_list_holds_the_invocation_and_below_it_its_jobs(server, look):  # noqa: F811
    client = MlflowClient(server.url)
    runs = client.search_runs([experiment(server, STUDY)], max_results=1000)
    page = look(
        f"{server.url}/#/experiments/{experiment(server, STUDY)}/runs", "list", texts=("Run Name", "matching runs")
    )
    see(page, f"{len(runs)} matching runs")
    parent = next(run for run in runs if "moemui.study" in run.data.tags and run.data.metrics["jobs"] > 10)
    see(page, parent.info.run_name)
    page.locator(".ag-row button").first.click()  # opens what lies below it
    jobs = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    see(page, max(jobs, key=lambda run: run.info.start_time).info.run_name)


def test_a_run_shows_its_metrics_params_lineage_and_how_it_is_audited(server, look):  # noqa: F811
    run = find(server, "contributions_synthetic")
    page = look(
        f"{server.url}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}", "overview",
        texts=(run.info.run_name, "Finished", "conservation_error", "options.alignment", "next_token"),
    )  # fmt: skip
    see(page, "lineage.made_from", "lineage.used_by", "lineage.checkpoints", "lineage.task_data", "make audit FILE=")
    maker = MlflowClient(server.url).get_run(run.data.tags["lineage.made_from"].split(", ")[0])
    link = page.get_by_role("link", name=maker.info.run_name, exact=True).first.get_attribute("href")
    assert link == f"#/experiments/{run.info.experiment_id}/runs/{maker.info.run_id}"
    look(f"{server.url}/{link}", "maker", texts=(maker.info.run_name, run.info.run_id))


def test_artifacts_are_listed_and_can_be_read(server, look):  # noqa: F811
    run = find(server, "contributions_synthetic")
    page = look(
        f"{server.url}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts", "artifacts",
        texts=("lineage.json", "record.json", "outputs", "log"),
    )  # fmt: skip
    page.get_by_text("record.json").first.click()
    see(page, '"record_version"')


def test_an_empty_page_is_no_success(server, look):  # noqa: F811
    empty = f"{server.url}/#/experiments/{experiment(server, 'nothing')}/runs"
    look(empty, "empty", texts=("nothing",))
    with pytest.raises(pytest.fail.Exception, match=r"'(Run Name|1 matching runs)' is not to be seen"):
        look(empty, "empty-as-full", texts=("Run Name", "1 matching runs"), within=3000)
