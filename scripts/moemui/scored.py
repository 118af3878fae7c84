"""The contributions of a task, read as if they were its key neuron file: any threshold up to the largest, any rule."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from moemui.answers.responses import read_responses, verdicts
from moemui.key_neurons import files, rules, selection
from moemui.key_neurons.files import KeyNeurons, Samples
from moemui.key_neurons.key_sets import KeySets, joined
from moemui.key_neurons.settings import MAIN, Setting
from moemui.scores.remote import is_url
from moemui.scores.store import PER_TOKEN, Contributions

RESPONSES = "responses.jsonl"
USUAL_THRESHOLD = 0.001  # the paper's


@dataclass(frozen=True)
class Scored(KeyNeurons):
    """What a key neuron file would hold, of a store: sets are selected when they are asked for, and kept.

    shard: which part of the task it is, such as "shard 1 of 2"; empty for the whole.
    """

    store: Contributions | None = None
    kept: dict[Setting, KeySets] = field(default_factory=dict)
    shard: str = ""

    def sets(self, *setting: Any) -> KeySets:
        wanted = Setting(*setting)
        if wanted not in self.kept:
            self.kept[wanted] = self._selected(wanted)
        return self.kept[wanted]

    def _selected(self, wanted: Setting) -> KeySets:
        store, geometry, threshold = self.store, self.geometry, wanted.threshold
        assert store is not None
        self.incomplete[wanted] = self.undefined[wanted] = 0
        if wanted.selection == PER_TOKEN and wanted.rule == "topk":
            largest = store.attributes["options"]["largest_threshold"]
            return joined(
                [
                    rules.select_per_token(**part._asdict(), geometry=geometry, threshold=threshold, largest=largest)
                    for part in store.per_token(wanted.formulation)
                ]
            )
        if wanted.selection == PER_TOKEN:
            raise ValueError(f"rule {wanted.rule} chooses by score, and {PER_TOKEN} has none stored; ask for rule topk")
        neuron, token, score = store.ranked(wanted.formulation, wanted.selection)
        found = selection.select(
            neuron=neuron,
            token=token,
            score=score,
            geometry=geometry,
            threshold=threshold,
            rule=wanted.rule,
            selection=wanted.selection,
        )
        self.incomplete[wanted], self.undefined[wanted] = int(found.incomplete.sum()), int(found.undefined.sum())
        return found.sets


def of_stores(paths: Sequence[str | Path]) -> Scored:
    """A task's store, or all its shards in order; a URL where it lies on S3.

    Domain and correctness of the samples stand in responses.jsonl, beside the store or in the folder above; without it
    domains are empty and no sample counts as graded. `settings` names what is stored at the paper's threshold, under
    the variant whose folder the store lies in.
    Raises ValueError for a responses.jsonl of other samples, and as `moemui.scores.store.Contributions`.
    """
    store = Contributions(*paths)
    about, ids = store.attributes, np.array(store.sample_ids, dtype=object)
    domain, correct = np.full(len(ids), "", dtype=object), np.full(len(ids), -1, dtype=np.int8)
    first, remote, task = Path(paths[0]), is_url(paths[0]), about.get("task", "")
    place = PurePosixPath(str(paths[0]) if remote else os.path.abspath(first)).parent
    beside = [] if remote else [Path(folder) / RESPONSES for folder in (place, place.parent)]
    if responses := next((file for file in beside if file.is_file()), None):
        records = {record["id"]: record for record in read_responses(responses)}
        if missing := [name for name in ids if name not in records]:
            raise ValueError(f"{responses} lacks the sample {missing[0]!r} of {paths[0]}; make the store again from it")
        own = [records[name] for name in ids]
        domain, correct = np.array([record["domain"] for record in own], dtype=object), verdicts(own)
    # In TASK/VARIANT/, which speaks for itself where it is a copy, or on S3, where no responses.jsonl lies.
    apart = (task and place.parent.name == task != place.name) or (responses and responses.parent != Path(place))
    variant = place.name if apart else MAIN
    number, count = about["shard"]
    return Scored(
        path=first,
        model=about.get("model", ""),
        checkpoint=about.get("checkpoint", ""),
        task=task,
        geometry=store.geometry,
        samples=Samples(id=ids, domain=domain, correct=correct, response_tokens=store.response_tokens),
        variant=variant,
        settings=tuple(Setting(*what, USUAL_THRESHOLD, variant=variant) for what in store.settings),
        incomplete={},
        routed_tokens=files.routed_tokens(tokens=store.routed_tokens, geometry=store.geometry),
        options=about["options"],
        store=store,
        shard=f"shard {number} of {count}" if len(paths) < count else "",
    )
