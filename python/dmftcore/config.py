"""Configuration files: the nouns and the options of the verbs as TOML.

Sections are ``[limit]``, ``[data]``, ``[training]``, ``[solve]``, ``[simulate]`` and ``[plot]``.
The first three hold one noun each, named by ``type``; [data] is left out where the limit draws its
own, and is a spectrum where the limit learns from one. A noun inside a noun has a table of its own,
``[limit.spectrum]``. The next two hold keyword arguments of `solve` and `simulate`. Any array may
be a list in the file or a reference to another file, ``"digits.npz:inputs"`` or ``"inputs.npy"``,
relative to the folder of the TOML file.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dmftcore._optional import optional_import
from dmftcore._simulate import simulate
from dmftcore._solve import solve
from dmftcore._validate import integer
from dmftcore._verbs import NO_FLOW_OF_NETWORKS
from dmftcore.data import Dataset
from dmftcore.demo import digits
from dmftcore.limits.attention import AttentionCore
from dmftcore.limits.linear import DeepLinear
from dmftcore.limits.mlp import MLP
from dmftcore.limits.proportional import ProportionalLinear
from dmftcore.limits.residual import Residual
from dmftcore.limits.scaling import FeatureLearning, RandomFeatures
from dmftcore.limits.transformer import Transformer
from dmftcore.schedule import Schedule
from dmftcore.spectrum import PowerLaw, Spectrum
from dmftcore.training import GradientDescent, GradientFlow, OnlineSGD, Training

__all__ = ["Config", "ConfigError", "read_config", "write_config"]

#: What `type` may say in the section of each noun.
NOUNS: dict[str, dict[str, Callable[..., Any]]] = {
    "limit": {
        "DeepLinear": DeepLinear,
        "MLP": MLP,
        "Residual": Residual,
        "ProportionalLinear": ProportionalLinear,
        "RandomFeatures": RandomFeatures,
        "FeatureLearning": FeatureLearning,
        "AttentionCore": AttentionCore,
        "Transformer": Transformer,
    },
    "data": {"Dataset": Dataset, "Digits": digits, "Spectrum": Spectrum, "PowerLaw": PowerLaw},
    "training": {
        "GradientDescent": GradientDescent,
        "GradientFlow": GradientFlow,
        "OnlineSGD": OnlineSGD,
    },
}
#: The same for the nouns inside others, by the name of their field.
PARTS: dict[str, dict[str, Callable[..., Any]]] = {
    "spectrum": {"Spectrum": Spectrum, "PowerLaw": PowerLaw},
}
#: Keyword arguments of the verbs that a file cannot express.
_NOT_IN_FILES = {"checkpoint", "progress"}


def _options(verb: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(verb).parameters.values()
    keywords = (p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)
    return tuple(name for name in keywords if name not in _NOT_IN_FILES)


OPTIONS: dict[str, tuple[str, ...]] = {
    "solve": _options(solve),
    "simulate": _options(simulate),
    "plot": ("output",),
}
SECTIONS = (*NOUNS, *OPTIONS)

#: Options that are counts, with their smallest value.
_COUNTS = {"width": 1, "seeds": 1, "seed": 0, "samples": 2, "replicas": 1}


class ConfigError(ValueError):
    """A configuration file that cannot be used; the text names the file, the place, the remedy."""


@dataclass(frozen=True, eq=False)
class Config:
    """One configuration file.

    Attributes
    ----------
    limit, data, training : nouns
    solve : mapping
        Keyword arguments for `solve`.
    simulate : mapping or None
        Keyword arguments for `simulate`; None asks for no experiment.
    plot : mapping
        ``output``, the name of a picture to be made beside the result.
    """

    limit: Any
    data: Any
    training: Any
    solve: Mapping[str, Any] = field(default_factory=dict)
    simulate: Mapping[str, Any] | None = None
    plot: Mapping[str, Any] = field(default_factory=dict)


def read_config(path: str | os.PathLike[str], *, steps: int | None = None) -> Config:
    """Read the nouns and options of a TOML file.

    Parameters
    ----------
    path : path
    steps : int, optional
        Takes the place of ``steps`` in [training].

    Raises
    ------
    ConfigError
        If the file, or one it refers to, is missing or malformed; for unknown sections, types
        or keys; and for values that the nouns reject.
    """
    path = Path(path)
    table = _read_toml(path)
    for section, entries in table.items():
        if section not in SECTIONS:
            raise ConfigError(f"{path}: {_unknown('section', section, SECTIONS)}")
        if not isinstance(entries, dict):
            raise ConfigError(f"{path}: {section!r} must be a section, written [{section}]")
    if steps is not None:
        table.setdefault("training", {})["steps"] = steps
    nouns: dict[str, Any] = {}
    for section, types in NOUNS.items():
        if section == "data" and isinstance(nouns["limit"], ProportionalLinear):
            if section in table:
                raise ConfigError(
                    f"{path}: [data] must be left out: a ProportionalLinear draws its own"
                )
            nouns[section] = None
        else:
            nouns[section] = _read_section(path, section, types, table)
    training = nouns["training"]
    options = {section: _read_options(path, section, table, training) for section in OPTIONS}
    return Config(
        **nouns,
        solve=options["solve"] or {},
        simulate=options["simulate"],
        plot=options["plot"] or {},
    )


def write_config(config: Config, path: str | os.PathLike[str]) -> None:
    """Write `config` as TOML, the arrays of its nouns to an ``.npz`` file beside it.

    `read_config` gives back equal nouns and options. Both files are replaced if they exist.

    Raises
    ------
    ImportError
        If tomli-w is not installed.
    ConfigError
        For a noun that no `type` names.
    """
    writer = optional_import("tomli_w", extra="cli", purpose="write_config")
    path = Path(path)
    arrays: dict[str, Any] = {}
    table: dict[str, dict[str, Any]] = {}
    for section, types in NOUNS.items():
        noun = getattr(config, section)
        if noun is not None or not isinstance(config.limit, ProportionalLinear):
            table[section] = _written(section, noun, types, arrays, path.stem)
    for section in OPTIONS:
        options = getattr(config, section)
        if options or (section == "simulate" and options is not None):
            table[section] = {
                key: _plain(value) for key, value in options.items() if value is not None
            }
    if arrays:
        np.savez(path.with_name(f"{path.stem}.npz"), **arrays)
    path.write_text(writer.dumps(table), encoding="utf-8")


def _written(
    name: str, noun: Any, types: Iterable[str], arrays: dict[str, Any], stem: str
) -> dict[str, Any]:
    """The table of a noun; its arrays are added to `arrays`, those of the file `stem`.npz."""
    kind = type(noun).__name__
    if kind not in types:
        raise ConfigError(f"[{name}] cannot hold a {kind}; it holds {', '.join(types)}")
    entries: dict[str, Any] = {"type": kind}
    for entry in dataclasses.fields(noun):
        value = getattr(noun, entry.name)
        if entry.name in PARTS and value is not None:
            value = _written(f"{name}.{entry.name}", value, PARTS[entry.name], arrays, stem)
        elif isinstance(value, np.ndarray):
            arrays[entry.name] = value
            value = f"{stem}.npz:{entry.name}"
        elif isinstance(value, Mapping):
            arrays |= value
            value = {key: f"{stem}.npz:{key}" for key in value}
        if value is not None:
            entries[entry.name] = value
    return entries


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return list(value) if isinstance(value, tuple | range) else value


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _read_section(
    path: Path, section: str, types: Mapping[str, Callable[..., Any]], table: Mapping[str, Any]
) -> Any:
    if section not in table:
        where = f"{path}: [{section}]"
        raise ConfigError(f'{where} is missing: add it with type = "{next(iter(types))}"')
    return _read_noun(path, section, types, table[section])


def _read_noun(
    path: Path, name: str, types: Mapping[str, Callable[..., Any]], table: Mapping[str, Any]
) -> Any:
    where = f"{path}: [{name}]"
    entries = dict(table)
    kind = entries.pop("type", None)
    if kind is None:
        raise ConfigError(f"{where} type is missing: one of {', '.join(types)}")
    if kind not in types:
        raise ConfigError(f"{where} {_unknown('type', kind, types)}")
    factory = types[kind]
    parameters = inspect.signature(factory).parameters
    _check_keys(f"{where} of type {kind}:", entries, parameters)
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in entries:
            raise ConfigError(f"{where} of type {kind}: the key {key!r} is missing")
    values = {
        key: _read_noun(path, f"{name}.{key}", PARTS[key], value)
        if key in PARTS and isinstance(value, Mapping)
        else _value(path, f"{where} {key}", value)
        for key, value in entries.items()
    }
    try:
        return factory(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} {error}") from error


def _read_options(
    path: Path, section: str, table: Mapping[str, Any], training: Training
) -> dict[str, Any] | None:
    if section not in table:
        return None
    where = f"{path}: [{section}]"
    _check_keys(f"{where}:", table[section], OPTIONS[section])
    options = {key: _value(path, f"{where} {key}", v) for key, v in table[section].items()}
    try:
        # Checked here and not only by the verb: the experiment starts when the theory is done.
        for key, smallest in _COUNTS.items():
            if key in options:
                integer(key, options[key], at_least=smallest)
        if section == "simulate" and isinstance(training, GradientFlow):
            raise ValueError(NO_FLOW_OF_NETWORKS)
        Schedule.of_training(training, options.get("times"), options.get("kernel_times"))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} {error}") from error
    return options


def _check_keys(where: str, entries: Iterable[str], known: Iterable[str]) -> None:
    for key in entries:
        if key not in known:
            raise ConfigError(f"{where} {_unknown('key', key, known)}")


def _unknown(what: str, found: object, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(str(found), names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {what} {found!r}; {hint}({what}s: {', '.join(names)})"


def _value(path: Path, where: str, value: Any) -> Any:
    """`value`, or the array that it refers to, also within a table."""
    if isinstance(value, Mapping):
        return {key: _value(path, f"{where}.{key}", entry) for key, entry in value.items()}
    if not isinstance(value, str):
        return value
    name, colon, key = value.rpartition(":")
    if colon and name.endswith(".npz"):
        return _load_npz(path.parent / name, key, where)
    if value.endswith(".npz"):
        return _load_npz(path.parent / value, "", where)
    if value.endswith(".npy"):
        return _load(path.parent / value, where)
    return value


def _load_npz(file: Path, key: str, where: str) -> Any:
    with _load(file, where) as arrays:
        if key not in arrays:
            raise ConfigError(
                f"{where}: name an array of {file} as {file.name}:KEY; "
                f"{_unknown('key', key, arrays.files)}"
            )
        try:
            return arrays[key]
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{where}: {key!r} of {file} cannot be read ({error})") from None


def _load(file: Path, where: str) -> Any:
    try:
        return np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise ConfigError(f"{where}: there is no file {file}") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{where}: {file} cannot be read as a numpy file ({error})") from None
