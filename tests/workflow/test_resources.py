"""What jobs ask a cluster for: by the model's size, before its files are here and after, on retries, and overridden."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from workflow.conftest import ROOT, snakemake

from _resources import JobResources, answers_in, masking_runs, rounded
from _study import Study, StudyError


def study(model=None, **other):
    entry = {"source": {"hub": "owner/name"}, "checkpoints": [{"name": "main", "revision": "main"}], **(model or {})}
    return Study(
        {"study": "s", "models": {"m": entry}, "tasks": {"t": {"lm_eval": "t", "domain": "d", "limit": 10}}, **other}
    )


def asked(of, inputs=("results/s/m/main/checkpoint.json",), attempt=1, stage="contributions"):
    """What a job of the study's one model asks for."""
    wildcards = SimpleNamespace(model="m", checkpoint="main")
    found = {}
    for name, function in JobResources(of).model_job(stage, ["t"]).items():
        extra = {} if name == "gpu" else {"attempt": attempt}
        found[name] = function(wildcards=wildcards, input=list(inputs), **extra)
    return found


def pinned(folder, size):
    """checkpoint.json of a model with so many bytes of weights, in files of at most 5 GB."""
    files = {f"{start}.safetensors": {"bytes": min(5 * 10**9, size - start)} for start in range(0, size, 5 * 10**9)}
    path = folder / "checkpoint.json"
    path.write_text(json.dumps({"path": str(folder / "nowhere"), "gguf": None, "files": files}))
    return str(path)


@pytest.mark.parametrize(
    ("parameters", "room", "gpus"),
    # OLMoE 13.8 GB in bfloat16, Qwen3-30B 61 GB, Qwen3-Next 159 GB, DeepSeek-V2 472 GB
    [(6.9e9, 24_000, 1), (30.5e9, 80_000, 2), (79.7e9, 80_000, 3), (236e9, 80_000, 8)],
)
def test_gpus_are_as_many_as_hold_the_model(parameters, room, gpus):
    spread = {"parameters": parameters, "device_map": "auto"}
    assert asked(study(spread, resources={"gpu_memory_mb": room}))["gpu"] == gpus
    assert asked(study({"parameters": parameters}, resources={"gpu_memory_mb": room}))["gpu"] == 1
    assert "gpu" not in asked(study(spread))


def test_memory_grows_with_the_weights_and_with_the_type_that_they_are_loaded_as():
    def of(parameters, dtype, **other):
        return asked(study({"parameters": parameters, "dtype": dtype}, **other))["mem_mb"]

    # Libraries, the map of the files, their copy, and a fifth of it for what is worked with: 31.3 GB, and a fifth more.
    assert of(7e9, "bfloat16") == rounded(500e6 + 2 * 14e9 + 2.8e9) == 38_000
    assert of(7e9, "float32") == rounded(500e6 + 2 * 28e9 + 5.6e9)
    # On a GPU main memory holds some files at a time.
    assert of(7e9, "bfloat16", resources={"gpu_memory_mb": 80_000}) == rounded(500e6 + 14e9)
    assert of(236e9, "bfloat16", resources={"gpu_memory_mb": 80_000}) == rounded(500e6 + 20e9)
    assert of(1000, "float32") == 1500


def test_pinned_files_say_more_than_the_configuration(tmp_path):
    path = pinned(tmp_path, 14 * 10**9)
    assert asked(study({"parameters": 1e6}), [path])["mem_mb"] == rounded(500e6 + 2 * 14e9 + 2.8e9)
    assert asked(study(), [path])["mem_mb"] == rounded(500e6 + 2 * 14e9 + 2.8e9)


def test_before_anything_is_known_nothing_is_asked():
    with pytest.raises(FileNotFoundError) as raised:
        asked(study())
    assert raised.value.filename == "results/s/m/main/checkpoint.json"  # by which Snakemake knows what is missing


def test_a_retry_doubles_memory_and_time_but_no_gpu(tmp_path):
    of = study({"device_map": "auto"}, resources={"gpu_memory_mb": 80_000})
    first, second = (asked(of, [pinned(tmp_path, 160 * 10**9)], attempt) for attempt in (1, 2))
    assert second == {"mem_mb": 2 * first["mem_mb"], "runtime": 2 * first["runtime"], "gpu": first["gpu"]}
    assert first["gpu"] == 3


def test_the_configuration_overrides_for_a_model_and_else_for_the_study():
    own = {"mem_mb": 1234, "gpus": 5, "runtime": 67}
    assert asked(study({"resources": own})) == {"mem_mb": 1234, "gpu": 5, "runtime": 67}
    assert asked(study({"resources": own}, resources={"model_mem_mb": 1, "gpus": 1}), attempt=2)["mem_mb"] == 2468
    whole = asked(study({"parameters": 1e9}, resources={"model_mem_mb": 4321, "gpus": 2}))
    assert (whole["mem_mb"], whole["gpu"]) == (4321, 2)
    assert asked(study({"parameters": 1e9, "resources": {"gpus": 0}}, resources={"gpus": 2}))["gpu"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resources": {"memory": 1}}, "models.m.resources: unknown key 'memory'; allowed are"),
        (
            {"resources": {"mem_mb": 0}},
            "models.m.resources.mem_mb: found 0; allowed is {'type': 'integer', 'minimum': 1}",
        ),
        ({"parameters": "7B"}, "models.m.parameters: found '7B'; allowed is how many numbers"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(StudyError, match=re.escape(message)):
        study(changes)


def test_time_goes_by_the_responses_that_are_there(tmp_path):
    folder = tmp_path / "results/s/m/main/t"
    folder.mkdir(parents=True)
    file, manifest = folder / "responses.jsonl", pinned(tmp_path, 14 * 10**9)

    def minutes(samples):
        line = json.dumps({"prompt_ids": [1] * 400, "response_ids": [1] * 100})
        file.write_text(f"{line}\n" * samples)
        return asked(study(), [manifest, str(file)])["runtime"]

    few, many = minutes(100), minutes(400)
    assert answers_in(file).samples == 400
    assert answers_in(file).longest == 500
    assert few > 30
    assert 3 * few < many < 5 * few


def test_masking_answers_once_for_every_condition():
    of = study()
    assert len(of.masking_settings()) == 1
    assert masking_runs(1, of["masking"]["seeds"]) == 1 + 1 + 2 * 5


def test_an_analysis_asks_by_the_sizes_of_its_inputs(tmp_path):
    table, store = tmp_path / "a.parquet", tmp_path / "c.zarr"
    table.write_bytes(b"0" * 50_000_000)
    store.mkdir()
    (store / "manifest.json").write_text(json.dumps({"files": {"x": {"bytes": 10**9}, "y": {"bytes": 10**9}}}))

    def of(stage, *paths, attempt=1):
        found = JobResources(study()).analysis(stage)
        return [
            found[name](wildcards=None, input=[str(path) for path in paths], attempt=attempt)
            for name in ("mem_mb", "runtime")
        ]

    assert of("gather", tmp_path / "not there.parquet") == [1500, 10]
    assert of("gather", table) == [rounded(200e6 + 200 * 50e6), 11]
    assert of("gather", table, attempt=3) == [3 * rounded(200e6 + 200 * 50e6), 33]
    # A store whose files lie elsewhere counts as its manifest says.
    assert of("key_neurons", store)[0] == rounded(200e6 + 10 * 2e9)


SNAKEFILE = """
import sys
sys.path.insert(0, {scripts!r})
from _resources import JobResources
from _study import Study
import yaml

RESOURCES = JobResources(Study(yaml.safe_load(open("study.yaml"))))

rule all:
    input: "results/m/main/done"

rule checkpoint:
    output: "results/{{model}}/{{checkpoint}}/checkpoint.json"
    shell: "cp pinned.json {{output}}"

rule contributions:
    input: "results/{{model}}/{{checkpoint}}/checkpoint.json"
    output: "results/{{model}}/{{checkpoint}}/done"
    retries: 1
    resources: **RESOURCES.model_job("contributions", ["t"])
    shell: "echo {{resources.mem_mb}} {{resources.runtime}} {{resources.gpu}} >> asked; test $(wc -l < asked) = 2; touch {{output}}"
"""  # noqa: E501


def test_snakemake_asks_again_when_the_checkpoint_is_there_and_on_a_retry(tmp_path):
    entry = {
        "source": {"hub": "owner/name"},
        "checkpoints": [{"name": "main", "revision": "main"}],
        "device_map": "auto",
    }
    config = {
        "study": "s",
        "models": {"m": entry},
        "tasks": {"t": {"lm_eval": "t", "domain": "d", "limit": 10}},
        "resources": {"gpu_memory_mb": 80_000},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(scripts=str(ROOT / "scripts")))
    Path(pinned(tmp_path, 160 * 10**9)).rename(tmp_path / "pinned.json")
    before = snakemake(tmp_path, "-n")
    assert "mem_mb=<TBD>" in before.stdout, before.stdout
    assert "gpu=<TBD>" in before.stdout
    assert "runtime=<TBD>" in before.stdout
    run = snakemake(tmp_path)
    assert run.returncode == 0, run.stdout
    first, second = ([int(n) for n in line.split()] for line in (tmp_path / "asked").read_text().splitlines())
    assert first[0] == rounded(500e6 + 4 * 5e9)
    assert second == [2 * first[0], 2 * first[1], first[2]]
    assert first[2] == 3
    # Other numbers are no other results.
    config["resources"] = {"gpus": 1, "model_mem_mb": 99}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))
    assert "Nothing to be done" in snakemake(tmp_path, "-n").stdout
