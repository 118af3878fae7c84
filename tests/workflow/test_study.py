"""A study's configuration: defaults, and mistakes that are told with key, value and allowed values."""

from __future__ import annotations

import copy
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from workflow.conftest import STUDIES, local_models

from _study import SCHEMA, Study, StudyError, load
from moemui.models.training import Recipe
from moemui.scores.contributions import Options
from moemui.scores.store import CHUNK_SAMPLES

CONFIG = Path(__file__).resolve().parents[2] / "config"
VALID = {
    "study": "s",
    "models": {"m": {"source": {"hub": "a/b"}, "checkpoints": [{"name": "c", "revision": "main"}]}},
    "tasks": {"t": {"lm_eval": "arc_easy", "domain": "science"}},
}


def test_defaults_are_filled_in():
    study = Study(VALID)
    assert study["contributions"]["thresholds"] == [0.0008, 0.001, 0.002]
    assert study.models["m"]["dtype"] == "bfloat16"
    assert study.suites == {"t": ["t"]}  # a task in no suite is a suite of its own
    assert study.masked_checkpoints() == {"m": "c"}


def test_thresholds_follow_the_main_one_and_masking_may_be_off():
    config = copy.deepcopy(VALID)
    config["contributions"] = {"thresholds": [0.01]}
    config["analysis"] = {"threshold": 0.01}
    study = Study(config)
    assert study["analysis"]["curve_threshold"] == 0.01
    assert study["masking"]["thresholds"] == [0.01]
    config["masking"] = {"checkpoints": "none", "thresholds": [0.5]}
    assert Study(config).masked_checkpoints() == {}


def test_an_automatic_threshold_masks_all_stored_ones_and_needs_two():
    config = copy.deepcopy(VALID)
    config["analysis"] = {"threshold": "auto"}
    study = Study(config)
    assert study.chooses_threshold()
    assert study["masking"]["thresholds"] == [0.0008, 0.001, 0.002]
    assert study.main_settings() == [["projection", "pairs", "auto", "topk", "main"]]
    assert ["glu", "pairs", 0.0008, "topk", "main"] in study.settings()
    config["masking"] = {"checkpoints": "none"}
    with pytest.raises(StudyError, match=r"a threshold is auto, and masking\.thresholds is \[\]"):
        Study(config)


def test_only_an_automatic_expert_threshold_is_shown_for_masking():
    config = copy.deepcopy(VALID)
    config["analysis"] = {"threshold": 0.0008, "curve_threshold": "auto"}
    config["masking"] = {"thresholds": [0.001, 0.002]}
    assert Study(config).shown_masking_setting()[2] == 0.001
    config["analysis"] = {"threshold": "auto", "curve_threshold": 0.002}
    assert Study(config).shown_masking_setting()[2] == "auto"


def test_a_suite_with_the_name_of_anothers_variant_is_told():
    config = copy.deepcopy(VALID)
    config["tasks"]["u"] = VALID["tasks"]["t"]
    config["suites"] = {"s": ["t"], "s_v": ["u"]}
    config["contributions"] = {"variants": {"v": {"gate_weighting": False}}}
    with pytest.raises(StudyError, match="suites: found s_v, which names the jobs of s under"):
        Study(config)


def test_rules_on_scores_need_a_selection_that_stores_them():
    config = copy.deepcopy(VALID)
    config["contributions"] = {"selections": ["pairs", "per_token"]}
    config["analysis"] = {"selection": "per_token"}
    config["key_neurons"] = {"top_score": [0.5]}
    with pytest.raises(StudyError, match=r"with analysis\.selection 'per_token', whose scores are not stored"):
        Study(config)


def test_a_variant_changes_its_options_and_is_scored_at_the_main_setting():
    config = copy.deepcopy(VALID)
    config["models"]["m"]["checkpoints"] = [{"name": name, "revision": "main"} for name in "abc"]
    config["contributions"] = {"variants": {"v": {"alignment": "same_token"}, "w": {"head": "final_norm"}}}
    config["contributions"]["variants"]["w"]["checkpoints"] = "all"
    study = Study(config)
    main, changed = study.scoring(), study.scoring("v")
    assert {key for key in main if main[key] != changed[key]} == {"alignment", "formulations", "selections"}
    assert (changed["formulations"], changed["selections"]) == (["projection"], ["pairs"])
    assert study.scoring() == Study(VALID).scoring()  # a variant more is no forward pass more for the main options
    assert (study.variant_checkpoints("v", "m"), study.variant_checkpoints("w", "m")) == (["a", "c"], ["a", "b", "c"])


def test_shards_and_chunks_are_no_matter_of_scoring():
    config = copy.deepcopy(VALID)
    assert Study(config).shards() == {"": 1}
    config["contributions"] = {"shards": 3, "chunk_samples": 10}
    assert Study(config).shards() == {"-1-of-3": 1, "-2-of-3": 2, "-3-of-3": 3}
    assert Study(config).scoring() == Study(VALID).scoring()


def test_the_defaults_of_scoring_are_those_of_the_package():
    scoring = Study(VALID).scoring()
    assert Options.from_mapping(scoring) == Options()
    assert Study(VALID)["contributions"]["chunk_samples"] == CHUNK_SAMPLES


def test_a_model_on_hold_is_not_run_but_told():
    config = copy.deepcopy(VALID)
    config["models"]["big"] = {**VALID["models"]["m"], "hold": "it needs eight GPUs"}
    study = Study(config)
    assert list(study.models) == ["m"]
    assert study.about()["held"] == {"big": "it needs eight GPUs"}


def test_the_order_of_keys_does_not_matter_but_that_of_models_and_tasks_does():
    turned = {key: VALID[key] for key in reversed(VALID)}
    turned["contributions"] = {"eos": "exclude", "alignment": "next_token"}
    assert str(Study(turned)["contributions"]) == str(Study(VALID)["contributions"])
    two = copy.deepcopy(VALID)
    two["tasks"] = {"z": VALID["tasks"]["t"], "a": VALID["tasks"]["t"]}
    assert list(Study(two).tasks) == ["z", "a"]


def test_a_chat_model_is_asked_as_the_study_says():
    assert Study(VALID).chat("m") == {"chat_template_args": {}, "think_end": None}
    config = copy.deepcopy(VALID)
    config["models"]["m"] |= {"chat_template_args": {"enable_thinking": True}, "think_end": "</think>"}
    assert Study(config).chat("m") == {"chat_template_args": {"enable_thinking": True}, "think_end": "</think>"}


def test_settings_change_one_thing_at_a_time():
    config = copy.deepcopy(VALID)
    config["contributions"] = {"thresholds": [0.001, 0.01], "formulations": ["projection", "glu"]}
    config["contributions"]["variants"] = {"no_gate": {"gate_weighting": False}}
    config["analysis"] = {"curve_threshold": 0.01}
    config["key_neurons"] = {"top_score": [0.5], "global_topk": [0.01]}
    assert sorted(Study(config).settings()) == [
        ["glu", "pairs", 0.001, "topk", "main"], ["glu", "pairs", 0.01, "topk", "main"],
        ["projection", "neurons", 0.001, "topk", "main"], ["projection", "neurons", 0.01, "topk", "main"],
        ["projection", "pairs", 0.001, "topk", "main"], ["projection", "pairs", 0.001, "topk", "no_gate"],
        ["projection", "pairs", 0.01, "global_topk", "main"],
        ["projection", "pairs", 0.01, "topk", "main"], ["projection", "pairs", 0.01, "topk", "no_gate"],
        ["projection", "pairs", 0.5, "top_score", "main"],
    ]  # fmt: skip


@pytest.mark.parametrize("path", [CONFIG / name for name in STUDIES], ids=lambda p: p.stem)
def test_every_ready_study_is_valid(path, tmp_path, monkeypatch):
    shutil.copytree(CONFIG, tmp_path / "config")
    local_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    study = load(path)
    assert study.models
    assert study.suites


def change(path, value):
    config = copy.deepcopy(VALID)
    *parents, last = path
    target = config
    for key in parents:
        target = target.setdefault(key, {}) if isinstance(target, dict) else target[key]
    target[last] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("contributions", "treshold"), 1, r"contributions: unknown key 'treshold'; .*did you mean 'thresholds'"),
        (("contributions", "thresholds"), [10], r"contributions.thresholds.0: found 10; allowed is .*'maximum': 1"),
        (("contributions", "alignment"), "last", r"contributions.alignment: found 'last'; allowed are \['next_token'"),
        (("contributions", "formulations"), ["glu"], r"analysis.formulation: found 'projection'; contributions stores"),
        (("analysis", "threshold"), 0.01, r"analysis.threshold: found 0.01; contributions stores"),
        (("analysis", "threshold"), "best", r"analysis.threshold: found 'best'; allowed is a share .* or auto"),
        (("masking", "thresholds"), [0.5], r"masking.thresholds: found 0.5; contributions stores \[0.0008"),
        (("key_neurons", "global_topk"), [0.5], r"key_neurons.global_topk: found 0.5; contributions stores"),
        (("contributions", "variants"), {"v": {}}, r"variants.v: found \{\}; allowed is at least one of alignment"),
        (("contributions", "variants"), {"main": {"eos": "include"}}, r"variants: found 'main', which the workf"),
        (("contributions", "selections"), ["pair"], r"selections.0: found 'pair'; allowed are .*'per_token'"),
        (("contributions", "shards"), 0, r"contributions.shards: found 0; allowed is .*'minimum': 1"),
        (("contributions", "chunk_samples"), 0, r"contributions.chunk_samples: found 0; allowed is .*'minimum': 1"),
        (("study",), "a/b", r"study: found 'a/b'; allowed is letters, digits"),
        (("study",), "../x", r"study: found '../x'"),
        (("tasks", "t"), {"domain": "d"}, r"tasks.t: found \{'domain': 'd'\}; allowed is exactly one of"),
        (("models", "m", "dtype"), "int4", r"models.m.dtype: found 'int4'; allowed are \['float32'"),
        (("models", "m", "checkpoints"), [{"name": "c"}], r"models.m.checkpoints.c: revision is missing"),
        (("models", "m", "checkpoints", 0, "step"), 5, r"c.step: found 5; a model from 'hub' takes no step"),
        (("models", "m", "checkpoints", 0, "commit"), "abc", r"models.m.checkpoints.0.commit: found 'abc'"),
        (("tasks", "t", "synthetic"), "sorting", r"tasks.t: .*'limit' is a dependency of 'synthetic'"),
        (("tasks", "t", "include"), "nowhere", r"tasks.t.include: found 'nowhere'; there is no such folder"),
        (("tasks", "t"), {"responses": "no.jsonl", "domain": "d"}, r"tasks.t.responses: found 'no.jsonl'; there is no"),
        (("tasks", "t"), {"responses": "a.jsonl", "domain": "d", "num_fewshot": 2}, r"responses without num_fewshot"),
        (("models", "m"), {"source": {"path": "no"}, "checkpoints": [{"name": "c"}]}, r"m.source.path: found 'no'"),
        (("models", "m", "hold"), "too large", r"models: all of \['m'\] are on hold"),
        (("study",), "mlflow", r"study: found 'mlflow', which the workflow uses itself"),
        (("tasks",), {"mean": {"lm_eval": "x", "domain": "d"}}, r"tasks: found 'mean', which the workflow uses itself"),
        (("tasks",), {"all": {"lm_eval": "x", "domain": "d"}}, r"tasks: found 'all', which the workflow uses itself"),
        (("contributions", "variants"), {"v": {"eos": "exclude"}}, r"variants.v: found .* are the main options"),
        (("tasks", "t", "max_new_tokens"), 0, r"tasks.t.max_new_tokens: found 0"),
        (("models", "m", "think_end"), "", r"models.m.think_end: found ''; allowed is the text with which"),
        (("models", "m", "chat_template_args"), {"a": [1]}, r"models.m.chat_template_args.a: found \[1\]"),
        (("suites",), {"x": ["nope"]}, r"suites names the task 'nope'; allowed are \['t'\]"),
        (("suites",), {"x": ["t"], "y": ["t"]}, r"holds the task 't' 2 times"),
        (("models", "m", "training"), {"save_steps": [0]}, r"models.m.training is given, and the source is 'hub'"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(path, value, message):
    with pytest.raises(StudyError, match=message):
        Study(change(path, value))


@pytest.mark.parametrize("text", ["study: [a\nmodels: {}\n", "study: 'a\n", "study:\tx\n\tb: 1\n"])
def test_what_is_no_yaml_is_one_line(tmp_path, text):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(StudyError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file} is no YAML: ")
    assert "\n" not in str(caught.value)


def test_a_step_that_training_does_not_save_is_named():
    config = change(("models", "m"), {
        "source": {"train": "olmoe"}, "training": {"save_steps": [0, 50]}, "checkpoints": [{"name": "c", "step": 60}],
    })  # fmt: skip
    with pytest.raises(
        StudyError, match=r"models.m.checkpoints.c.step: found 60; allowed are the training's save_steps \[0, 50\]"
    ):
        Study(config)


def test_the_schema_knows_every_knob_of_a_recipe():
    knobs = yaml.safe_load(SCHEMA.read_text())["$defs"]["training"]["properties"]
    assert set(knobs) == {field.name for field in fields(Recipe)} - {"family"}
