"""The documentation: its links, its code, and an entry for every public name.

The pages themselves are built by `nox -s docs`, which takes a warning for an error.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
from pathlib import Path

import pytest

import dmftcore
from dmftcore import spectral, twotime

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
TEXTS = [*PAGES, *ROOT.glob("*.md")]
REFERENCE = (DOCS / "api.md").read_text()

#: Modules whose public names are all taken in by an automodule.
WHOLE = {"twotime": twotime, "spectral": spectral}


def code_blocks(path, language):
    return [
        block.partition("\n```")[0] + "\n"
        for block in path.read_text().split(f"```{language}\n")[1:]
    ]


def without_code(text):
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)


def anchors(path):
    """The anchors of the headings of a page, made as Markdown renderers make them."""
    headings = re.findall(r"^#+ (.*)$", without_code(path.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def test_every_public_name_has_an_entry():
    kinds = "(?:auto(?:class|function|exception)|data)"
    entries = re.findall(rf"^\.\. {kinds}:: (\w+)$", REFERENCE, re.M)
    modules = re.findall(r"^\.\. automodule:: dmftcore\.(\w+)$", REFERENCE, re.M)
    assert sorted(modules) == sorted([*WHOLE, "jax", "plotting"])
    assert sorted(entries) == sorted(set(dmftcore.__all__) - set(WHOLE))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = without_code(path.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        page = path.parent / name if name else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), target


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_named_files_exist(path):
    """Files of the repository that the text names: examples, tests, sources."""
    for name in re.findall(r"`((?:examples|tests|csrc|bench)/[\w./]+)`", path.read_text()):
        assert (ROOT / name).exists(), name


def test_every_page_is_in_the_contents():
    trees = "\n".join(
        re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(), re.S)
    )
    listed = [line for line in trees.splitlines() if line and not line.startswith(":")]
    for page in PAGES:
        if page.stem != "index":
            assert any(page.match(f"{entry}.md") for entry in listed), page.name


@pytest.mark.parametrize(
    "path", [path for path in PAGES if "```python" in path.read_text()], ids=lambda path: path.stem
)
def test_code_of_a_page_runs(path, tmp_path, monkeypatch):
    """From top to bottom, in one session."""
    blocks = code_blocks(path, "python")
    text = "".join(blocks)
    for library, used in {"xarray": "sweep(", "matplotlib": "plot", "jax": "import jax"}.items():
        if used in text:
            pytest.importorskip(library)
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path))
    session = {}
    for block in blocks:
        exec(compile(block, path.name, "exec"), session)


def test_the_configuration_file_of_the_tutorial_is_one(tmp_path):
    import numpy as np

    from dmftcore.config import read_config

    (text,) = code_blocks(DOCS / "tutorial.md", "toml")
    (tmp_path / "my.toml").write_text(text)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "digits.npz", inputs=rng.normal(size=(4, 6)), targets=rng.normal(size=4))
    found = read_config(tmp_path / "my.toml")
    assert found.limit == dmftcore.DeepLinear(depth=3, gamma=1.5)
    assert found.simulate["width"] == 800


# -- docstrings -------------------------------------------------------------------------------


def public_callables():
    """(name, object) of everything public that takes arguments."""
    modules = {"": dmftcore, "spectral.": spectral, "twotime.": twotime}
    with contextlib.suppress(ImportError):
        modules["jax."] = importlib.import_module("dmftcore.jax")
    for prefix, module in modules.items():
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield prefix + name, value


CALLABLES = dict(public_callables())


@pytest.mark.parametrize("name", CALLABLES)
def test_docstrings_name_every_parameter(name):
    value = CALLABLES[name]
    if inspect.isclass(value) and issubclass(value, Exception):
        return
    text = inspect.getdoc(value)
    wanted = [
        p.name
        for p in inspect.signature(value).parameters.values()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    described = re.findall(r"^([\w, ]+?)(?: : .*)?$", text, re.M)
    known = {part.strip() for line in described for part in line.split(",")}
    assert [parameter for parameter in wanted if parameter not in known] == []
    if inspect.isfunction(value) and inspect.signature(value).return_annotation is not None:
        assert re.search(r"^Returns\n-------$", text, re.M)
