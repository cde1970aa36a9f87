"""Promises about the source that no test of behaviour would notice."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

import dmftcore
from dmftcore import _core

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "dmftcore"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

#: The house, ground floor first. A module imports from its own floor and those below it.
#: A package stands for all of its modules.
FLOORS = (
    {"_core"},
    {
        "_arrays",
        "_device",
        "_optional",
        "_provenance",
        "_shapes",
        "_validate",
        "errors",
        "recording",
    },
    {"spectrum"},
    {"jax", "spectral", "twotime"},
    {
        "activations",
        "attention_maps",
        "data",
        "losses",
        "gaussian",
        "observables",
        "solution",
        "training",
        "worth",
    },
    {
        "attention_tangent",
        "chain",
        "checkpoint",
        "growing",
        "heads",
        "march",
        "memory",
        "modes",
        "optimizer",
        "quadrature",
        "random_data",
        "resolvents",
        "richardson",
        "sampled",
        "schedule",
    },
    {"limits"},
    {"_simulate", "_solve", "_verbs"},
    {
        "_commands",
        "_progress",
        "_report",
        "_summary",
        "_sweep",
        "cli",
        "config",
        "demo",
        "plotting",
    },
)

#: Imports that run upward on purpose, inside a function: (module, imported).
UPWARD = {
    ("solution", "plotting"),  # Solution.plot() is a courtesy to the reader of a result
}


def modules():
    """Dotted name inside the package -> file, without the package itself."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


MODULES = modules()


def room(name):
    """The entry of FLOORS to which a module belongs."""
    return name.partition(".")[0]


def floor(name):
    return next((i for i, rooms in enumerate(FLOORS) if room(name) in rooms), None)


def imported(tree):
    """(module, line) of what a file imports from this package, type checking aside."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "dmftcore":
                    yield alias.name.partition(".")[2], node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            if node.module == "dmftcore":
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif node.module.startswith("dmftcore."):
                package = node.module.removeprefix("dmftcore.")
                for alias in node.names:
                    inner = f"{package}.{alias.name}"
                    yield (inner if inner in MODULES else package), node.lineno
        else:
            yield from imported(node)


IMPORTS = {name: list(imported(ast.parse(path.read_text()))) for name, path in MODULES.items()}


def test_every_module_has_a_floor():
    assert [name for name in MODULES if floor(name) is None] == []


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_downward(name):
    for target, line in IMPORTS[name]:
        assert floor(target) is not None, f"{name}, line {line}: {target!r} has no floor"
        if (name, target) not in UPWARD:
            assert floor(target) <= floor(name), f"{name}, line {line}: imports {target} from above"


def test_imports_have_no_cycle():
    graph = {
        name: {t for t, _ in targets if t != name and (name, t) not in UPWARD}
        for name, targets in IMPORTS.items()
    }
    # A package is loaded before its modules, which may not need it in turn; its own imports of
    # them are no cycle.
    remaining = dict(graph)
    while remaining:
        leaves = [name for name, targets in remaining.items() if not targets & set(remaining)]
        assert leaves, f"the imports of {sorted(remaining)} form a cycle"
        for name in leaves:
            del remaining[name]


def test_exceptions_to_the_floors_are_used():
    used = {(name, target) for name, targets in IMPORTS.items() for target, _ in targets}
    assert {pair for pair in UPWARD if pair[0] in MODULES and pair[1] in MODULES} <= used


def test_only_arrays_module_knows_the_array_libraries():
    for name, path in MODULES.items():
        if name != "_arrays":
            text = path.read_text()
            assert not re.search(r"^\s*(import|from) (cupy|torch)\b", text, re.M), name


# -- documentation ----------------------------------------------------------------------------


def importable():
    """Modules that import without the optional dependencies they are made of."""
    for name in MODULES:
        try:
            yield name, importlib.import_module(f"dmftcore.{name}")
        except ImportError as error:
            # An extra that is not installed here; a missing module of our own is a fault.
            if (error.name or "dmftcore").partition(".")[0] == "dmftcore":
                raise


def test_public_names_exist_and_are_documented():
    undocumented = []
    for name, module in [("", dmftcore), *importable()]:
        assert module.__doc__, f"{name}: the module has no docstring"
        for public in getattr(module, "__all__", ()):
            value = getattr(module, public)
            if (inspect.isclass(value) or inspect.isroutine(value)) and not value.__doc__:
                undocumented.append(f"{name}.{public}")
            if inspect.isclass(value):
                undocumented += [
                    f"{name}.{public}.{member}"
                    for member, method in vars(value).items()
                    if not member.startswith("_") and inspect.isroutine(method)
                    if not inspect.getdoc(getattr(value, member))
                ]
    assert undocumented == []


def test_the_package_exports_what_it_imports():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    names = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module.startswith("dmftcore")
        for alias in node.names
    }
    assert names == set(dmftcore.__all__)


# -- the compiled core ------------------------------------------------------------------------


def compiled_signatures():
    """Name -> set of parameter lists, from the signatures in pybind11's docstrings."""
    found = {}
    for name, value in vars(_core).items():
        if name.startswith("__") or inspect.ismodule(value):
            continue
        if inspect.isclass(value):
            members = {k: v for k, v in vars(value).items() if k == "__init__" or k[0] != "_"}
            for member, method in members.items():
                found[f"{name}.{member}"] = parameter_lists(member, method)
        else:
            found[name] = parameter_lists(name, value)
    return found


def parameter_lists(name, value):
    if isinstance(value, property):
        return {"property"}
    found = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) ->", value.__doc__, re.M)
    assert found, f"{name} has no signature in its docstring"
    return {parameters(f"def f({strip_types(signature)}): ...") for signature in found}


def strip_types(signature):
    """Parameter names and markers of a signature: types may hold brackets and commas."""
    depth, kept, parts = 0, "", []
    for character in signature + ",":
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            parts.append(re.split(r"[:=]", kept)[0].strip())
            kept = ""
        else:
            kept += character
    return ", ".join(part for part in parts if part)


def parameters(definition):
    """Parameter names of a function in order, '*' before those that are keywords only."""
    node = definition
    if isinstance(definition, str):
        node = ast.parse(definition).body[0]
    names = [a.arg for a in node.args.posonlyargs + node.args.args]
    if node.args.kwonlyargs:
        names += ["*", *(a.arg for a in node.args.kwonlyargs)]
    return tuple(name for name in names if name != "self")


def stub_signatures():
    found = {}
    for node in ast.parse((PACKAGE / "_core.pyi").read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name, set()).add(parameters(node))
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    decorators = [ast.unparse(d) for d in member.decorator_list]
                    entry = "property" if "property" in decorators else parameters(member)
                    found.setdefault(f"{node.name}.{member.name}", set()).add(entry)
    return found


def test_the_stub_describes_the_compiled_core():
    stub, compiled = stub_signatures(), compiled_signatures()
    assert sorted(stub) == sorted(compiled)
    for name, signatures in compiled.items():
        assert stub[name] == signatures, name


def test_cuda_sources_do_not_know_python():
    for path in (ROOT / "csrc" / "cuda").iterdir():
        assert not re.search(r"pybind11|Python\.h", path.read_text()), path
    assert not re.search(
        r"pybind11|Python\.h|cuda_runtime", (ROOT / "csrc" / "ops.hpp").read_text()
    )


# -- the repository ---------------------------------------------------------------------------


def text_files():
    generated = {"build", "dist", "__pycache__"}
    suffixes = {
        ".py",
        ".pyi",
        ".cpp",
        ".hpp",
        ".cu",
        ".cuh",
        ".md",
        ".rst",
        ".toml",
        ".txt",
        ".yaml",
    }
    for path in sorted(ROOT.rglob("*")):
        inside = path.relative_to(ROOT).parts
        if any(p in generated or p.startswith((".", "build")) for p in inside[:-1]):
            continue
        if path.is_file() and (path.suffix in suffixes or path.name in {"Makefile", ".gersemirc"}):
            yield path
    yield from (ROOT / ".ci").iterdir()


def test_no_file_knows_the_machine_it_was_written_on():
    # The slashes apart, so that this line does not match itself.
    pattern = re.compile(r"(?<![\w.])/(?:home|root|Users|work|mnt|opt|tmp|scratch)/" + r"\w")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in text_files()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == []


def test_the_version_is_stated_once():
    version = PROJECT["version"]
    assert dmftcore.__version__ == version
    sources = [
        p for p in text_files() if p.is_relative_to(PACKAGE) or p.is_relative_to(ROOT / "csrc")
    ]
    sources += [ROOT / "CMakeLists.txt", ROOT / "README.md", ROOT / "noxfile.py", ROOT / "Makefile"]
    assert [p.name for p in sources if re.search(rf"\b{re.escape(version)}\b", p.read_text())] == []


def test_the_changelog_knows_the_version():
    headings = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert PROJECT["version"] in headings


def test_tools_have_one_version():
    pinned = {r for r in PROJECT["optional-dependencies"]["dev"] if "==" in r}
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    used = set(re.findall(r'"([\w-]+==[\w.]+)"', hooks))
    assert used
    assert used <= pinned
