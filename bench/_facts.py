"""What a machine is, as far as a measurement depends on it: nothing but the standard library.

Run as a program it prints the facts as JSON: a driver that hangs then hangs there, and not in the
process that asks.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

#: Distributions whose versions matter, here or to the tests; cupy goes by several names.
PACKAGES = (
    *("numpy", "scipy", "jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin"),
    *(
        "cupy",
        "cupy-cuda13x",
        "cupy-cuda12x",
        "torch",
        "pybind11",
        "scikit-build-core",
        "cmake",
        "ninja",
    ),
    *("pytest", "pytest-xdist", "hypothesis", "xarray", "h5netcdf", "matplotlib", "typer", "pip"),
)

#: Attributes of a device in the driver's numbering.
ATTRIBUTES = {
    "multiprocessors": 16,
    "clock_khz": 13,
    "memory_clock_khz": 36,
    "memory_bus_bits": 37,
    "l2_bytes": 38,
    "major": 75,
    "minor": 76,
}

#: What nvidia-smi is asked for: the state the device is in, which the driver's library hides.
SMI_FIELDS = (
    *("driver_version", "memory.total", "memory.used", "clocks.sm", "clocks.mem"),
    *("clocks.max.sm", "clocks.max.mem", "temperature.gpu", "power.draw", "power.limit"),
)


def output(*command: str, seconds: float = 10) -> str | None:
    """What a command prints, or None where it is missing, fails or hangs."""
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=seconds
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def cpu_model() -> str:
    """Name of the processor; the bare name of a virtual machine gets its family and model."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""

    def entry(key: str) -> str | None:
        found = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
        return found[1] if found else None

    name = entry("model name") or platform.processor() or platform.machine()
    if not re.search(r"\d", name) and entry("model"):
        name += f" family {entry('cpu family')} model {entry('model')}"
    return name


def commit() -> dict[str, Any]:
    """Commit of the sources; a copy of them without git is told by DMFTCORE_COMMIT."""
    status = output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return {
        "commit": output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
        or os.environ.get("DMFTCORE_COMMIT"),
        "uncommitted_changes": None if status is None else bool(status),
    }


def toolkit(name: str) -> str | None:
    """Path of a program of the CUDA toolkit: on PATH, or where the toolkit usually is."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [os.environ.get("PATH", os.defpath), *(f"{home}/bin" for home in homes if home)]
    return shutil.which(name, path=os.pathsep.join(folders))


def compiler() -> dict[str, str | None]:
    path = toolkit("nvcc")
    text = output(path, "--version") if path else None
    found = re.search(r"release [\d.]+, V([\d.]+)", text or "")
    return {"nvcc": path, "nvcc_version": found[1] if found else None}


def devices() -> tuple[list[dict[str, Any]], str]:
    """CUDA devices as the driver's library describes them, and the reason if there are none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return [], f"no CUDA driver: {error}"

    def call(function: str, *arguments: Any) -> None:
        status = getattr(driver, function)(*arguments)
        if status:
            text = ctypes.c_char_p()
            driver.cuGetErrorString(status, ctypes.byref(text))
            raise OSError(f"{function}: {(text.value or b'unknown error').decode()}")

    def integer(function: str, *arguments: Any) -> int:
        value = ctypes.c_int()
        call(function, ctypes.byref(value), *arguments)
        return value.value

    found = []
    try:
        call("cuInit", 0)
        version = integer("cuDriverGetVersion")
        for ordinal in range(integer("cuDeviceGetCount")):
            device = integer("cuDeviceGet", ordinal)
            name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
            call("cuDeviceGetName", name, len(name), device)
            call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
            facts = {
                key: integer("cuDeviceGetAttribute", number, device)
                for key, number in ATTRIBUTES.items()
            }
            found.append(
                {
                    "name": name.value.decode(),
                    "memory_bytes": memory.value,
                    "compute_capability": f"{facts.pop('major')}.{facts.pop('minor')}",
                    "driver_cuda": f"{version // 1000}.{version % 1000 // 10}",
                    **facts,
                }
            )
    except OSError as error:
        return [], str(error)
    return found, "" if found else "the driver sees no device"


def state() -> dict[str, str]:
    """Driver version, clocks, temperature and power of the first device, now."""
    query = f"--query-gpu={','.join(SMI_FIELDS)}"
    text = output("nvidia-smi", "--id=0", query, "--format=csv,noheader")
    values = text.split(",") if text else []
    return dict(zip(SMI_FIELDS, map(str.strip, values), strict=False))


def packages() -> dict[str, str]:
    """Versions of those of PACKAGES that are installed; none is imported."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def collect() -> dict[str, Any]:
    gpus, reason = devices()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "system": platform.platform(),
        "python": platform.python_version(),
        **commit(),
        **compiler(),
        "compute_sanitizer": toolkit("compute-sanitizer"),
        "devices": gpus,
        "no_device": reason,
        "state": state(),
        "packages": packages(),
    }


if __name__ == "__main__":
    print(json.dumps(collect(), indent=1))
