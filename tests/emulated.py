"""The CUDA sources compiled by the C++ compiler and run on the emulator of csrc/emulate.

Whatever has a kernel or a launcher in csrc/cuda takes part. Objects are kept, under a name made of
everything they depend on, in a folder that all test runs on this machine share.
"""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import math
import os
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
CPP = ROOT / "tests" / "cpp"
COMPILER = shutil.which("c++") or shutil.which("g++")

FLAGS = ["-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
FLAGS += ["-Wconversion", "-Werror"]
#: For example those of a sanitizer.
MORE_FLAGS = os.environ.get("DMFTCORE_EMULATED_FLAGS", "").split()

ORDERS = ("forward", "backward", "shuffled")


@dataclass(frozen=True)
class Variant:
    """The sources with flags of their own, or with a planted fault.

    `fault` is (file below csrc, text in it, text that replaces it).
    """

    flags: tuple[str, ...] = ()
    fault: tuple[str, str, str] | None = None

    def text(self, path):
        """What the compiler reads as `path`."""
        text = path.read_text()
        if self.fault and path == CSRC / self.fault[0]:
            _, old, new = self.fault
            assert text.count(old) == 1, f"{self.fault[0]} has {text.count(old)} times: {old}"
            return text.replace(old, new)
        return text


PLAIN = Variant()


def operations():
    """The translation units of csrc/cuda that are written in the common vocabulary."""
    return [
        path
        for path in sorted((CSRC / "cuda").glob("*.cu"))
        if "cuda_runtime.h" not in path.read_text()
    ]


def library_sources():
    return [
        *sorted((CSRC / "emulate").glob("*.cpp")),
        *operations(),
        *sorted(CPP.glob("exports*.cpp")),
    ]


def closure(source):
    """A source and what it includes of ours, in a fixed order."""
    found, todo = {}, [source]
    while todo:
        path = todo.pop()
        if path not in found:
            found[path] = None
            for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.M):
                if (CSRC / name).exists():
                    todo.append(CSRC / name)
    return list(found)


@functools.cache
def cache_folder():
    folder = Path(tempfile.gettempdir()) / f"dmftcore-emulated-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@functools.cache
def compiler_version():
    return subprocess.run(
        [COMPILER, "--version"], capture_output=True, text=True, check=True
    ).stdout


@contextlib.contextmanager
def made_once(path):
    """A temporary path to write to, that becomes `path`; None where `path` exists by now."""
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            path.touch()
            yield None
        else:
            unfinished = path.with_suffix(".part")
            yield unfinished
            unfinished.rename(path)


def run_compiler(*arguments):
    result = subprocess.run(
        [COMPILER, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-4000:]


def compile_object(source, variant):
    flags = [*FLAGS, *MORE_FLAGS, *variant.flags]
    content = hashlib.sha256(repr((compiler_version(), flags)).encode())
    files = closure(source)
    for path in files:
        content.update(path.name.encode() + b"\0" + variant.text(path).encode())
    target = cache_folder() / f"{source.stem}-{content.hexdigest()[:24]}.o"
    with made_once(target) as unfinished, tempfile.TemporaryDirectory() as overlay:
        if unfinished is not None:
            if variant.fault and CSRC / variant.fault[0] in files:
                faulty = Path(overlay) / variant.fault[0]
                faulty.parent.mkdir()
                faulty.write_text(variant.text(CSRC / variant.fault[0]))
                if source == CSRC / variant.fault[0]:
                    source = faulty
            run_compiler(
                *flags, f"-I{overlay}", f"-I{CSRC}", "-x", "c++", "-c", source, "-o", unfinished
            )
    return target


def link(sources, variant, *options, suffix):
    """The file linked of these sources."""
    return link_variants([(source, variant) for source in sources], *options, suffix=suffix)


def link_variants(sources, *options, suffix):
    """The file linked of (source, variant), compiled as many at a time as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_object, *zip(*sources, strict=True)))
    content = hashlib.sha256("".join(o.name for o in objects).encode()).hexdigest()[:24]
    target = cache_folder() / f"linked-{content}{suffix}"
    with made_once(target) as unfinished:
        if unfinished is not None:
            run_compiler(*MORE_FLAGS, *options, *objects, "-o", unfinished)
    return target


@functools.cache
def library(variant=PLAIN):
    return Library(
        ctypes.CDLL(str(link(library_sources(), variant, "-shared", "-Wl,-z,defs", suffix=".so")))
    )


class EmulatedError(RuntimeError):
    """What the emulator, or the launcher, found wrong."""


@dataclass
class Library:
    """The operations of ops.hpp in namespace cuda, on numpy arrays."""

    functions: ctypes.CDLL
    order: str = "forward"

    def call(self, name, dtype, *arguments):
        """exports' NAME_DTYPE; arrays are passed as pointers, numbers as index."""
        function = getattr(self.functions, f"{name}_{np.dtype(dtype).name}")
        function.restype = ctypes.c_char_p
        self.functions.set_order(ORDERS.index(self.order))
        error = function(
            *(
                ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_ssize_t(a)
                for a in arguments
            )
        )
        if error is not None:
            raise EmulatedError(error.decode())

    def __call__(self, function, *arrays, block=1, dense=False, strict=True):
        """A whole-matrix operation, with the arguments of dmftcore.twotime."""
        first, last = arrays[0], arrays[-1]
        n = first.shape[-1]
        batch = math.prod(first.shape[:-2])
        columns = math.prod(last.shape[first.ndim - 1 :])
        # Exactly as long as it must be, and NaN: what is not written shows.
        result = np.full(last.shape, np.nan, last.dtype)
        name, sizes = function, [batch, n, block]
        if dense:
            name, sizes = "causal_solve_dense", [batch, n, columns, block]
        if function == "causal_apply":
            sizes = [batch, n, columns, block, strict]
        self.call(name, last.dtype, *sizes, *arrays, result)
        return result
