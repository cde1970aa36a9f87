"""The checked options of a simulation, as handed to the networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dmftcore.checkpoint import Checkpoint
from dmftcore.march import Progress
from dmftcore.schedule import Schedule

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """How many networks of which width to train, and what to record of them."""

    #: None where the limit says it.
    width: Any
    seeds: int
    seed: int
    schedule: Schedule
    save: tuple[str, ...]
    progress: Progress | None
    device: str
    checkpoint: Checkpoint | None = None
