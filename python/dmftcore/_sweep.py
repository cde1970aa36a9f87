"""The verb `sweep`: a verb on a grid of nouns, its results as one table."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import inspect
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dmftcore._optional import optional_import
from dmftcore._provenance import describe
from dmftcore.errors import DivergenceError
from dmftcore.solution import Solution

if TYPE_CHECKING:
    import xarray

__all__ = ["sweep"]

#: Called with the number of points that are done and the number of all.
PointProgress: TypeAlias = Callable[[int, int], None]

#: The error text of a point whose turn has not come.
NOT_RUN = "not run"

#: Seconds between two writes of the file, and the least ratio of this time to that of a write.
SAVE_SECONDS = 20.0
SAVE_RATIO = 20.0


def sweep(
    fn: Callable[..., Any],
    *,
    executor: concurrent.futures.Executor | None = None,
    path: str | os.PathLike[str] | None = None,
    progress: PointProgress | None = None,
    options: Mapping[str, Any] | None = None,
    **nouns: Any,
) -> xarray.Dataset:
    """Call `fn` at every point of a grid and collect the results in one table.

    Every argument that is given as a list is swept: with several lists the grid is their outer
    product. All others are passed to `fn` as they are.

    Parameters
    ----------
    fn : callable
        `solve`, `simulate`, or any function of keyword arguments that returns a `Solution` or an
        `xarray.Dataset`. An executor with processes needs one that can be pickled: defined at the
        top of a module, or a `functools.partial` of such.
    executor : concurrent.futures.Executor, optional
        Runs the points: ``ProcessPoolExecutor()``, mpi4py's ``MPIPoolExecutor()``, dask's
        ``Client(...).get_executor()`` or another. By default they run one after the other, here.
        The result does not depend on it.
    path : path, optional
        A netCDF file that holds the result as far as it has come; it is written now and then, on
        Ctrl-C and at the end. The same call goes on with what is left, and so does one with a
        larger grid. Points that diverged are not tried again, those that failed otherwise are.
    progress : callable, optional
        Called with (points done, points in all) after each of them.
    options : mapping, optional
        Further arguments of `fn` that are not swept even if they are lists, such as
        ``{"times": [0, 10, 100]}``, or whose names are those of arguments of `sweep`.
    **nouns
        Arguments of `fn`: ``limit=[...], data=data, training=[...]``, and also ``width=[...]``.

    Returns
    -------
    xarray.Dataset
        The fields of the Solutions as `Solution.to_xarray` names them, with the axes of the grid
        first. The axis of a swept argument has as coordinates the fields in which its values
        differ, as far as they are numbers or strings. A single one gives the axis its name
        (``gamma``); several are coordinates of an axis named as the argument (``limit``), and
        ``grid.set_index(limit=["depth", "gamma"]).unstack("limit")`` makes an axis of each.
        A name that the results use already gets the prefix ``swept_``.

        Where the results differ in their times, layers or sizes, each axis is the union of theirs,
        and what a point does not have is NaN. At a point that failed all fields are NaN, and the
        variable ``error`` says why; it is "" at the others. ``config`` and ``diagnostics`` are
        those of each Solution, ``call`` is what was called, as JSON texts.

    Raises
    ------
    ImportError
        If xarray, or for `path` h5netcdf, is not installed.
    TypeError, ValueError
        For arguments that `fn` does not take, or of which no description can be stored, for empty
        lists, results that make no common table, and a file that holds other points.
    concurrent.futures.BrokenExecutor
        When the executor fails, with all results up to then in `path`.

    Examples
    --------
    Final losses over feature learning and learning rate, on all cores::

        with concurrent.futures.ProcessPoolExecutor() as pool:
            grid = dc.sweep(
                dc.solve,
                limit=[dc.DeepLinear(depth=3, gamma=g) for g in (0.5, 1.0, 2.0)],
                training=[dc.GradientDescent(lr=lr, steps=500) for lr in (0.01, 0.02, 0.05)],
                data=data,
                executor=pool,
                path="grid.nc",
            )
        grid.train_loss.isel(time=-1).plot(x="gamma", hue="lr")
        grid.error.sel(gamma=2.0, lr=0.05).item()      # why that point diverged, or ""
    """
    xr = optional_import("xarray", extra="io", purpose="sweep")
    if path is not None:
        optional_import("h5netcdf", extra="io", purpose="sweep with a path")
    options = {} if options is None else options
    if twice := sorted(options.keys() & nouns.keys()):
        raise TypeError(f"options and the arguments of sweep both give {', '.join(twice)}")
    axes = [_Axis(name, values) for name, values in nouns.items() if isinstance(values, list)]
    swept = [axis.argument for axis in axes]
    constant = {name: value for name, value in nouns.items() if name not in swept} | {**options}
    points = [
        constant | dict(zip(swept, values, strict=True))
        for values in itertools.product(*(axis.values for axis in axes))
    ]
    _check_arguments(fn, points[0])
    described = _described(constant)
    calls = [
        _call(fn, described | dict(zip(swept, descriptions, strict=True)))
        for descriptions in itertools.product(*(axis.descriptions for axis in axes))
    ]
    store = _Store(xr, axes, calls, None if path is None else Path(path))
    try:
        for point, outcome in _outcomes(executor, fn, points, store.waiting()):
            store.add(point, *outcome)
            if progress is not None:
                progress(store.done, len(points))
    except KeyboardInterrupt:
        if path is None:
            raise
        raise KeyboardInterrupt(
            f"interrupted after {store.done} of {len(points)} points; {path} holds them: call "
            "again to go on"
        ) from None
    finally:
        store.save()
    return store.grid()


def _outcomes(
    executor: concurrent.futures.Executor | None,
    fn: Callable[..., Any],
    points: list[dict[str, Any]],
    waiting: list[int],
) -> Iterator[tuple[int, tuple[Any, str]]]:
    """Points and their outcomes, as they become available."""
    if executor is None:
        for point in waiting:
            yield point, _outcome(fn, points[point])
        return
    futures = {executor.submit(_outcome, fn, points[point]): point for point in waiting}
    try:
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()
    finally:
        for future in futures:
            future.cancel()


def _outcome(fn: Callable[..., Any], arguments: dict[str, Any]) -> tuple[Any, str]:
    """What `fn` returns, or None and the text of its error; runs where the executor wants."""
    try:
        return fn(**arguments), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def _check_arguments(fn: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    try:
        inspect.signature(fn).bind(**arguments)
    except TypeError as error:
        given = ", ".join(sorted(arguments))
        raise TypeError(f"fn cannot be called with {given}: {error}") from None


def _call(fn: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """A text that is the same for the same call, whatever is swept in it."""
    return json.dumps({"fn": _function(fn), "arguments": arguments}, sort_keys=True)


def _function(fn: Callable[..., Any]) -> Any:
    if isinstance(fn, functools.partial):
        given = {"args": describe(fn.args), "keywords": _described(fn.keywords)}
        return {"partial": _function(fn.func), **given}
    return f"{fn.__module__}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"


def _described(arguments: Mapping[str, Any]) -> dict[str, Any]:
    described = {}
    for name, value in arguments.items():
        try:
            described[name] = describe(value)
        except TypeError as error:
            raise TypeError(f"{name} cannot be swept or passed on: {error}") from None
    return described


class _Axis:
    """One swept argument.

    Attributes
    ----------
    argument : str
    values : list
    descriptions : list
        The values in plain form, equal for equal values.
    fields : dict
        Arrays (len(values),) of the numbers and strings in which the values differ, by name.
    """

    def __init__(self, argument: str, values: list[Any]) -> None:
        if not values:
            raise ValueError(f"{argument} is an empty list: pass at least one value to sweep")
        self.argument, self.values = argument, values
        self.descriptions = [_described({argument: value})[argument] for value in values]
        self.fields = {
            name: coordinate
            for name, column in self._columns().items()
            if (coordinate := _coordinate(column)) is not None
        }

    def _columns(self) -> dict[str, list[Any]]:
        """The fields in which nouns differ, or the values themselves."""
        if not all(dataclasses.is_dataclass(value) for value in self.values):
            return {self.argument: self.descriptions}
        names = dict.fromkeys(itertools.chain.from_iterable(self.descriptions))
        columns = {name: [noun.get(name) for noun in self.descriptions] for name in names}
        columns = {name: col for name, col in columns.items() if any(v != col[0] for v in col)}
        return {f"{self.argument}_{k}" if k == "type" else k: col for k, col in columns.items()}


def _coordinate(values: list[Any]) -> npt.NDArray[Any] | None:
    """Numbers or strings as an array, None for other values; an absent number is NaN."""
    if any(isinstance(value, (list, dict)) for value in values):
        return None
    if any(isinstance(value, str) for value in values):
        return np.array([str(value) for value in values])
    return np.array([math.nan if value is None else value for value in values])


class _Store:
    """The results of the points that are done, and the file that holds them.

    Parameters
    ----------
    xr : module
        xarray.
    axes : list of _Axis
    calls : list of str
        What is called at every point of the grid, the last axis running fastest.
    path : Path, optional
    """

    def __init__(self, xr: Any, axes: list[_Axis], calls: list[str], path: Path | None) -> None:
        self._xr, self._axes, self._calls, self._path = xr, axes, calls, path
        self._tables: dict[int, xarray.Dataset] = {}
        self._dims: dict[str, tuple[Any, ...]] = {}
        self._unsaved = False
        self._next_save = time.monotonic() + SAVE_SECONDS
        if path is not None and path.exists():
            self._load(path)

    @property
    def done(self) -> int:
        """Number of points that are done."""
        return len(self._tables)

    def waiting(self) -> list[int]:
        """The points that are not done."""
        return [point for point in range(len(self._calls)) if point not in self._tables]

    def add(self, point: int, result: Any, error: str) -> None:
        """Take what `fn` returned, or the text of its error; write the file if that is due."""
        table = self._xr.Dataset() if error else _table(self._xr, result)
        self._keep(point, table.assign(error=error, call=self._calls[point]))
        self._unsaved = True
        if time.monotonic() >= self._next_save:
            self.save()

    def _keep(self, point: int, table: xarray.Dataset) -> None:
        for name, variable in table.data_vars.items():
            dims = self._dims.setdefault(str(name), variable.dims)
            if variable.dims != dims:
                raise ValueError(
                    f"{name!r} has the axes {dims} at one point of the sweep and {variable.dims} "
                    "at another, which make no common table: sweep the two apart"
                )
        self._tables[point] = table

    def grid(self) -> xarray.Dataset:
        """The table of all points, NaN where there is nothing."""
        own, columns = _joined(self._tables, self._dims, len(self._calls))
        columns.setdefault("error", np.full(len(self._calls), "", dtype=object))
        columns["error"][self.waiting()] = NOT_RUN
        dimensions, coordinates = self._named({*own, *columns})
        shape = tuple(len(axis.values) for axis in self._axes)
        return self._xr.Dataset(  # type: ignore[no-any-return]
            {
                name: (
                    (*dimensions, *self._dims.get(name, ())),
                    column.reshape(shape + column.shape[1:]),
                )
                for name, column in columns.items()
            },
            own | coordinates,
        )

    def _named(self, taken: set[str]) -> tuple[list[str], dict[str, Any]]:
        """Names of the axes of the grid, and their coordinates, beside names that are taken."""
        fields = [name for axis in self._axes for name in axis.fields]
        dimensions: list[str] = []
        coordinates: dict[str, Any] = {}
        for axis in self._axes:
            names = {
                field: field if fields.count(field) == 1 else f"{axis.argument}_{field}"
                for field in axis.fields
            }
            names = {k: f"swept_{name}" if name in taken else name for k, name in names.items()}
            dimensions.append(axis.argument if len(names) != 1 else next(iter(names.values())))
            for field, name in names.items():
                coordinates[name] = (dimensions[-1], axis.fields[field])
        return dimensions, coordinates

    def save(self) -> None:
        """Write the file, if there is one and something new for it."""
        if self._path is None or not self._unsaved:
            return
        begin = time.monotonic()
        grid = self.grid()
        encoding = {
            name: {"zlib": True, "complevel": 2, "shuffle": True}
            for name, variable in grid.data_vars.items()
            if variable.dtype.kind == "f" and variable.ndim > 0
        }
        # Written beside and renamed: an interrupted write leaves an older result whole.
        draft = self._path.with_name(self._path.name + ".part")
        try:
            grid.to_netcdf(draft, engine="h5netcdf", encoding=encoding)
            draft.replace(self._path)
        finally:
            draft.unlink(missing_ok=True)
        self._unsaved = False
        now = time.monotonic()
        self._next_save = now + max(SAVE_SECONDS, SAVE_RATIO * (now - begin))

    def _load(self, path: Path) -> None:
        with self._xr.open_dataset(path, engine="h5netcdf") as file:
            grid = file.load()
        if not {"error", "call"} <= grid.data_vars.keys():
            raise ValueError(f"path: {path} was not written by sweep; name another file")
        axes = grid["error"].dims
        grid = grid.drop_vars([name for name, c in grid.coords.items() if {*c.dims} & {*axes}])
        places: dict[str, list[int]] = {}
        for point, call in enumerate(self._calls):
            places.setdefault(call, []).append(point)
        for index in np.ndindex(grid["error"].shape):
            table = grid.isel(dict(zip(axes, index, strict=True)))
            call, error = table["call"].item(), table["error"].item()
            if error and not error.startswith(DivergenceError.__name__):
                continue
            if call not in places:
                raise ValueError(
                    f"path: {path} holds results that are no part of this sweep, such as {call}; "
                    "name another file, or sweep these points too"
                )
            for point in places[call]:
                self._keep(point, table[["error", "call"]] if error else table)


def _table(xr: Any, result: Any) -> xarray.Dataset:
    """A result as a table whose attributes are variables."""
    if isinstance(result, Solution):
        table = result.to_xarray()
    elif isinstance(result, xr.Dataset):
        table = result
    else:
        raise TypeError(
            f"fn must return a Solution or an xarray.Dataset, not a {type(result).__name__}"
        )
    texts = {name: text for name, text in table.attrs.items() if isinstance(text, str)}
    return table.assign(texts)


def _joined(
    tables: Mapping[int, xarray.Dataset], dims: Mapping[str, Any], count: int
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """The union of the axes of tables, and their variables on it behind an axis of all points."""
    axes: dict[Any, Any] = {}
    for table in tables.values():
        for axis in table.dims:
            # The index of an axis without coordinates counts its positions.
            index = table.get_index(axis)
            axes[axis] = axes[axis].union(index) if axis in axes else index
    columns = {}
    for name, own in dims.items():
        found = [table[name] for table in tables.values() if name in table]
        columns[name] = _empty((count, *(len(axes[axis]) for axis in own)), found)
    for point, table in tables.items():
        places = {axis: axes[axis].get_indexer(table.get_index(axis)) for axis in table.dims}
        for key, variable in table.data_vars.items():
            where = np.ix_(*(places[axis] for axis in variable.dims))
            column = columns[str(key)]
            column[(point, *where)] = variable.values.astype(column.dtype)[()]
    return axes, columns


def _empty(shape: tuple[int, ...], values: Iterable[Any]) -> npt.NDArray[Any]:
    """An array for values of these types: texts "", numbers NaN."""
    dtypes = [value.dtype for value in values]
    if any(dtype.kind in "OUS" for dtype in dtypes):
        return np.full(shape, "", dtype=object)
    return np.full(shape, math.nan, dtype=np.result_type(np.float32, *dtypes))
