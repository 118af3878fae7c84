"""From what a configuration calls a checkpoint to a model in memory.

`resolve` pins a checkpoint to exact bytes and returns a manifest of plain types (checkpoint.json); `load` turns a
manifest into a model and its tokenizer. `resolve` never imports torch or transformers.

A manifest holds: kind (`hub`, `local`, `gguf` or `trained`), path (folder with the files), gguf (file name in it, else
null), repo, revision and commit (hub only, else null), trust_remote_code, chat_template (whether the tokenizer brings
one) and files ({name: {bytes, sha256}}; the sha256 of a hub file is null where the hub tells none: there the commit is
the identity).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMIT = re.compile(r"[0-9a-f]{40}")
KINDS = ("hub", "path", "train")
DTYPES = ("auto", "float32", "bfloat16", "float16")
# Copies of the weights in formats that are not read here; without this a download can be three times as large.
OTHER_FORMATS = ("*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.tflite", "*.ot", "*.pth", "original/*")


def resolve(
    source: Mapping[str, Any], checkpoint: Mapping[str, Any], *, training: str | Path | None = None
) -> dict[str, Any]:
    """Pin a checkpoint and return its manifest; files on the hub are downloaded to the local hub cache.

    source: {hub: repo} or {path: folder} or {path: folder, gguf: file} or {train: family}, each with an optional
        trust_remote_code (default false).
    checkpoint: for a hub source {revision (default main), commit (40 hexadecimal digits, optional)}; for a trained
        one {step}.
    training: folder with the snapshots of the training run, for a trained source.

    Raises ValueError for a source of no known kind or a commit that differs from the pinned one, FileNotFoundError
    for a folder, GGUF file or snapshot that does not exist, ConnectionError where the hub cannot be reached.
    """
    kinds = [kind for kind in KINDS if kind in source]
    if len(kinds) != 1:
        raise ValueError(f"source has {sorted(source)}; it names exactly one of {', '.join(KINDS)}")
    trust = bool(source.get("trust_remote_code", False))
    if kinds == ["hub"]:
        return _resolve_hub(str(source["hub"]), checkpoint, trust)
    if kinds == ["train"]:
        if training is None:
            raise ValueError("a trained checkpoint needs the folder of its training run; none was given")
        return _resolve_folder("trained", _snapshot(Path(training), int(checkpoint["step"])), None, trust)
    gguf = source.get("gguf")
    return _resolve_folder("gguf" if gguf else "local", Path(str(source["path"])).expanduser(), gguf, trust)


def _resolve_folder(kind: str, folder: Path, gguf: str | None, trust_remote_code: bool) -> dict[str, Any]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; source path names the folder that holds the checkpoint")
    if gguf is not None:
        file = folder / gguf
        if not file.is_file():
            raise FileNotFoundError(
                f"there is no file {gguf} in {folder}; {_listing('GGUF files there', folder.glob('*.gguf'))}"
            )
        digests = {gguf: digest(file)}
    else:
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder} has no config.json, so it is no checkpoint that transformers can load; "
                "name the folder that holds config.json, the weights and the tokenizer, or a gguf file in it"
            )
        names = sorted(file.name for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
        digests = {name: digest(folder / name) for name in names}
    return {
        "kind": kind,
        "path": str(folder),
        "gguf": gguf,
        "repo": None,
        "revision": None,
        "commit": None,
        "trust_remote_code": trust_remote_code,
        "chat_template": has_chat_template(folder, gguf),
        "files": digests,
    }


def snapshot_name(step: int) -> str:
    """Folder of the weights that a training run kept after `step` steps."""
    return f"step-{step:05d}"


def _snapshot(training: Path, step: int) -> Path:
    folder = training / snapshot_name(step)
    if not folder.is_dir():
        saved = sorted(int(found.name.removeprefix("step-")) for found in training.glob("step-*") if found.is_dir())
        raise FileNotFoundError(
            f"the training run in {training} kept no step {step}; "
            + (f"it kept {', '.join(map(str, saved))}" if saved else "it kept none: run the training first")
        )
    return folder


def _resolve_hub(repo: str, checkpoint: Mapping[str, Any], trust_remote_code: bool) -> dict[str, Any]:
    import huggingface_hub
    from huggingface_hub import errors

    revision = str(checkpoint.get("revision") or "main")
    expected = checkpoint.get("commit")
    if expected is not None and not COMMIT.fullmatch(str(expected)):
        raise ValueError(f"commit of {repo} is {expected!r}; a commit is written as 40 hexadecimal digits")
    # errors.HTTPError is the root of what the hub's HTTP library raises, whichever library that is.
    # A configured commit is checked against what the revision means today, so a moved branch is noticed.
    sha256: dict[str, Any] = {}
    try:
        info = huggingface_hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
        commit = str(info.sha)
        for sibling in info.siblings or []:
            stored = dict(sibling.lfs or {})
            sha256[sibling.rfilename] = stored.get("sha256")
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ValueError(
            f"the hub has no model {repo} at revision {revision} that this account may read; check both names on "
            f"https://huggingface.co/{repo}/tree/main, and log in with `hf auth login` if the model is gated"
        ) from error
    except (errors.HTTPError, OSError) as error:
        commit = _cached_commit(repo, str(expected or revision), error)
    if expected is not None and commit != expected:
        raise ValueError(
            f"revision {revision} of {repo} is commit {commit}, but the configuration pins {expected}; "
            "set commit to the one you mean, or revision to the pinned commit itself"
        )
    ignored = [*OTHER_FORMATS, *(["*.bin"] if any(name.endswith(".safetensors") for name in sha256) else [])]
    try:
        folder = Path(huggingface_hub.snapshot_download(repo, revision=commit, ignore_patterns=ignored))
    except (errors.HTTPError, OSError) as error:
        raise ConnectionError(
            f"downloading {repo} at {commit} failed ({type(error).__name__}: {error}); run it again where the hub can "
            "be reached, finished files are kept"
        ) from error
    present = sorted(file for file in folder.rglob("*") if file.is_file())
    files = {}
    for file in present:
        name = file.relative_to(folder).as_posix()
        files[name] = {"bytes": file.stat().st_size, "sha256": sha256.get(name)}
    return {
        "kind": "hub",
        "path": str(folder),
        "gguf": None,
        "repo": repo,
        "revision": revision,
        "commit": commit,
        "trust_remote_code": trust_remote_code,
        "chat_template": has_chat_template(folder, None),
        "files": files,
    }


def _cached_commit(repo: str, revision: str, reason: Exception) -> str:
    """The commit of a revision in the local hub cache, for work without a network."""
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True)
    except Exception as error:
        raise ConnectionError(
            f"the hub cannot be reached ({type(reason).__name__}) and revision {revision} of {repo} is not in the "
            f"local cache; run once with a network, or `hf download {repo} --revision {revision}` elsewhere and point "
            "source path at the folder"
        ) from error
    return Path(folder).name


def digest(file: Path) -> dict[str, Any]:
    """{bytes, sha256} of a file."""
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def has_chat_template(folder: Path, gguf: str | None) -> bool:
    """Whether the tokenizer of a checkpoint brings a chat template, from its files alone."""
    if gguf is not None:
        from gguf import GGUFReader

        return GGUFReader(folder / gguf).get_field("tokenizer.chat_template") is not None
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))


def check_files(manifest: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose files are gone or have another size than when it was resolved."""
    folder = Path(manifest["path"])
    for name, expected in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise FileNotFoundError(f"{file} is gone since the checkpoint was resolved; resolve the checkpoint again")
        if file.stat().st_size != expected["bytes"]:
            raise ValueError(
                f"{file} has {file.stat().st_size} bytes but had {expected['bytes']} when the checkpoint was "
                "resolved; resolve the checkpoint again"
            )


def load(manifest: Mapping[str, Any], dtype: str = "float32", *, device_map: str | None = None) -> tuple[Any, Any]:
    """The model, in evaluation mode, and the tokenizer of a manifest.

    dtype: one of `DTYPES`; auto is the one that the checkpoint declares. device_map: passed to transformers
    (accelerate) where a model is spread over devices; without it the model lies on the first GPU, else on the CPU.

    Raises ValueError where a weight is missing from the files, so that transformers would invent it, or where the
    tokenizer knows ids that the head has no row for.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; a checkpoint loads as one of {', '.join(DTYPES)}")
    check_files(manifest)
    options: dict[str, Any] = {"trust_remote_code": manifest["trust_remote_code"]}
    if manifest["gguf"]:
        options["gguf_file"] = manifest["gguf"]
    placed: Any = device_map
    if placed is None and torch.cuda.is_available():
        placed = {"": 0}  # straight to the GPU, without a copy in main memory first
    weights: dict[str, Any] = {}
    if quantisation(manifest) == "mxfp4":
        from transformers.utils.quantization_config import Mxfp4Config

        # GPT-OSS: packed weights run through kernels of their own, in which no neuron can be seen.
        weights["quantization_config"] = Mxfp4Config(dequantize=True)
    with without_bars():
        tokenizer = AutoTokenizer.from_pretrained(manifest["path"], **options)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            manifest["path"], dtype=dtype, device_map=placed, output_loading_info=True, **options, **weights
        )
    model, report = loaded
    _refuse_invented(manifest, report)
    _refuse_unknown_ids(manifest, tokenizer, model)
    return model.eval(), tokenizer


def quantisation(manifest: Mapping[str, Any]) -> str | None:
    """How the checkpoint's weights are quantised, by its config.json, such as "mxfp4"; None where they are not."""
    config = Path(manifest["path"]) / "config.json"
    if manifest["gguf"] or not config.is_file():
        return None  # transformers dequantises GGUF by itself
    method = json.loads(config.read_text()).get("quantization_config", {}).get("quant_method")
    return str(method) if method else None


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of transformers inside: one a checkpoint fills a log and tells nothing."""
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()


def _refuse_invented(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    invented = sorted({*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])})
    if invented or report["error_msgs"]:
        raise ValueError(
            f"{describe(manifest)} lacks weights that its architecture needs, and they would be random numbers: "
            f"{_shorten(invented or report['error_msgs'])}; the files are incomplete, or config.json belongs to "
            "another model"
        )


def _refuse_unknown_ids(manifest: Mapping[str, Any], tokenizer: Any, model: Any) -> None:
    rows = model.get_output_embeddings().weight.shape[0]
    beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
    if beyond:
        raise ValueError(
            f"the tokenizer of {describe(manifest)} has ids up to {beyond[-1][0]} but the head has {rows} rows: "
            f"{_shorten([token for _, token in beyond])}; tokenizer and weights do not belong together"
        )


def describe(manifest: Mapping[str, Any]) -> str:
    """A manifest in a few words, for messages."""
    if manifest["kind"] == "hub":
        return f"{manifest['repo']} at {manifest['commit'][:12]}"
    return str(Path(manifest["path"]) / manifest["gguf"]) if manifest["gguf"] else str(manifest["path"])


def _shorten(names: Iterable[object], shown: int = 8) -> str:
    listed = [str(name) for name in names]
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more


def _listing(what: str, files: Iterable[Path]) -> str:
    names = sorted(file.name for file in files)
    return f"{what}: {_shorten(names)}" if names else f"{what}: none"
