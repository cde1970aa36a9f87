"""What the verbs have in common: checks of their nouns and of what to keep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dmftcore._validate import FloatArray, one_of
from dmftcore.data import Dataset
from dmftcore.limits.adaptive import AdaptiveKernel
from dmftcore.limits.linear import DeepLinear
from dmftcore.limits.mlp import MLP
from dmftcore.limits.proportional import ProportionalLinear
from dmftcore.limits.residual import Residual
from dmftcore.losses import check_targets
from dmftcore.training import GradientDescent, GradientFlow, OnlineSGD

__all__ = ["NO_FLOW_OF_NETWORKS", "check_nouns", "device_of", "fields_to_save"]

NO_FLOW_OF_NETWORKS = (
    "networks are trained in steps, not by a GradientFlow: use GradientDescent with a small lr, "
    "where tau = lr * step"
)

#: The limits that each verb knows.
LIMITS: dict[str, tuple[type, ...]] = {
    "solve": (DeepLinear, MLP, Residual, ProportionalLinear, AdaptiveKernel),
    "simulate": (DeepLinear, MLP, Residual, ProportionalLinear),
}


def check_nouns(verb: str, limit: Any, data: Any, training: Any) -> None:
    """Refuse what is not a limit, a data set and a training that `verb` knows.

    Raises
    ------
    TypeError
        Naming the argument.
    """
    known = LIMITS[verb]
    if not isinstance(limit, known):
        names = " or a ".join(kind.__name__ for kind in known)
        raise TypeError(f"limit must be a {names}, what {verb} knows, not {limit!r}")
    if isinstance(limit, ProportionalLinear):
        if data is not None:
            raise TypeError(
                f"data must be None: a ProportionalLinear draws its own, found {data!r}"
            )
        if not isinstance(training, GradientDescent | OnlineSGD):
            raise TypeError(f"training must be a GradientDescent or an OnlineSGD, not {training!r}")
        _check_loss(limit, training)
        return
    if not isinstance(data, Dataset):
        raise TypeError(f"data must be a Dataset, not {data!r}")
    if isinstance(limit, AdaptiveKernel):
        if training is not None:
            raise TypeError(
                f"training must be None: an AdaptiveKernel is static, found {training!r}"
            )
        return
    if isinstance(training, OnlineSGD):
        raise TypeError("training: an OnlineSGD needs random data, those of a ProportionalLinear")
    if not isinstance(training, GradientDescent | GradientFlow):
        raise TypeError(f"training must be a GradientDescent or a GradientFlow, not {training!r}")
    if verb == "simulate" and isinstance(training, GradientFlow):
        raise TypeError(f"training: {NO_FLOW_OF_NETWORKS}")
    _check_loss(
        limit, training, targets=data.on_host.targets, test_targets=data.on_host.test_targets
    )


def _check_loss(limit: Any, training: Any, **targets: FloatArray | None) -> None:
    """Refuse a loss that the limit does not know, or that these targets make no sense for."""
    loss = getattr(training, "loss", "square")
    if loss != "square" and not isinstance(limit, MLP | Residual):
        raise ValueError(
            f"loss={loss!r}: a {type(limit).__name__} is solved for loss='square'; for a linear "
            "network with another loss use MLP or Residual with activation='linear'"
        )
    check_targets(loss, **targets)


def device_of(data: Dataset | None, device: str | None) -> str:
    """Where to compute: where one is told to, else where the data are.

    Raises
    ------
    ValueError
        If `device` is not the name of one.
    """
    if device is not None:
        return one_of("device", device, ("cpu", "cuda"))
    return "cpu" if data is None else data.device


def fields_to_save(save: str | Iterable[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """The names of `save` in the order of `known`; "all" stands for all of them.

    Raises
    ------
    ValueError
        For a name that is not known.
    """
    names = (save,) if isinstance(save, str) else tuple(save)
    chosen = {one_of("save", name, (*known, "all")) for name in names}
    return tuple(name for name in known if name in chosen or "all" in chosen)
