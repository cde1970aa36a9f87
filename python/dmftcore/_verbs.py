"""What the verbs have in common: which nouns go together, and what there is to keep."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dmftcore._validate import INFINITE, one_of
from dmftcore.data import Dataset
from dmftcore.errors import StabilityWarning
from dmftcore.limits.adaptive import AdaptiveKernel
from dmftcore.limits.attention import AttentionCore
from dmftcore.limits.linear import DeepLinear
from dmftcore.limits.linear_networks import is_deep_linear
from dmftcore.limits.mlp import MLP
from dmftcore.limits.proportional import ProportionalLinear
from dmftcore.limits.residual import Residual
from dmftcore.limits.scaling import FeatureLearning, RandomFeatures
from dmftcore.limits.transformer import Transformer
from dmftcore.losses import LOSSES, check_targets
from dmftcore.spectrum import AnySpectrum, PowerLaw, Spectrum
from dmftcore.training import GradientDescent, GradientFlow, OnlineSGD

__all__ = [
    "NO_FLOW_OF_NETWORKS",
    "SAMPLING",
    "Limit",
    "check_nouns",
    "check_progress",
    "device_of",
    "fields_to_save",
    "kind_of",
    "named",
    "names_to_save",
    "unmarched",
]

NO_FLOW_OF_NETWORKS = (
    "networks are trained in steps, not by a GradientFlow: use GradientDescent with a small lr, "
    "where tau = lr * step"
)

#: Options of `solve` that only a theory with random numbers knows, and what they are by default.
SAMPLING: dict[str, Any] = {"samples": None, "replicas": None, "seed": 0, "dtype": "float64"}

#: What the verbs take.
Limit = (
    DeepLinear
    | MLP
    | Residual
    | ProportionalLinear
    | AttentionCore
    | Transformer
    | RandomFeatures
    | FeatureLearning
    | AdaptiveKernel
)


@dataclass(frozen=True)
class Kind:
    """What goes with a limit.

    Attributes
    ----------
    data : tuple of types
        What it learns from; none if it draws its own data.
    trainings : tuple of types
        What `solve` trains it by; none if it is static, and has no networks to train.
    sampling : tuple of str
        Names out of `SAMPLING`.
    losses : tuple of str
    sequences : bool
        Whether its data may be sequences.
    """

    data: tuple[type, ...]
    trainings: tuple[type, ...]
    sampling: tuple[str, ...] = ()
    losses: tuple[str, ...] = ("square",)
    sequences: bool = False


_SPECTRA = (Spectrum, PowerLaw)
_NONLINEAR = Kind((Dataset,), (GradientDescent,), tuple(SAMPLING), LOSSES)

KINDS: dict[type, Kind] = {
    DeepLinear: Kind((Dataset,), (GradientDescent, GradientFlow)),
    MLP: _NONLINEAR,
    Residual: _NONLINEAR,
    ProportionalLinear: Kind((), (GradientDescent, OnlineSGD)),
    AttentionCore: Kind((Dataset,), (GradientDescent,), ("samples", "seed"), sequences=True),
    Transformer: Kind((Dataset,), (GradientDescent,), tuple(SAMPLING), sequences=True),
    RandomFeatures: Kind(_SPECTRA, (GradientDescent, GradientFlow, OnlineSGD)),
    FeatureLearning: Kind(_SPECTRA, (GradientDescent, GradientFlow)),
    AdaptiveKernel: Kind((Dataset,), (), ("samples", "seed")),
}


def kind_of(limit: Any) -> Kind:
    """What goes with `limit`, which has passed `check_nouns`."""
    return KINDS[type(limit)]


def named(limit: Any) -> str:
    """The class of `limit` with its article."""
    return _with_article(type(limit))


def _with_article(kind: type) -> str:
    name = kind.__name__
    return f"an {name}" if name[0] in "AEIOU" or name == "MLP" else f"a {name}"


def check_nouns(verb: str, limit: Any, data: Any, training: Any) -> None:
    """Refuse what is not a limit, and data and a training that do not go with it.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """
    known = [limits for limits, kind in KINDS.items() if verb == "solve" or kind.trainings]
    if type(limit) not in known:
        raise TypeError(f"limit must be {_one_of(known)}, what {verb} knows, not {limit!r}")
    kind, name = kind_of(limit), named(limit)
    if not kind.data and data is not None:
        raise TypeError(f"data must be None: {name} draws its own, found {data!r}")
    if kind.data and not isinstance(data, kind.data):
        raise TypeError(f"data must be {_one_of(kind.data)}, which {name} learns, not {data!r}")
    if isinstance(data, Dataset) and data.sequence_length > 1 and not kind.sequences:
        raise ValueError(
            f"data holds sequences of {data.sequence_length} tokens, but {name} takes points: "
            "pass inputs (P, D), or gram (P, P)"
        )
    _check_training(verb, name, kind, training)
    if isinstance(training, GradientDescent):
        _check_loss(name, kind, training.loss, data)
        _warn_of_decay(training)


def _check_training(verb: str, name: str, kind: Kind, training: Any) -> None:
    if not kind.trainings:
        if training is not None:
            raise TypeError(f"training must be None: {name} is static, found {training!r}")
        return
    if verb == "simulate" and isinstance(training, GradientFlow):
        raise TypeError(f"training: {NO_FLOW_OF_NETWORKS}")
    if isinstance(training, kind.trainings):
        return
    hint = ""
    if isinstance(training, GradientFlow):
        hint = ": use GradientDescent with a small lr, where tau = lr * step"
    elif isinstance(training, OnlineSGD):
        hint = ": an OnlineSGD needs random data, those of a ProportionalLinear or RandomFeatures"
    raise TypeError(
        f"training must be {_one_of(kind.trainings)}, which train {name}, not {training!r}{hint}"
    )


def _check_loss(name: str, kind: Kind, loss: str, data: Any) -> None:
    """Refuse a loss that the limit does not know, or that these targets make no sense for."""
    if loss not in kind.losses:
        raise ValueError(
            f"loss={loss!r}: {name} is solved for loss='square'; for a linear network with "
            "another loss use MLP or Residual with activation='linear'"
        )
    if isinstance(data, Dataset):
        host = data.on_host
        check_targets(loss, targets=host.targets, test_targets=host.test_targets)


def _warn_of_decay(training: GradientDescent) -> None:
    """Warn of a decay that turns the sign of a weight at every update, or leaves nothing of it."""
    fastest = float(training.rates.max(initial=0)) * training.weight_decay
    if fastest >= 1:
        warnings.warn(
            f"lr * weight_decay = {fastest:.3g}: at 1 an update leaves nothing of a weight, "
            "beyond 1 it turns its sign; take weight_decay far below 1 / lr",
            StabilityWarning,
            stacklevel=4,
        )


def _one_of(types: Iterable[type]) -> str:
    return " or ".join(map(_with_article, types))


def unmarched(limit: Any, training: Any) -> str | None:
    """Why `solve` has no march that a checkpoint could hold; None if there is one."""
    if isinstance(training, GradientFlow):
        return "a GradientFlow cannot be resumed"
    if isinstance(limit, RandomFeatures):
        return "the curves of a RandomFeatures are found at once, there is nothing to resume"
    infinite = isinstance(limit, Residual) and limit.depth == INFINITE
    if infinite and not is_deep_linear(limit, training):
        return "depth=INFINITE is extrapolated from several runs, which cannot be resumed"
    return None


def check_progress(progress: Any) -> None:
    """Refuse what cannot be called.

    Raises
    ------
    TypeError
    """
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be a function of (step, loss), not {progress!r}")


def device_of(data: Dataset | AnySpectrum | None, device: str | None) -> str:
    """Where to compute: where one is told to, else where the data are.

    Raises
    ------
    ValueError
        If `device` is not the name of one.
    """
    if device is not None:
        return one_of("device", device, ("cpu", "cuda"))
    return data.device if isinstance(data, Dataset) else "cpu"


def names_to_save(save: str | Iterable[str]) -> tuple[str, ...]:
    """`save` as a tuple.

    Raises
    ------
    TypeError
        For what is neither a name nor a sequence.
    """
    if not isinstance(save, Iterable):
        raise TypeError(f"save must be a name or a sequence of names, not {save!r}")
    return (save,) if isinstance(save, str) else tuple(save)


def fields_to_save(save: str | Iterable[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """The names of `save` in the order of `known`; "all" stands for all of them.

    Raises
    ------
    TypeError, ValueError
        For what is no name, and for a name that is not known.
    """
    chosen = {one_of("save", name, (*known, "all")) for name in names_to_save(save)}
    return tuple(name for name in known if name in chosen or "all" in chosen)
