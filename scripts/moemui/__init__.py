"""The Model Utilization Index of Mixture-of-Experts models. In a notebook: `moemui.load(path).mui(threshold=0.001)`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moemui.cell import Cell, Mui, load

__all__ = ["Cell", "Mui", "load"]


def __getattr__(name: str) -> Any:
    # By name, when it is asked for: `import moemui` stays instant, and what a cell imports counts for no job's digest.
    if name in __all__:
        return getattr(import_module("moemui.cell"), name)
    raise AttributeError(f"module 'moemui' has no attribute {name!r}")
