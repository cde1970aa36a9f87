"""The examples run as they are, and each leaves its picture."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    (picture,) = tmp_path.iterdir()
    assert picture.name == f"{path.stem}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_readme_examples_run():
    """The Python blocks of the README, as they stand there."""
    blocks = (ROOT / "README.md").read_text().split("```python\n")[1:]
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block.partition("```")[0], "README.md", "exec"), {})


def test_every_example_says_what_it_shows():
    assert len(EXAMPLES) >= 3
    for path in EXAMPLES:
        docstring = path.read_text().partition('"""')[2].partition('"""')[0]
        assert f"Writes {path.stem}.png" in " ".join(docstring.split()), path.name
