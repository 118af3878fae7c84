"""Damaged files of a finished study, and a full disk: one sentence, and with its advice the same bytes."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager

import h5py
import numpy as np
import pytest
from workflow.conftest import SMOKE, copy_study, snakemake

import write_report
from moemui.key_neurons import files as key_neurons

pytestmark = pytest.mark.slow

OLMOE, TABLES = "results/smoke/smoke-olmoe", "results/smoke/tables"
STORE = f"{OLMOE}/step-0/sorting/contributions.zarr"
SETS = f"{OLMOE}/step-0/sorting/key_neurons.h5"


@pytest.fixture(scope="module")
def study(smoke, tmp_path_factory):
    """A copy of the finished study, which each test leaves as it was."""
    return copy_study(smoke, tmp_path_factory.mktemp("damaged") / "study")


def make(folder, target):
    """What Snakemake says when it makes a file that is not there."""
    (folder / target).unlink(missing_ok=True)
    return snakemake(folder, target, *SMOKE)


def content(folder):
    names = (path for path in folder.rglob("*") if path.is_file() and path.name != ".snakemake_timestamp")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in names}


@contextmanager
def damaged(file, change):
    """A file with other bytes, or none, under its old time; as it was afterwards."""
    before, times = file.read_bytes(), file.stat()
    after = change(before)
    file.unlink() if after is None else file.write_bytes(after)
    if after is not None:
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    yield before
    file.write_bytes(before)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def one_bit(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def half(data):
    return data[: len(data) // 2]


def gone(data):
    return None


@pytest.mark.parametrize(
    ("change", "said"),
    [(one_bit, "is not the file that was written"), (half, "is missing or truncated"), (gone, "is missing")],
)
def test_a_damaged_chunk_of_a_store_never_becomes_key_neurons(study, change, said):
    """Verified: with a bit of a chunk flipped, size and time kept, with half of it, or without it, the job fails in one
    sentence that names the chunk and what to delete, and there is no file of key neurons."""
    chunks = sorted(path for path in (study / STORE / "scores/projection/pairs/score").rglob("*") if path.is_file())
    chunk = next(path for path in chunks if path.name != "zarr.json")
    with damaged(chunk, change):
        run = make(study, SETS)
        assert run.returncode == 1
        sentence = next(
            line for line in run.stdout.splitlines() if "key_neurons_synthetic smoke-olmoe step-0 failed:" in line
        )
        assert chunk.relative_to(study).as_posix() in sentence
        assert said in sentence
        assert sentence.endswith(f"delete {STORE} and run again")
        assert not (study / SETS).exists()


def test_a_store_that_is_deleted_as_told_is_made_again_in_the_same_bytes(study, smoke):
    """Verified: after deleting the damaged store, the plain command makes it and the key neurons in the same bytes."""
    shutil.rmtree(study / STORE)
    run = make(study, SETS)
    assert run.returncode == 0, run.stdout[-3000:]
    assert content(study / STORE) == content(smoke / STORE)
    assert (study / SETS).read_bytes() == (smoke / SETS).read_bytes()


def swapped_sets(data, file):
    """One sample's verdict turned round in place, where HDF5 has no checksum."""
    with h5py.File(file) as opened:
        where = opened["samples/correct"].id.get_offset()
    return data[:where] + bytes([1 - data[where]]) + data[where + 1 :]


def test_changed_key_neurons_never_become_a_table(study, smoke):
    """Verified: a file of key neurons in which one number differs, which HDF5 reads without complaint, ends the job
    that reads it in one sentence with the file's name; deleted as told, it and the table come back the same."""
    file, table = study / SETS, f"{OLMOE}/utilization.parquet"
    correct = key_neurons.read(smoke / SETS).samples.correct
    with damaged(file, lambda data: swapped_sets(data, file)):
        assert np.count_nonzero(key_neurons.read(file).samples.correct != correct) == 1
        run = make(study, table)
        assert run.returncode == 1
        assert f"model_utilization smoke-olmoe failed: {SETS} is not what key_neurons_synthetic wrote" in run.stdout
        assert not (study / table).exists()
        file.unlink()
        run = snakemake(study, table, *SMOKE)
        assert run.returncode == 0, run.stdout[-3000:]
        assert file.read_bytes() == (smoke / SETS).read_bytes()
        assert (study / table).read_bytes() == (smoke / table).read_bytes()


def test_a_truncated_table_is_named(study, smoke):
    """Verified: half a Parquet file ends the job that reads it in one sentence; deleted as told, it comes back."""
    part, table = f"{OLMOE}/key_experts.parquet", f"{TABLES}/key_experts.parquet"
    (study / part).write_bytes(half((study / part).read_bytes()))
    run = snakemake(study, table, *SMOKE)
    assert run.returncode == 1
    assert f"gather key_experts failed: {part} is not what model_experts wrote" in run.stdout
    (study / part).unlink()
    run = snakemake(study, table, *SMOKE)
    assert run.returncode == 0, run.stdout[-3000:]
    for name in (part, table):
        assert (study / name).read_bytes() == (smoke / name).read_bytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [('{"record_version": 2, "sta', "is no run record .* delete it, so that its job runs again"),
     ('{"record_version": 1000}', "has record version 1000, .* update the code")],
)  # fmt: skip
def test_a_record_that_can_not_be_read_is_named_by_the_report(tmp_path, content, said):
    """Verified: there is no report with a gap in what it says of its numbers' making; the sentence names the file."""
    record = tmp_path / "enrichment.json"
    record.write_text(content)
    rest = dict.fromkeys(["chosen", "report", "figures", "study", "code"])
    with pytest.raises(ValueError, match=f"{record} {said}"):
        write_report.main(tables=[], records=[record], **rest)


def test_edited_responses_are_refused(study, smoke):
    """Verified: a response that someone has changed by hand ends the next job that reads it, since no record would say
    where its numbers come from; deleted as told, the same responses and scores come back."""
    responses, store = f"{OLMOE}/step-60/facts/responses.jsonl", f"{OLMOE}/step-60/facts/contributions.zarr"
    text = (study / responses).read_text()
    (study / responses).write_text(text.replace('"correct": false', '"correct": true', 1))
    assert (study / responses).read_text() != text
    run = snakemake(study, store, *SMOKE)
    assert run.returncode == 1
    sentence = f"contributions_synthetic smoke-olmoe step-60 failed: {responses} is not what responses_synthetic wrote"
    assert sentence in run.stdout
    (study / responses).unlink()
    run = snakemake(study, store, *SMOKE)
    assert run.returncode == 0, run.stdout[-3000:]
    assert (study / responses).read_text() == text
    assert content(study / store) == content(smoke / store)


def test_on_a_full_disk_a_job_ends_in_one_sentence_and_goes_on_with_room(smoke, small_disk):
    """Verified, with the whole folder on a disk of its own: where there's no room for Snakemake's own files, it says
    so, and what stands under a final name is whole; where there is some, the job fails in one sentence, and leaves
    nothing under its names; with room again the plain command makes the same tables."""
    disk = small_disk(500_000_000)
    study = copy_study(smoke, disk / "study")
    names = [
        f"{TABLES}/{name}" for name in ("sensitivity.parquet", "sensitivity.csv", "expert_threshold_sensitivity.csv")
    ]
    (study / "results/smoke/records/sensitivity.json").unlink()

    def with_room(size):
        small_disk((os.statvfs(disk).f_blocks - os.statvfs(disk).f_bfree) * os.statvfs(disk).f_frsize + size)
        return snakemake(study, "sensitivity", *SMOKE)

    run = with_room(8_192)
    assert run.returncode == 1
    assert "No space left on device" in run.stdout
    assert all((study / name).read_bytes() == (smoke / name).read_bytes() for name in names if (study / name).exists())
    run = with_room(65_536)
    assert run.returncode == 1
    assert "sensitivity failed: no room left on the disk of" in run.stdout
    assert "make room and run again, what is finished is kept" in run.stdout
    assert not any((study / name).exists() for name in names)
    assert list((study / TABLES).glob(".part-*")) == []
    run = with_room(50_000_000)
    assert run.returncode == 0, run.stdout[-3000:]
    assert all((study / name).read_bytes() == (smoke / name).read_bytes() for name in names)
