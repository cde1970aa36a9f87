"""The commands of `dmftcore`: read a configuration, run a verb, store the result."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from dmftcore import _core
from dmftcore._optional import optional_import
from dmftcore._progress import reporting
from dmftcore._report import report
from dmftcore._simulate import simulate
from dmftcore._solve import solve
from dmftcore._summary import summary
from dmftcore._verbs import unmarched
from dmftcore.checkpoint import Checkpoint
from dmftcore.config import Config, ConfigError, read_config
from dmftcore.demo import demo_config
from dmftcore.errors import CudaError, DivergenceError, StabilityWarning
from dmftcore.march import Progress
from dmftcore.schedule import Schedule
from dmftcore.solution import Solution

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["app"]

#: Errors that a user can act on: one line says it all.
_KNOWN = (ValueError, TypeError, OSError, MemoryError, ImportError, DivergenceError, CudaError)

#: Extras of the package, and the distributions that `dmftcore info` looks for.
_OPTIONAL = {
    "cuda": ("cupy-cuda13x",),
    "io": ("xarray", "h5netcdf", "h5py"),
    "plot": ("matplotlib",),
    "cli": ("typer", "rich", "tomli-w", "psutil"),
    "demo": ("scikit-learn",),
}

app = typer.Typer(
    name="dmftcore",
    help="Dynamical mean-field theory of learning: solve it, simulate the finite network, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # The default mode would take the section names in brackets for styles.
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG.toml",
        help="Sections [limit], [data], [training], and optionally [solve], [simulate], [plot].",
        show_default=False,
    ),
]
OutputFile = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="OUT.nc", help="netCDF file of the result.", show_default=False
    ),
]
Picture = Annotated[
    Path | None,
    typer.Option("--plot", metavar="PNG", help="Also draw the result.", show_default=False),
]
CheckpointFile = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="NPZ",
        help="Keep the run in this file, to resume or extend it.",
        show_default=False,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps", metavar="N", help="In place of the steps in [training].", show_default=False
    ),
]
Traceback = Annotated[
    bool, typer.Option("--traceback", help="Show where in the code an error arose.")
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(metadata.version("dmftcore"))
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command("solve")
def solve_command(
    config: ConfigFile,
    output: OutputFile,
    plot: Picture = None,
    checkpoint: CheckpointFile = None,
    steps: Steps = None,
    traceback: Traceback = False,
) -> None:
    """Solve the theory, and train the finite network too if there is a [simulate] section.

    The theory is stored in the group /theory of OUT.nc, the experiment in /experiment. A picture
    is drawn if --plot is given, or if [plot] names an output; the latter lands beside OUT.nc.
    An existing OUT.nc is replaced only by a complete result.

    Ctrl-C leaves the run in OUT.checkpoint.npz, and the same command goes on with it, to the same
    result bit for bit. With --checkpoint the file has the name given (the experiment's has
    .experiment before its ending) and stays when the run is complete: the command with a larger
    --steps then extends the run.
    """
    with _errors(traceback):
        _run(config, output, plot, checkpoint, steps, theory=True)


@app.command("simulate")
def simulate_command(
    config: ConfigFile,
    output: OutputFile,
    plot: Picture = None,
    checkpoint: CheckpointFile = None,
    steps: Steps = None,
    traceback: Traceback = False,
) -> None:
    """Train the finite network of the [simulate] section, without the theory.

    The result is stored in the group /experiment of OUT.nc. Ctrl-C, --checkpoint and --steps work
    as for `solve`.
    """
    with _errors(traceback):
        _run(config, output, plot, checkpoint, steps, theory=False)


@app.command("plot")
def plot_command(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT...", help="Files that dmftcore wrote.", show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="PNG",
            help="Picture; .png, .pdf, .svg.",
            show_default=False,
        ),
    ],
    traceback: Traceback = False,
) -> None:
    """Draw the results of any number of files in one picture.

    Theory is drawn as lines, experiments as points with bands of one standard error. Shown are
    losses, the alignment of the kernels with the targets, the sharpness with the edge of
    stability 2/lr, the last layer's kernel before and after training, and two-time kernels
    where they were saved.
    """
    with _errors(traceback):
        _check_picture(output, inputs=results)
        _save_picture(_read_results(results), output)


@app.command("report")
def report_command(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", help="File that dmftcore wrote.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="HTML", help="The page.", show_default=False),
    ],
    traceback: Traceback = False,
) -> None:
    """Write a result as one page, with its picture inside, to read or to send.

    Losses and kernels with their standard errors; where the file holds theory and experiment,
    their differences in standard errors; what was solved, as TOML; the method with its reason,
    stability, estimates of the error; versions.
    """
    with _errors(traceback):
        _check_target(output, inputs=[result])
        if output.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"{output}: a report is a page: choose a name that ends in .html")
        for module, extra in (("matplotlib", "plot"), ("tomli_w", "cli")):
            optional_import(module, extra=extra, purpose=f"writing {output.name}")
        page = report(_read_results([result]), result.name)
        output.write_text(page, encoding="utf-8")
        typer.echo(f"wrote {output}")


@app.command("info")
def info_command() -> None:
    """Show versions, and what this installation and this machine can do."""
    for name in ("dmftcore", "numpy", "scipy"):
        _entry(name, metadata.version(name))
    _entry("python", f"{platform.python_version()} ({platform.platform()})")
    _entry("instructions", f"{_core.isa()} (x86-64 level of the compiled core)")
    _entry("threads", f"{_core.get_num_threads()} of {os.cpu_count()} processors")
    compiler = _core.cuda_compiler()
    _entry("CUDA built", "no" if compiler is None else f"yes, by nvcc {compiler}")
    devices, reason = _core.cuda_status()
    _entry("CUDA usable", f"yes, {devices} device(s)" if devices else f"no: {reason}")
    for extra, names in _OPTIONAL.items():
        for name in names:
            try:
                _entry(name, metadata.version(name))
            except metadata.PackageNotFoundError:
                _entry(name, f'missing: pip install "dmftcore[{extra}]"')


def _entry(name: str, value: str) -> None:
    typer.echo(f"{name:<14}{value}")


@app.command("demo")
def demo_command(
    folder: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder of the results; made if absent."
        ),
    ] = Path("."),
    traceback: Traceback = False,
) -> None:
    """Learn to tell handwritten 3s from 8s: theory, experiment and picture, in a minute.

    Writes digits.nc (groups /theory and /experiment) and digits.png. What is run is an ordinary
    configuration file, whose path is printed: copy it to start your own.
    """
    with _errors(traceback):
        folder.mkdir(parents=True, exist_ok=True)
        path = demo_config()
        typer.echo(f"configuration: {path}")
        _run(path, folder / "digits.nc", None, theory=True)


# -- running ---------------------------------------------------------------------------------------


def _run(
    path: Path,
    output: Path,
    picture: Path | None,
    checkpoint: Path | None = None,
    steps: int | None = None,
    *,
    theory: bool,
) -> None:
    config = read_config(path, steps=steps)
    if not theory and config.simulate is None:
        raise ConfigError(f"{path}: [simulate] is missing: add it with the width of the network")
    if picture is None and "output" in config.plot:
        picture = output.parent / config.plot["output"]
    # All that can be refused is refused before the first step.
    _check_target(output, inputs=[path])
    for module in ("xarray", "h5netcdf", "h5py"):
        optional_import(module, extra="io", purpose=f"writing {output.name}")
    if picture is not None:
        _check_picture(picture, inputs=[path, output])
    if checkpoint is not None:
        if theory and (why := unmarched(config.limit, config.training)):
            raise ConfigError(f"--checkpoint: {path}: {why}")
        _check_target(checkpoint, inputs=[path, output])

    with _checkpoints(output, checkpoint, config, theory=theory) as files, _Store(output) as store:
        if theory:
            file = None if unmarched(config.limit, config.training) else files["theory"]
            store.run("theory", solve, config, config.solve, file)
        if config.simulate is not None:
            store.run("experiment", simulate, config, config.simulate, files["experiment"])
    typer.echo(f"wrote {output}")
    if picture is not None:
        _save_picture(store.solutions, picture)


@contextmanager
def _checkpoints(
    output: Path, asked: Path | None, config: Config, *, theory: bool
) -> Iterator[dict[str, Checkpoint]]:
    """The checkpoints of a command; those not asked for are gone once there is a result.

    While another run follows, a complete one is saved too: the command may be interrupted then.
    """
    path = output.with_suffix(".checkpoint.npz") if asked is None else asked
    followed = config.simulate is not None or bool(config.solve.get("estimate_error"))
    first = Checkpoint(path, at_end=asked is not None or (theory and followed))
    second = Checkpoint(first.beside("experiment").path, at_end=asked is not None)

    def clear() -> None:
        if asked is None:
            for file in (first, first.beside("reference"), second):
                file.path.unlink(missing_ok=True)

    try:
        yield {"theory": first, "experiment": second if theory else first}
    except DivergenceError:
        clear()
        raise
    clear()


class _Store:
    """A result file in the making; it takes its name when the `with` block ends.

    If the block fails, an older file of that name stays, and what is already solved goes to
    ``NAME.partial.nc`` beside it; without an older file it takes the name itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.solutions: dict[str, Solution] = {}
        self._draft = path.with_name(f".{path.name}.draft")

    def __enter__(self) -> _Store:
        self._draft.unlink(missing_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._draft.replace(self.path)
        elif self.solutions:
            free = not self.path.exists()
            path = self.path if free else self.path.with_suffix(f".partial{self.path.suffix}")
            self._draft.replace(path)
            error.add_note(f"what was solved until then is saved in {path}")

    def run(
        self, group: str, verb: Any, config: Config, options: Any, checkpoint: Checkpoint | None
    ) -> None:
        """Run a verb with a progress display, and write its result or the part before a failure."""
        steps = Schedule.of_training(config.training).steps
        try:
            with reporting(f"{group:<10}", steps, Console(stderr=True)) as progress:
                solution = _call(verb, config, options, progress, checkpoint)
        except DivergenceError as error:
            if error.partial is not None:
                self._write(group, error.partial)
            raise
        self._write(group, solution)
        for line in summary(solution):
            typer.echo(f"{group:<10}  {line}")

    def _write(self, group: str, solution: Solution) -> None:
        solution.save(self._draft, group=group)
        self.solutions[group] = solution


def _call(
    verb: Any, config: Config, options: Any, progress: Progress, checkpoint: Checkpoint | None
) -> Solution:
    result: Solution = verb(
        config.limit,
        config.data,
        config.training,
        **options,
        progress=progress,
        checkpoint=checkpoint,
    )
    return result


def _read_results(paths: list[Path]) -> dict[str, Solution]:
    """Solutions of all groups of all files, labelled by what tells them apart."""
    storage = optional_import("h5netcdf", extra="io", purpose="reading results")
    repeated = len({path.stem for path in paths}) < len(paths)
    solutions = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        try:
            with storage.File(path, "r") as file:
                groups = [*file.groups] or [None]
            for group in groups:
                name = str(path) if repeated else path.stem
                names = [name] if len(paths) > 1 or group is None else []
                label = " ".join([*names, *([group] if group else [])])
                solutions[label] = Solution.load(path, group=group)
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a result of dmftcore ({error})") from error
    return solutions


def _save_picture(solutions: dict[str, Solution], path: Path) -> None:
    plotting = optional_import("dmftcore.plotting", extra="plot", purpose="drawing")
    figure: Figure = plotting.plot_solutions(solutions)
    figure.savefig(path, dpi=200)
    typer.echo(f"wrote {path}")


# -- refusals --------------------------------------------------------------------------------------


def _check_target(path: Path, inputs: list[Path]) -> None:
    """Refuse a file that cannot be written, or whose writing would destroy an input."""
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} of {path} does not exist: make it first")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"the folder {folder} of {path} is not writable")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file")
    if path.resolve() in [other.resolve() for other in inputs]:
        raise ValueError(f"{path} is also an input: choose another name for the output")


def _check_picture(path: Path, inputs: list[Path]) -> None:
    _check_target(path, inputs)
    figure = optional_import("matplotlib.figure", extra="plot", purpose=f"drawing {path.name}")
    known = figure.Figure().canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise ValueError(
            f"{path}: no picture has the ending {path.suffix!r}; choose .png, .pdf or .svg"
        )


@contextmanager
def _errors(traceback: bool) -> Iterator[None]:
    """Turn warnings, and errors that a user can act on, into one line; errors exit with 1."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", StabilityWarning)
            warnings.showwarning = _show_warning
            yield
    except KeyboardInterrupt as error:
        _complain(str(error) or "interrupted", error)
        raise typer.Exit(130) from None
    except _KNOWN as error:
        if traceback:
            raise
        _complain(str(error) or type(error).__name__, error)
        raise typer.Exit(1) from None


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    typer.echo(f"dmftcore: warning: {message}", err=True)


def _complain(text: str, error: BaseException) -> None:
    notes = getattr(error, "__notes__", [])
    line = "; ".join([text, *notes])
    typer.echo(f"dmftcore: error: {' '.join(line.split())}", err=True)
