"""What nvcc makes of the kernels: everything in registers, FP64 products on tensor cores."""

import re
import shutil
import struct
import subprocess
from collections import Counter

import pytest

import emulated

NVCC = shutil.which("nvcc")

#: Bytes that are spilled nevertheless: eight rows at a time, for one of their supports.
SPILLED = {(100, "rows"): 12}

pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")

#: The lowest bits of an instruction for FP64 tensor cores, sm_80 to sm_100.
DMMA = 0x23F


def sections(cubin):
    """Name -> bytes of the sections of an ELF file."""
    start = struct.unpack_from("<Q", cubin, 0x28)[0]
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    # name, type, flags, address, offset, size
    headers = [struct.unpack_from("<IIQQQQ", cubin, start + i * size) for i in range(count)]
    texts = cubin[headers[names][4] :]
    return {
        texts[name : texts.index(b"\0", name)].decode(): cubin[offset : offset + length]
        for name, _, _, _, offset, length in headers
    }


def opcodes(code):
    """How often each instruction occurs: 16 bytes each, the first twelve bits say which."""
    return Counter(
        struct.unpack_from("<H", code, place)[0] & 0xFFF for place in range(0, len(code), 16)
    )


@pytest.mark.parametrize("source", emulated.operations(), ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "architecture",
    [90, pytest.param(80, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.slow)],
)
def test_kernels(source, architecture, tmp_path):
    cubin = tmp_path / "kernels.cubin"
    options = ["-std=c++17", "-O3", f"-arch=sm_{architecture}", f"-I{emulated.CSRC}"]
    options += ["-Xptxas=-v", "-cubin"]
    compiled = subprocess.run(
        [NVCC, *options, source, "-o", cubin], capture_output=True, text=True, check=False
    )
    assert compiled.returncode == 0, compiled.stderr
    found = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores,"
        r" (\d+) bytes spill loads.*?Used (\d+) registers",
        compiled.stderr,
        re.DOTALL,
    )
    code = sections(cubin.read_bytes())
    kernels = [name.removeprefix(".text.") for name in code if name.startswith(".text.")]
    assert sorted(kernels) == sorted(name for name, *_ in found)
    for name, *memory, registers in found:
        print(f"{registers:>3} registers: {name}")
        stack, *spilled = map(int, memory)
        assert max(spilled) <= SPILLED.get((architecture, source.stem), 0), name
        # On sm_80 a kernel of rows keeps an address there.
        assert stack <= (0 if architecture == 90 else 16), name
    for name in kernels:
        tensor = opcodes(code[f".text.{name}"])[DMMA]
        if "product_kernel" in name:
            assert (tensor > 0) == ("product_kernelId" in name), name
        if "sum_parts" in name or "expand" in name:
            assert tensor > 0, name
