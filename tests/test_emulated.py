"""The CUDA kernels on the emulator, and the emulator by itself."""

import subprocess

import pytest

import emulated

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason="no C++ compiler")


def test_the_emulator():
    sources = [*sorted((emulated.CSRC / "emulate").glob("*.cpp")), emulated.CPP / "emulator.cpp"]
    program = emulated.link(sources, emulated.PLAIN, suffix="")
    result = subprocess.run([program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
