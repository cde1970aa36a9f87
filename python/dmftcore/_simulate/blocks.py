"""Residual blocks of finite transformers that are trained side by side.

A block adds to a stream h (B, M, W) of B networks, tokens in rows, those of a sequence one after
the other. Gradients are those of the output times gamma W. `backward` and `directions` are for the
first m tokens, and follow `forward`, or `backward`, of the same weights.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from dmftcore import _arrays
from dmftcore._simulate.descent import Outer
from dmftcore.attention_maps import AttentionMap

__all__ = ["ACTIVATIONS", "AttentionBlock", "Block", "MLPBlock"]


class Block(Protocol):
    """A part of a residual network, between two states of its stream."""

    def forward(self, h: Any) -> Any:
        """What is added to the stream, (B, M, W)."""

    def backward(self, g: Any) -> Any:
        """What is added to the gradient by the stream, given that above the block, (B, m, W)."""

    def directions(self, errors: Any) -> list[Outer]:
        """Of its weights in their order, sums over tokens with weights (B, m, 1)."""


class AttentionBlock:
    """Multi-head attention ``beta W_O o / sqrt(W)``.

    Parameters
    ----------
    weights : list of (B, W, W) arrays
        W_K, W_Q, W_V, W_O.
    attention_map : AttentionMap
    heads, positions : int
    exponent : float
        alpha of ``A = q . k / N^alpha``.
    branch : float
        Factor beta.

    Attributes
    ----------
    logits, attention : (B, H, sequences, S, S) arrays
    mixed : (B, M, W) array
        The outputs o of all heads.
    pulled : dict of (B, m, W) arrays
        Gradients p by "k", "q", "v".
    """

    def __init__(
        self,
        weights: list[Any],
        attention_map: AttentionMap,
        *,
        heads: int,
        positions: int,
        exponent: float,
        branch: float,
    ) -> None:
        self._weights, self._map = weights, attention_map
        self._heads, self._positions, self._branch = heads, positions, branch
        self._width = int(weights[0].shape[1])
        self._keys = self._width // heads
        self._exponent = exponent
        self.logits: Any = None
        self.attention: Any = None
        self.mixed: Any = None
        self.pulled: dict[str, Any] = {}

    def forward(self, h: Any) -> Any:
        """See `Block`."""
        root = math.sqrt(self._width)
        self._h = h
        k, q, v = (h @ matrix.swapaxes(1, 2) / root for matrix in self._weights[:3])
        self._k, self._q, self._v = (self._by_head(rows) for rows in (k, q, v))
        self.logits = self._q @ self._k.swapaxes(3, 4) / self._keys**self._exponent
        self.attention = self._map.value(self.logits)
        self.mixed = self._side_by_side(self.attention @ self._v)
        return self._branch * (self.mixed @ self._weights[3].swapaxes(1, 2)) / root

    def backward(self, g: Any) -> Any:
        """See `Block`."""
        root = math.sqrt(self._width)
        self._g = g
        xi = self._by_head(g @ self._weights[3] / root)
        within = slice(xi.shape[2])
        k, q, v, s = (x[:, :, within] for x in (self._k, self._q, self._v, self.attention))
        by_attention = self._branch * (xi @ v.swapaxes(3, 4)) / self._keys
        j = self._keys ** (1 - self._exponent) * self._map.gradient(s, by_attention)
        by_input = {
            "k": j.swapaxes(3, 4) @ q,
            "q": j @ k,
            "v": self._branch * (s.swapaxes(3, 4) @ xi),
        }
        self.pulled = {name: self._side_by_side(rows) for name, rows in by_input.items()}
        pulled = zip(self.pulled.values(), self._weights[:3], strict=True)
        return sum(rows @ matrix for rows, matrix in pulled) / root

    def directions(self, errors: Any) -> list[Outer]:
        """See `Block`."""
        root, tokens = math.sqrt(self._width), errors.shape[1]
        score = self._keys ** (2 * (self._exponent - 1)) / root
        scales = {"k": score, "q": score, "v": 1 / root}
        h = self._h[:, :tokens]
        found = [(scales[name], errors * rows, h) for name, rows in self.pulled.items()]
        return [*found, (self._branch / root, errors * self._g, self.mixed[:, :tokens])]

    def _by_head(self, rows: Any) -> Any:
        """(B, m, W) as (B, H, sequences, S, N)."""
        split = rows.reshape(len(rows), -1, self._positions, self._heads, self._keys)
        return split.transpose(0, 3, 1, 2, 4)

    def _side_by_side(self, split: Any) -> Any:
        """(B, H, sequences, S, N) as (B, m, W)."""
        return split.transpose(0, 2, 3, 1, 4).reshape(len(split), -1, self._width)


def _relu(xp: Any, x: Any) -> tuple[Any, Any]:
    return xp.maximum(x, 0), 1.0 * (x > 0)


def _tanh(xp: Any, x: Any) -> tuple[Any, Any]:
    value = xp.tanh(x)
    return value, 1 - value**2


def _linear(xp: Any, x: Any) -> tuple[Any, Any]:
    return x, xp.ones_like(x)


#: Activations of MLP blocks: values and slopes.
ACTIVATIONS = {"linear": _linear, "relu": _relu, "tanh": _tanh}


class MLPBlock:
    """Two dense layers ``beta W_2 phi(W_1 h / sqrt(W)) / sqrt(W)``.

    Parameters
    ----------
    weights : list of (B, W, W) arrays
        W_1, W_2.
    activation : str
        A key of `ACTIVATIONS`.
    branch : float
        Factor beta.
    """

    def __init__(self, weights: list[Any], activation: str, *, branch: float) -> None:
        self._weights, self._activation, self._branch = weights, ACTIVATIONS[activation], branch
        self._root = math.sqrt(weights[0].shape[1])

    def forward(self, h: Any) -> Any:
        """See `Block`."""
        self._h = h
        before = h @ self._weights[0].swapaxes(1, 2) / self._root
        self._values, self._slopes = self._activation(_arrays.namespace(before), before)
        return self._branch * (self._values @ self._weights[1].swapaxes(1, 2)) / self._root

    def backward(self, g: Any) -> Any:
        """See `Block`."""
        self._g = g
        slopes = self._slopes[:, : g.shape[1]]
        self._pulled = self._branch * slopes * (g @ self._weights[1]) / self._root
        return self._pulled @ self._weights[0] / self._root

    def directions(self, errors: Any) -> list[Outer]:
        """See `Block`."""
        tokens = errors.shape[1]
        return [
            (1 / self._root, errors * self._pulled, self._h[:, :tokens]),
            (self._branch / self._root, errors * self._g, self._values[:, :tokens]),
        ]
