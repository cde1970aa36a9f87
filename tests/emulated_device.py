"""The whole way from `dmftcore.twotime` to the kernels without a GPU.

Arrays of `fake_cupy` go through the dispatch of the package and through the binding of the compiled
core, compiled by the tests with the emulator behind it, to the launchers and kernels.
"""

import functools
import importlib.machinery
import importlib.util
import sysconfig

import pybind11

import emulated

BINDING = [emulated.CSRC / "bind_device.cpp", emulated.CPP / "device_module.cpp"]


@functools.cache
def binding():
    """The extension module of device_module.cpp."""
    python = emulated.Variant(
        (f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_path('include')}")
    )
    kernels = [*sorted((emulated.CSRC / "emulate").glob("*.cpp")), *emulated.operations()]
    sources = [(source, emulated.PLAIN) for source in kernels]
    sources += [(source, python) for source in BINDING]
    path = emulated.link_variants(sources, "-shared", suffix=".so")
    loader = importlib.machinery.ExtensionFileLoader("_emulated", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("_emulated", loader))
    loader.exec_module(module)
    return module
