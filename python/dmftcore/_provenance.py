"""What a result was computed from: the nouns in plain values, and the versions."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["describe", "provenance"]


def provenance() -> dict[str, str]:
    """Versions and platform, as stored with every result."""
    return {**_versions(), "date": datetime.now(UTC).isoformat(timespec="seconds")}


@functools.cache
def _versions() -> dict[str, str]:
    # Cached: reading package metadata takes longer than a small solve.
    return {
        **{name: metadata.version(name) for name in ("dmftcore", "numpy", "scipy")},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def describe(value: Any) -> Any:
    """`value` in values that JSON can hold, equal for equal values.

    A noun becomes ``{"type": its class, field: ...}``; an array is represented by its shape,
    dtype and SHA-256; sequences become lists.

    Raises
    ------
    TypeError
        For a value that has no such form.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return _fingerprint(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    raise TypeError(f"cannot describe a {type(value).__name__} in a configuration")


def _fingerprint(array: npt.NDArray[Any]) -> dict[str, Any]:
    # Little-endian bytes in C order, so that the hash does not depend on machine or memory layout.
    ordered = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "sha256": hashlib.sha256(ordered.tobytes()).hexdigest(),
    }
