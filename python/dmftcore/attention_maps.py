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
    """Attention of S positions, a function of the logits of each query.

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
        if self.kind == "softmax":
            seen = xp.where(self._seen(xp, length), logits, -xp.inf)
            e = xp.exp(seen - seen.max(axis=-1, keepdims=True))
            softmax: FloatArray = e / e.sum(axis=-1, keepdims=True)
            return softmax
        if self.kind == "linear":
            values = 1 + logits
        elif self.kind == "exp":
            values = xp.exp(logits)
        else:
            values = xp.maximum(logits, 0)
        attention: FloatArray = values * self._seen(xp, length) / length
        return attention

    def gradient(self, logits: FloatArray, weights: FloatArray) -> FloatArray:
        """Gradient of ``sum(weights * value(logits))`` with respect to the logits."""
        xp: Any = _arrays.namespace(logits)
        length = logits.shape[-1]
        if self.kind == "softmax":
            s = self.value(logits)
            gradient: FloatArray = s * (weights - (s * weights).sum(axis=-1, keepdims=True))
            return gradient
        slope: Any = 1.0
        if self.kind == "exp":
            slope = xp.exp(logits)
        elif self.kind == "relu":
            slope = logits > 0
        gradient = weights * slope * self._seen(xp, length) / length
        return gradient

    def _seen(self, xp: Any, length: int) -> Any:
        return xp.tri(length, dtype=bool) if self.causal else xp.ones((1, 1), dtype=bool)
