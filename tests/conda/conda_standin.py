"""What Snakemake 9 asks of conda, answered by py-rattler: for tests, where conda itself can't be had.

Channels are folders below CONDA_CHANNEL_ALIAS by their names, so `conda-forge` in an environment's file means one of
them. Environments are solved and installed from there as conda does, then pip installs what stands under `pip:`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from rattler import Gateway, VirtualPackage, install, solve
from rattler.platform import Subdir

HERE = Path(os.environ["CONDA_ROOT"])
VERSION = "24.7.1"  # the oldest that Snakemake takes


async def create(specs: list[str], channels: list[str], prefix: Path) -> None:
    """An environment of conda packages."""
    records = await solve(
        sources=[f"{os.environ['CONDA_CHANNEL_ALIAS']}/{channel}" for channel in channels if channel != "nodefaults"],
        specs=specs,
        platforms=[Subdir.current(), Subdir("noarch")],
        virtual_packages=VirtualPackage.detect(),
        gateway=Gateway(cache_dir=HERE / "repodata"),
    )
    await install(records, prefix, cache_dir=HERE / "pkgs", show_progress=False)


def pip_install(lines: list[str], prefix: Path) -> None:
    """As conda does it: one call of the environment's own pip with a requirements file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "requirements.txt")
        file.write_text("\n".join(lines))
        command: list[str | Path] = [
            prefix / "bin/python",
            "-m",
            "pip",
            "install",
            "-q",
            "-U",
            "-r",
            file,
            "--exists-action=b",
        ]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def env_create(words: list[str]) -> None:
    """conda env create --quiet --no-default-packages --file FILE --prefix PREFIX"""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--no-default-packages", action="store_true")
    parser.add_argument("--file", required=True, type=Path)
    parser.add_argument("--prefix", required=True, type=Path)
    asked = parser.parse_args(words)
    content = yaml.safe_load(asked.file.read_text())
    specs = [entry for entry in content["dependencies"] if isinstance(entry, str)]
    pip = [line for entry in content["dependencies"] if isinstance(entry, dict) for line in entry["pip"]]
    asyncio.run(create(specs, content["channels"], asked.prefix))
    if pip:
        pip_install(pip, asked.prefix)


match sys.argv[1:]:
    case ["--version"]:
        print(f"conda {VERSION}")
    case ["info", "--json"]:
        print(json.dumps({"conda_prefix": str(HERE), "platform": str(Subdir.current()), "conda_version": VERSION}))
    case ["config", "--get", "channel_priority", "--json"]:
        print(json.dumps({"get": {"channel_priority": "strict"}}))
    case ["env", "create", *words]:
        env_create(words)
    case ["clean", "-y", "--tarballs"]:
        pass  # a cache of its own, which goes with the tests' folder
    case words:
        sys.exit(f"this stand-in for conda knows what Snakemake 9 asks of it, not {words}")
