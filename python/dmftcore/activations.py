"""Activation functions of the nonlinear networks, with their derivatives.

Arrays of numpy or cupy, of any shape; results are of the same library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dmftcore import _arrays

__all__ = ["ACTIVATIONS", "Activation", "activation"]


@dataclass(frozen=True)
class Activation:
    """phi and phi', elementwise.

    Attributes
    ----------
    name : str
    value, slope : callable
        phi and phi'.
    smooth : bool
        Whether phi is infinitely differentiable.
    """

    name: str
    value: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    smooth: bool = True


def _erf(h: Any) -> Any:
    return _arrays.special(h).erf(h)


def _erf_slope(h: Any) -> Any:
    return 2 / math.sqrt(math.pi) * _arrays.namespace(h).exp(-(h**2))


def _tanh(h: Any) -> Any:
    return _arrays.namespace(h).tanh(h)


def _gelu(h: Any) -> Any:
    return h * _arrays.special(h).ndtr(h)


def _gelu_slope(h: Any) -> Any:
    density = _arrays.namespace(h).exp(-(h**2) / 2) / math.sqrt(2 * math.pi)
    return _arrays.special(h).ndtr(h) + h * density


_ALL = (
    Activation("linear", lambda h: h, lambda h: _arrays.namespace(h).ones_like(h)),
    Activation(
        "relu",
        lambda h: _arrays.namespace(h).maximum(h, 0),
        # Zero at the kink.
        lambda h: (h > 0).astype(h.dtype),
        smooth=False,
    ),
    Activation("tanh", _tanh, lambda h: 1 - _tanh(h) ** 2),
    Activation("erf", _erf, _erf_slope),
    Activation("gelu", _gelu, _gelu_slope),
    Activation(
        "softplus",
        lambda h: _arrays.namespace(h).logaddexp(h, 0),
        lambda h: _arrays.special(h).expit(h),
    ),
    Activation("quadratic", lambda h: h**2, lambda h: 2 * h),
)

#: Names of the activations: h, max(h, 0), tanh(h), erf(h), gelu = h Phi(h) with the normal
#: distribution function Phi, log(1 + e^h), h^2. The compiled core numbers them in this order.
ACTIVATIONS = tuple(one.name for one in _ALL)

_BY_NAME = {one.name: one for one in _ALL}


def activation(name: str) -> Activation:
    """The activation of the given name, one of `ACTIVATIONS`."""
    return _BY_NAME[name]
