"""What each conda environment must hold: the rules that use it, what their scripts import, and what that requires."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
STAGES = {
    "model": "Stages with a model: training, checkpoints, responses, contributions, masking.",
    "analysis": "Stages that read stores and tables, and the report.",
    "tracking": "Run records to MLflow.",
}
# Who imports the first needs the others, though nothing imports them and its metadata doesn't ask for them.
NOT_IMPORTED = {
    "pandas": {"pyarrow": "pandas reads and writes Parquet with it"},
    "transformers": {"accelerate": "transformers places weights on devices with it"},
}
# The scripts that import by a computed name, and the modules that they mean.
EXPERIMENTS = "moemui/experiments/*"
COMPUTED = {
    SCRIPTS / "measure_experiment.py": (f"{EXPERIMENTS}/__init__.py", f"{EXPERIMENTS}/measure.py"),
    SCRIPTS / "judge_experiment.py": (f"{EXPERIMENTS}/__init__.py", f"{EXPERIMENTS}/effects.py"),
}
# Asked in a process of its own: reading the Snakefile changes sys.path and imports the workflow's modules.
ASK = """
import json, sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings

with SnakemakeApi(OutputSettings()) as api:
    rules = api.workflow(
        resource_settings=ResourceSettings(cores=1),
        config_settings=ConfigSettings(configfiles=[Path(sys.argv[1])]),
        snakefile=Path("Snakefile"),
    )._workflow.rules
    print(json.dumps([
        {"name": rule.name, "script": rule.script, "env": rule.conda_env and str(rule.conda_env)}
        for rule in rules
        if not rule.norun
    ]))
"""


@dataclass(frozen=True)
class Rule:
    """A rule that runs something. script: its path, None where it runs something else; env: name of its environment."""

    name: str
    script: Path | None
    env: str | None


@cache
def rules(config: str, folder: Path = ROOT) -> tuple[Rule, ...]:
    """Every rule of a study that runs something, as Snakemake itself has read the Snakefile in a folder."""
    run = subprocess.run([sys.executable, "-c", ASK, config], cwd=folder, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"Snakemake could not read the Snakefile with {config}: {run.stderr[-2000:]}")
    return tuple(
        Rule(found["name"], script, Path(found["env"]).stem if found["env"] else None)
        for found in json.loads(run.stdout)
        for script in _scripts(found["script"])
    )


def _scripts(path: str | None) -> list[Path | None]:
    """A rule's script, and the modules that it imports by a computed name."""
    if path is None:
        return [None]
    script = SCRIPTS / Path(path).name
    return [script, *by_name(script)]


def by_name(script: Path) -> list[Path]:
    """The modules that a script imports by a name made up as it runs; none for most."""
    return sorted(path for pattern in COMPUTED.get(script, ()) for path in SCRIPTS.glob(pattern))


def environments() -> dict[str, set[Path]]:
    """Scripts by the environment in which a rule of the smoke study, which has every stage, runs them."""
    found: dict[str, set[Path]] = {path.stem: set() for path in sorted((ROOT / "envs").glob("*.yaml"))}
    for rule in rules("config/smoke.yaml"):
        if rule.env and rule.script:
            found[rule.env].add(rule.script)
    return found


def pip_pins(env: str) -> list[Requirement]:
    """What an environment installs with pip."""
    dependencies = yaml.safe_load(yaml_path(env).read_text())["dependencies"]
    return [Requirement(line) for entry in dependencies if isinstance(entry, dict) for line in entry["pip"]]


def normal(name: str) -> str:
    """A distribution's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True)
class Import:
    """A module imported in a file. function: the function or method in which it is imported late; None at the top."""

    module: str
    line: int
    function: str | None


def reached(script: Path) -> list[tuple[Path, Import]]:
    """Every import of a script and of the project modules that it imports, in packages too, with its file.

    What a function imports late counts if some of these files name that function.
    """
    files, names = {script}, set(_read(script).names)
    while True:
        found = [
            (path, each)
            for path in sorted(files)
            for each in _read(path).imports
            if each.function is None or each.function in names
        ]
        more = {file for _, each in found for file in _project_files(each.module)} - files
        if not more:
            return found
        files |= more
        names.update(*(_read(path).names for path in more))


def is_third_party(module: str) -> bool:
    """Whether a module is neither the project's nor Python's."""
    top = module.partition(".")[0]
    return top not in sys.stdlib_module_names and not _project_files(top) and not (SCRIPTS / top).is_dir()


def third_party(script: Path) -> dict[str, str]:
    """Distributions that a script imports through all its project modules, each with a place that does so.

    Names are normal. Raises ModuleNotFoundError for an import that is neither the project's, Python's nor installed.
    """
    by_module = _distributions()
    found: dict[str, str] = {}
    for path, each in reached(script):
        if not is_third_party(each.module):
            continue
        top = each.module.partition(".")[0]
        place = f"{path.relative_to(SCRIPTS)}:{each.line} imports {each.module}"
        if top not in by_module:
            raise ModuleNotFoundError(f"{place}, which no installed distribution brings")
        # Several distributions may share a module, as MLflow's do: the one of its name brings the others.
        names = sorted({normal(name) for name in by_module[top]})
        found.setdefault(normal(top) if normal(top) in names else names[0], place)
    return found


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


@dataclass(frozen=True)
class File:
    """What a file imports, and every name that it uses (not those that it only defines)."""

    imports: tuple[Import, ...]
    names: frozenset[str]


@cache
def _read(path: Path) -> File:
    """A project file. Raises ValueError for an import that can't be read off: one by a computed name."""
    imports: list[Import] = []
    names: set[str] = set()
    for node, function in _runs(ast.parse(path.read_text()), None):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = path.relative_to(SCRIPTS).parts[: -node.level]
                base = ".".join([*package, *([base] if base else [])])
            modules = [base, *(f"{base}.{alias.name}" for alias in node.names)]
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and _callee(node) in ("import_module", "__import__"):
            if path in COMPUTED:
                continue
            if not (node.args and isinstance(node.args[0], ast.Constant)):
                raise ValueError(f"{path}:{node.lineno} imports by a computed name; write the name out")
            modules = [str(node.args[0].value)]
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        imports += [Import(module, getattr(node, "lineno", 0), function) for module in modules]
    return File(tuple(imports), frozenset(names))


def _runs(node: ast.AST, function: str | None) -> Iterator[tuple[ast.AST, str | None]]:
    """Nodes of a tree that may run, each with the outermost function it stands in that is called by its name.

    What only a type checker sees is left out. Decorated functions and `__methods__` may be called by others.
    """
    yield node, function
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        children: Iterable[ast.AST] = node.orelse
    else:
        children = ast.iter_child_nodes(node)
    for child in children:
        inner = function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            by_name = not child.decorator_list and not child.name.startswith("__")
            inner = function or (child.name if by_name else None)
        yield from _runs(child, inner)


def _callee(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _project_files(name: str) -> list[Path]:
    """The files that importing a project module runs; none for other modules."""
    parts = name.split(".")
    files = [SCRIPTS.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    files.append(SCRIPTS.joinpath(*parts).with_suffix(".py"))
    return [path for path in files if path.is_file()]


def required(pins: Iterable[Requirement]) -> set[str]:
    """Normal names of all distributions that some requirements bring, themselves included, by installed metadata."""
    found: set[tuple[str, str]] = set()
    waiting = [(normal(pin.name), extra) for pin in pins for extra in ("", *pin.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        for line in lines:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(normal(requirement.name), each) for each in ("", *requirement.extras)]
    return {name for name, _ in found}


def lock() -> dict[str, str]:
    """Lines of requirements.lock by normal name."""
    lines = (ROOT / "requirements.lock").read_text().split()
    return {normal(line.split("==")[0]): line for line in lines}


def ranges(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, with some of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines]


def yaml_path(env: str) -> Path:
    """An environment's file."""
    return ROOT / "envs" / f"{env}.yaml"


def imported(env: str) -> dict[str, str]:
    """Distributions that the scripts of an environment import, each with a place that does so."""
    return {name: place for script in sorted(environments()[env]) for name, place in third_party(script).items()}


def content(env: str) -> str:
    """What an environment's file must say.

    Raises ValueError for an import that the lock does not pin.
    """
    places, locked = imported(env), lock()
    for name in sorted(set(places) - set(locked)):
        raise ValueError(
            f"{places[name]}, and requirements.lock has no {name}; add it to pyproject.toml, then run `make lock`"
        )
    reasons = {name: reason for by in places for name, reason in NOT_IMPORTED.get(by, {}).items() if name not in places}
    extras = {normal(each.name): each.extras for each in ranges()}
    direct = [Requirement(_with_extras(locked[name], extras.get(name))) for name in sorted({*places, *reasons})]
    others = sorted((required(direct) & set(locked)) - {normal(each.name) for each in direct})
    lines = [
        f"# {STAGES[env]}",
        "# Written by `make environments`: what the scripts import, and what that requires, with the pins of the lock.",
        f"name: moemui-{env}",
        "channels:",
        "  - conda-forge",
        "  - nodefaults",
        "dependencies:",
        "  - python >=3.11,<3.14",
        "  - pip",
        "  - pip:",
        *(f"      - {each}{_comment(reasons.get(normal(each.name)))}" for each in direct),
        "      # Required by these.",
        *(f"      - {locked[name]}" for name in others),
    ]
    return "\n".join(lines) + "\n"


def _with_extras(pin: str, extras: set[str] | None) -> str:
    return pin.replace("==", f"[{','.join(sorted(extras))}]==") if extras else pin


def _comment(reason: str | None) -> str:
    return f"  # {reason}" if reason else ""
