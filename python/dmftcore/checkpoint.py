"""Long runs that can be interrupted, resumed and extended: the file they leave.

A checkpoint is an uncompressed ``.npz`` file: a JSON header (what is computed, by which version),
the curves stored so far, and the state of the march. It holds no pickled objects.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.solution import TimeArray

__all__ = ["Checkpoint", "PathLike", "Saved", "deferred_interrupt"]

PathLike: TypeAlias = str | os.PathLike[str]

#: Seconds between two saves, and the largest part of the wall time that saving may take.
INTERVAL = 60.0
SHARE = 0.05

FORMAT = "dmftcore checkpoint 1"

#: What reading a damaged or foreign file may raise.
_UNREADABLE = (
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)

#: What may differ between the calls that write and read a checkpoint: the first steps of both runs
#: are the same, or compared otherwise. What has defaults is compared
#: as the values in force.
_FREE = {
    "training": {"lr", "steps"},
    "solve": {
        "times",
        "kernel_times",
        "method",
        "tol",
        "samples",
        "replicas",
        "estimate_error",
    },
    "simulate": {"times", "kernel_times"},
}


@dataclass(frozen=True)
class Saved:
    """A run as far as it has come.

    Attributes
    ----------
    step : int
        Where the march is.
    times, kernel_times : int arrays
        Steps stored so far.
    explicit : tuple of str
        Which of the two were asked for, and not chosen by default.
    outputs : (n_times, ...) array
        What the march has answered at `times`.
    state : mapping
        See `dmftcore.march.March.state`.
    """

    step: int
    times: TimeArray
    kernel_times: TimeArray
    explicit: tuple[str, ...]
    outputs: FloatArray
    state: Mapping[str, npt.NDArray[Any]]


class Checkpoint:
    """The file of one run.

    Parameters
    ----------
    path : path
        Read if it exists.
    at_end : bool
        Whether the last step is saved too, so that the run can be extended.

    Attributes
    ----------
    saved : Saved or None
        What the file holds of the run, from `admit` until the march takes it.
    resumed_from : list of int
        Steps at which the run was gone on with.

    Raises
    ------
    TypeError
        If `path` is none.
    """

    def __init__(self, path: PathLike, *, at_end: bool = True) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"checkpoint must be a path, not {path!r}")
        self.path, self.at_end = Path(path), at_end
        self.saved: Saved | None = None
        self.resumed_from: list[int] = []
        self._identity: dict[str, Any] = {}
        self._rates: FloatArray = np.empty(0)
        self._start = self._last_save = time.perf_counter()
        self._earlier_seconds = self._cost = 0.0

    @classmethod
    def at(cls, path: PathLike | Checkpoint | None) -> Checkpoint | None:
        """The checkpoint that the argument of a verb names."""
        return path if path is None or isinstance(path, Checkpoint) else cls(path)

    def beside(self, name: str) -> Checkpoint:
        """The checkpoint of a second run that belongs to this one."""
        path = self.path.with_name(f"{self.path.stem}.{name}{self.path.suffix}")
        return Checkpoint(path, at_end=self.at_end)

    def diagnostics(self) -> dict[str, Any]:
        """Wall time of all parts of the run, and the steps at which it was gone on with."""
        return {"wall_seconds": self._seconds(), "resumed_from": self.resumed_from}

    def _seconds(self) -> float:
        return self._earlier_seconds + time.perf_counter() - self._start

    def admit(self, config: Mapping[str, Any], lr: float | FloatArray, **in_force: Any) -> None:
        """Take the run `config` for the file, and read what is there of it.

        Parameters
        ----------
        config : mapping
            Configuration of the run, as in `Solution.config`.
        lr : float or (steps,) array
            Learning rates. Those of the updates already done must agree.
        **in_force
            What the defaults of the call amount to, such as the engine.

        Raises
        ------
        ValueError
            If the file is none of ours, of another version, or of another run.
        OSError
            If the file could not be written.
        """
        self._start = self._last_save = time.perf_counter()
        folder = self.path.parent
        if not folder.is_dir():
            raise FileNotFoundError(f"checkpoint: the folder {folder} does not exist: make it")
        if self.path.is_dir() or not os.access(folder, os.W_OK):
            raise PermissionError(f"checkpoint: {self.path} cannot be written: name another file")
        # A noun may be absent: random data are drawn by the limit.
        sections = {name: fields or {} for name, fields in config.items() if name != "versions"}
        identity = {
            name: {key: value for key, value in fields.items() if key not in _FREE.get(name, ())}
            for name, fields in sections.items()
        }
        # Through JSON, as the file has it.
        self._identity = json.loads(json.dumps({**identity, **in_force}))
        self._rates = np.asarray(lr, dtype=np.float64)
        if self.path.exists():
            self._read()

    def held(self, name: str) -> Any:
        """What the run in the file has in force as `name`; None if it does not say."""
        if not self.path.exists():
            return None
        with self._reading() as (header, _):
            return header["identity"].get(name)

    @contextmanager
    def _reading(self) -> Iterator[tuple[dict[str, Any], Mapping[str, npt.NDArray[Any]]]]:
        """The header and the arrays of the file."""
        try:
            if not zipfile.is_zipfile(self.path):
                raise ValueError("no .npz file")
            with np.load(self.path, allow_pickle=False) as file:
                header = json.loads(str(file["header"]))
                if header["format"] != FORMAT:
                    raise ValueError(f"its format is {header['format']!r}, not {FORMAT!r}")
                yield header, file
        except _UNREADABLE as error:
            raise ValueError(
                f"{self.path} is not a checkpoint of dmftcore, or is damaged ({error}): delete it "
                "or name another file"
            ) from error

    def _read(self) -> None:
        with self._reading() as (header, arrays):
            saved = Saved(
                header["step"],
                arrays["times"],
                arrays["kernel_times"],
                tuple(header["explicit"]),
                arrays["outputs"],
                {
                    name.removeprefix("state/"): arrays[name]
                    for name in arrays
                    if name.startswith("state/")
                },
            )
            rates = arrays["lr"]
            version, identity = header["version"], header["identity"]
            resumed_from, seconds = header["resumed_from"], header["seconds"]
        here = metadata.version("dmftcore")
        if _series(version) != _series(here):
            raise ValueError(
                f"{self.path} was written by dmftcore {version}, and this is {here}: go on with "
                f"version {version}, or delete the file to start anew"
            )
        found = _difference(identity, self._identity) or _rate_difference(
            rates, self._rates, saved.step
        )
        if found is not None:
            raise ValueError(
                f"{self.path} holds another run: {found}; repeat that call to go on with it, "
                "delete the file to start anew, or name another one"
            )
        self.saved, self.resumed_from, self._earlier_seconds = saved, resumed_from, seconds

    @property
    def due(self) -> bool:
        """Whether it is time for a save."""
        waited = time.perf_counter() - self._last_save
        return waited > max(INTERVAL, self._cost / SHARE)

    def save(self, take: Callable[[], Saved]) -> bool:
        """Write what `take` returns; an older file is replaced by a complete one or stays.

        A file that cannot be written is no reason to lose the run: it leads to a warning, and
        False is returned.
        """
        began = time.perf_counter()
        try:
            self._write(take())
        except (OSError, MemoryError) as error:
            warnings.warn(
                f"the checkpoint {self.path} could not be written: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return False
        finally:
            self._last_save = time.perf_counter()
            self._cost = self._last_save - began
        return True

    def _write(self, saved: Saved) -> None:
        header = {
            "format": FORMAT,
            "version": metadata.version("dmftcore"),
            "identity": self._identity,
            "step": saved.step,
            "explicit": saved.explicit,
            "resumed_from": self.resumed_from,
            "seconds": self._seconds(),
        }
        arrays = {
            "header": np.array(json.dumps(header)),
            "lr": self._rates,
            "times": saved.times,
            "kernel_times": saved.kernel_times,
            "outputs": saved.outputs,
            **{f"state/{name}": array for name, array in saved.state.items()},
        }
        draft = self.path.with_name(self.path.name + ".part")
        try:
            with draft.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)


def _series(version: str) -> list[str]:
    """Major and minor number: within one series a run goes on to the same result."""
    return version.split(".")[:2]


def _difference(saved: Any, here: Any, name: str = "") -> str | None:
    """The first field in which two configurations differ, with both values."""
    if saved == here:
        return None
    if isinstance(saved, dict) and isinstance(here, dict):
        for key in [*saved, *(key for key in here if key not in saved)]:
            inner = f"{name}.{key}" if name else key
            if key not in saved or key not in here:
                return f"{inner} is known to {'it' if key in saved else 'this call'} only"
            if key == "sha256" and saved[key] != here[key]:
                return f"{name} has other values there"
            found = _difference(saved[key], here[key], inner)
            if found is not None:
                return found
    return f"{name} is {saved!r} there and {here!r} here"


def _rate_difference(saved: FloatArray, here: FloatArray, updates: int) -> str | None:
    """The first of `updates` learning rates in which two runs differ."""
    before, now = (
        np.broadcast_to(rates, (updates,)) if rates.ndim == 0 else rates[:updates]
        for rates in (saved, here)
    )
    common = min(len(before), len(now))
    differing = np.flatnonzero(before[:common] != now[:common])
    if differing.size == 0:
        return None
    first = differing[0]
    return f"training.lr at update {first} is {before[first]} there and {now[first]} here"


@contextmanager
def deferred_interrupt(wanted: bool) -> Iterator[Callable[[], bool]]:
    """If `wanted`, a first Ctrl-C waits until the caller asks for it; a second stops at once.

    A march that is interrupted in the middle of a step has no state that could be saved. Handlers
    of other programs, and threads that receive no signals, are left alone.
    """
    caught = False

    def note(number: int, frame: object) -> None:
        nonlocal caught
        caught = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if (
        not wanted
        or threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: caught
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if caught:
        raise KeyboardInterrupt
