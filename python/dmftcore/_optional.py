"""Optional dependencies, imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["optional_import"]


def optional_import(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import `module`, or say which extra of dmftcore brings it.

    Raises
    ------
    ImportError
        If `module` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs {module.partition('.')[0]}, which is not installed: "
            f'pip install "dmftcore[{extra}]"'
        ) from error
