"""From the logits of an attention head to its attention, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dmftcore import _arrays
from dmftcore._validate import FloatArray

__all__ = ["ATTENTION_MAPS", "AttentionMap"]

#: What the noun of a model may name.
ATTENTION_MAPS = ("softmax", "linear", "exp", "relu")


@dataclass(frozen=True)
class AttentionMap:
    """Attention among S positions, a function of the logits of each query.

    Parameters
    ----------
    kind : {"softmax", "linear", "exp", "relu"}
        Of the logits A: softmax over the keys, ``(1 + A) / S``, ``exp(A) / S``, ``max(A, 0) / S``.
    causal : bool
        Whether a query sees only keys up to its own position; the rest of the attention is zero.
    """

    kind: str
    causal: bool = False

    def value(self, logits: FloatArray) -> FloatArray:
        """Attention of (*batch, S, S) logits, rows the queries."""
        xp: Any = _arrays.namespace(logits)
        length = logits.shape[-1]
        seen = self._seen(xp, length)
        if self.kind == "softmax":
            visible = xp.where(seen, logits, -xp.inf)
            powers = xp.exp(visible - visible.max(axis=-1, keepdims=True))
            softmax: FloatArray = powers / powers.sum(axis=-1, keepdims=True)
            return softmax
        if self.kind == "linear":
            values = 1 + logits
        elif self.kind == "exp":
            values = xp.exp(logits)
        else:
            values = xp.maximum(logits, 0)
        attention: FloatArray = xp.where(seen, values, 0.0) / length
        return attention

    def gradient(self, attention: FloatArray, weights: FloatArray) -> FloatArray:
        """Gradient of ``sum(weights * attention)`` by the logits, (*batch, S, S).

        Parameters
        ----------
        attention : (*batch, S, S) array
            As `value` gives it.
        weights : array
            That can be broadcast to the shape of `attention`.
        """
        if self.kind == "softmax":
            mean = (attention * weights).sum(axis=-1, keepdims=True)
            gradient: FloatArray = attention * (weights - mean)
            return gradient
        if self.kind == "exp":
            return attention * weights
        xp: Any = _arrays.namespace(attention)
        length = attention.shape[-1]
        rising = attention > 0 if self.kind == "relu" else self._seen(xp, length)
        gradient = xp.where(rising, weights, 0.0) / length
        return gradient

    def _seen(self, xp: Any, length: int) -> Any:
        """Which keys a query sees, (S, S)."""
        everything = xp.ones((length, length), dtype=bool)
        return xp.tril(everything) if self.causal else everything
