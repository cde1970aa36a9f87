"""Row operations of a causal step, recorded once and run by the core at every step.

A step of a march is the same row operations on histories each time, on rows that get longer. In a
short run most of its time would go into calling them one by one. Recorded, the step is one call.

`Rows` take the place of the rows, and a `RowProgram` that of the core: `dmftcore.twotime` finds it
as it finds the core of any array. The equations are therefore written once, for rows that are
arrays and for rows that are being recorded.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from dmftcore import _core
from dmftcore._validate import FloatArray

__all__ = ["RowProgram", "Rows"]

#: Where rows lie: their place in the room, the number of the first of them there, how many.
_Place: TypeAlias = tuple[int, int, int]
#: (name, results, rows, arrays, factors), as `_core.RowProgram.add` takes them.
_Operation: TypeAlias = tuple[str, list["_Value"], list["_Value"], list[FloatArray], list[float]]


class _Value:
    """Rows that one operation computes, or some of them."""

    def __init__(self, count: int, whole: _Value | None = None, first: int = 0) -> None:
        self.count, self.whole, self.first = count, whole or self, first


class Rows:
    """Rows (m, n) of a step that is being recorded: a linear combination of computed ones."""

    ndim = 2
    #: numpy leaves products of its numbers with rows to the rows.
    __array_ufunc__ = None

    def __init__(self, program: RowProgram, terms: list[tuple[float, _Value]]) -> None:
        self.program, self._terms = program, terms

    @property
    def shape(self) -> tuple[int, int]:
        """(m, N): how long the rows become."""
        return len(self), self.program.times

    def __len__(self) -> int:
        return self._terms[0][1].count

    def __getitem__(self, rows: slice) -> Rows:
        """Some of the rows."""
        value = self.value()
        first, end, _ = rows.indices(value.count)
        part = _Value(end - first, value.whole, value.first + first)
        return Rows(self.program, [(1.0, part)])

    def __add__(self, other: Rows) -> Rows:
        return Rows(self.program, self._terms + other._terms)

    def __sub__(self, other: Rows) -> Rows:
        return self + -other

    def __mul__(self, factor: float) -> Rows:
        return Rows(self.program, [(f * float(factor), value) for f, value in self._terms])

    __rmul__ = __mul__

    def __truediv__(self, factor: float) -> Rows:
        return self * (1 / factor)

    def __neg__(self) -> Rows:
        return self * -1.0

    def value(self) -> _Value:
        """The rows as one value, computed here if they are a combination of several."""
        while len(self._terms) > 1:
            (f, x), (g, w), *rest = self._terms
            both = self.program.computed("combine", x.count, [x, w], factors=[f, g])
            self._terms = [(1.0, both), *rest]
        factor, value = self._terms[0]
        if factor != 1.0:
            value = self.program.computed("scale", value.count, [value], factors=[factor])
            self._terms = [(1.0, value)]
        return value


class RowProgram:
    """The row operations of a step; `run` is closed to further ones.

    Its methods named as operations of `dmftcore.twotime` record these.

    Parameters
    ----------
    times : int
        Number N of times of the histories.
    per_step : int
        Number K of times that belong to a step: (t + 1) K are known at step t.
    """

    def __init__(self, times: int, per_step: int = 1) -> None:
        self.times, self._per_step = times, per_step
        self._operations: list[_Operation] = []
        self._pinned: list[_Value] = []
        self._places: dict[_Value, int] = {}
        self._core: _core.RowProgram | None = None
        self._room: FloatArray = np.empty(0)

    @property
    def room_rows(self) -> int:
        """Rows that the values of a step need at a time."""
        self._close()
        return len(self._room) // self.times

    def input(self, count: int) -> Rows:
        """Rows that `at` gives access to, to be set before a step is run."""
        value = _Value(count)
        self._pinned.append(value)
        return Rows(self, [(1.0, value)])

    def result(self, rows: Any) -> Rows:
        """Rows that `at` gives access to after a step was run."""
        value = rows.value()
        self._pinned.append(value.whole)
        return Rows(self, [(1.0, value)])

    def at(self, rows: Rows, step: int) -> FloatArray:
        """An input or a result at a step, (m, n), for as long as no other step is run."""
        self._close()
        place, first, count = self._place(rows.value())
        n = (step + 1) * self._per_step
        begin = place * self.times + first * n
        return self._room[begin : begin + count * n].reshape(count, n)

    def run(self, begin: int, end: int | None = None) -> None:
        """Run the step `begin`, or all steps from there to before `end`."""
        self._close()
        assert self._core is not None
        self._core.run(self._room, begin, begin + 1 if end is None else end)

    def rows_causal(self, x: Rows, a: FloatArray) -> Rows:
        """See `dmftcore.twotime.rows_causal`."""
        return self._rows("causal", len(x), [x], [a])

    def rows_causal_transposed(self, x: Rows, a: FloatArray) -> Rows:
        """See `dmftcore.twotime.rows_causal_transposed`."""
        return self._rows("causal_transposed", len(x), [x], [a])

    def rows_causal_pair(self, x: Rows, w: Rows, a: FloatArray) -> tuple[Rows, Rows]:
        """See `dmftcore.twotime.rows_causal_pair`."""
        y, z = _Value(len(x)), _Value(len(x))
        self._record("causal_pair", [y, z], [x.value(), w.value()], [a])
        return Rows(self, [(1.0, y)]), Rows(self, [(1.0, z)])

    def rows_symmetric(self, x: Rows, c: FloatArray) -> Rows:
        """See `dmftcore.twotime.rows_symmetric`."""
        return self._rows("symmetric", len(x), [x], [c])

    def rows_congruence(self, x: Rows, c: FloatArray, r: FloatArray) -> tuple[Rows, Rows]:
        """See `dmftcore.twotime.rows_congruence`."""
        y = self.rows_symmetric(x, c)
        return y, self.rows_causal_transposed(y, r)

    def rows_low_rank(self, x: Rows, u: FloatArray, v: FloatArray) -> Rows:
        """See `dmftcore.twotime.rows_low_rank`."""
        return self._rows("low_rank", len(x), [x], [u, v])

    def rows_causal_batch(self, x: Rows, a: FloatArray, transposed: bool) -> Rows:
        """See `dmftcore.twotime.rows_causal_batch`."""
        name = "causal_batch_transposed" if transposed else "causal_batch"
        return self._rows(name, len(x), [x], [a])

    def before(self, x: Rows, weights: FloatArray) -> Rows:
        """``weights_j x_pj`` at earlier steps and 0 at the present one."""
        return self._rows("before", len(x), [x], [weights])

    def now(self, x: Rows) -> Rows:
        """``x_pj`` at the present step and 0 at earlier ones."""
        return self._rows("now", len(x), [x])

    def unit(self, count: int) -> Rows:
        """1 at the time p of the present step in row p, and 0 elsewhere."""
        return self._rows("unit", count)

    def by_row(self, factors: FloatArray, x: Rows) -> Rows:
        """``factors_p x_p``, or ``factors_p x`` for a single row x."""
        return self._rows("by_row", len(factors), [x], [factors])

    def mix(self, matrix: FloatArray, x: Rows) -> Rows:
        """``matrix x``."""
        return self._rows("mix", len(matrix), [x], [matrix])

    def columns(self, array: FloatArray) -> Rows:
        """``array_jp`` for an array (N, m)."""
        return self._rows("columns", array.shape[1], [], [array])

    def append(self, history: FloatArray, x: Rows) -> None:
        """Append rows to a history (N, N), or a row to each of (m, N, N)."""
        name = "append" if history.ndim == 2 else "append_batch"
        self._record(name, [], [x.value()], [history])

    def append_now(self, array: FloatArray, x: Rows) -> None:
        """Set ``array_jp`` to ``x_pj`` at the present step, of an array (N, m)."""
        self._record("append_now", [], [x.value()], [array])

    def computed(
        self,
        name: str,
        count: int,
        rows: list[_Value],
        arrays: list[FloatArray] | None = None,
        factors: list[float] | None = None,
    ) -> _Value:
        """The result, of `count` rows, of an operation that is recorded."""
        value = _Value(count)
        self._record(name, [value], rows, arrays, factors)
        return value

    def _record(
        self,
        name: str,
        results: list[_Value],
        rows: list[_Value],
        arrays: list[FloatArray] | None = None,
        factors: list[float] | None = None,
    ) -> None:
        assert self._core is None, "a step that has been run is complete"
        self._operations.append((name, results, rows, arrays or [], factors or []))

    def _rows(
        self,
        name: str,
        count: int,
        rows: list[Rows] | None = None,
        arrays: list[FloatArray] | None = None,
    ) -> Rows:
        value = self.computed(name, count, [x.value() for x in rows or []], arrays)
        return Rows(self, [(1.0, value)])

    def _close(self) -> None:
        """Give every value a place, which is free again after its last use."""
        if self._core is not None:
            return
        last = {x.whole: i for i, op in enumerate(self._operations) for x in op[2]}
        taken, free = 0, dict[int, list[int]]()

        def take(value: _Value) -> None:
            nonlocal taken
            places = free.get(value.count)
            if places:
                self._places[value] = places.pop()
            else:
                self._places[value] = taken
                taken += value.count

        for value in dict.fromkeys(self._pinned):
            take(value)
        pinned = set(self._pinned)
        self._core = _core.RowProgram(self.times, self._per_step)
        for i, (name, results, rows, arrays, factors) in enumerate(self._operations):
            for value in results:
                if value not in pinned:
                    take(value)
            to, of = map(self._place, results), map(self._place, rows)
            self._core.add(name, list(to), list(of), arrays, factors)
            for value in {x.whole for x in (*results, *rows)} - pinned:
                if last.get(value, i) == i:
                    free.setdefault(value.count, []).append(self._places[value])
        self._room = np.zeros(taken * self.times)

    def _place(self, value: _Value) -> _Place:
        return self._places[value.whole], value.first, value.count
