"""Development tasks: `nox -l` lists them, `nox -s NAME` runs one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "venv"

PROJECT = nox.project.load_toml("pyproject.toml")["project"]

#: The tests run in one process per core, with one thread of linear algebra in each.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}

#: Tests that spend their time in the compiled core.
CORE_TESTS = (
    "test_emulated*.py",
    "test_growing.py",
    "test_lazy.py",
    "test_linear*.py",
    "test_particle*.py",
    "test_solve.py",
    "test_twotime*.py",
)

#: Tests that call the core from jax.
JAX_TESTS = ("test_backend.py", "test_jax*.py")


def requirements(*extras: str) -> list[str]:
    """Dependencies of the package and of some of its extras, without the package itself."""
    found = list(PROJECT["dependencies"])
    for extra in extras:
        for requirement in PROJECT["optional-dependencies"][extra]:
            name, _, inner = requirement.partition("[")
            if name == PROJECT["name"]:
                found += requirements(*inner.rstrip("]").split(","))
            else:
                found.append(requirement)
    return sorted(set(found))


def pinned(*tools: str) -> list[str]:
    """The requirements of development tools, with their versions."""
    by_name = {r.partition("==")[0]: r for r in PROJECT["optional-dependencies"]["dev"]}
    return [by_name[tool] for tool in tools]


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting and lint of Python, C++ and CMake."""
    session.install(*pinned("ruff", "clang-format", "gersemi"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    suffixes = {".cpp", ".hpp", ".cu", ".cuh"}
    files = [path for folder in ("csrc", "examples", "tests") for path in Path(folder).rglob("*")]
    sources = sorted(p for p in files if p.suffix in suffixes)
    session.run("clang-format", "--dry-run", "-Werror", *map(str, sources))
    session.run("gersemi", "--check", "CMakeLists.txt", "examples/cpp/CMakeLists.txt")


@nox.session
def types(session: nox.Session) -> None:
    """Static types of the package."""
    session.install(*pinned("mypy"), *requirements("cli"))
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The tests that take seconds."""
    session.install(".[test]")
    session.run("pytest", "-n", "auto", "-m", "not slow", *session.posargs, env=ONE_THREAD)


@nox.session
def full(session: nox.Session) -> None:
    """All tests, the slow ones included."""
    session.install(".[test]")
    session.run("pytest", "-n", "auto", *session.posargs, env=ONE_THREAD)
    # The newest jax so far; the oldest that is promised calls the same core.
    (jax,) = (r for r in requirements("jax") if r.startswith("jax"))
    session.install(jax.replace(">=", "==") + ".0")
    chosen = [str(path) for pattern in JAX_TESTS for path in Path("tests").glob(pattern)]
    session.run("pytest", "-n", "auto", *(session.posargs or chosen), env=ONE_THREAD)


@nox.session
def sanitize(session: nox.Session) -> None:
    """The tests of the compiled core under the address and undefined-behaviour sanitizers."""
    flags = (
        "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g"
    )
    session.install(
        ".[test]",
        env={
            "CXXFLAGS": flags,
            "SKBUILD_BUILD_DIR": "build/sanitize",
            "SKBUILD_CMAKE_DEFINE": "DMFTCORE_CUDA=OFF",
        },
    )
    # The interpreter is not instrumented: the runtimes come first. libstdc++ is one of them, or
    # the first C++ exception finds nobody to throw it.
    libraries = [
        subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    chosen = [str(path) for pattern in CORE_TESTS for path in Path("tests").glob(pattern)]
    session.run(
        "pytest",
        "-m",
        "not slow",
        # The emulated kernels once in each size of tiles: fibers are slow here.
        "-k",
        "not (emulated-forward or emulated-backward or emulated-sm_80)",
        *(session.posargs or chosen),
        # Leaks are those of the interpreter. Uncaptured: a report is the last thing that is said.
        "--capture=no",
        env={
            "LD_PRELOAD": " ".join(libraries),
            # Emulated kernels run on stacks of their own, which fake ones would hide.
            "ASAN_OPTIONS": "detect_leaks=0,detect_stack_use_after_return=0",
            "DMFTCORE_EMULATED_FLAGS": flags,
        },
    )


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks behind docs/performance."""
    session.install(".[demo,bench]")
    session.run("python", "-m", "bench", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, build/docs/index.html; a warning is an error."""
    session.install(".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "build/docs")
