"""Kernels compiled for AVX must not leave anything behind for the rest of the program.

An inline function of a header that such a file uses becomes a weak symbol, and the linker may keep
the AVX copy for everybody, also where the processor has no AVX.
"""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def cmake_list(name):
    text = (ROOT / "CMakeLists.txt").read_text()
    return re.search(rf"set\(\s*{name}\s+([^)]*)\)", text)[1].split()


SOURCES = cmake_list("isa_sources")
COMPILER = shutil.which("c++") or shutil.which("g++")


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86-64 only")
@pytest.mark.parametrize("level", ["baseline", "v3", "v4"])
@pytest.mark.parametrize("source", SOURCES)
def test_no_symbols_beside_the_tables(source, level, tmp_path):
    # Without optimisation nothing is inlined: every inline function that is used appears.
    flags = ["-std=c++17", "-O0", "-w", "-fPIC", "-fvisibility=hidden", f"-I{ROOT / 'csrc'}"]
    flags += [f"-DDMFTCORE_ISA={level}", f"-DDMFTCORE_ISA_{level}"]
    if level != "baseline":
        flags += cmake_list(f"isa_flags_{level}")
    kernel = tmp_path / "kernel.o"
    subprocess.run([COMPILER, *flags, "-c", ROOT / source, "-o", kernel], check=True)
    symbols = subprocess.run(
        ["nm", "--demangle", "--defined-only", "--extern-only", kernel],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert symbols, "the file defines no table"
    foreign = [line for line in symbols if f" dmftcore::cpu::{level}::" not in line]
    assert not foreign
    weak = [line for line in symbols if re.match(r"\S* +[WwVvu] ", line)]
    assert not weak
