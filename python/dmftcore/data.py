"""The data noun: points or sequences to train and test on, as inputs or as their Gram matrix."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse.linalg

from dmftcore import _arrays
from dmftcore._validate import FloatArray, real_array

__all__ = ["Dataset"]

#: Relative asymmetry and relative negative eigenvalue a Gram matrix may show by rounding.
GRAM_TOLERANCE = 1e-8

#: Matrices smaller than this are diagonalised for their largest eigenvalue.
DENSE_EIGENVALUES = 500
#: Relative accuracy of the others: enough for a bound on the learning rate, and reached soon even
#: where many eigenvalues lie close to the largest.
EIGENVALUE_TOLERANCE = 1e-4

#: Numbers of axes of the arrays of a data set.
_AXES: dict[str, int | tuple[int, ...]] = {
    "targets": (1, 2),
    "test_targets": (1, 2),
    "inputs": (2, 3),
    "test_inputs": (2, 3),
    "gram": 2,
    "full_gram": 2,
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """P training points with targets, and optionally Q test points; points may be sequences.

    The inputs enter every theory through the Gram matrix ``Kx = X X^T / D`` alone, so either the
    inputs or the Gram matrix are given. Arrays are copied and promoted to float64; on the host they
    are read-only. They stay where they are: all of them numpy arrays, or all of them cupy arrays,
    and `solve` follows them.

    For attention a point is a sequence of S tokens, and every token has a row of its own in the
    Gram matrix: token s of sequence mu is row ``mu S + s``.

    Parameters
    ----------
    inputs : (P, D) or (P, S, D) array
        Training inputs: points, or sequences.
    targets : (P,) or (P, K) array
        Training targets of one or of K outputs.
    gram : (P, P) or (P S, P S) array
        Gram matrix of the training points or of the tokens to train on, instead of `inputs`.
    test_inputs : (Q, D) or (Q, S, D) array
        Test inputs, together with `inputs`.
    test_targets : (Q,) or (Q, K) array
        Targets of the test points; without them test outputs are still computed.
    full_gram : (P + Q, P + Q) or ((P + Q) S, (P + Q) S) array
        Gram matrix of all points, training points first, instead of `inputs` or `gram`; that of
        all tokens needs `test_targets`, which tell Q.

    Raises
    ------
    TypeError, ValueError
        For arrays that are not real and finite, of the wrong shape, or inconsistent; for some on a
        device and some on the host; for a Gram matrix that is not symmetric and positive
        semi-definite (relative tolerance 1e-8).
    """

    inputs: Any = None
    targets: Any = None
    gram: Any = None
    test_inputs: Any = None
    test_targets: Any = None
    full_gram: Any = None

    def __post_init__(self) -> None:
        given = [n for n in ("inputs", "gram", "full_gram") if getattr(self, n) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"give exactly one of inputs, gram, full_gram; found {found}")
        if self.targets is None:
            raise ValueError("targets is missing: pass an array of shape (P,) or (P, K)")
        values = {name: getattr(self, name) for name in _AXES if getattr(self, name) is not None}
        libraries = {name: _arrays.namespace(value) for name, value in values.items()}
        for name, library in libraries.items():
            if library is not libraries["targets"]:
                raise TypeError(
                    f"{name} is a {library.__name__} array but targets is a "
                    f"{libraries['targets'].__name__} array: pass all data on one device"
                )
        # Checked on the host, where what follows from them is also needed.
        on_host = {
            name: real_array(name, _arrays.to_host(value), _AXES[name])
            for name, value in values.items()
        }
        for name, array in on_host.items():
            object.__setattr__(self, name, array)
        if self.test_inputs is not None and self.inputs is None:
            raise ValueError("test_inputs needs inputs; with a Gram matrix pass full_gram")
        self._check_sizes()
        for name in ("gram", "full_gram"):
            if getattr(self, name) is not None:
                _check_gram(name, getattr(self, name))
        if libraries["targets"] is not np:
            object.__setattr__(self, "_host", copy.copy(self))
            for name, value in values.items():
                array = libraries[name].array(value, dtype=np.float64, order="C")
                object.__setattr__(self, name, array)

    @property
    def device(self) -> str:
        """Where the arrays are: "cpu" or "cuda"."""
        return "cuda" if hasattr(self, "_host") else "cpu"

    @property
    def on_host(self) -> Dataset:
        """The same data as numpy arrays."""
        return getattr(self, "_host", self)

    def _check_sizes(self) -> None:
        points = len(self.targets)
        if self.inputs is not None:
            if len(self.inputs) != points:
                raise ValueError(
                    f"targets has {points} rows, but inputs has {len(self.inputs)}: "
                    "one target per training point is needed"
                )
            if self.test_inputs is not None:
                self._check_test_inputs()
        if self.gram is not None:
            rows = len(self.gram)
            if self.gram.shape != (rows, rows) or rows % points:
                raise ValueError(
                    f"gram must have shape ({points}, {points}) for {points} targets, or "
                    f"{points} S rows and columns for sequences of S tokens, "
                    f"found {self.gram.shape}"
                )
        if self.full_gram is not None:
            total = len(self.full_gram)
            if self.full_gram.shape != (total, total) or total < points:
                raise ValueError(
                    f"full_gram must be square with at least {points} rows (the training points "
                    f"come first), found {self.full_gram.shape}"
                )
        if self.test_targets is not None:
            expected = (self.n_test, *self.targets.shape[1:])
            if self.test_targets.shape != expected:
                raise ValueError(
                    f"test_targets must have shape {expected} for {self.n_test} test points, "
                    f"found {self.test_targets.shape}"
                )

    def _check_test_inputs(self) -> None:
        kind = "sequences" if self.inputs.ndim == 3 else "points"
        if self.test_inputs.ndim != self.inputs.ndim:
            raise ValueError(
                f"test_inputs must have {self.inputs.ndim} axes as inputs, which holds {kind}: "
                f"found shape {self.test_inputs.shape}"
            )
        if kind == "sequences" and self.test_inputs.shape[1] != self.inputs.shape[1]:
            raise ValueError(
                f"test_inputs has sequences of {self.test_inputs.shape[1]} tokens, "
                f"but those of inputs have {self.inputs.shape[1]}"
            )
        if self.test_inputs.shape[-1] != self.inputs.shape[-1]:
            raise ValueError(
                f"test_inputs has {self.test_inputs.shape[-1]} columns, "
                f"but inputs has {self.inputs.shape[-1]}"
            )

    @property
    def n_train(self) -> int:
        """Number P of training points."""
        return len(self.targets)

    @property
    def sequence_length(self) -> int:
        """Number S of tokens of a point; 1 for points that are no sequences."""
        if self.inputs is not None:
            return int(self.inputs.shape[1]) if self.inputs.ndim == 3 else 1
        if self.gram is not None:
            return len(self.gram) // self.n_train
        if self.test_targets is None:
            return 1
        length, left = divmod(len(self.full_gram), self.n_train + len(self.test_targets))
        return 1 if left else length

    @property
    def n_test(self) -> int:
        """Number Q of test points."""
        if self.full_gram is not None:
            return len(self.full_gram) // self.sequence_length - self.n_train
        return 0 if self.test_inputs is None else len(self.test_inputs)

    @property
    def n_outputs(self) -> int:
        """Number K of outputs."""
        return 1 if self.targets.ndim == 1 else int(self.targets.shape[1])

    @cached_property
    def kernel(self) -> FloatArray:
        """Gram matrix Kx of all P + Q points, or their tokens, where the data are."""
        if self.points is not None:
            return self.points @ self.points.T
        matrix: FloatArray = self.full_gram if self.full_gram is not None else self.gram
        return (matrix + matrix.T) / 2

    @cached_property
    def largest_eigenvalue(self) -> float:
        """Largest eigenvalue of the Gram matrix of the training points, or their tokens."""
        if self.on_host is not self:
            return self.on_host.largest_eigenvalue
        train = slice(self.n_train * self.sequence_length)
        if self.points is not None and self.points.shape[1] < train.stop:
            return _largest_eigenvalue(self.points[train].T @ self.points[train])
        return _largest_eigenvalue(self.kernel[train, train])

    @cached_property
    def points(self) -> FloatArray | None:
        """Rows x / sqrt(D) of all points, or their tokens: Kx = points points^T; or None."""
        if self.inputs is None:
            return None
        given = [self.inputs] if self.test_inputs is None else [self.inputs, self.test_inputs]
        rows = _arrays.namespace(self.inputs).concatenate(given)
        rows = rows.reshape(-1, rows.shape[-1])
        scaled: FloatArray = rows / np.sqrt(rows.shape[1])
        return scaled


def _check_gram(name: str, matrix: FloatArray) -> None:
    scale = np.abs(matrix).max()
    asymmetry = np.abs(matrix - matrix.T).max()
    if asymmetry > GRAM_TOLERANCE * scale:
        raise ValueError(
            f"{name} is not symmetric: largest |K - K^T| is {asymmetry:.3g} "
            f"with entries up to {scale:.3g}"
        )
    shift = GRAM_TOLERANCE * _largest_eigenvalue(matrix)
    try:
        # Far cheaper than the eigenvalues, which only the error message needs.
        np.linalg.cholesky(matrix + max(shift, np.finfo(float).tiny) * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
        spectrum = np.linalg.eigvalsh(matrix)
        raise ValueError(
            f"{name} is not positive semi-definite: smallest eigenvalue {spectrum[0]:.3g}, "
            f"largest {spectrum[-1]:.3g}"
        ) from None


def _largest_eigenvalue(matrix: FloatArray) -> float:
    if len(matrix) < DENSE_EIGENVALUES:
        return float(np.linalg.eigvalsh(matrix)[-1])
    # Lanczos from a fixed start, so that equal data give equal digits.
    start = np.random.default_rng(0).normal(size=len(matrix))
    (value,) = scipy.sparse.linalg.eigsh(
        matrix, 1, v0=start, ncv=60, tol=EIGENVALUE_TOLERANCE, return_eigenvectors=False
    )
    return float(value)
