"""The tangent kernel of heads of attention, from their queries, keys, values and patterns."""

from __future__ import annotations

from typing import Any

from dmftcore import _arrays
from dmftcore.attention_maps import AttentionMap

__all__ = ["tangent_kernel"]


def tangent_kernel(
    kernel: Any,
    attention: str,
    weight: Any,
    patterns: Any,
    query: Any,
    key: Any,
    value: Any,
    readout: Any,
) -> Any:
    """Tangent kernel (P, P) of heads: ``f(t+1) = f(t) + (lr/P) K (y - f) + O(lr^2)``.

    ``K = sum_{a in mu, b in nu} < c_a (Z C_ab + V_ab) c_b + C_ab (g_a . g_b + g'_a . g'_b) >``
    with ``g = J k`` and ``g' = J^T q``; c is the mean of a pattern over its rows.

    Parameters
    ----------
    kernel : (M, M) array
        C of the P sequences.
    attention : str
    weight : (H,) array
        Of each head in the mean.
    patterns : (H, P, S, S) array
    query, key : (H, M or more, n) arrays
        ``W x / sqrt(D N)``; a first axis of 1 is common to all heads.
    value, readout : (H, M or more, m) and (H, m) arrays
    """
    xp = _arrays.namespace(patterns)
    heads, count, length, _ = patterns.shape
    tokens = count * length

    def of_sequences(array: Any) -> Any:
        return array[:, :tokens].reshape(len(array), count, length, -1)

    attended = patterns.mean(axis=2)[..., None]
    values = of_sequences(value)
    overlaps = (values @ readout[:, None, :, None])[..., 0]
    slopes = AttentionMap(attention).gradient(patterns, overlaps[:, :, None, :] / length)
    norms = xp.sqrt((readout**2).sum(axis=1))[:, None, None, None]
    parts = (
        norms * attended,
        slopes @ of_sequences(key),
        slopes.swapaxes(2, 3) @ of_sequences(query),
    )
    root = xp.sqrt(weight)[:, None, None]
    summed = (root * (attended * values).sum(axis=2)).swapaxes(0, 1).reshape(count, -1)
    products = 0
    for part in parts:
        rows = (root * part.reshape(heads, tokens, -1)).swapaxes(0, 1).reshape(tokens, -1)
        products = products + rows @ rows.T
    blocks = (kernel * products).reshape(count, length, count, length)
    return blocks.sum(axis=(1, 3)) + summed @ summed.T
