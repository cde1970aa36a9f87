"""The core as a CMake package: examples/cpp finds what was installed, without Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import dmftcore

ROOT = Path(__file__).parents[1]
CMAKE = shutil.which("cmake")

pytestmark = [
    pytest.mark.skipif(CMAKE is None, reason="cmake is not installed"),
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler"),
]


def run(*command, cwd=None):
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build(source, folder, *options):
    # Without optimisation: it is the package that is tested here.
    common = ("-G", "Unix Makefiles", "-DCMAKE_BUILD_TYPE=Debug")
    run(CMAKE, "-S", source, "-B", folder, *common, *options)
    run(CMAKE, "--build", folder, "--parallel", str(os.cpu_count()))


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """Where the package was installed."""
    folder, prefix = tmp_path_factory.mktemp("core"), tmp_path_factory.mktemp("prefix")
    build(
        ROOT,
        folder,
        "-DDMFTCORE_PYTHON=OFF",
        "-DDMFTCORE_CUDA=OFF",
        # What CMake finds of Python must play no part.
        "-DCMAKE_DISABLE_FIND_PACKAGE_Python=ON",
        f"-DCMAKE_INSTALL_PREFIX={prefix}",
    )
    run(CMAKE, "--install", folder)
    return prefix


def test_the_example_is_built_and_finds_the_closed_form(prefix, tmp_path):
    build(ROOT / "examples" / "cpp", tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}")
    # The exit status is the check.
    assert "largest relative error" in run(tmp_path / "resolvent")


def test_the_version_is_that_of_the_package(prefix, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.24)\nproject(asks LANGUAGES CXX)\n"
        f"find_package(dmftcore {dmftcore.__version__} EXACT REQUIRED)\n"
        'message(STATUS "found dmftcore ${dmftcore_VERSION}")\n'
    )
    found = run(CMAKE, "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    assert f"found dmftcore {dmftcore.__version__}" in found


def test_nothing_but_the_package_is_installed(prefix):
    installed = {str(p.relative_to(prefix)) for p in prefix.rglob("*") if p.is_file()}
    package = {p for p in installed if "cmake/dmftcore/dmftcore" in p}
    libraries = {p for p in installed if p.endswith("libdmftcore.a")}
    headers = {f"include/dmftcore/{name}.hpp" for name in ("complex", "ops", "cuda/error")}
    assert package
    assert libraries
    assert installed == package | libraries | headers
