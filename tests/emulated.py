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
import time
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

#: Seconds after which what nobody has asked for is removed.
UNUSED = 7 * 24 * 3600

ORDERS = ("forward", "backward", "shuffled")


@dataclass(frozen=True)
class Variant:
    """The sources with flags of their own, and with changes.

    A change is (file below csrc, text that it has once, text that replaces it): another constant,
    or a planted fault.
    """

    flags: tuple[str, ...] = ()
    changes: tuple[tuple[str, str, str], ...] = ()

    def changed(self, files):
        """Those of the files that are changed, and what the compiler reads instead."""
        texts = {}
        for name, old, new in self.changes:
            path = CSRC / name
            if path in files:
                text = texts.get(path) or path.read_text()
                assert text.count(old) == 1, f"{name} has {text.count(old)} times: {old}"
                texts[path] = text.replace(old, new)
        return texts


PLAIN = Variant()

#: Sizes at which the decisions for large matrices are taken, within reach of the emulator.
SCALED_DOWN = Variant(
    changes=(
        ("cuda/product.cuh", "ENOUGH = 256", "ENOUGH = 1"),
        ("cuda/product.cuh", "WIDE = 768", "WIDE = 64"),
        ("cuda/causal_solve.cu", "LEAF = 1024", "LEAF = 48"),
        (
            "cuda/rows.cu",
            "MOST_BANDS = 128, ENOUGH_BANDS = 4096",
            "MOST_BANDS = 3, ENOUGH_BANDS = 9",
        ),
        ("cuda/rows.cu", "MOST_LAYERS = 65535", "MOST_LAYERS = 3"),
        (
            "cuda/particle_products.cu",
            "MOST_PARTS = 512, LEAST_PART = 128",
            "MOST_PARTS = 20, LEAST_PART = 32",
        ),
    )
)

#: Without the tensor-core instruction that sm_90 brought.
OLDER = Variant(flags=("-DDMFTCORE_EMULATED_ARCH=800",))

#: What a kernel is run as: the order of its threads, and the sources.
SETTINGS = {
    "forward": ("forward", PLAIN),
    "backward": ("backward", PLAIN),
    "shuffled": ("shuffled", PLAIN),
    "scaled_down": ("shuffled", SCALED_DOWN),
    "sm_80": ("shuffled", OLDER),
}


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
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > UNUSED:
                path.unlink()
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
    # What is preloaded into the tests would be into the compiler.
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    result = subprocess.run(
        [COMPILER, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]


def compile_object(source, variant):
    flags = [*FLAGS, *MORE_FLAGS, *variant.flags]
    content = hashlib.sha256(repr((compiler_version(), flags)).encode())
    files = closure(source)
    changed = variant.changed(files)
    for path in files:
        text = changed.get(path) or path.read_text()
        content.update(path.name.encode() + b"\0" + text.encode())
    target = cache_folder() / f"{source.stem}-{content.hexdigest()[:24]}.o"
    with made_once(target) as unfinished, tempfile.TemporaryDirectory() as overlay:
        if unfinished is not None:
            for path, text in changed.items():
                instead = Path(overlay) / path.relative_to(CSRC)
                instead.parent.mkdir(parents=True, exist_ok=True)
                instead.write_text(text)
                if source == path:
                    source = instead
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
def load(variant):
    path = link(library_sources(), variant, "-shared", suffix=".so")
    return ctypes.CDLL(str(path))


def library(setting="forward"):
    """The operations as one of SETTINGS."""
    order, variant = SETTINGS[setting]
    return Library(load(variant), order)


class EmulatedError(RuntimeError):
    """What the emulator, or the launcher, found wrong."""


@dataclass(frozen=True)
class Library:
    """The operations of ops.hpp in namespace cuda, on numpy arrays."""

    functions: ctypes.CDLL
    order: str

    def call(self, name, dtype, *arguments):
        """exports' NAME_DTYPE; arrays are passed as pointers, whole numbers as index."""
        function = getattr(self.functions, f"{name}_{np.dtype(dtype).name}")
        function.restype = ctypes.c_char_p
        self.functions.set_order(ORDERS.index(self.order))
        error = function(*map(passed, arguments))
        if error is not None:
            raise EmulatedError(error.decode())

    def __call__(self, function, *arrays, **options):
        """An operation, with the arguments of dmftcore.twotime."""
        return (rows if function.startswith("rows_") else whole)(self, function, *arrays, **options)


def passed(argument):
    if argument is None or isinstance(argument, np.ndarray):
        return ctypes.c_void_p(None if argument is None else argument.ctypes.data)
    return (ctypes.c_double if isinstance(argument, float) else ctypes.c_ssize_t)(argument)


def whole(library, function, *arrays, block=1, dense=False, strict=True, transposed=None):
    first, last = arrays[0], arrays[-1]
    n = first.shape[-1]
    batch = math.prod(first.shape[:-2])
    columns = math.prod(last.shape[first.ndim - 1 :])
    # NaN: what is not written shows.
    result = np.full(last.shape, np.nan, last.dtype)
    name, sizes = function, [batch, n, block]
    if dense:
        name, sizes = "causal_solve_dense", [batch, n, columns, block]
    if function == "causal_matmul":
        sizes = [*sizes, (None, "a", "b").index(transposed)]
    if function == "causal_apply":
        sizes = [batch, n, columns, block, strict, bool(transposed)]
    library.call(name, last.dtype, *sizes, *arrays, result)
    return result


def rows(library, function, x, *others, transposed=False):
    results = [np.full(x.shape, np.nan, x.dtype) for _ in range(RESULTS.get(function, 1))]
    if function == "rows_low_rank":
        u, v = others
        library.call(function, x.dtype, *x.shape, u.shape[1], x, u, v, *results)
    elif function == "rows_causal_batch":
        (a,) = others
        library.call(function, x.dtype, *x.shape, transposed, x, a, a.shape[1], *results)
    else:
        histories = [(a, a.shape[1]) if a.shape != x.shape else (a,) for a in others]
        flat = [argument for history in histories for argument in history]
        library.call(function, x.dtype, *x.shape, x, *flat, *results)
    return tuple(results) if len(results) > 1 else results[0]


RESULTS = {"rows_causal_pair": 2, "rows_congruence": 2}
