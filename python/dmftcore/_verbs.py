"""What the verbs have in common: checks of their nouns and of what to keep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dmftcore._validate import one_of
from dmftcore.data import Dataset
from dmftcore.limits.attention import AttentionCore
from dmftcore.limits.linear import DeepLinear
from dmftcore.limits.proportional import ProportionalLinear
from dmftcore.limits.transformer import Transformer
from dmftcore.training import GradientDescent, GradientFlow, OnlineSGD

__all__ = ["NO_FLOW_OF_NETWORKS", "check_nouns", "device_of", "fields_to_save"]

NO_FLOW_OF_NETWORKS = (
    "networks are trained in steps, not by a GradientFlow: use GradientDescent with a small lr, "
    "where tau = lr * step"
)

#: The limits that each verb knows.
LIMITS: dict[str, tuple[type, ...]] = {
    "solve": (DeepLinear, ProportionalLinear, AttentionCore, Transformer),
    "simulate": (DeepLinear, ProportionalLinear, AttentionCore, Transformer),
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
        return
    if not isinstance(data, Dataset):
        raise TypeError(f"data must be a Dataset, not {data!r}")
    attends = isinstance(limit, AttentionCore | Transformer)
    if not attends and data.sequence_length > 1:
        raise ValueError(
            f"data holds sequences of {data.sequence_length} tokens, but a {type(limit).__name__} "
            "takes points: pass inputs (P, D), or gram (P, P)"
        )
    if isinstance(training, OnlineSGD):
        raise TypeError("training: an OnlineSGD needs random data, those of a ProportionalLinear")
    if not isinstance(training, GradientDescent | GradientFlow):
        raise TypeError(f"training must be a GradientDescent or a GradientFlow, not {training!r}")
    if verb == "simulate" and isinstance(training, GradientFlow):
        raise TypeError(f"training: {NO_FLOW_OF_NETWORKS}")
    if attends and isinstance(training, GradientFlow):
        kind = "an AttentionCore" if isinstance(limit, AttentionCore) else "a Transformer"
        raise TypeError(
            f"training: {kind} has no GradientFlow: use GradientDescent with a small lr, where "
            "tau = lr * step"
        )


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
