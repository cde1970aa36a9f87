"""The GPU of the tests. Where there is none they are skipped, or fail if one is required."""

import importlib.util
import os

import pytest

from dmftcore import _core


def missing():
    """Why there is no GPU to test on; None if there is one."""
    count, reason = _core.cuda_status()
    if not count:
        return reason
    return None if importlib.util.find_spec("cupy") else "cupy is not installed"


def cupy():
    """The library cupy, with a GPU to work on."""
    reason = missing()
    if reason is not None:
        if os.environ.get("DMFTCORE_REQUIRE_GPU") == "1":
            pytest.fail(f"a GPU is required: {reason}")
        pytest.skip(reason)
    import cupy

    return cupy
