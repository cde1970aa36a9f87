"""The CUDA device of a benchmark, as cupy sees it: its clock, its ceilings, its memory.

Importing this module needs neither cupy nor a device; making a `Gpu` needs both.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from bench import _facts
from bench._harness import Report


class Unavailable(Exception):
    """There is no device to measure, with the reason."""


class Gpu:
    """The current device.

    Attributes
    ----------
    xp : module
        cupy.
    bandwidth : float
        Bytes per second of a copy within the device, read and written ones counted.
    rates : dict
        Flops per second of cuBLAS on square matrices, by dtype.
    """

    #: Far above the caches; less where memory is small.
    COPY_BYTES = 1 << 31
    MATMUL_SIZE = 8192

    def __init__(self) -> None:
        # Read when jax is loaded: otherwise it takes three quarters of the memory for itself.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        devices, reason = _facts.devices()
        if not devices:
            raise Unavailable(f"no GPU: {reason}")
        try:
            import cupy
        except ImportError as error:
            raise Unavailable(f"cupy cannot be imported: {error}") from error
        self.xp = cupy
        self.name = devices[0]["name"]
        self.l2_bytes = devices[0]["l2_bytes"]
        self._description = devices[0]
        self.bandwidth = self._copy_rate()
        self.rates = {name: self._matmul_rate(name) for name in ("float64", "float32")}

    def seconds(self, function: Callable[[], Any], calls: int) -> float:
        """Time between two events around `calls` calls, for one.

        The device is idle before. What works on other streams has to wait for its own result:
        then the second event lies behind it.
        """
        cuda = self.xp.cuda
        start, stop = cuda.Event(), cuda.Event()
        cuda.runtime.deviceSynchronize()
        start.record()
        for _ in range(calls):
            function()
        stop.record()
        stop.synchronize()
        return cuda.get_elapsed_time(start, stop) / 1e3 / calls

    def free_bytes(self) -> int:
        self.release()
        return self.xp.cuda.runtime.memGetInfo()[0]

    def release(self) -> None:
        self.xp.get_default_memory_pool().free_all_blocks()

    def floor(self, *, traffic: float, flops: float = 0, dtype: str = "float64") -> float:
        """Seconds in which no implementation on this device moves and computes that much."""
        return max(traffic / self.bandwidth, flops / self.rates[dtype])

    def facts(self) -> dict[str, Any]:
        runtime = self.xp.cuda.runtime.runtimeGetVersion()
        return {
            **self._description,
            "state": _facts.state(),
            **_facts.compiler(),
            "runtime_cuda": f"{runtime // 1000}.{runtime % 1000 // 10}",
            "packages": {k: v for k, v in _facts.packages().items() if k.startswith(("cu", "jax"))},
            "copy_bytes_per_s": self.bandwidth,
            "matmul_flops": self.rates,
        }

    def _settled(self, function: Callable[[], Any]) -> float:
        """Median time of a call, after half a second in which the clocks rise."""
        begin = time.perf_counter()
        while time.perf_counter() - begin < 0.5:
            self.seconds(function, 1)
        return median(self.seconds(function, 1) for _ in range(9))

    def _copy_rate(self) -> float:
        size = min(self.COPY_BYTES, self.free_bytes() // 4)
        source = self.xp.ones(size // 8)
        destination = self.xp.empty_like(source)

        def copy() -> None:
            destination[...] = source

        return 2 * source.nbytes / self._settled(copy)

    def _matmul_rate(self, dtype: str) -> float:
        n = self.MATMUL_SIZE
        a, b = random(self.xp, n, n, dtype=dtype), random(self.xp, n, n, dtype=dtype)
        out = self.xp.empty_like(a)
        return 2 * n**3 / self._settled(lambda: self.xp.matmul(a, b, out=out))


def rounding(n: int, dtype: str) -> float:
    """What an error relative to the largest element may be after a few sums of n terms."""
    return 8 * n * (2.0**-52 if dtype == "float64" else 2.0**-23)


def random(xp: Any, *shape: int, dtype: str = "float64", seed: int = 0) -> Any:
    """Gaussian numbers, drawn where they are used."""
    return xp.random.default_rng(seed).standard_normal(shape, dtype=xp.dtype(dtype))


class Jax:
    """jax on the same device and the same data, where there is one that sees it."""

    def __init__(self) -> None:
        self.reason = ""
        try:
            import jax
            import jax.scipy.linalg
        except ImportError as error:
            self.reason = f"jax cannot be imported: {error}"
            return
        jax.config.update("jax_enable_x64", True)
        # Otherwise float32 products are rounded to ten bits of mantissa on the way.
        jax.config.update("jax_default_matmul_precision", "highest")
        try:
            backend = jax.default_backend()
        except RuntimeError as error:
            backend, self.reason = "none", str(error)
        if backend != "gpu":
            self.reason = self.reason or f"the installed jax runs on the {backend}"
            return
        self.linalg = jax.scipy.linalg
        self.numpy = jax.numpy
        self._jit = jax.jit
        self._take = jax.dlpack.from_dlpack

    def competitor(self, function: Callable[..., Any], *arrays: Any) -> Callable[[], Any]:
        """`function`, compiled, on the memory of cupy arrays; returns when it is done."""
        compiled = self._jit(function)
        taken: list[Any] = []

        def call() -> Any:
            if not taken:
                taken.extend(map(self._take, arrays))
            return compiled(*taken).block_until_ready()

        return call


class Script:
    """Command line and time budget that the GPU benchmarks share."""

    def __init__(self, description: str | None, arguments: Iterable[str]) -> None:
        parser = argparse.ArgumentParser(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--dry-run", action="store_true", help="print the cases and stop")
        parser.add_argument("--only", default="", help="cases whose title contains this")
        parser.add_argument(
            "--seconds", type=float, default=300, help="start no case after this time"
        )
        self.options = parser.parse_args(list(arguments))
        self._begin = time.perf_counter()

    def wants(self, title: str) -> bool:
        return self.options.only in title

    def gpu(self) -> Gpu:
        try:
            return Gpu()
        except Unavailable as reason:
            raise SystemExit(str(reason)) from None

    def refusal(self, gpu: Gpu, needed_bytes: float, needed_seconds: float = 0) -> str:
        """Why a case cannot be run now; empty if it can."""
        left = self.options.seconds - (time.perf_counter() - self._begin)
        if left < needed_seconds or left <= 0:
            return f"of {self.options.seconds:g} s are left {max(left, 0):.0f}" + (
                f", about {needed_seconds:.0f} are needed" if needed_seconds else ""
            )
        free = gpu.free_bytes()
        if needed_bytes > free:
            return f"needs {needed_bytes / 2**30:.2g} GiB, {free / 2**30:.2g} GiB are free"
        return ""

    def finish(self, report: Report) -> None:
        """Write the record; the exit status says whether ours failed anywhere."""
        report.write()
        if report.failed:
            raise SystemExit(f"failed: {', '.join(report.failed)}")
