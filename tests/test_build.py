"""The choices of the build: DMFTCORE_CUDA with and without a compiler that works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CMAKE = shutil.which("cmake")

pytestmark = [
    pytest.mark.skipif(CMAKE is None, reason="cmake is not installed"),
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
]


@pytest.fixture
def configure(tmp_path):
    """Run CMake's configure step; the completed process, with what would be compiled."""
    pybind11 = pytest.importorskip("pybind11", reason="pybind11 is not installed")

    def run(*options, path=None):
        environment = {k: v for k, v in os.environ.items() if k not in ("CUDACXX", "CUDAARCHS")}
        if path is not None:
            environment["PATH"] = os.pathsep.join([str(path), environment["PATH"]])
        build = tmp_path / "build"
        result = subprocess.run(
            [
                CMAKE,
                *("-S", ROOT, "-B", build, "-G", "Unix Makefiles"),
                "-DSKBUILD_PROJECT_VERSION=0",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                *options,
            ],
            env=environment,
            capture_output=True,
            text=True,
        )
        rules = (build / "CMakeFiles").glob("*core.dir/build.make")
        result.rules = "".join(path.read_text() for path in rules)
        return result

    return run


@pytest.fixture
def broken_nvcc(tmp_path):
    """A folder whose nvcc fails, to be searched first."""
    folder = tmp_path / "broken"
    folder.mkdir()
    nvcc = folder / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'nvcc fatal: no licence today' >&2\nexit 1\n")
    nvcc.chmod(0o755)
    return folder


def test_off_builds_without_cuda(configure):
    result = configure("-DDMFTCORE_CUDA=OFF")
    assert result.returncode == 0, result.stderr
    assert "module.cpp" in result.rules
    assert "device.cu" not in result.rules


def test_auto_builds_for_the_cpu_where_nvcc_is_broken(configure, broken_nvcc):
    result = configure("-DDMFTCORE_CUDA=AUTO", path=broken_nvcc)
    assert result.returncode == 0, result.stderr
    assert "module.cpp" in result.rules
    assert "device.cu" not in result.rules


def test_on_needs_a_working_nvcc(configure, broken_nvcc):
    result = configure("-DDMFTCORE_CUDA=ON", path=broken_nvcc)
    assert result.returncode != 0
    assert "DMFTCORE_CUDA=ON, but no working CUDA compiler was found" in result.stderr


def test_another_value_is_refused(configure):
    result = configure("-DDMFTCORE_CUDA=maybe")
    assert result.returncode != 0
    assert "DMFTCORE_CUDA must be AUTO, ON or OFF, not 'maybe'" in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_auto_builds_for_cuda_where_nvcc_works(configure):
    result = configure("-DDMFTCORE_CUDA=AUTO")
    assert result.returncode == 0, result.stderr
    assert "device.cu" in result.rules
