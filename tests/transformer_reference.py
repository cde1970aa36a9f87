"""Transformers by other means: the theory in its Gaussian sources, a network by its definition.

The theory follows the two-time equations as they are written down: every field of every layer is a
sum over all Gaussian sources, with a matrix of coefficients (time, token) x (time, token) for each,
and kernels are sums over sources. A response is such a coefficient.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np


def attention_of(kind, logits, mask=None):
    """S and its matrix of derivatives dS[s, i] / dA[s, j] of one sequence."""
    length = len(logits)
    seen = np.tri(length) if mask == "causal" else np.ones((length, length))
    if kind == "softmax":
        powers = np.exp(logits) * seen
        values = powers / powers.sum(axis=1, keepdims=True)
        slopes = np.array([np.diag(row) - np.outer(row, row) for row in values])
        return values, slopes
    value, slope = {
        "linear": (1 + logits, np.ones_like(logits)),
        "exp": (np.exp(logits), np.exp(logits)),
        "relu": (np.maximum(logits, 0), 1.0 * (logits > 0)),
    }[kind]
    return value * seen / length, np.array([np.diag(row) for row in slope * seen / length])


class Theory:
    """Kernels, responses, attention and outputs of t = 0..steps; see the module."""

    def __init__(self, gram, targets, length, steps, lr, *, depth, gamma, branch_scale=1.0,
                 depth_exponent=1.0, attention="softmax", mask=None, responses="all"):  # fmt: skip
        self.m, self.steps = len(gram), steps
        self.n = self.m * (steps + 1)
        self.count, self.length = len(gram) // length, length
        self.coef = defaultdict(lambda: defaultdict(lambda: np.zeros((self.n, self.n))))
        self.cov = defaultdict(lambda: np.zeros((self.n, self.n)))
        self.cov["in"] = np.tile(gram, (steps + 1, steps + 1))
        self.cov["w"] = np.ones((self.n, self.n))
        self.kernels = defaultdict(lambda: np.zeros((self.n, self.n)))
        self.responses = defaultdict(lambda: np.zeros((self.n, self.n)))
        self.f = np.zeros((steps + 1, self.count))
        shape = (steps + 1, depth, self.count, length, length)
        self.logits, self.attention = np.zeros(shape), np.zeros(shape)
        self.delta = np.zeros(self.n)
        beta, kappa = branch_scale / depth**depth_exponent, depth ** (2 * depth_exponent - 1)
        eps, p = lr * gamma / len(targets), len(targets)
        head = float(responses in ("all", "head"))
        stream = float(responses in ("all", "stream"))
        for t in range(steps + 1):
            now, before = slice(t * self.m, (t + 1) * self.m), slice(t * self.m)
            learned = eps * self.delta[before]

            def kernel(name, layer, x, y, now=now):
                row = self.corr(x, y, now)
                self.kernels[name, layer][now, : now.stop] = row
                self.kernels[name, layer][: now.stop, now] = row.T
                return row

            def response(name, layer, x, source, now=now):
                row = self.coef[x][source][now]
                self.responses[name, layer][now] = row
                return row

            self.add(("h", 0), now, source="in")
            self.add(("h", 0), now, (gram_row(gram, t) * learned, ("g", 0), before))
            for layer in range(depth):
                h = kernel("H", layer, ("h", layer), ("h", layer))[:, before]
                rh = response("Rh", layer, ("h", layer), ("z", layer))[:, before]
                memory = stream * rh + kappa * h * learned
                for x in "kqv":
                    self.fill(("u", x, layer), "H", layer, now)
                    self.add((x, layer), now, source=("u", x, layer))
                    self.add((x, layer), now, (memory, ("p" + x, layer), before))
                qk = self.corr(("q", layer), ("k", layer), now)[:, now]
                self.logits[t, layer] = self.blocks(qk)
                s = np.zeros((self.m, self.m))
                for i, logits in enumerate(self.logits[t, layer]):
                    within = slice(i * length, (i + 1) * length)
                    s[within, within], _ = attention_of(attention, logits, mask)
                self.attention[t, layer] = self.blocks(s)
                self.add(("o", layer), now, (s, ("v", layer), now))
                o = kernel("O", layer, ("o", layer), ("o", layer))[:, before]
                ro = response("Ro", layer, ("o", layer), ("r", layer))[:, before]
                self.fill(("uo", layer), "O", layer, now)
                eye = np.eye(self.m)
                above = ("h", layer + 1)
                self.add(above, now, (eye, ("h", layer), now), source=("uo", layer), scale=beta)
                memory = beta * (head * ro + kappa * beta * o * learned)
                self.add(above, now, (memory, ("g", layer + 1), before))
            kernel("H", depth, ("h", depth), ("h", depth))
            self.add(("g", depth), now, source="w", scale=1 / length)
            ones = np.ones((self.m, before.stop)) * learned / length**2
            self.add(("g", depth), now, (ones, ("h", depth), before))
            across = self.corr(("g", depth), ("h", depth), now)[0, now]
            self.f[t] = across.reshape(-1, length).sum(axis=1) / gamma
            self.delta[now][: p * length] = np.repeat(targets - self.f[t, :p], length)
            for layer in reversed(range(depth)):
                g = kernel("G", layer + 1, ("g", layer + 1), ("g", layer + 1))[:, before]
                self.fill(("r", layer), "G", layer + 1, now)
                rg = response("Rg", layer, ("g", layer + 1), ("uo", layer))[:, before]
                self.add(("xi", layer), now, source=("r", layer))
                memory = stream * rg + kappa * beta * g * learned
                self.add(("xi", layer), now, (memory, ("o", layer), before))
                weights = beta * self.corr(("xi", layer), ("v", layer), now)[:, now]
                s, j = np.zeros((self.m, self.m)), np.zeros((self.m, self.m))
                for i, logits in enumerate(self.logits[t, layer]):
                    within = slice(i * length, (i + 1) * length)
                    s[within, within], slopes = attention_of(attention, logits, mask)
                    j[within, within] = np.einsum("si,sij->sj", weights[within, within], slopes)
                self.add(("pv", layer), now, (beta * s.T, ("xi", layer), now))
                self.add(("pq", layer), now, (j, ("k", layer), now))
                self.add(("pk", layer), now, (j.T, ("q", layer), now))
                total = np.zeros((self.m, before.stop))
                for x in "kqv":
                    field = ("p" + x, layer)
                    noise = kernel(f"P_{x}", layer, field, field)
                    answer = response(f"Rp_{x}", layer, field, ("u", x, layer))[:, before]
                    total += head * answer + kappa * noise[:, before] * learned
                    self.fill(("z", layer), f"P_{x}", layer, now)
                below = ("g", layer)
                self.add(below, now, (eye, ("g", layer + 1), now), source=("z", layer))
                self.add(below, now, (total, ("h", layer), before))
            kernel("G", 0, ("g", 0), ("g", 0))

    def add(self, field, now, *terms, source=None, scale=1.0):
        """Add a source, and matrices times rows of other fields, to rows of a field."""
        if source is not None:
            self.coef[field][source][now, now] += scale * np.eye(self.m)
        for matrix, other, rows in terms:
            for name, coefficients in list(self.coef[other].items()):
                self.coef[field][name][now] += matrix @ coefficients[rows]

    def fill(self, source, name, layer, now):
        """Add rows of a kernel to the covariance of a source."""
        kernel = self.kernels[name, layer]
        self.cov[source][now, : now.stop] += kernel[now, : now.stop]
        self.cov[source][: now.start, now] += kernel[: now.start, now]

    def corr(self, x, y, now):
        n = now.stop
        total = np.zeros((self.m, n))
        for name in self.coef[x].keys() & self.coef[y].keys():
            left, right = self.coef[x][name][now, :n], self.coef[y][name][:n, :n]
            total += left @ self.cov[name][:n, :n] @ right.T
        return total

    def blocks(self, matrix):
        split = matrix.reshape(self.count, self.length, self.count, self.length)
        return split[np.arange(self.count), :, np.arange(self.count)]

    def two_time(self, values):
        """(t, token, s, token)."""
        return values.reshape(self.steps + 1, self.m, self.steps + 1, self.m)


def gram_row(gram, t):
    return np.tile(gram, (1, t))


def network(weights, inputs, *, depth, heads, gamma, exponent=1.0, branch_scale=1.0,
            depth_exponent=1.0, attention="softmax", mask=None, mlp=None):  # fmt: skip
    """Outputs (P, K) of one network, token by token, from weights by name."""
    width = weights["w"].shape[1]
    keys, beta = width // heads, branch_scale / depth**depth_exponent
    phi = {None: None, "linear": lambda x: x, "tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}
    outputs = []
    for x in inputs:
        h = [weights["W_in"] @ token / np.sqrt(x.shape[1]) for token in x]
        for layer in range(depth):
            k, q, v = (
                [weights[f"{name} {layer}"] @ token / np.sqrt(width) for token in h]
                for name in ("W_K", "W_Q", "W_V")
            )
            o = np.zeros((len(x), width))
            for head in range(heads):
                part = slice(head * keys, (head + 1) * keys)
                logits = np.array([[a[part] @ b[part] for b in k] for a in q]) / keys**exponent
                values, _ = attention_of(attention, logits, mask)
                o[:, part] = values @ np.array(v)[:, part]
            h = [
                token + beta * weights[f"W_O {layer}"] @ out / np.sqrt(width)
                for token, out in zip(h, o, strict=True)
            ]
            if mlp is not None:
                h = [
                    token
                    + beta
                    * weights[f"W_2 {layer}"]
                    @ phi[mlp](weights[f"W_1 {layer}"] @ token / np.sqrt(width))
                    / np.sqrt(width)
                    for token in h
                ]
        outputs.append(weights["w"] @ np.mean(h, axis=0) / (gamma * width))
    return np.array(outputs)
