"""Arrays of other libraries on the CPU: DLPack in and out, without a copy.

dmftcore computes with numpy arrays on the CPU (cupy arrays and torch tensors on a GPU go in as they
are). What speaks DLPack is a numpy array by one call, `numpy.from_dlpack`, on the same memory, and
a result goes back by the same call of the other library. Shown with torch where it is installed,
else with jax; prints the memory addresses on both sides and the largest error of the round trip.
"""

from __future__ import annotations

import importlib.util

import numpy as np

from dmftcore import twotime

STEPS = 200


def through_dlpack(operation, *arrays, back, **options):
    """An operation on arrays of another library; `back` is its from_dlpack."""
    return back(operation(*map(np.from_dlpack, arrays), **options))


def torch_arrays(kernel):
    import torch

    return torch.from_numpy(kernel), torch.from_dlpack, lambda tensor: tensor.data_ptr()


def jax_arrays(kernel):
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax.numpy.asarray(kernel), jax.dlpack.from_dlpack, lambda x: x.unsafe_buffer_pointer()


def main() -> dict[str, float]:
    library = "torch" if importlib.util.find_spec("torch") else "jax"
    kernel = np.tril(np.random.default_rng(0).normal(size=(STEPS, STEPS)) / STEPS, -1)
    array, back, address = {"torch": torch_arrays, "jax": jax_arrays}[library](kernel)
    seen = np.from_dlpack(array)
    print(f"{library} at {address(array):#x}, numpy at {seen.ctypes.data:#x}")

    result = through_dlpack(twotime.resolvent, array, back=back)
    identity = np.from_dlpack(result) @ (np.eye(STEPS) - kernel)
    found = {
        "moved bytes": float(abs(address(array) - seen.ctypes.data)),
        "error": float(np.abs(identity - np.eye(STEPS)).max()),
    }
    print(f"1 - (1 - a)^-1 (1 - a), from a {type(result).__module__} array: {found['error']:.1e}")
    return found


if __name__ == "__main__":
    main()
