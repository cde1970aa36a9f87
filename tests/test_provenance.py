"""Nouns described in plain values."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import tomllib
from pathlib import Path

import numpy as np
import pytest

from dmftcore._provenance import describe, provenance
from dmftcore.data import Dataset
from dmftcore.limits.linear import DeepLinear


def test_a_noun_becomes_its_type_and_fields():
    assert describe(DeepLinear(depth=3, gamma=0.5)) == {
        "type": "DeepLinear",
        "depth": 3,
        "gamma": 0.5,
        "init_scale": 1.0,
        "branch_scale": None,
        "branch": "sqrt",
        "readout": "gd",
    }


def test_arrays_are_known_by_their_values_not_their_layout():
    values = np.arange(6.0).reshape(2, 3)
    described = describe(values)
    assert described["shape"] == [2, 3]
    assert described["dtype"] == "float64"
    little_endian = struct.pack("<6d", *range(6))
    assert described["sha256"] == hashlib.sha256(little_endian).hexdigest()
    assert described == describe(np.asfortranarray(values))
    changed = values.copy()
    changed[1, 2] = np.nextafter(5.0, 6.0)
    assert describe(changed)["sha256"] != described["sha256"]


def test_a_description_is_json():
    data = Dataset(gram=np.eye(2), targets=[1, 2])
    nested = {"data": data, "depth": math.inf, "many": (np.int64(3), np.float64(0.5), None)}
    described = describe(nested)
    assert json.loads(json.dumps(described)) == described
    assert described["many"] == [3, 0.5, None]
    assert described["data"]["inputs"] is None


def test_what_has_no_plain_form_is_refused():
    with pytest.raises(TypeError, match="cannot describe a function"):
        describe({"f": test_a_description_is_json})


def test_provenance_names_the_versions():
    with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    found = provenance()
    assert found["dmftcore"] == version
    assert found["numpy"] == np.__version__
    assert {"scipy", "python", "platform", "date"} <= set(found)
