"""The tangent kernel of heads of attention, from their queries, keys, values and patterns."""

from __future__ import annotations

from typing import Any

from dmftcore import _arrays
from dmftcore.attention_maps import AttentionMap

__all__ = ["tangent_kernel"]


def tangent_kernel(
    kernel: Any,
    attention_map: AttentionMap,
    weight: Any,
    patterns: Any,
    query: Any,
    key: Any,
    value: Any,
    readout: Any,
) -> Any:
    """Tangent kernel (P, K, P, K): ``f(t+1) = f(t) + (lr/P) Theta (y - f) + O(lr^2)``.

    Between the outputs j and k of two sequences it is the sum over their tokens a, b of
    ``< c_a (Z_jk C_ab + delta_jk V_ab) c_b + C_ab (g_aj . g_bk + g'_aj . g'_bk) >`` with
    ``g = J k`` and ``g' = J^T q``; c is the mean of a pattern over its rows.

    Parameters
    ----------
    kernel : (M, M) array
        C of the P sequences.
    attention_map : AttentionMap
    weight : (H,) array
        Of each head in the mean.
    patterns : (H, P, S, S) array
    query, key : (H, M or more, n) arrays
        ``W x / sqrt(D N)``; a first axis of 1 is common to all heads.
    value, readout : (H, M or more, m) and (H, K, m) arrays
    """
    xp = _arrays.namespace(patterns)
    heads, count, length, _ = patterns.shape
    tokens, outputs = count * length, readout.shape[1]

    def of_sequences(array: Any) -> Any:
        return array[:, :tokens].reshape(len(array), count, length, -1)

    attended = patterns.mean(axis=2)[..., None]
    values = of_sequences(value)
    # (H, K, P, 1, S), the same for each row of a pattern.
    demand = (values[:, None] @ readout[:, :, None, :, None])[..., None, :, 0] / length
    slopes = attention_map.gradient(patterns[:, None], demand)
    # No more components than outputs, with the same overlaps Z.
    few = xp.linalg.qr(readout.swapaxes(1, 2), mode="r").swapaxes(1, 2)
    parts = (
        attended[:, None] * few[:, :, None, None],
        slopes @ of_sequences(key)[:, None],
        slopes.swapaxes(3, 4) @ of_sequences(query)[:, None],
    )
    root = xp.sqrt(weight)[:, None, None]
    products: Any = 0
    for part in parts:
        rows = (root * part.reshape(heads, outputs * tokens, -1)).swapaxes(0, 1)
        rows = rows.reshape(outputs * tokens, -1)
        products = products + rows @ rows.T
    products = products.reshape(outputs, tokens, outputs, tokens) * kernel[:, None]
    blocks = products.reshape(outputs, count, length, outputs, count, length).sum(axis=(2, 5))
    summed = (root * (attended * values).sum(axis=2)).swapaxes(0, 1).reshape(count, -1)
    blocks = blocks + xp.eye(outputs)[:, None, :, None] * (summed @ summed.T)[:, None]
    return blocks.transpose(1, 0, 3, 2)
