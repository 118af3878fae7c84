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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moemui.models import hub, weights

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
        if Path(gguf).name != gguf:
            raise ValueError(f"gguf is {gguf!r}; it is the name of a file in {folder}, without a folder before it")
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


def configuration(source: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> Path:
    """The folder with a checkpoint's config.json and the code it may bring, without the weights of a hub repository.

    source, checkpoint, errors: as `resolve`; source is one of {hub: repo} and {path: folder}.
    """
    if "hub" not in source:
        folder = Path(str(source["path"])).expanduser()
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"there is no config.json in {folder}; name the folder that holds the checkpoint")
        return folder
    repo = str(source["hub"])
    _, commit, _ = hub.pin(repo, checkpoint)
    return hub.download(repo, commit, only=["*.json", "*.py"])


def _resolve_hub(repo: str, checkpoint: Mapping[str, Any], trust_remote_code: bool) -> dict[str, Any]:
    revision, commit, sha256 = hub.pin(repo, checkpoint)
    # Before the weights: they can be hundreds of gigabytes.
    weights.refuse_packed(hub.download(repo, commit, only=["*.json"]) / "config.json", repo)
    ignored = [*OTHER_FORMATS, *(["*.bin"] if any(name.endswith(".safetensors") for name in sha256) else [])]
    folder = hub.download(repo, commit, ignored=ignored)
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


def digest(file: Path) -> dict[str, Any]:
    """{bytes, sha256} of a file."""
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def identity(manifest: Mapping[str, Any]) -> str:
    """What a checkpoint is, in one word: its commit on the hub, else the SHA-256 over its files' names and digests."""
    if manifest["commit"]:
        return str(manifest["commit"])
    lines = "".join(f"{name} {file['sha256']}\n" for name, file in sorted(manifest["files"].items()))
    return hashlib.sha256(lines.encode()).hexdigest()


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


def load(
    manifest: Mapping[str, Any], dtype: str = "float32", *, device_map: str | Mapping[str, Any] | None = None
) -> tuple[Any, Any]:
    """The model, in evaluation mode, and the tokenizer of a manifest. MXFP4 and FP8 weights are dequantised.

    dtype: one of `DTYPES`; auto is the one that the checkpoint declares. device_map: passed to transformers
    (accelerate) where a model is spread over devices; without it the model lies on the first GPU, else on the CPU.

    Raises ValueError, before the weights are loaded, for code of the checkpoint's own that nobody trusted or that does
    not run, for other quantised weights and for a folder without a tokenizer; afterwards for what
    `weights.refuse_unusable` refuses, and for a tokenizer that knows ids that the head has no row for.
    """
    import torch
    from transformers import AutoModelForCausalLM, __version__

    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; a checkpoint loads as one of {', '.join(DTYPES)}")
    check_files(manifest)
    options: dict[str, Any] = {"trust_remote_code": manifest["trust_remote_code"]}
    if manifest["gguf"]:
        options["gguf_file"] = manifest["gguf"]  # transformers dequantises GGUF by itself
        reading = {}
    else:
        config = Path(manifest["path"]) / "config.json"
        refuse_unknown(config, describe(manifest), trusted=manifest["trust_remote_code"])
        reading = weights.dequantising(Path(manifest["path"]), describe(manifest))
    placed: Any = device_map
    if placed is None and torch.cuda.is_available():
        placed = {"": 0}  # straight to the GPU, without a copy in main memory first
    with without_bars():
        tokenizer = _tokenizer(manifest, options)
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                manifest["path"], dtype=dtype, device_map=placed, output_loading_info=True, **options, **reading
            )
        except ImportError as error:
            # Old code of a checkpoint's own asks for names that transformers has given up, or for further packages.
            raise ValueError(
                f"{describe(manifest)} needs what is not installed beside transformers {__version__} "
                f"({' '.join(str(error).split())}); install it, or bring the code that comes with the checkpoint up to "
                "date in a local copy of its folder and name that"
            ) from error
    model, report = loaded
    weights.refuse_unusable(model, report, describe(manifest))
    _refuse_unknown_ids(manifest, tokenizer, model)
    return model.eval(), tokenizer


def refuse_unknown(config: Path, name: str, *, trusted: bool) -> None:
    """Refuse an architecture that transformers does not have, and code of the checkpoint's own that nobody trusted.

    config: a config.json. Raises ValueError that says what to do.
    """
    from transformers import CONFIG_MAPPING, __version__

    record = json.loads(config.read_text(encoding="utf-8"))
    family = record.get("model_type")
    if family in CONFIG_MAPPING:
        return
    code = (record.get("auto_map") or {}).get("AutoModelForCausalLM")
    if not code:
        raise ValueError(
            f"{name} has the model type {family!r}, which transformers {__version__} does not know; use a version that "
            "does, or a checkpoint that brings its own code"
        )
    if not trusted:
        raise ValueError(
            f"{name} runs on code of its own ({code}), which transformers does not have; read that code, and set "
            "trust_remote_code: true for this model if you trust it"
        )


def _tokenizer(manifest: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    from transformers import AutoTokenizer

    reason: Exception | None = None
    try:
        tokenizer = AutoTokenizer.from_pretrained(manifest["path"], **options)
        # Without files, some of transformers' classes make a tokenizer that knows its special tokens and nothing else.
        if set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab()):
            return tokenizer
    except (OSError, ValueError, KeyError) as error:
        reason = error
    raise ValueError(
        f"{describe(manifest)} has no tokenizer that can be loaded; put its tokenizer files (tokenizer.json, "
        "tokenizer_config.json) beside config.json"
    ) from reason


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


def _refuse_unknown_ids(manifest: Mapping[str, Any], tokenizer: Any, model: Any) -> None:
    rows = model.get_output_embeddings().weight.shape[0]
    beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
    if beyond:
        raise ValueError(
            f"the tokenizer of {describe(manifest)} has ids up to {beyond[-1][0]} but the head has {rows} rows: "
            f"{weights.shorten([token for _, token in beyond])}; put the tokenizer that these weights were made with "
            "beside them"
        )


def describe(manifest: Mapping[str, Any]) -> str:
    """A manifest in a few words, for messages."""
    if manifest["kind"] == "hub":
        return f"{manifest['repo']} at {manifest['commit'][:12]}"
    return str(Path(manifest["path"]) / manifest["gguf"]) if manifest["gguf"] else str(manifest["path"])


def _listing(what: str, files: Iterable[Path]) -> str:
    names = sorted(file.name for file in files)
    return f"{what}: {weights.shorten(names)}" if names else f"{what}: none"
