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
def binding(fault=None):
    """The extension module of device_module.cpp, possibly with a fault planted in csrc/cuda."""
    python = emulated.Variant(
        (f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_path('include')}")
    )
    # Without optimisation, which takes less time.
    faulty = emulated.Variant(("-O0",), (fault,) if fault else ())

    def variant(source):
        concerned = fault is not None and emulated.CSRC / fault[0] in emulated.closure(source)
        return faulty if concerned else emulated.PLAIN

    kernels = [*sorted((emulated.CSRC / "emulate").glob("*.cpp")), *emulated.operations()]
    sources = [(source, variant(source)) for source in kernels]
    sources += [(source, python) for source in BINDING]
    path = emulated.link_variants(sources, "-shared", suffix=".so")
    # pybind11 keeps modules by name: one name for each file.
    name = f"{path.stem}._emulated"
    loader = importlib.machinery.ExtensionFileLoader(name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module
