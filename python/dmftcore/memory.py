"""The memory plan of a run: what it will need, and whether it fits, before its first step."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmftcore import _arrays

__all__ = ["Plan", "check_memory", "library_with_room", "readable"]

#: Silent unless the program that uses the library listens.
_log = logging.getLogger("dmftcore")


@dataclass(frozen=True)
class Plan:
    """Memory a run will need, by part, in bytes."""

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def of(self, parts: Iterable[str]) -> Plan:
        """These parts alone."""
        return Plan({part: self.parts[part] for part in parts})

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {readable(size)}" for name, size in self.parts.items() if size)
        return f"{readable(self.total)} ({sizes})"


def check_memory(
    plan: Plan,
    remedies: Mapping[str, str],
    available: int | None = None,
    *,
    nested: bool = False,
) -> None:
    """Log the plan of a run, and refuse one that cannot fit into the available memory.

    Parameters
    ----------
    plan : Plan
        What the run needs.
    remedies : mapping
        For every part of the plan, what to change if it is the largest.
    available : int, optional
        Bytes of a device, for what will lie there; by default the memory of the host.
    nested : bool
        The run is a part of another, whose plan has been logged.

    Raises
    ------
    MemoryError
        With the sizes and what to change.
    """
    where = "memory" if available is None else "device memory"
    if not nested:
        _log.info("planned %s: %s", where, plan)
    if available is None:
        available = _available_memory()
    if plan.total > available:
        remedy = remedies[max(plan.parts, key=lambda part: plan.parts[part])]
        raise MemoryError(
            f"this run needs {plan}, but {readable(available)} of {where} are available; {remedy}"
        )


def library_with_room(
    device: str,
    plan: Plan,
    remedies: Mapping[str, str],
    *,
    on_device: Collection[str],
    nested: bool = False,
) -> Any:
    """The array library of a run, whose plan fits where its parts will lie.

    Parameters
    ----------
    device : {"cpu", "cuda"}
    plan, remedies, nested
        As in `check_memory`.
    on_device : collection of str
        The parts of the plan that lie on the device, if there is one.

    Returns
    -------
    module
        numpy or cupy.

    Raises
    ------
    MemoryError
        As `check_memory`, of the device and of the host.
    """
    if device == "cpu":
        check_memory(plan, remedies, nested=nested)
        return np
    library = _arrays.device_library()
    check_memory(plan.of(on_device), remedies, _arrays.device_memory(library), nested=nested)
    check_memory(plan.of(plan.parts.keys() - set(on_device)), remedies, nested=nested)
    return library


def _available_memory() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def readable(size: float) -> str:
    """A number of bytes in the unit that fits, to three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
