"""Heads of an attention layer by the overlaps of all tokens, written out with matrices (M, M).

One head is A, QQ, KK, V (M, M), F (M,) and Z; ``A_ab = q_a.k_b / N^alpha``,
``QQ_ab = q_a.q_b / N``, ``F_a = w.v_a / N`` and so on. ``nu = N^(2 (alpha - 1))``.
"""

import numpy as np


def attend(attention, a):
    length = a.shape[-1]
    if attention == "softmax":
        e = np.exp(a - a.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)
    return {"linear": 1 + a, "exp": np.exp(a), "relu": np.maximum(a, 0)}[attention] / length


def jacobian_product(attention, a, b):
    """sum_s'' B_ss'' dS_ss'' / dA_ss'."""
    length = a.shape[-1]
    s = attend(attention, a)
    if attention == "softmax":
        return s * (b - (s * b).sum(axis=-1, keepdims=True))
    return b * {"linear": 1 / length, "exp": s, "relu": (a > 0) / length}[attention]


class Overlaps:
    """Heads at their overlaps, `weights` of each in the mean."""

    def __init__(self, kernel, targets, length, attention, gamma, nu, heads, weights):
        self.c, self.y, self.length = kernel, np.asarray(targets, float), length
        self.attention, self.gamma, self.nu = attention, gamma, nu
        self.heads = [{k: np.array(v, float) for k, v in head.items()} for head in heads]
        self.weights = np.asarray(weights) / np.sum(weights)
        self.blocks = [slice(i, i + length) for i in range(0, len(kernel), length)]

    def patterns(self, head):
        return [attend(self.attention, head["A"][b, b]) for b in self.blocks]

    def outputs(self):
        f = np.zeros(len(self.blocks))
        for weight, head in zip(self.weights, self.heads, strict=True):
            for mu, (b, s) in enumerate(zip(self.blocks, self.patterns(head), strict=True)):
                f[mu] += weight * s.mean(axis=0) @ head["F"][b] / self.gamma
        return f

    def update(self, lr, centre=0.0):
        """One step of all heads; test sequences, behind the training ones, have no error."""
        eps = lr * self.gamma / len(self.y)
        f = self.outputs() - centre
        delta = np.zeros(len(f))
        delta[: len(self.y)] = self.y - f[: len(self.y)]
        for head in self.heads:
            self._update_head(head, eps, delta)

    def _update_head(self, head, eps, delta):
        a, qq, kk, v, f, z = (head[k] for k in ("A", "QQ", "KK", "V", "F", "Z"))
        j, cv = np.zeros_like(a), np.zeros(len(a))
        for mu, (b, s) in enumerate(zip(self.blocks, self.patterns(head), strict=True)):
            by_pattern = np.tile(f[b] / self.length, (self.length, 1))
            j[b, b] = delta[mu] * jacobian_product(self.attention, a[b, b], by_pattern)
            cv[b] = delta[mu] * s.mean(axis=0)
        e, e2, out, u, nu = self.c @ j, self.c @ j.T, self.c @ cv, v @ cv, self.nu
        head["F"] = f + eps * (z * out + u) + eps**2 * out * (cv @ f)
        head["V"] = (
            v + eps * (np.outer(out, f) + np.outer(f, out)) + eps**2 * z * np.outer(out, out)
        )
        head["Z"] = z + 2 * eps * cv @ f + eps**2 * cv @ u
        head["A"] = a + eps * (e @ kk + qq @ e2.T) + nu * eps**2 * e @ a.T @ e2.T
        head["QQ"] = qq + nu * (eps * (e @ a.T + a @ e.T) + eps**2 * e @ kk @ e.T)
        head["KK"] = kk + nu * (eps * (e2 @ a + a.T @ e2.T) + eps**2 * e2 @ qq @ e2.T)


def of_weights(points, exponent, w_q, w_k, w_v, w):
    """The overlaps of heads of given weights (H, N, D) and (H, N), on rows x / sqrt(D)."""
    n = w.shape[1]
    heads = []
    for q, k, v, readout in zip(w_q, w_k, w_v, w, strict=True):
        q, k, v = points @ q.T, points @ k.T, points @ v.T
        heads.append(
            {
                "A": q @ k.T / n**exponent,
                "QQ": q @ q.T / n,
                "KK": k @ k.T / n,
                "V": v @ v.T / n,
                "F": v @ readout / n,
                "Z": readout @ readout / n,
            }
        )
    return heads


def infinite(kernel, scores):
    """Heads of infinitely many keys, that start with the given scores A."""
    rest = {"QQ": kernel, "KK": kernel, "V": kernel, "F": np.zeros(len(kernel)), "Z": 1.0}
    return [{"A": a, **rest} for a in scores]
