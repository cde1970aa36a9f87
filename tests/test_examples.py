"""The examples run, the long ones on fewer steps, and each leaves its picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

FEW_RATES = np.geomspace(0.01, 0.1, 3)

#: Constants of examples that take long, as small as their pictures allow.
QUICK = {
    "attention_and_depth": {"STEPS": 4, "DEPTHS": (4, 8)},
    "compute_optimal": {"BUDGETS": np.geomspace(1e3, 1e5, 3), "SIZES": (10.0,)},
    "attention_convergence": {
        "KEYS": (2, 4),
        "HEADS": (2, 4),
        "NETWORKS": 8,
        "SAMPLES": 64,
    },
    "attention_rate_transfer": {
        "KEYS": (2, 4),
        "HEADS": (1, 2),
        "RATES": FEW_RATES,
        "NETWORKS": 2,
        "SAMPLES": 32,
    },
    "data_repetition": {"STEPS": 10, "WIDTH": 20, "SEEDS": 2},
    "depth_transfer": {"STEPS": 6, "DEPTHS": (2, 3), "RATES": FEW_RATES},
    "feature_movement": {
        "GAMMAS": (0.3, 1.0),
        "STEPS": 4,
        "SAMPLES": 200,
        "WIDTH": 40,
        "SEEDS": 2,
    },
    "hard_and_easy_tasks": {"LAST": 1e3},
    "head_collapse": {"KEYS": (2, 4), "SAMPLES": 32},
    "learning_rate_transfer": {
        "STEPS": 6,
        "WIDTHS": (1, 4),
        "RATES": FEW_RATES,
        "INPUTS": 10,
    },
    "march_against_networks": {
        "SAMPLES": (100, 200),
        "WIDTHS": (20, 40),
        "STEPS": 4,
        "RUNS": 2,
        "REFERENCE": 200,
    },
    "many_heads": {"HEADS": (2, 4), "DIMENSIONS": (2, 4), "NETWORKS": 20, "SAMPLES": 40},
    "power_law_rich": {"STEPS": 20},
    "transformer_learning_rate": {"STEPS": 3, "DEPTHS": (1, 2), "RATES": FEW_RATES},
    "residual_rate_transfer": {
        "STEPS": 2,
        "DEPTHS": (1, 2),
        "RATES": FEW_RATES,
        "SAMPLES": 100,
    },
    "wider_is_better": {"STEPS": 16, "INPUTS": 20, "SEEDS": 2},
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    for name, value in QUICK.get(path.stem, {}).items():
        monkeypatch.setattr(example, name, value)
    example.main()
    (picture,) = tmp_path.iterdir()
    assert picture.name == f"{path.stem}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_readme_examples_run():
    """The Python blocks of the README, as they stand there."""
    blocks = (ROOT / "README.md").read_text().split("```python\n")[1:]
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block.partition("```")[0], "README.md", "exec"), {})


def test_every_example_says_what_it_shows():
    assert len(EXAMPLES) >= 3
    for path in EXAMPLES:
        text = path.read_text()
        assert text.endswith('\n\nif __name__ == "__main__":\n    main()\n'), path.name
        docstring = text.partition('"""')[2].partition('"""')[0]
        assert f"Writes {path.stem}.png" in " ".join(docstring.split()), path.name
