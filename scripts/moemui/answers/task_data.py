"""What a task of lm_eval was asked about: a digest of its documents, and where they came from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np


def digest(leaves: Mapping[str, Any]) -> str:
    """SHA-256 of the documents that tasks of lm_eval ask about, as sorted JSON in order of leaf and document.

    leaves: {name: task}, whose requests were built. What makes a document a prompt, templates and few-shot examples, is
    not in it.
    """
    total = hashlib.sha256()
    for leaf, task in leaves.items():
        documents = {instance.doc_id: instance.doc for instance in task.instances}
        for number, document in sorted(documents.items()):
            row = [leaf, number, document]
            total.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=_plain).encode() + b"\n")
    return total.hexdigest()


def _plain(value: Any) -> Any:
    """A value that JSON does not know, as text that is the same in every process."""
    if isinstance(value, bytes):
        return value.hex()
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def source(task: Any) -> dict[str, str]:
    """Where lm_eval took a task's documents from: path, name, commit (of the dataset on the hub) and fingerprint (of
    `datasets`, over the data and what was done to them), as far as they are known."""
    found = {"path": task.get_config("dataset_path"), "name": task.get_config("dataset_name")}
    split = (getattr(task, "dataset", None) or {}).get(task.get_config("test_split") or "test")
    if split is not None:
        found["fingerprint"] = getattr(split, "_fingerprint", None)
        sources = " ".join(split.info.download_checksums or {})
        found["commit"] = next(iter(re.findall(r"hf://datasets/[^@\s]+@([0-9a-f]{40})/", sources)), None)
    return {key: str(value) for key, value in found.items() if value}
