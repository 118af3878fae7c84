"""A study's configuration: read, checked against its schema, and spread out into what rules need.

Known to the Snakefile and to command-line tools, not to the package. Light on purpose: it is imported
by every dry-run.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from _tracking.address import sqlite_file
from moemui.scores import remote

SCHEMA = Path(__file__).resolve().parent.parent / "config" / "schemas" / "study.schema.yaml"
RESULTS = Path("results")  # everything that a study writes lies below


RANKED = ("pairs", "neurons")  # selections whose scores are stored, so that every rule applies
MAIN, AUTO = "main", "auto"  # the variant that a study's own scoring options make; a threshold that masking chooses


class StudyError(ValueError):
    """A mistake in a study's configuration: the key, the value found, the allowed ones."""


class Study:
    """A valid study with every default filled in. Raises StudyError for an invalid one."""

    def __init__(self, config: Mapping[str, Any], schema: Path = SCHEMA):
        rules = yaml.safe_load(schema.read_text())
        errors = sorted(Draft202012Validator(rules).iter_errors(config), key=lambda e: [str(p) for p in e.path])
        if errors:
            raise StudyError("; ".join(explain(error) for error in errors[:3]))
        self.config = with_defaults(config, rules, rules)
        analysis = self.config["analysis"]
        analysis.setdefault("curve_threshold", analysis["threshold"])
        automatic = AUTO in (analysis["threshold"], analysis["curve_threshold"])
        stored = self.config["contributions"]["thresholds"]
        self.config["masking"].setdefault("thresholds", stored if automatic else [analysis["threshold"]])
        self.name: str = self.config["study"]
        listed: dict[str, dict[str, Any]] = self.config["models"]
        self.models = {name: model for name, model in listed.items() if "hold" not in model}
        self.held = {name: model["hold"] for name, model in listed.items() if "hold" in model}
        self.tasks: dict[str, dict[str, Any]] = self.config["tasks"]
        self.suites = self._suites()
        self._check()

    def __getitem__(self, key: str) -> Any:
        return self.config[key]

    def checkpoints(self, model: str) -> list[str]:
        """The model's checkpoint names in training order, as the config lists them."""
        return [entry["name"] for entry in self.models[model]["checkpoints"]]

    def checkpoint(self, model: str, name: str) -> dict[str, Any]:
        """One checkpoint's entry."""
        return next(entry for entry in self.models[model]["checkpoints"] if entry["name"] == name)

    def trained(self) -> list[str]:
        """Models that the workflow trains itself."""
        return [name for name, model in self.models.items() if "train" in model["source"]]

    def masked_checkpoints(self) -> dict[str, str]:
        """The checkpoint of each model on which masking is measured."""
        if self["masking"]["checkpoints"] == "none":
            return {}
        return {model: self.checkpoints(model)[-1] for model in self.models}

    def source(self, model: str) -> dict[str, Any]:
        """Where the model's checkpoints come from, as moemui.models.checkpoints takes it."""
        entry = self.models[model]
        return {**entry["source"], "trust_remote_code": entry["trust_remote_code"]}

    def local_files(self, model: str) -> list[str]:
        """Files of a model in a local folder; none for other sources."""
        source = self.models[model]["source"]
        if "path" not in source:
            return []
        folder = Path(source["path"]).expanduser()
        found = [folder / source["gguf"]] if "gguf" in source else folder.glob("*")
        return sorted(str(path) for path in found if path.is_file() and not path.name.startswith("."))

    def loading(self, model: str) -> dict[str, Any]:
        """How the model is loaded."""
        spread = self.models[model]["device_map"] == "auto"
        return {"dtype": self.models[model]["dtype"], "device_map": "auto" if spread else None}

    def chat(self, model: str) -> dict[str, Any]:
        """How a chat model is asked and its reasoning ends, as moemui.answers.harness.wrap takes it."""
        entry = self.models[model]
        return {"chat_template_args": entry["chat_template_args"], "think_end": entry.get("think_end")}

    def task(self, name: str) -> dict[str, Any]:
        """A task's entry as moemui.answers.harness.TaskSpec takes it, without the data file of a synthetic one."""
        return {key: value for key, value in self.tasks[name].items() if key != "synthetic"}

    def task_files(self, names: list[str]) -> list[str]:
        """Files that the tasks are read from: given responses, and task files of their folders."""
        files = {str(self.tasks[name]["responses"]) for name in names if "responses" in self.tasks[name]}
        for folder in {self.tasks[name]["include"] for name in names if "include" in self.tasks[name]}:
            # lm_eval reads task files, bases without an ending, and Python beside them.
            files.update(str(p) for p in Path(folder).glob("*") if p.is_file() and p.suffix in (".yaml", ".py", ""))
        return sorted(files)

    def main_settings(self) -> list[list[Any]]:
        """The settings that trajectories and figures show, the experts' one first, as `settings` lists them."""
        settings = [self.expert_setting(), self.curve_setting()]
        return settings[:1] if settings[0] == settings[1] else settings

    def expert_setting(self) -> list[Any]:
        """The setting at which experts are judged. Its threshold is `auto` where masking chooses it."""
        return self._setting(self["analysis"]["threshold"])

    def curve_setting(self) -> list[Any]:
        """The setting of MUI curves."""
        return self._setting(self["analysis"]["curve_threshold"])

    def masking_settings(self) -> list[list[Any]]:
        """The settings whose key neurons are masked."""
        return [self._setting(threshold) for threshold in self["masking"]["thresholds"]]

    def shown_masking_setting(self) -> list[Any] | None:
        """The masked setting that figures and flags show: the experts' one where it is masked, else the first."""
        masked = self.masking_settings() if self.masked_checkpoints() else []
        if self.expert_setting() in masked or (masked and self["analysis"]["threshold"] == AUTO):
            return self.expert_setting()
        return next(iter(masked), None)

    def grid_settings(self) -> list[list[Any]]:
        """The settings at which experts are judged at every η_expert: the main ones, or all that `auto` may be."""
        if not self.chooses_threshold():
            return self.main_settings()
        return [self._setting(threshold) for threshold in self["contributions"]["thresholds"]]

    def chooses_threshold(self) -> bool:
        """Whether a threshold is `auto`, so that what shows one setting waits for the choice."""
        return AUTO in (self["analysis"]["threshold"], self["analysis"]["curve_threshold"])

    def _setting(self, threshold: float | str, **other: Any) -> list[Any]:
        """Formulation, selection, threshold, rule, variant, as moemui.key_neurons.settings.Setting takes them."""
        analysis = {"rule": "topk", "variant": MAIN, **self["analysis"], **other}
        return [analysis["formulation"], analysis["selection"], threshold, analysis["rule"], analysis["variant"]]

    def scoring(self, variant: str = MAIN) -> dict[str, Any]:
        """What is scored and how. Of the thresholds only the largest, so that changing others is no forward pass.

        A variant is scored for the main formulation and selection alone, with some options changed.
        """
        other = ("thresholds", "chunk_samples", "shards", "storage", "variants")
        options = {key: value for key, value in self["contributions"].items() if key not in other}
        options["largest_threshold"] = max(self["contributions"]["thresholds"])
        if variant == MAIN:
            return options
        changed = {key: value for key, value in self.variants[variant].items() if key != "checkpoints"}
        main = {"formulations": [self["analysis"]["formulation"]], "selections": [self["analysis"]["selection"]]}
        return {**options, **main, **changed}

    @property
    def variants(self) -> dict[str, dict[str, Any]]:
        """Other scoring options by name, beside the main ones."""
        return self["contributions"]["variants"]

    def variant_checkpoints(self, variant: str, model: str) -> list[str]:
        """The model's checkpoints that are scored under a variant: its first and last, or all."""
        names = self.checkpoints(model)
        return names if self.variants[variant]["checkpoints"] == "all" else list(dict.fromkeys([names[0], names[-1]]))

    def shards(self) -> dict[str, int]:
        """The parts that a task's samples are scored in: what stands behind file names, and the number, from 1."""
        count = self["contributions"]["shards"]
        return {"": 1} if count == 1 else {f"-{number}-of-{count}": number for number in range(1, count + 1)}

    def store_urls(self, paths: Iterable[str]) -> list[str]:
        """Where on S3 the stores of some paths go: to the same paths below contributions.storage; empty: they stay."""
        storage = self["contributions"].get("storage")
        return [f"{storage.rstrip('/')}/{path.lstrip('/')}" for path in paths] if storage else []

    def settings(self) -> list[list[Any]]:
        """The settings that tables hold: one change at a time from the main ones, as the paper's ablations go.

        Every stored threshold under the main formulation and selection; at the main thresholds every other
        formulation, every other selection and every variant; every other rule. Key sets of all combinations stay in
        key_neurons.h5. A setting is formulation, selection, threshold, rule, variant.
        """
        stored, main = self["contributions"], self["analysis"]
        shown = [threshold for _, _, threshold, *_ in self.main_settings()]
        found = [self._setting(threshold) for threshold in stored["thresholds"]]
        for threshold in stored["thresholds"] if AUTO in shown else shown:
            for part, values in (("formulation", stored["formulations"]), ("selection", stored["selections"])):
                found += [self._setting(threshold, **{part: value}) for value in values if value != main[part]]
            found += [self._setting(threshold, variant=variant) for variant in self.variants]
        if main["selection"] in RANKED:
            for rule, thresholds in self["key_neurons"].items():
                found += [self._setting(threshold, rule=rule) for threshold in thresholds]
        return found

    def about(self) -> dict[str, Any]:
        """What the report says about the study itself."""
        return {
            "name": self.name,
            "description": self.config.get("description", ""),
            "trained_here": self.trained(),
            "held": self.held,
            "curve_setting": self.curve_setting(),
            "expert_setting": self.expert_setting(),
            "masking_setting": self.shown_masking_setting(),
            "families": {name: model.get("family", name) for name, model in self.models.items()},
            **{key: self[key] for key in ("analysis", "key_neurons", "masking")},
            "contributions": {key: value for key, value in self["contributions"].items() if key != "storage"},
        }

    def _suites(self) -> dict[str, list[str]]:
        """Tasks that share one model load; a task in no suite is a suite of its own."""
        suites = {name: list(tasks) for name, tasks in self.config["suites"].items()}
        listed = [task for tasks in suites.values() for task in tasks]
        for task in listed:
            if task not in self.tasks:
                raise StudyError(f"suites names the task {task!r}; allowed are {sorted(self.tasks)}")
            if listed.count(task) > 1:
                raise StudyError(
                    f"suites holds the task {task!r} {listed.count(task)} times; a task belongs to one suite"
                )
        for task in self.tasks:
            if task not in listed:
                if task in suites:
                    raise StudyError(f"the task {task!r} is in no suite, yet a suite has its name; rename one of them")
                suites[task] = [task]
        return suites

    def _check(self) -> None:
        if not self.models:
            raise StudyError(f"models: all of {sorted(self.held)} are on hold; a study runs at least one")
        for model, entry in self.models.items():
            self._check_checkpoints(model, entry)
        self._check_settings()
        self._check_paths()
        self._check_storage()
        self._check_tracking()

    def _check_tracking(self) -> None:
        uri = self["tracking"]["uri"]
        try:
            store = sqlite_file(uri)
        except ValueError as error:
            raise StudyError(str(error)) from None
        if store is not None and not _is_below(store, RESULTS):
            raise StudyError(
                f"tracking.uri: found {uri!r}; a database file lies below {RESULTS}/, and a store elsewhere is reached "
                "through a server (http://HOST:PORT)"
            )

    def _check_storage(self) -> None:
        if "storage" in self["contributions"]:
            try:
                remote.checked(self["contributions"]["storage"], "contributions.storage")
            except ValueError as error:
                raise StudyError(str(error)) from None

    def _check_paths(self) -> None:
        for model, entry in self.models.items():
            source = entry["source"]
            if Path(source.get("gguf", "")).name != source.get("gguf", ""):
                raise StudyError(
                    f"models.{model}.source.gguf: found {source['gguf']!r}; it is the name of a file in source.path"
                )
            if "path" in source and not self.local_files(model):
                where = f"models.{model}.source.path: found {source['path']!r}"
                raise StudyError(
                    f"{where}; there is no such folder"
                    + (f" with {source['gguf']}" if "gguf" in source else " with files")
                )
        for task, entry in self.tasks.items():
            if "include" in entry and not Path(entry["include"]).is_dir():
                raise StudyError(f"tasks.{task}.include: found {entry['include']!r}; there is no such folder")
            if "responses" in entry and not Path(entry["responses"]).is_file():
                raise StudyError(f"tasks.{task}.responses: found {entry['responses']!r}; there is no such file")

    def _check_checkpoints(self, model: str, entry: Mapping[str, Any]) -> None:
        names = self.checkpoints(model)
        if len(set(names)) < len(names):
            raise StudyError(f"models.{model}.checkpoints: found {names}; each name may stand once")
        kind = next(iter(entry["source"]))
        if ("training" in entry) != (kind == "train"):
            found = "is given" if "training" in entry else "is missing"
            raise StudyError(f"models.{model}.training {found}, and the source is {kind!r}; only 'train' goes with it")
        needs = {"train": "step", "hub": "revision"}.get(kind)
        for checkpoint in entry["checkpoints"]:
            where = f"models.{model}.checkpoints.{checkpoint['name']}"
            for key in ("step", "revision", "commit"):
                if key in checkpoint and key != needs and not (key == "commit" and kind == "hub"):
                    raise StudyError(f"{where}.{key}: found {checkpoint[key]!r}; a model from {kind!r} takes no {key}")
            if needs and needs not in checkpoint:
                raise StudyError(f"{where}: {needs} is missing; a model from {kind!r} needs it")
        saved = entry.get("training", {}).get("save_steps")
        for checkpoint in entry["checkpoints"] if saved else []:
            if checkpoint["step"] not in saved:
                raise StudyError(
                    f"models.{model}.checkpoints.{checkpoint['name']}.step: found {checkpoint['step']}; "
                    f"allowed are the training's save_steps {saved}"
                )

    def _check_settings(self) -> None:
        stored, analysis = self["contributions"], self["analysis"]
        masked = self["masking"]["thresholds"] if self.masked_checkpoints() else []
        for where, found, allowed in (
            ("analysis.threshold", analysis["threshold"], [*stored["thresholds"], AUTO]),
            ("analysis.curve_threshold", analysis["curve_threshold"], [*stored["thresholds"], AUTO]),
            *(("masking.thresholds", threshold, stored["thresholds"]) for threshold in masked),
            *(("key_neurons.global_topk", x, stored["thresholds"]) for x in self["key_neurons"]["global_topk"]),
            ("analysis.formulation", analysis["formulation"], stored["formulations"]),
            ("analysis.selection", analysis["selection"], stored["selections"]),
        ):
            if found not in allowed:
                raise StudyError(f"{where}: found {found!r}; contributions stores {allowed}")
        if analysis["selection"] not in RANKED and any(self["key_neurons"].values()):
            raise StudyError(
                f"key_neurons: found {self['key_neurons']} with analysis.selection {analysis['selection']!r}, whose "
                f"scores are not stored; these rules go with {list(RANKED)}"
            )
        self._check_variants()
        if self.chooses_threshold() and len(masked) < 2:
            raise StudyError(
                f"analysis: a threshold is auto, and masking.thresholds is {masked}; masking chooses among two or more"
            )
        if analysis["expert_threshold"] not in analysis["expert_thresholds"]:
            analysis["expert_thresholds"] = sorted([*analysis["expert_thresholds"], analysis["expert_threshold"]])

    def _check_variants(self) -> None:
        main = self.scoring()
        for variant in self.variants:
            changed = {key: value for key, value in self.scoring(variant).items() if key in self.variants[variant]}
            if all(main[key] == value for key, value in changed.items()):
                raise StudyError(
                    f"contributions.variants.{variant}: found {changed}, which are the main options; change one of them"
                )
            for suite in self.suites:
                if f"{suite}_{variant}" in self.suites:
                    raise StudyError(
                        f"suites: found {suite}_{variant}, which names the jobs of {suite} under the variant {variant};"
                        " rename one of them"
                    )


def load(path: Path) -> Study:
    """The study of a config file. Raises StudyError, also for text that is no YAML mapping."""
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise StudyError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise StudyError(f"{path} holds {type(config).__name__}; a study is a mapping of keys, see config/README.md")
    return Study(config)


def _is_below(path: Path, folder: Path) -> bool:
    """Whether a path, relative to here, lies in a folder, by its name or once links are followed."""
    return any(
        Path(follow(path)).is_relative_to(follow(folder)) and follow(path) != follow(folder)
        for follow in (os.path.abspath, os.path.realpath)
    )


def with_defaults(value: Any, rules: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """A copy of `value` with the schema's defaults put in where a key is missing.

    Keys that the schema names come in alphabetical order: Snakemake compares params as text, and moving a line in a
    config file must rerun nothing. The order of models, tasks and suites is the author's and stays.
    """
    if "$ref" in rules:
        rules = {**root["$defs"][rules["$ref"].rsplit("/", 1)[-1]], **{k: v for k, v in rules.items() if k != "$ref"}}
    if isinstance(value, list) and isinstance(rules.get("items"), Mapping):
        return [with_defaults(item, rules["items"], root) for item in value]
    if not isinstance(value, Mapping):
        return value
    filled = dict(value)
    for key, rule in rules.get("properties", {}).items():
        if key not in filled and "default" in rule:
            filled[key] = rule["default"]
        if key in filled:
            filled[key] = with_defaults(filled[key], rule, root)
    extra = rules.get("additionalProperties")
    if isinstance(extra, Mapping):
        return {key: with_defaults(item, extra, root) for key, item in filled.items()}
    return dict(sorted(filled.items()))


def explain(error: ValidationError) -> str:
    """A mistake in a configuration as a sentence: where, what was found, what is allowed."""
    where = ".".join(str(part) for part in error.absolute_path) or "config"
    rules = error.schema if isinstance(error.schema, Mapping) else {}
    if error.validator == "additionalProperties" and isinstance(error.instance, Mapping):
        allowed = sorted(rules.get("properties", {}))
        unknown = next(key for key in error.instance if key not in allowed)
        close = difflib.get_close_matches(str(unknown), allowed, 1)
        return f"{where}: unknown key {unknown!r}; allowed are {allowed}" + (
            f"; did you mean {close[0]!r}?" if close else ""
        )
    if error.validator == "dependentRequired":
        return f"{where}: {error.message}; it has {sorted(error.instance)}"
    if error.validator == "required":
        return f"{where}: {error.message}; it has {sorted(error.instance)}"
    if error.validator == "enum":
        return f"{where}: found {error.instance!r}; allowed are {rules['enum']}"
    if error.validator == "not":
        return (
            f"{where}: found {error.instance!r}, which the workflow uses itself, as {rules['not']['enum']}; rename it"
        )
    if error.validator == "oneOf":
        choices = [_choice(option) for option in rules["oneOf"]]
        found = dict(error.instance) if isinstance(error.instance, Mapping) else error.instance
        return f"{where}: found {found!r}; allowed is exactly one of {choices}"
    limits = {
        k: rules[k]
        for k in ("type", "minimum", "exclusiveMinimum", "maximum", "pattern", "minItems", "minProperties")
        if k in rules
    }
    return f"{where}: found {error.instance!r}; allowed is {rules.get('description') or limits or error.message}"


def _choice(option: Mapping[str, Any]) -> str:
    """One branch of a oneOf in words: the keys that it needs and those that don't go with them."""
    without = [key for key, rule in option.get("properties", {}).items() if rule is False]
    return " + ".join(option.get("required", [])) + (f" without {', '.join(without)}" if without else "")
