"""A conda channel on this machine: Python as it runs here, and pip. Everything else comes from pip in environments/."""

from __future__ import annotations

import asyncio
import ensurepip
import hashlib
import io
import json
import platform
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
# Parts of the standard library that no program needs to run.
LEFT_OUT = {"test", "tests", "site-packages", "__pycache__", "idlelib", "turtledemo", "lib2to3"}


def missing() -> str | None:
    """Why no channel can be made here, in a sentence; None where it can."""
    if find_spec("rattler") is None:
        return "conda environments are solved and installed by py-rattler, which is missing: pip install py-rattler"
    base = Path(sys.base_prefix, "bin", f"python{VERSION}")
    advice = "a conda package is made from it, so use a Python from python.org, pyenv or uv"
    if sys.platform == "win32" or not base.is_file():
        return f"there is no interpreter {base}; {advice}"
    asked = "import sysconfig; print(sysconfig.get_default_scheme())"
    scheme = subprocess.run([base, "-I", "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    if scheme != "posix_prefix":
        return f"{base} has packages where its distribution wants them ({scheme}), not in its prefix; {advice}"
    if not _pip_wheels():
        return f"{base} brings no pip in ensurepip; {advice}"
    return None


def build(folder: Path) -> None:
    """Make a channel of a folder. Where nothing can be made of this interpreter, `missing` says so."""
    from rattler.index import index_fs
    from rattler.platform import Subdir

    subdir = folder / str(Subdir.current())
    subdir.mkdir(parents=True)
    (folder / "noarch").mkdir()
    _write(subdir, "python", platform.python_version(), [], _python())
    site = f"lib/python{VERSION}/site-packages"
    with zipfile.ZipFile(_pip_wheels()[0]) as wheel:
        files = {f"{site}/{name}": wheel.read(name) for name in wheel.namelist() if not name.endswith("/")}
    _write(subdir, "pip", ensurepip.version(), [f"python {VERSION}.*"], files)
    asyncio.run(index_fs(folder, write_zst=False, write_shards=False))


def _pip_wheels() -> list[Path]:
    return sorted(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"))


def _python() -> dict[str, Path | str]:
    """Files of the interpreter by their place in an environment; text is where a link points."""
    base, name = Path(sys.base_prefix), f"python{VERSION}"
    files: dict[str, Path | str] = {f"bin/{name}": base / "bin" / name, "bin/python": name, "bin/python3": name}
    library = base / "lib"
    files |= {f"lib/{file.name}": file for file in library.glob("libpython3*") if file.is_file()}
    for file in sorted((library / name).rglob("*")):
        below = file.relative_to(library / name)
        if file.is_file() and not LEFT_OUT & set(below.parts) and not below.parts[0].startswith("config-"):
            files[f"lib/{name}/{below.as_posix()}"] = file
    return files


def _write(subdir: Path, name: str, version: str, depends: list[str], files: Mapping[str, Path | bytes | str]) -> None:
    """One package in the format of conda."""
    paths: list[dict[str, str | int]] = []
    with tarfile.open(subdir / f"{name}-{version}-0.tar.bz2", "w:bz2", compresslevel=1) as archive:

        def add(place: str, data: bytes, mode: int = 0o644) -> None:
            entry = tarfile.TarInfo(place)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))

        for place, source in files.items():
            if isinstance(source, str):
                link = tarfile.TarInfo(place)
                link.type, link.linkname = tarfile.SYMTYPE, source
                archive.addfile(link)
                paths.append({"_path": place, "path_type": "softlink"})
                continue
            data = source if isinstance(source, bytes) else source.read_bytes()
            add(place, data, source.stat().st_mode & 0o777 if isinstance(source, Path) else 0o644)
            sha256 = hashlib.sha256(data).hexdigest()
            paths.append({"_path": place, "path_type": "hardlink", "sha256": sha256, "size_in_bytes": len(data)})
        index = {"name": name, "version": version, "build": "0", "build_number": 0, "depends": depends}
        index |= {"subdir": subdir.name, "timestamp": 1_700_000_000_000}  # solvers refuse packages without a time
        add("info/index.json", json.dumps(index).encode())
        add("info/paths.json", json.dumps({"paths": paths, "paths_version": 1}).encode())
        add("info/files", "".join(f"{place}\n" for place in files).encode())
