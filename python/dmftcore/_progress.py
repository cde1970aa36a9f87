"""How far a run has come: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from dmftcore.march import Progress as Callback
from dmftcore.memory import readable

__all__ = ["reporting"]

#: Plain lines come at every tenth of a run, and not more rarely than this many seconds.
LINES = 10
SECONDS = 60.0


@contextmanager
def reporting(description: str, steps: int, console: Console) -> Iterator[Callback]:
    """A callback (step, loss) that shows the progress of a run of `steps` steps.

    What the library logs meanwhile, such as the memory it plans for, is shown too.

    Parameters
    ----------
    description : str
        What is running.
    steps : int
        Its number of steps.
    console : rich.console.Console
        Where to show it.
    """
    with _showing_log(description, console):
        if console.is_terminal:
            with _bar(console) as bar:
                task = bar.add_task(description, total=max(steps, 1), loss=math.nan)
                yield lambda step, loss: bar.update(task, completed=step, loss=loss)
                if steps == 0:
                    bar.update(task, completed=1)
        else:
            yield _Lines(description, steps, console)


@contextmanager
def _showing_log(description: str, console: Console) -> Iterator[None]:
    log, handler = logging.getLogger("dmftcore"), _Handler(description, console)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


class _Handler(logging.Handler):
    """Prints log records as lines of a run."""

    def __init__(self, description: str, console: Console) -> None:
        super().__init__()
        self._description, self._console = description, console

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{self._description}  {record.getMessage()}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("loss {task.fields[loss]:.3e}"),
        _Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        _Memory(),
        console=console,
        refresh_per_second=4,
        expand=True,
    )


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("-- steps/s" if task.speed is None else f"{_number(task.speed)} steps/s")


class _Memory(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_memory())


class _Lines:
    """Progress callback that prints a line now and then."""

    def __init__(self, description: str, steps: int, console: Console) -> None:
        self._description, self._steps, self._console = description, steps, console
        self._start = self._last = time.monotonic()
        self._begin: int | None = None
        self._next = 0.0

    def __call__(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if self._begin is None:
            # A resumed run begins where it was left.
            self._begin, self._start = step, now
        if step < self._next and now - self._last < SECONDS:
            return
        self._last = now
        while self._next <= step:
            self._next += max(self._steps / LINES, 1)
        rate = (step - self._begin) / max(now - self._start, 1e-9)
        left = f"{(self._steps - step) / rate:.0f} s left" if rate else "starting"
        self._print(
            f"{self._description}  step {step}/{self._steps}  loss {loss:.3e}  "
            f"{_number(rate)} steps/s  {left}  {_memory()}"
        )

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _number(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def _memory() -> str:
    return readable(psutil.Process().memory_info().rss)
