"""A page on what a result file holds, to read or to send: HTML that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from dmftcore._optional import optional_import
from dmftcore._summary import error_estimate, stability
from dmftcore._validate import FloatArray
from dmftcore.memory import readable
from dmftcore.observables import alignment
from dmftcore.plotting import plot_solutions
from dmftcore.plotting.fields import layers_of, targets_of, training_kernels
from dmftcore.solution import Solution, TimeArray

__all__ = ["report"]

#: A table has at most this many times, or layers.
MOST = 9

#: Standard errors below are rounding: all networks have the same, such as outputs at the start.
EXACT = 1e-12

#: The curves that are compared, in words.
LOSSES = {"train_loss": "training loss", "test_loss": "test loss"}
OUTPUTS = {"outputs": "outputs", "test_outputs": "test outputs"}

DEVIATIONS = (
    "A deviation is (experiment - theory) / standard error; of outputs and kernels, the root mean "
    "square of the difference over their elements, over that of the standard error. Of order one, "
    "no difference is seen. The error is that of the mean over the trained networks, with that of "
    "a sampled theory: what the finite width changes in this mean comes on top."
)
NO_DEVIATIONS = (
    "A single network has no standard error. Train several, by seeds in [simulate], to have "
    "deviations."
)

#: What comes in sentences, or with the configuration, and not in the list of all diagnostics.
_TOLD = {"engine", "reason", "stability", "error_estimate", "wall_seconds", "memory"}

_STYLE = """
body { font: 15px/1.5 sans-serif; color: #222; max-width: 62rem; margin: 2rem auto }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-size: .87rem; margin: .8rem 0 }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
th { border-bottom-color: #888; font-weight: 600 }
th:first-child, td:first-child { text-align: left }
pre { background: #f6f6f6; padding: .7rem 1rem; overflow-x: auto; font-size: .82rem }
img { max-width: 100% } .note { color: #666; font-size: .9rem }
"""


def report(solutions: Mapping[str, Solution], source: str) -> str:
    """The page.

    Parameters
    ----------
    solutions : mapping of label to Solution
        Those of one file. A theory and an experiment are compared.
    source : str
        Name of the file.

    Returns
    -------
    str
        HTML that refers to nothing outside of itself.
    """
    kinds = dict.fromkeys(solution.config["limit"]["type"] for solution in solutions.values())
    title = f"{', '.join(kinds)}: {' and '.join(solutions)}"
    sections = [
        ("Outcome", _outcome(solutions)),
        ("Curves and kernels", _picture(solutions)),
        ("Theory against experiment", _comparison(solutions)),
        ("Kernels at stored times", _kernels(solutions)),
        ("What was solved", _configuration(solutions)),
        ("What the answer is worth", _worth(solutions)),
        ("Versions", _versions(solutions)),
    ]
    body = [f"<h1>{escape(title)}</h1>", _note(f"Made from {source} by dmftcore report.")]
    for heading, parts in sections:
        content = list(parts)
        if content:
            body += [f"<h2>{escape(heading)}</h2>", *content]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            *body,
            "</body></html>\n",
        ]
    )


# -- sections ------------------------------------------------------------------------------------


def _outcome(solutions: Mapping[str, Solution]) -> Iterator[str]:
    rows = []
    for label, solution in solutions.items():
        if not len(solution.times):
            rows.append([label, "no times are stored", "", "", "", ""])
            continue
        ends = [0, len(solution.times) - 1]
        losses = [_with_errors(solution, name, ends) for name in LOSSES]
        rows.append([label, f"{solution.times[-1]:g}", *losses[0], *losses[1]])
    time = "tau" if any(solution.in_flow_time for solution in solutions.values()) else "step"
    heading = [f"{word}, {end}" for word in LOSSES.values() for end in ("first", "last")]
    yield _table(["", f"last {time}", *heading], rows)


def _picture(solutions: Mapping[str, Solution]) -> Iterator[str]:
    stream = io.BytesIO()
    plot_solutions(solutions).savefig(stream, format="png", dpi=150)
    encoded = base64.b64encode(stream.getvalue()).decode()
    yield f'<img alt="losses, kernels" src="data:image/png;base64,{encoded}">'
    yield _note("Lines: theory. Points: experiment, with bands of one standard error.")


def _comparison(solutions: Mapping[str, Solution]) -> Iterator[str]:
    """Losses, outputs and kernels at common times, and how far apart in standard errors."""
    if not {"theory", "experiment"} <= solutions.keys():
        return
    theory, experiment = solutions["theory"], solutions["experiment"]
    measured = bool(experiment.standard_errors)
    yield _note(DEVIATIONS if measured else NO_DEVIATIONS)
    times = _some(np.intersect1d(theory.times, experiment.times))
    places = [_indices(solution.times, times) for solution in (theory, experiment)]
    heading, columns = ["step"], [[f"{time:g}" for time in times]]
    for name, word in {**LOSSES, **OUTPUTS}.items():
        if getattr(theory, name) is None or getattr(experiment, name) is None:
            continue
        if name in LOSSES:
            heading += [f"{word}, theory", "experiment"]
            columns += [_with_errors(theory, name, places[0])]
            columns += [_with_errors(experiment, name, places[1])]
        if measured:
            heading.append("deviation" if name in LOSSES else f"deviation of {word}")
            found, expected = getattr(experiment, name), getattr(theory, name)
            columns.append(
                _deviations(
                    found[places[1]] - expected[places[0]],
                    _variance(experiment, name, found.shape)[places[1]]
                    + _variance(theory, name, expected.shape)[places[0]],
                )
            )
    yield _table(heading, zip(*columns, strict=True))
    times = _some(np.intersect1d(theory.kernel_times, experiment.kernel_times))
    rows = list(_compared_kernels(theory, experiment, times))
    if rows:
        yield _table(["deviation of", *(f"step {time:g}" for time in times)], rows)


def _compared_kernels(
    theory: Solution, experiment: Solution, times: Sequence[Any]
) -> Iterator[list[str]]:
    """For each kernel and layer its deviations at some times."""
    places = [_indices(solution.kernel_times, times) for solution in (theory, experiment)]
    both = theory.equal_time.keys() & experiment.equal_time.keys()
    for name in sorted(both & experiment.standard_errors.keys()):
        expected, found = theory.equal_time[name], experiment.equal_time[name]
        if expected.keys() != found.keys():
            continue  # nodes of an infinite depth are no layers of a network
        variance = (
            _variances(theory, name)[:, places[0]] + _variances(experiment, name)[:, places[1]]
        )
        for number, layer in enumerate(found):
            difference = found[layer][places[1]] - expected[layer][places[0]]
            yield [f"{name}, layer {layer}", *_deviations(difference, variance[number])]


def _variances(solution: Solution, name: str) -> FloatArray:
    """`_variance` of a kernel, with the layers on the first axis."""
    layers = list(solution.equal_time[name].values())
    return _variance(solution, name, (len(layers), *layers[0].shape))


def _kernels(solutions: Mapping[str, Solution]) -> Iterator[str]:
    """Mean diagonals of kernels, alignment of those between points with the targets, sharpness."""
    for label, solution in solutions.items():
        times = _some(solution.kernel_times)
        at = _indices(solution.kernel_times, times)
        rows = []
        for name, layers in sorted(solution.equal_time.items()):
            for layer in _some(sorted(layers)):
                diagonal = _mean_diagonal(layers[layer][at])
                if diagonal is not None:
                    rows.append([f"mean diagonal of {name}, layer {layer}", *_numbers(diagonal)])
        rows += _alignments(solution, at)
        if solution.sharpness is not None:
            rows.append(["sharpness", *_numbers(solution.sharpness[at])])
        if rows and at:
            time = "tau" if solution.in_flow_time else "step"
            yield _table([label, *(f"{time} {t:g}" for t in times)], rows)


def _mean_diagonal(kernels: FloatArray) -> FloatArray | None:
    """Of kernels (n, *side, *side), or of numbers (n,); None where the sides differ."""
    sides = kernels.shape[1:]
    first, second = sides[: len(sides) // 2], sides[len(sides) // 2 :]
    if first != second:
        return None
    size = int(np.prod(first))
    diagonal: FloatArray = np.einsum("tmm->t", kernels.reshape(-1, size, size)) / size
    return diagonal


def _alignments(solution: Solution, at: list[int]) -> Iterator[list[str]]:
    for layer in _some(layers_of(solution, "H")):
        found = alignment(training_kernels(solution, "H", layer)[at], targets_of(solution))
        yield [f"alignment of H, layer {layer}, with y y^T", *_numbers(found)]


def _configuration(solutions: Mapping[str, Solution]) -> Iterator[str]:
    """The nouns, and the options of every verb, as in a configuration file."""
    writer = optional_import("tomli_w", extra="cli", purpose="dmftcore report")
    shown: list[tuple[str, Any]] = []
    for solution in solutions.values():
        new = [item for item in solution.config.items() if item not in shown]
        shown += new
    for name, value in shown:
        if name != "versions" and value is not None:
            yield f"<pre>{escape(writer.dumps({name: _writable(value)}).strip())}</pre>"
    yield _note("Arrays are not stored with a result; their SHA-256 tells whether they are equal.")


def _writable(value: Any) -> Any:
    """A part of a stored configuration in what TOML can hold."""
    if isinstance(value, dict):
        if value.keys() == {"shape", "dtype", "sha256"}:
            return f"array {tuple(value['shape'])} of {value['dtype']}, sha256 {value['sha256']}"
        return {key: _writable(item) for key, item in value.items() if item is not None}
    return [_writable(item) for item in value] if isinstance(value, list) else value


def _worth(solutions: Mapping[str, Solution]) -> Iterator[str]:
    for label, solution in solutions.items():
        found = solution.diagnostics
        lines = []
        if "engine" in found:
            reason = f": {found['reason']}" if found.get("reason") else ""
            lines.append(f"method: {found['engine']}{reason}")
        if "stability" in found:
            lines.append(stability(found["stability"]))
        if "error_estimate" in found:
            lines.append(error_estimate(found["error_estimate"]))
        if "wall_seconds" in found:
            lines.append(f"{found['wall_seconds']:.3g} s")
        if "memory" in found:
            lines.append(f"{readable(found['memory'])} of memory")
        others = {key: value for key, value in found.items() if key not in _TOLD and value != []}
        lines += [f"{key}: {_abridged(value)}" for key, value in others.items()]
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        yield f"<h3>{escape(label)}</h3><ul>{items}</ul>"


def _versions(solutions: Mapping[str, Solution]) -> Iterator[str]:
    stored = [solution.config.get("versions", {}) for solution in solutions.values()]
    names = dict.fromkeys(name for versions in stored for name in versions)
    yield _table(["", *solutions], [[n, *(v.get(n, "") for v in stored)] for n in names])


# -- numbers -------------------------------------------------------------------------------------


def _some(values: Sequence[Any] | TimeArray) -> list[Any]:
    """All of sorted values if they are few; else some, the first and the last among them.

    Their places lie at equal ratios, so that the beginning of a run is there.
    """
    count = len(values)
    if count <= MOST:
        return list(values)
    places = np.unique(np.geomspace(1, count, MOST).round().astype(int))
    return [values[place - 1] for place in places]


def _indices(times: TimeArray, wanted: Sequence[Any]) -> list[int]:
    return [int(index) for index in np.searchsorted(times, wanted)]


def _numbers(values: FloatArray) -> list[str]:
    return [f"{value:.4g}" for value in values]


def _with_errors(solution: Solution, name: str, at: Sequence[int]) -> list[str]:
    """A curve at some times, with its standard errors where it has them."""
    values, errors = getattr(solution, name), solution.standard_errors.get(name)
    if values is None:
        return ["" for _ in at]
    if errors is None:
        return _numbers(values[at])
    return [
        f"{values[i]:.4g}" + (f" \N{PLUS-MINUS SIGN} {errors[i]:.1g}" if errors[i] > EXACT else "")
        for i in at
    ]


def _deviations(difference: FloatArray, variance: FloatArray) -> list[str]:
    """Differences (n, ...) in units of the standard error; of several the root mean squares."""
    axes = tuple(range(1, difference.ndim))
    size = np.sqrt(np.square(difference).mean(axes)) if axes else difference
    error = np.sqrt(variance.mean(axes))
    return [f"{d / e:.2f}" if e > EXACT else "-" for d, e in zip(size, error, strict=True)]


def _variance(solution: Solution, name: str, shape: tuple[int, ...]) -> FloatArray:
    """Square of the standard error of a field; zero where there is none."""
    return np.broadcast_to(np.square(solution.standard_errors.get(name, 0.0)), shape)


# -- markup --------------------------------------------------------------------------------------


def _abridged(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def line(tag: str, cells: Iterable[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return "\n".join(
        ["<table>", line("th", heading), *(line("td", row) for row in rows), "</table>"]
    )
