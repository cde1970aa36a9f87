"""The operations of the compiled core on device arrays, with the names and parameters of `_core`.

The arguments have been checked. Results are allocated by the caller's array library, and the work
is queued on its current stream: a call returns before it is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dmftcore import _core
from dmftcore.errors import CudaError

#: The numbers of attention nonlinearities in the core; the last one leaves scores as they are.
ATTENTIONS = ("softmax", "linear", "exp", "relu", "none")


@dataclass(slots=True)
class DeviceCore:
    """The core for arrays of one library, one type, on one device.

    Attributes
    ----------
    dtype : str
        "float64", "float32" or "complex128", of the results.
    device : int
        Number of the device.
    stream : int
        Address of the stream, a ``cudaStream_t``.
    empty : callable
        Allocates a result of a given shape.
    address : callable
        Address of the memory of an array.
    """

    dtype: str
    device: int
    stream: int
    empty: Callable[[tuple[int, ...]], Any]
    address: Callable[[Any], int]

    def causal_matmul(self, a: Any, b: Any, transposed: int, block: int) -> Any:
        c = self.empty(a.shape)
        self._run("causal_matmul", *_sizes(a), int(block), int(transposed), a, b, c)
        return c

    def causal_solve(self, a: Any, b: Any, dense: bool, block: int) -> Any:
        if not dense:
            return self._of_two_kernels("causal_solve", a, b, block)
        x = self.empty(b.shape)
        self._run("causal_solve_dense", *_sizes(a), b.shape[-1], int(block), a, b, x)
        return x

    def resolvent(self, a: Any, block: int) -> Any:
        r = self.empty(a.shape)
        self._run("resolvent", *_sizes(a), int(block), a, r)
        return r

    def congruence(self, r: Any, c: Any, block: int) -> Any:
        return self._of_two_kernels("congruence", r, c, block)

    def causal_apply(self, k: Any, g: Any, strict: bool, transposed: bool, block: int) -> Any:
        y = self.empty(g.shape)
        columns = math.prod(g.shape[k.ndim - 1 :])
        options = bool(strict), bool(transposed)
        self._run("causal_apply", *_sizes(k), columns, int(block), *options, k, g, y)
        return y

    def rows_causal(self, x: Any, a: Any) -> Any:
        return self._rows_times_history("rows_causal", x, a)

    def rows_causal_transposed(self, x: Any, a: Any) -> Any:
        return self._rows_times_history("rows_causal_transposed", x, a)

    def rows_causal_pair(self, x: Any, w: Any, a: Any) -> tuple[Any, Any]:
        y, z = self.empty(x.shape), self.empty(x.shape)
        self._run("rows_causal_pair", *x.shape, x, w, a, a.shape[1], y, z)
        return y, z

    def rows_symmetric(self, x: Any, c: Any) -> Any:
        return self._rows_times_history("rows_symmetric", x, c)

    def rows_congruence(self, x: Any, c: Any, r: Any) -> tuple[Any, Any]:
        y, z = self.empty(x.shape), self.empty(x.shape)
        self._run("rows_congruence", *x.shape, x, c, c.shape[1], r, r.shape[1], y, z)
        return y, z

    def rows_low_rank(self, x: Any, u: Any, v: Any) -> Any:
        y = self.empty(x.shape)
        self._run("rows_low_rank", *x.shape, u.shape[1], x, u, v, y)
        return y

    def rows_causal_batch(self, x: Any, a: Any, transposed: bool) -> Any:
        y = self.empty(x.shape)
        self._run("rows_causal_batch", *x.shape, bool(transposed), x, a, a.shape[1], y)
        return y

    def spectral_kappa(self, z: Any, lam: Any, mu: Any, samples: float, features: float) -> Any:
        kappa = self.empty(z.shape)
        sizes = len(z), len(lam)
        self._run("spectral_kappa", *sizes, lam, mu, float(samples), float(features), z, kappa)
        return kappa

    def spectral_two_point(
        self,
        one1: Any,
        one2: Any,
        lam: Any,
        weights: Any,
        samples: float,
        features: float,
        noise_variance: float,
    ) -> tuple[Any, Any, Any]:
        (batch, n1), n2 = one1.shape[1:], one2.shape[2]
        test, train = self.empty((batch, n1, n2)), self.empty((batch, n1, n2))
        observable = self.empty((batch, n1, n2)) if len(weights) == 6 else None
        numbers = float(samples), float(features), float(noise_variance)
        results = test, train, 0 if observable is None else observable
        sizes = batch, n1, n2, len(lam)
        self._run("spectral_two_point", *sizes, lam, weights, *numbers, one1, one2, *results)
        return test, train, observable

    def attention_run(self, *, rates: Any, loss_limit: float, **problem: Any) -> tuple[Any, bool]:
        # Whether the loss stays below the limit is seen from the outputs, once they are there.
        outputs = self.empty((len(rates) + 1, *problem["centre"].shape))
        self._run_attention("attention_run", problem, list(rates), self.address(outputs))
        return outputs, True

    def attention_patterns(self, **problem: Any) -> tuple[Any, Any]:
        heads, sequences, length = len(problem["value"]), problem["sequences"], problem["length"]
        results = []
        for attention in ("none", problem["attention"]):
            patterns = self.empty((heads, sequences, length, length, 1))
            fields = problem | {"attention": attention}
            self._run_attention("attention_patterns", fields, self.address(patterns))
            results.append(patterns)
        return results[0], results[1]

    def _run_attention(self, name: str, problem: dict[str, Any], *arguments: Any) -> None:
        """Call a function of the core for heads of attention, one in a chunk."""
        tokens, query = problem["tokens"], problem["query"]
        fields = {
            "train": problem["targets"].shape[0],
            "outputs": problem["targets"].shape[1],
            "rank": 0 if tokens is None else tokens.shape[1],
            "groups": len(problem["centre"]),
            "heads": len(problem["value"]),
            "keys": 0 if query is None else query.shape[2],
            "values": problem["value"].shape[2],
        }
        for key, value in problem.items():
            if value is None:
                fields[key] = 0
            elif key == "attention":
                fields[key] = ATTENTIONS.index(value)
            else:
                fields[key] = self.address(value) if hasattr(value, "shape") else value
        self._function(name)(self.device, self.stream, fields, *arguments)

    def particle_products(
        self,
        *,
        x: Any,
        n: int,
        reference: Any = None,
        a: Any = None,
        used_a: Any = None,
        b: Any = None,
        used_b: Any = None,
        c: Any = None,
        d: Any = None,
        gram: Any = None,
    ) -> None:
        bases = (a, _rows(a), used_a, b, _rows(b), used_b)
        runs, rows, particles = x.shape
        sizes = (runs, particles, n)
        self._run("particle_products", *sizes, *bases, x, rows, reference, c, d, gram)

    def particle_expansion(
        self,
        *,
        n: int,
        a: Any = None,
        used_a: Any = None,
        c: Any = None,
        b: Any = None,
        used_b: Any = None,
        d: Any = None,
        skip: float = 1.0,
        scale: float = 1.0,
        base: Any = None,
        field: Any = None,
        repeat: int = 1,
        activation: int = 0,
        u: Any = None,
        y: Any = None,
        value: Any = None,
    ) -> None:
        runs, _, particles = next(one.shape for one in (u, y, value) if one is not None)
        bases = (a, _rows(a), used_a, b, _rows(b), used_b, c, d, float(skip), float(scale))
        fields = (base, _rows(base), field, _rows(field), repeat, activation)
        self._run("particle_expansion", runs, particles, n, *bases, *fields, u, y, value)

    def normals(self, x: Any, *, seed: int, run: int, stream: int, column: int) -> None:
        self._run("normals", seed, run, stream, column, *x.shape, x)

    def _of_two_kernels(self, name: str, a: Any, b: Any, block: int) -> Any:
        c = self.empty(a.shape)
        self._run(name, *_sizes(a), int(block), a, b, c)
        return c

    def _rows_times_history(self, name: str, x: Any, a: Any) -> Any:
        y = self.empty(x.shape)
        self._run(name, *x.shape, x, a, a.shape[1], y)
        return y

    def _run(self, name: str, *arguments: Any) -> None:
        """Call a function of the core; arrays are passed by address, None as a null pointer."""
        address = self.address
        self._function(name)(
            self.device,
            self.stream,
            *[
                one if isinstance(one, int | float) else 0 if one is None else address(one)
                for one in arguments
            ],
        )

    def _function(self, name: str) -> Callable[..., None]:
        """A function of the core for the type."""
        cuda = getattr(_core, "cuda", None)
        if cuda is None:
            raise CudaError(_core.cuda_status()[1])
        function: Callable[..., None] = getattr(getattr(cuda, self.dtype), name)
        return function


def _sizes(kernel: Any) -> tuple[int, int]:
    """Number of matrices, and their size."""
    return math.prod(kernel.shape[:-2]), kernel.shape[-1]


def _rows(array: Any) -> int:
    """Rows of every run of an array (runs, rows, particles); none of None."""
    return 0 if array is None else int(array.shape[1])
