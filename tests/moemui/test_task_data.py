"""What was asked has one digest, whoever asks and in whatever process; another document, another digest."""

from __future__ import annotations

import datetime
from types import SimpleNamespace

import datasets
import numpy as np

from moemui.answers import task_data

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = [{"q": "2 + 2", "a": 4, "when": datetime.date(2024, 5, 1)}, {"q": "π", "a": np.float64(3.5), "raw": b"\x00\xff"}]


def task(rows, requests=1):
    """Documents, each in as many requests as a task of multiple choice makes."""
    instances = [SimpleNamespace(doc_id=n, doc=row) for n, row in enumerate(rows) for _ in range(requests)]
    return SimpleNamespace(instances=instances)


def test_the_same_documents_have_the_same_digest():
    digest = task_data.digest({"t": task(ROWS)})
    assert digest == task_data.digest({"t": task([dict(reversed(row.items())) for row in ROWS], requests=4)})
    assert len(digest) == 64


def test_another_document_order_or_task_has_another():
    changed = [ROWS[0], {**ROWS[1], "raw": b"\x00\xfe"}]
    found = [{"t": task(ROWS)}, {"t": task(ROWS[:1])}, {"t": task(ROWS[::-1])}, {"t": task(changed)}, {"u": task(ROWS)}]
    assert len({task_data.digest(leaves) for leaves in found}) == len(found)


def source_of(split, **config):
    return task_data.source(SimpleNamespace(get_config=config.get, dataset={"test": split} if split else None))


def test_a_dataset_of_the_hub_is_told_with_its_commit():
    split = datasets.Dataset.from_list([{"q": "x"}])
    file = f"hf://datasets/openai/gsm8k@{COMMIT}/main/test-00000-of-00001.parquet"
    split.info.download_checksums = {file: {"num_bytes": 1, "checksum": None}}
    found = source_of(split, dataset_path="openai/gsm8k", dataset_name="main", test_split="test")
    assert found.pop("fingerprint") == split._fingerprint
    assert found == {"path": "openai/gsm8k", "name": "main", "commit": COMMIT}


def test_what_is_not_known_is_left_out():
    assert source_of(None, dataset_path="json") == {"path": "json"}
