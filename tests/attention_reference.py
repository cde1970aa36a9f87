"""Heads of an attention layer by the overlaps of all tokens, written out with matrices (M, M).

One head is A, QQ, KK, V (M, M), F (M, K) and Z (K, K); ``A_ab = q_a.k_b / N^alpha``,
``QQ_ab = q_a.q_b / N``, ``F_ak = w_k.v_a / N`` and so on. ``nu = N^(2 (alpha - 1))``.
"""

import numpy as np


def attend(attention, a, mask=None):
    length = a.shape[-1]
    seen = np.tri(length) if mask else np.ones((length, length))
    if attention == "softmax":
        e = seen * np.exp(a - a.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)
    value = {"linear": 1 + a, "exp": np.exp(a), "relu": np.maximum(a, 0)}[attention]
    return seen * value / length


def jacobian_product(attention, a, b, mask=None):
    """sum_s'' B_ss'' dS_ss'' / dA_ss'."""
    length = a.shape[-1]
    s = attend(attention, a, mask)
    if attention == "softmax":
        return s * (b - (s * b).sum(axis=-1, keepdims=True))
    slope = {"linear": np.ones_like(a), "exp": np.exp(a), "relu": a > 0}[attention] / length
    return b * slope * (np.tri(length) if mask else 1)


class Overlaps:
    """Heads at their overlaps, `weights` of each in the mean."""

    def __init__(self, kernel, targets, length, attention, gamma, nu, heads, weights, mask=None):
        self.c, self.y, self.length = kernel, np.asarray(targets, float), length
        self.y = self.y.reshape(len(self.y), -1)
        self.attention, self.gamma, self.nu, self.mask = attention, gamma, nu, mask
        self.heads = [{k: np.array(v, float) for k, v in head.items()} for head in heads]
        self.weights = np.asarray(weights) / np.sum(weights)
        self.blocks = [slice(i, i + length) for i in range(0, len(kernel), length)]

    def patterns(self, head):
        return [attend(self.attention, head["A"][b, b], self.mask) for b in self.blocks]

    def outputs(self):
        """(P + Q, K)"""
        f = np.zeros((len(self.blocks), self.y.shape[1]))
        for weight, head in zip(self.weights, self.heads, strict=True):
            for mu, (b, s) in enumerate(zip(self.blocks, self.patterns(head), strict=True)):
                f[mu] += weight * s.mean(axis=0) @ head["F"][b] / self.gamma
        return f

    def update(self, lr, centre=0.0):
        """One step of all heads; test sequences, behind the training ones, have no error."""
        eps = lr * self.gamma / len(self.y)
        f = self.outputs() - centre
        delta = np.zeros_like(f)
        delta[: len(self.y)] = self.y - f[: len(self.y)]
        for head in self.heads:
            self._update_head(head, eps, delta)

    def _update_head(self, head, eps, delta):
        a, qq, kk, v, f, z = (head[k] for k in ("A", "QQ", "KK", "V", "F", "Z"))
        j, cv = np.zeros_like(a), np.zeros_like(f)
        for mu, (b, s) in enumerate(zip(self.blocks, self.patterns(head), strict=True)):
            by_pattern = np.tile(f[b] @ delta[mu] / self.length, (self.length, 1))
            j[b, b] = jacobian_product(self.attention, a[b, b], by_pattern, self.mask)
            cv[b] = np.outer(s.mean(axis=0), delta[mu])
        e, e2, out, u, nu = self.c @ j, self.c @ j.T, self.c @ cv, v @ cv, self.nu
        head["F"] = f + eps * (out @ z + u) + eps**2 * out @ (f.T @ cv)
        head["V"] = v + eps * (out @ f.T + f @ out.T) + eps**2 * out @ z @ out.T
        head["Z"] = z + eps * (cv.T @ f + f.T @ cv) + eps**2 * cv.T @ u
        head["A"] = a + eps * (e @ kk + qq @ e2.T) + nu * eps**2 * e @ a.T @ e2.T
        head["QQ"] = qq + nu * (eps * (e @ a.T + a @ e.T) + eps**2 * e @ kk @ e.T)
        head["KK"] = kk + nu * (eps * (e2 @ a + a.T @ e2.T) + eps**2 * e2 @ qq @ e2.T)


def of_weights(points, exponent, w_q, w_k, w_v, w):
    """The overlaps of heads of given weights (H, N, D) and (H, N[, K]), on rows x / sqrt(D)."""
    n = w.shape[1]
    w = w.reshape(*w.shape[:2], -1)
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
                "Z": readout.T @ readout / n,
            }
        )
    return heads


def infinite(kernel, scores, outputs=1):
    """Heads of infinitely many keys, that start with the given scores A."""
    rest = {"QQ": kernel, "KK": kernel, "V": kernel}
    rest |= {"F": np.zeros((len(kernel), outputs)), "Z": np.eye(outputs)}
    return [{"A": a, **rest} for a in scores]
