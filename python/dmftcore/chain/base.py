"""What all chains share: histories of two-time kernels, their rows, their state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays, twotime
from dmftcore._validate import FloatArray
from dmftcore.chain.couplings import Couplings, Through
from dmftcore.chain.packing import packed, unpack
from dmftcore.chain.reflection import Factors
from dmftcore.recording import RowProgram, Rows

__all__ = ["Kernels", "LiftedRows", "TwoTimeChain"]

#: Kernels by layer.
Kernels = dict[int, FloatArray]


@dataclass
class LiftedRows:
    """Rows of the h side for vectors in input space, layer by layer.

    Attributes
    ----------
    scale : (m,) array
        init_scale c(t) at the step t of each row.
    h : list of (m, n) arrays
        H of every layer, contracted with Delta on the second side.
    a : list of (m, n) arrays
        A of every layer.
    layers : list of lists of pairs of (m, n) arrays
        By layer, what its kernel adds where the chain says; see `TwoTimeChain.features`.
    links : list of lists of pairs of (m, n) arrays
        The same for what lies between two layers.
    """

    scale: FloatArray
    h: list[FloatArray] = field(default_factory=list)
    a: list[FloatArray] = field(default_factory=list)
    layers: list[Factors] = field(default_factory=list)
    links: list[Factors] = field(default_factory=list)

    @classmethod
    def stacked(cls, parts: Sequence[LiftedRows], xp: Any) -> LiftedRows:
        """One set below the other, on equal numbers of columns."""

        def rows(arrays: Iterable[FloatArray]) -> FloatArray:
            joined: FloatArray = xp.concatenate(list(arrays))
            return joined

        def factors(by_part: Iterable[Factors]) -> Factors:
            return [
                (rows(x for x, _ in pairs), rows(y for _, y in pairs))
                for pairs in zip(*by_part, strict=True)
            ]

        return cls(
            rows(p.scale for p in parts),
            [rows(h) for h in zip(*(p.h for p in parts), strict=True)],
            [rows(a) for a in zip(*(p.a for p in parts), strict=True)],
            [factors(f) for f in zip(*(p.layers for p in parts), strict=True)],
            [factors(f) for f in zip(*(p.links for p in parts), strict=True)],
        )


class TwoTimeChain(ABC):
    """Histories of the kernels of the hidden layers, marched one step at a time.

    A step consists of `backward`, which needs earlier steps only, and of `forward`, which takes
    the new row of H^0 from the data side. Rows and columns are numbered (t, k), time slowest;
    n_t = (t + 1) K of them are known at step t.

    Parameters
    ----------
    couplings : Couplings
    steps : int
        Steps t = 0..steps will be marched.
    outputs : int
        Number K of outputs.
    gamma : float
        As in `DeepLinear`.
    xp : module
        Array library of the histories.
    answers : bool
        Whether the data answer to the network within a step: `forward` and `lift` are then given
        rows of A^0 too, which is lower triangular with its diagonal, and zero otherwise.
    """

    #: The layers whose kernels the chain knows.
    layers: range
    #: Whether a step is the same row operations each time.
    repeats = True

    def __init__(
        self,
        couplings: Couplings,
        *,
        steps: int,
        outputs: int,
        gamma: float,
        xp: Any,
        answers: bool = False,
    ) -> None:
        self.couplings, self.outputs, self.g2, self.xp = couplings, outputs, gamma**2, xp
        self.step = -1
        #: False once an equation of a step could not be solved.
        self.settled = True
        # And whether they are to be recorded, which the core runs for numpy arrays.
        self.repeats = self.repeats and couplings.repeats and xp is np
        self._backward: tuple[RowProgram, Any] | None = None
        self._forward: tuple[RowProgram, list[Any]] | None = None
        self._largest = (steps + 1) * outputs
        #: Lower triangles over (t, k), by name and layer.
        self.histories: dict[str, Kernels] = {}
        (self._a,) = self._new(a=[0] if answers else [])
        #: The gradient kernel of the readout, G^{L+1} = top top^T: 1 in the outputs at all times.
        self.top: FloatArray = xp.tile(xp.eye(outputs), (steps + 1, 1))

    @abstractmethod
    def descend(self, top: FloatArray) -> FloatArray:
        """Append the rows of the g side at the present step, given those of G^{L+1}; those of D^0.

        Rows are (K, n_t) arrays, or `Rows` if the step `repeats`.
        """

    @abstractmethod
    def ascend(self, h: FloatArray, a: FloatArray | None = None) -> None:
        """Append the rows of the h side at the present step, given those of H^0 and A^0."""

    def backward(self) -> FloatArray:
        """Go to the next step and append its rows of the g side; the response D^0 (K, n_t)."""
        self.step += 1
        if not self.repeats:
            return self.descend(self._top_rows(self._size(self.step)))
        if self._backward is None:
            program = self.program()
            top: Any = program.columns(self.top)
            self._backward = program, program.result(self.descend(top))
        program, response = self._backward
        program.run(self.step)
        return program.at(response, self.step)

    def forward(self, h: FloatArray, a: FloatArray | None = None) -> None:
        """Append the rows of the h side at the present step, given those of H^0, A^0 (K, n_t)."""
        if not self.repeats:
            self.ascend(h, a)
            return
        given = [h] if a is None else [h, a]
        if self._forward is None:
            program = self.program()
            self._forward = program, [program.input(self.outputs) for _ in given]
            self.ascend(*self._forward[1])
        program, inputs = self._forward
        for rows, array in zip(inputs, given, strict=True):
            program.at(rows, self.step)[:] = array
        program.run(self.step)

    def program(self) -> RowProgram:
        """An empty program for the steps of this march."""
        return RowProgram(self._largest, self.outputs)

    @abstractmethod
    def lift(self, h: FloatArray, step: int, a: FloatArray | None = None) -> LiftedRows:
        """Rows of all layers at `step` for m vectors of the input space.

        Parameters
        ----------
        h : (m, n) array
            Rows of H^0 on any number n >= (step + 1) K of known columns.
        step : int
            Where the strictly causal rows end.
        a : (m, n) array, optional
            Rows of A^0, if the chain has it.
        """

    @abstractmethod
    def features(
        self, first: LiftedRows, second: LiftedRows, start: FloatArray
    ) -> list[FloatArray]:
        """H of every layer between two sets of lifted rows, given H^0 between them."""

    @abstractmethod
    def residual(self, largest_size: int) -> float:
        """Largest relative violation of the chain's equations, over the first `largest_size` rows.

        The kernels are recomputed from each other by another route than the march, with products
        and resolvents of whole matrices.
        """

    @property
    def responses(self) -> Kernels:
        """Responses B^l, by l, of g^{l+1} to a source added to h^{l+1}."""
        return self.histories["b"]

    @property
    def gradient_histories(self) -> Kernels:
        """Lower triangles of G of every layer."""
        return self.histories["g"]

    @property
    def diagnostics(self) -> dict[str, Any]:
        """What else there is to say about the march."""
        return {}

    def gradients(self, layer: int) -> FloatArray:
        """G over all marched steps, (n_t, n_t), both triangles."""
        return _symmetric(self.gradient_histories[layer], self._size(self.step), self.xp)

    def link(self, layer: int) -> float:
        """Factor of the weights above layer l = 0..L in the forward map."""
        return 1.0

    def gradient_noise(self, layer: int) -> FloatArray:
        """Correlation (n_t, n_t) of the gradients whose noise reaches layer l: G^{l+1}."""
        if layer + 1 in self.layers:
            return self.gradients(layer + 1)
        top = self.top[: self._size(self.step)]
        return top @ top.T

    def feature_noise(self, layer: int, rows: LiftedRows) -> FloatArray:
        """Rows (m, n) of the features whose noise reaches the gradients above l: H^l."""
        return rows.h[layer]

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        state: dict[str, npt.NDArray[Any]] = {"step": np.array(self.step)}
        for name, layers in self.histories.items():
            for layer, history in layers.items():
                state[f"{name}{layer}"] = packed(history, self.step + 1, self.outputs)
        return state

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        self.step = int(state["step"])
        n = self._size(self.step)
        if n > self._largest:
            raise ValueError(
                f"the saved state is at step {self.step}, this run has "
                f"{self._largest // self.outputs - 1} steps: restore it with at least as many"
            )
        for name, layers in self.histories.items():
            for layer, history in layers.items():
                unpack(history, state[f"{name}{layer}"], self.step + 1, self.outputs)

    def _enter(self, h: FloatArray, a: FloatArray | None, step: int) -> FloatArray:
        """Rows of what drives the first layer, kept A^0 + learned H^0."""
        if a is None:
            return self.couplings.learned(h, step)
        return self.couplings.both(a, h, step)

    def _remember(self, a: FloatArray | None) -> None:
        """Append the row of A^0, which the march itself needs no more."""
        if a is not None:
            self._append(self._a[0], a)

    def _append(self, history: FloatArray, rows: FloatArray) -> None:
        """Append the rows of the present step to a history."""
        if isinstance(rows, Rows):
            rows.program.append(history, rows)
        else:
            history[self._now(self.step), : rows.shape[1]] = rows

    def _new(self, **layers: Iterable[int]) -> list[Kernels]:
        """Empty histories of kernels, by name, for the given layers.

        All lie in one block, which the system gives in large pages where it is long.
        """
        places = [(name, layer) for name, several in layers.items() for layer in several]
        block = self.xp.zeros((len(places), self._largest, self._largest))
        self.histories |= {name: {} for name in layers}
        for (name, layer), history in zip(places, block, strict=True):
            self.histories[name][layer] = history
        return [self.histories[name] for name in layers]

    def _top_rows(self, n: int) -> FloatArray:
        """A row of G^{L+1} for every output, (K, n)."""
        rows: FloatArray = self.xp.ascontiguousarray(self.top[:n].T)
        return rows

    def _through_top(self) -> Through:
        """Products with kept o G^{L+1}."""
        return self.couplings.through(lambda w: twotime.rows_low_rank(w, self.top, self.top))

    def _through(self, kernel: FloatArray, factor: float = 1.0) -> Through:
        """Products with ``factor kept o K`` of a symmetric history K."""
        return self.couplings.through(lambda w: twotime.rows_symmetric(w, kernel), factor)

    def _size(self, step: int) -> int:
        return (step + 1) * self.outputs

    def _now(self, step: int) -> slice:
        return slice(step * self.outputs, (step + 1) * self.outputs)

    def _dense(self, largest_size: int) -> _Dense:
        steps = min(largest_size // self.outputs, self.step + 1)
        return _Dense(self, max(steps, 1))


class _Dense:
    """The first rows of all histories as full matrices in numpy, for checks."""

    def __init__(self, chain: TwoTimeChain, steps: int) -> None:
        self.n = n = steps * chain.outputs
        self.kept, self.learned = chain.couplings.dense(steps)
        self.top = _arrays.to_host(chain.top[:n] @ chain.top[:n].T)
        self._histories = chain.histories
        #: What enters the first layer besides learned H^0: kept A^0.
        answer = self.causal("a", 0) if 0 in chain.histories["a"] else np.zeros((n, n))
        self.entering = self.kept * answer

    def causal(self, name: str, layer: int) -> FloatArray:
        return np.ascontiguousarray(
            _arrays.to_host(self._histories[name][layer][: self.n, : self.n])
        )

    def symmetric(self, name: str, layer: int) -> FloatArray:
        return _symmetric(self.causal(name, layer), self.n, np)


def _symmetric(lower: FloatArray, n: int, xp: Any) -> FloatArray:
    known = xp.tril(lower[:n, :n])
    full: FloatArray = known + xp.tril(known, -1).T
    return full


def deviation(found: FloatArray, expected: FloatArray) -> float:
    """Largest difference, relative to the largest element expected."""
    scale = np.abs(expected).max(initial=0.0)
    return float(np.abs(found - expected).max() / scale) if scale > 0 else 0.0
