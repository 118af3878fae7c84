"""Stores on S3, over HTTP: read as if they were here, taken up again, and never wrong numbers."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import traceback

import made_up_scores
import numpy as np
import obstore
import pytest
import s3_server

from moemui.key_neurons.selection import select_key_neurons
from moemui.scores import disk, extraction, remote, sealed, store, upload

NAMES = [f"q{i}" for i in range(9)]
URL = f"s3://{s3_server.BUCKET}/prefix/results/own/contributions.zarr"
CHUNK = "scores/glu/pairs/score/c/1/0/0"


@pytest.fixture(scope="module")
def running():
    server = s3_server.Server()
    yield server
    server.stop()


@pytest.fixture
def server(running, monkeypatch):
    """The server, empty and undisturbed, and the environment that leads to it."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(remote, "RETRIES", 1)
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    running.clear()
    return running


def extract(path, *, url=None, names=NAMES, log=lambda names: None, shard=(1, 1), scorer=None):
    scorer = scorer or made_up_scores.Scorer(log=log)
    rows = extraction.shard_of(made_up_scores.records(names), *shard)
    task = extraction.Task(rows, path, {"task": "t"}, shard=shard, url=url)
    return extraction.extract_all(scorer, [task], chunk_samples=4)


def content(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def made(running, tmp_path_factory):
    """The same store here and as a pointer to S3, and what lies there."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        extract(folder / "here.zarr")
        extract(folder / "there.zarr", url=URL)
    return folder, running.content(URL), list(running.requests)


@pytest.fixture
def both(made, server, tmp_path):
    """A copy of what `made` made."""
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    server.fill(URL, made[1])
    return tmp_path / "here.zarr", tmp_path / "there.zarr"


def key_neurons(stores, folder, names=NAMES):
    responses = folder / "responses.jsonl"
    responses.write_text("".join(json.dumps(row) + "\n" for row in made_up_scores.records(names)))
    select_key_neurons(
        stores, responses, folder / "k.h5", thresholds=[0.1, 0.3], top_score=[0.5], model="m", checkpoint="c"
    )
    return (folder / "k.h5").read_bytes()


def test_a_pointer_holds_no_scores_and_has_the_manifest_of_the_store(made, both, server):
    here, there = content(both[0]), content(both[1])
    assert {name for name in here if name.endswith(".json")} | {"where.json"} == set(there)
    assert all(there[name] == here[name] for name in there if name != "where.json")
    assert json.loads(there["where.json"]) == {"url": URL, "endpoint": server.address}
    assert not [path for path in both[1].rglob("c") if path.is_dir()]
    assert made[1] == here
    assert [request for request in made[2] if request[:3] == "PUT"][-1].endswith("/contributions.zarr/manifest.json")


def test_it_reads_as_the_local_one(both, tmp_path):
    here, there, direct = (store.Contributions(place) for place in (*both, URL))
    for found in (there, direct):
        assert (found.attributes, found.sample_ids, found.bytes) == (here.attributes, here.sample_ids, here.bytes)
        for setting in (("glu", "pairs"), ("glu", "neurons")):
            for ours, theirs in zip(here.ranked(*setting), found.ranked(*setting), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        for ours, theirs in zip(here.per_token("glu"), found.per_token("glu"), strict=True):
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(found.routed_tokens, here.routed_tokens)
    assert here.ranked("glu", "pairs").score.max() > 0
    wanted = key_neurons([both[0]], tmp_path)
    assert key_neurons([both[1]], tmp_path) == key_neurons([URL], tmp_path) == wanted
    for place in (*both, URL):
        store.verify(place)


def test_the_job_says_the_same_of_both(server, tmp_path):
    here, there = extract(tmp_path / "a.zarr"), extract(tmp_path / "b.zarr", url=URL)
    assert here == there
    assert here.conservation_error == np.float32(1e-7)


def test_two_shards_on_s3_are_the_undivided_store_here(server, tmp_path):
    extract(tmp_path / "whole.zarr")
    shards = [tmp_path / f"contributions-{number}-of-2.zarr" for number in (1, 2)]
    for number, path in enumerate(shards, start=1):
        extract(path, shard=(number, 2), url=f"s3://{s3_server.BUCKET}/{path.name}")
    assert key_neurons(shards, tmp_path) == key_neurons([tmp_path / "whole.zarr"], tmp_path)


def flipped(data):
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


@pytest.mark.parametrize("place", ["pointer", "url"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda data: None, "{0} is missing or truncated"),
        (lambda data: data[:-1], "{0} is missing or truncated"),
        (flipped, "{0} is not the file that was written"),
    ],
    ids=["missing", "truncated", "flipped"],
)
def test_a_damaged_object_is_named_and_gives_no_numbers(both, server, tmp_path, place, fault, said):
    objects = server.folder(URL)
    data = fault(bytes(obstore.get(objects, CHUNK).bytes()))
    obstore.delete(objects, CHUNK) if data is None else obstore.put(objects, CHUNK, data)
    place = both[1] if place == "pointer" else URL
    with pytest.raises(sealed.IncompleteStoreError, match=said.format(f"^{URL}/{CHUNK}") + "; "):
        key_neurons([place], tmp_path)
    with pytest.raises(sealed.IncompleteStoreError, match=CHUNK):
        store.verify(place)
    assert not (tmp_path / "k.h5").exists()


def test_an_object_that_goes_while_it_is_read_is_not_read_as_fill_values(both, server):
    found = store.Contributions(both[1])
    obstore.delete(server.folder(URL), CHUNK)
    with pytest.raises(sealed.IncompleteStoreError, match=f"^{URL}/{CHUNK} is missing"):
        found.ranked("glu", "pairs")


def test_a_pointer_to_what_another_run_wrote_is_no_store(both, server, tmp_path):
    extract(tmp_path / "other.zarr", url=URL, names=[f"p{i}" for i in range(9)])
    with pytest.raises(sealed.IncompleteStoreError):
        key_neurons([both[1]], tmp_path)
    obstore.delete(server.folder(URL), "manifest.json")
    with pytest.raises(sealed.IncompleteStoreError, match=f"^{URL} holds no finished store; delete {both[1]} and run"):
        store.Contributions(both[1])
    with pytest.raises(sealed.IncompleteStoreError, match=f"^{URL} has no manifest.json, so it was never finished"):
        store.Contributions(URL)


def test_an_older_store_under_the_url_makes_room(server, tmp_path):
    extract(tmp_path / "old.zarr", url=URL, names=[f"p{i}" for i in range(30)])
    objects = server.folder(URL)
    obstore.put(objects, "scores/left-over", b"x")
    beside = server.folder(f"{URL}-of-others")
    obstore.put(beside, "kept", b"x")
    server.requests.clear()
    seen = []
    server.disturb = lambda request: seen.append("manifest.json" in server.names(URL)) if "PUT" in request else None
    extract(tmp_path / "new.zarr", url=URL)
    server.disturb = lambda request: None
    extract(tmp_path / "here.zarr")
    assert server.content(URL) == content(tmp_path / "here.zarr")
    assert server.content(f"{URL}-of-others") == {"kept": b"x"}
    # From the first score that was replaced to the last, nobody could take what lay there for a store.
    assert seen[0] is True  # the probe
    assert not any(seen[1:])


@pytest.mark.parametrize("content_length", [0, 1, 5 * 2**20, 11 * 2**20 + 1])
def test_an_etag_is_foreseen_also_of_an_object_in_parts(server, monkeypatch, content_length):
    monkeypatch.setattr(remote, "PART_BYTES", 5 * 2**20)
    data, folder = np.random.default_rng(1).bytes(content_length), remote.RemoteFolder(URL)
    assert folder.put("a", data) == remote.tag(data)
    assert folder.objects() == {"a": remote.Object(content_length, remote.tag(data))}
    assert folder.get("a") == data
    assert ("-3" in remote.tag(data)) == (content_length > 10 * 2**20)


def test_storage_with_etags_of_its_own_is_read_to_compare(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "tag", lambda data: "encrypted")
    extract(tmp_path / "a.zarr", url=URL)
    extract(tmp_path / "here.zarr")
    assert server.content(URL) == content(tmp_path / "here.zarr")
    monkeypatch.setattr(remote.RemoteFolder, "get", lambda folder, name: b"else")
    with pytest.raises(remote.StorageError, match=r"is not what was written there; run again"):
        extract(tmp_path / "b.zarr", url=URL, names=[f"p{i}" for i in range(3)])


# A process that does the work of each line in a child: [folder, file of the scored ids, URL, deadly]; the deadly-th
# removal of a file, once there is a pointer, kills it.
WORK = """
import json, os, signal, sys
from pathlib import Path

import made_up_scores
from moemui.scores import extraction, store

os.fsync = lambda descriptor: None
print("obstore" in sys.modules, flush=True)
for line in sys.stdin:
    folder, scored, url, deadly = json.loads(line)
    number = os.fork()
    if number:
        print(os.waitpid(number, 0)[1], flush=True)
        continue
    path = Path(folder) / "c.zarr"
    (Path(folder) / "pid").write_text(str(os.getpid()))

    def hook(event, arguments):
        global deadly
        if event == "os.remove" and (path / "where.json").exists():
            deadly -= 1
            if deadly == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    with open(scored, "a") as log:
        scorer = made_up_scores.Scorer(log=lambda names: print(names, file=log, flush=True))
        task = extraction.Task(made_up_scores.records(NAMES), path, {"task": "t"}, url=url)
        extraction.extract_all(scorer, [task], chunk_samples=4)
    store.Contributions(path).ranked("glu", "pairs")
    os._exit(0 if ("obstore" in sys.modules) == bool(url) else 3)
"""


@pytest.fixture
def worker(server):
    """A function that has a child do the work, and tells how it ended."""
    here = os.path.dirname(made_up_scores.__file__)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([here, os.path.join(here, "..", "scripts")])}
    process = subprocess.Popen(
        [sys.executable, "-c", WORK.replace("NAMES", repr(NAMES))],
        env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "False\n"  # nothing of S3 is imported where nothing is on S3

    def work(folder, url=URL, deadly=0):
        folder.mkdir(exist_ok=True)
        process.stdin.write(json.dumps([str(folder), str(folder / "scored"), url, deadly]) + "\n")
        process.stdin.flush()
        status = int(process.stdout.readline())
        server.settle()
        return status

    yield work
    process.stdin.close()
    process.wait()


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_and_nothing_is_scored_or_sent_twice(server, made, worker, tmp_path):
    wanted, pointer = made[1], content(made[0] / "there.zarr")
    assert worker(tmp_path / "local", url=None) == 0
    puts = len(wanted)

    def kill_at(number, folder):
        def disturb(request):
            nonlocal number
            if request.startswith("PUT"):
                number -= 1
                if number == 0:
                    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)

        return disturb

    # The first request that writes is the probe, the last one the manifest.
    for at, deadly in [(puts // 2, 0), (puts + 1, 0), (0, 5)]:
        server.clear()
        folder = tmp_path / f"{at}-{deadly}"
        folder.mkdir()
        server.disturb = kill_at(at, folder)
        assert worker(folder, deadly=deadly) == signal.SIGKILL
        server.disturb = lambda request: None
        there = server.content(URL)
        assert {name: wanted[name] for name in there if name in wanted} == there
        if at:
            assert not (folder / "c.zarr/where.json").exists()
            assert ("manifest.json" in there) <= (set(there) == set(wanted))
        else:
            assert (folder / "c.zarr/where.json").exists()
            assert there == wanted
            store.verify(folder / "c.zarr")  # whole at any time, though some files are gone here
        scored = (folder / "scored").read_text()
        server.requests.clear()
        assert worker(folder) == 0
        assert (folder / "scored").read_text() == scored
        assert scored.count("\n") == 3
        assert server.content(URL) == wanted
        assert content(folder / "c.zarr") == pointer
        sent = {path.split("contributions.zarr/")[1] for path in server.written()} - {upload.PROBE, "manifest.json"}
        assert sent == set(wanted) - set(there) - {"manifest.json"}


def test_a_server_that_goes_away_in_the_middle(server, made, tmp_path):
    scored, puts, stopping = [], [], threading.Thread(target=server.stop)

    def stop_at_the_tenth(request):
        if request.startswith("PUT"):
            puts.append(request)
            if len(puts) == 10:
                stopping.start()
                return "503 Service Unavailable", ""
        return None

    server.disturb = stop_at_the_tenth
    with pytest.raises(remote.StorageError, match=f"^no answer from {server.address} when writing {URL}; see that it"):
        extract(tmp_path / "c.zarr", url=URL, log=scored.append)
    assert not (tmp_path / "c.zarr/where.json").exists()
    assert store.Contributions(tmp_path / "c.zarr").sample_ids == NAMES  # whole, and here
    stopping.join()
    server.disturb = lambda request: None
    server.start()
    quality = extract(tmp_path / "c.zarr", url=URL, log=scored.append)
    assert (len(scored), quality.resumed_samples) == (3, 9)
    assert server.content(URL) == made[1]
    found = store.Contributions(tmp_path / "c.zarr")
    server.stop()
    try:
        with pytest.raises(remote.StorageError, match=f"^no answer from {server.address} when reading {URL}; "):
            found.ranked("glu", "pairs")
        # Nor is what is finished taken for unfinished.
        with pytest.raises(remote.StorageError, match=r"^no answer"):
            extract(tmp_path / "c.zarr", url=URL, log=scored.append)
    finally:
        server.start()
    assert len(scored) == 3


def test_one_bad_answer_is_asked_again_and_many_are_named(server, made, tmp_path):
    bad = []

    def once(request):
        bad.append(request)
        return ("503 Slow Down", "<Error><Code>SlowDown</Code></Error>") if len(bad) in (7, 20) else None

    server.disturb = once
    extract(tmp_path / "c.zarr", url=URL)
    server.disturb = lambda request: None
    assert server.content(URL) == made[1]
    server.disturb = lambda request: ("503 Slow Down", "<Error><Code>SlowDown</Code></Error>")
    with pytest.raises(
        remote.StorageError, match=f"^{server.address} answered 503 SlowDown when listing {URL}; run again later$"
    ):
        store.Contributions(tmp_path / "c.zarr")


def without_access(server, monkeypatch):
    server.check_credentials(True)


def without_signature(server, monkeypatch):
    body = f"<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>{s3_server.KEY}</AWSAccessKeyId></Error>"
    server.disturb = lambda request: ("403 Forbidden", body)


def without_credentials(server, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")


def with_secrets_in_the_endpoint(server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address.replace("//", f"//me:{s3_server.SECRET}@"))


def with_an_endpoint_that_is_none(server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")


@pytest.mark.parametrize(
    ("arrange", "said"),
    [
        (without_access, r"ADDRESS refuses listing s3://\S+ \(InvalidAccessKeyId\); set AWS_ACCESS_KEY_ID and"),
        (without_signature, r"ADDRESS refuses listing s3://\S+ \(SignatureDoesNotMatch\); set AWS_ACCESS_KEY_ID and"),
        (without_credentials, r"no credentials for s3://\S+ in the environment; set AWS_ACCESS_KEY_ID and"),
        (with_secrets_in_the_endpoint, "AWS_ENDPOINT_URL is not of the form https://host:port; set it"),
        (with_an_endpoint_that_is_none, "AWS_ENDPOINT_URL is not of the form https://host:port; set it"),
    ],
)
def test_no_access_is_said_before_any_work_and_without_secrets(server, tmp_path, monkeypatch, caplog, arrange, said):
    arrange(server, monkeypatch)
    scored = []
    with caplog.at_level(logging.DEBUG, logger="moemui"), pytest.raises(remote.StorageError) as caught:
        extract(tmp_path / "c.zarr", url=URL, log=scored.append)
    server.disturb = lambda request: None
    server.check_credentials(False)
    assert re.match(said.replace("ADDRESS", server.address), str(caught.value))
    assert "\n" not in str(caught.value)
    assert not scored
    # The server lives in this process and shows what it was asked.
    logged = [record.getMessage() for record in caplog.records if record.name.startswith(("moemui", "obstore"))]
    told = "".join([*traceback.format_exception(caught.value), *logged])
    assert s3_server.SECRET not in told
    assert s3_server.KEY not in told


@pytest.mark.parametrize(
    "answer",
    [
        # With the right region in a header, as Amazon answers; a redirect to it names no address.
        ("301 Moved Permanently", "<Error><Code>PermanentRedirect</Code></Error>"),
        ("400 Bad Request", "<Error><Code>AuthorizationHeaderMalformed</Code></Error>"),
    ],
)
@pytest.mark.parametrize("region", ["eu-west-1", None])
def test_another_region_is_named(server, monkeypatch, answer, region):
    monkeypatch.delenv("AWS_REGION", raising=False)
    if region:
        monkeypatch.setenv("AWS_REGION", region)
    server.disturb = lambda request: answer
    said = f"{server.address} has {URL} in another region than {region or 'us-east-1 (AWS_REGION is not set)'}; set"
    with pytest.raises(remote.StorageError) as caught:
        remote.RemoteFolder(URL).objects()
    server.disturb = lambda request: None
    assert str(caught.value) == f"{said} AWS_REGION to its own"


def test_a_bucket_that_is_not_there_is_named(server, tmp_path):
    with pytest.raises(
        remote.StorageError, match=f"^{server.address} has no bucket nobody for s3://nobody/x; create it"
    ):
        extract(tmp_path / "c.zarr", url="s3://nobody/x")
    with pytest.raises(remote.StorageError, match=f"^{server.address} has no bucket nobody"):
        remote.RemoteFolder("s3://nobody/x").get("manifest.json")


def test_a_pointer_is_not_looked_for_at_amazon(both, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with pytest.raises(
        remote.StorageError, match=r"lies at s3://\S+ on http://\S+; set AWS_ENDPOINT_URL to that address$"
    ):
        store.Contributions(both[1])


@pytest.mark.parametrize(
    "url",
    [
        *("s3://", "s3://b", "s3:/bucket/x", "gs://bucket/x", "/bucket/x", "s3://Bucket/x", "s3://bucket/../x"),
        *(f"s3://{s3_server.KEY}:{s3_server.SECRET}@bucket/x", f"s3://bucket/x?key={s3_server.SECRET}"),
        *(f"s3://bucket/x#{s3_server.SECRET}", "s3://bucket//x", "s3://bucket/a\nb"),
    ],
)
def test_what_is_no_address_is_refused_without_repeating_secrets(url):
    with pytest.raises(
        ValueError, match=r"^the address of a store is .*; allowed is s3://bucket/prefix, while"
    ) as caught:
        remote.RemoteFolder(url)
    assert s3_server.SECRET not in str(caught.value)


def test_room_is_needed_for_one_store_at_a_time(server, tmp_path, monkeypatch, caplog):
    scorer, rows = made_up_scores.Scorer(), made_up_scores.records(NAMES)
    tasks = [extraction.Task(rows, tmp_path / f"{n}.zarr", {"task": n}, url=f"{URL[:-5]}/{n}.zarr") for n in "ab"]
    prepared = [extraction._Prepared.of(scorer, task, 4) for task in tasks]
    least, most = prepared[0].estimate.least, prepared[0].estimate.most
    monkeypatch.setattr(disk, "free", lambda path: least)
    with caplog.at_level(logging.INFO):
        extraction.extract_all(scorer, tasks, chunk_samples=4)
    assert (
        f"at most {disk.readable(2 * most)}, in {URL[:-5]}, and at most {disk.readable(most)} at a time here; "
        f"{disk.readable(least)} are free in {tmp_path}"
    ) in caplog.text
    monkeypatch.setattr(disk, "free", lambda path: 0)
    with pytest.raises(disk.FullDiskError, match=r"has 0 B free, but .* here before they go to S3; make room and run"):
        extraction.extract_all(scorer, [extraction.Task(rows, tmp_path / "c.zarr", url=URL)])


def test_a_store_that_was_damaged_before_it_went_is_not_sent(server, made, tmp_path):
    shutil.copytree(made[0] / "here.zarr", tmp_path / "c.zarr")
    (tmp_path / "c.zarr" / CHUNK).write_bytes(flipped((tmp_path / "c.zarr" / CHUNK).read_bytes()))
    with pytest.raises(sealed.IncompleteStoreError, match=f"{CHUNK} is not the file that was written"):
        upload.hand_over(tmp_path / "c.zarr", URL)
    assert "manifest.json" not in server.content(URL)
    assert (tmp_path / "c.zarr" / CHUNK).exists()


def test_a_pointer_to_elsewhere_is_not_taken_up(both, server, caplog):
    with pytest.raises(ValueError, match=f"there.zarr lies at {URL}, not at s3://bucket/else; delete it"):
        upload.hand_over(both[1], "s3://bucket/else")
    scored = []
    with caplog.at_level(logging.INFO):
        extract(both[1], log=scored.append)
    assert "points to another place than this disk; it begins anew" in caplog.text
    assert len(scored) == 3
    assert content(both[1]) == content(both[0])
