"""Slow, independent solutions of the deep linear theory, with every pattern index written out.

The h side is indexed by (t, mu), the g side by (t, k), time slowest. With c = lr / P, s2 = sigma^2
and g2 = gamma^2 the equations are, for l = 1..L, A^0 = B^L = 0, H^0 = Kx, G^{L+1} = 1:

    C^l[(t,mu),(s,k)] = s2 A^{l-1} + c sum_nu H^{l-1}[t,mu,s,nu] Delta[s,nu,k]     s < t
    D^l[(t,k),(s,mu)] = s2 B^l     + c sum_k' G^{l+1}[t,k,s,k'] Delta[s,mu,k']     s < t
    S = (I - g2 D C)^{-1},  A^l = C S,  B^{l-1} = S D,  Q^l = s2 H^{l-1} B^{l-1}^T
    G^l = s2 S G^{l+1} S^T + g2 B^{l-1} Q
    H^l = s2 (I - g2 C D)^{-1} (H^{l-1} + g2 C G^{l+1} C^T) (I - g2 C D)^{-T}
    f[t,mu,k] = Q^L[(t,mu),(t,k)] + sum C^L[(t,mu),(s,k')] G^L[(s,k'),(t,k)]
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class Referee:
    """Errors (T, P, K) of all points, and per layer H, A over (T, P), G over (T, K), B."""

    delta: np.ndarray
    h: dict
    g: dict
    a: dict
    b: dict


@dataclass(frozen=True)
class Problem:
    """A deep linear network on a Gram matrix whose first `n_train` rows are trained on."""

    depth: int
    lr: float
    gamma: float
    sigma: float
    steps: int
    gram: np.ndarray
    targets: np.ndarray
    n_train: int

    @property
    def shape(self):
        return self.steps + 1, *self.targets.shape

    def driving(self, delta):
        """Delta as it drives the weights: nothing comes from test points."""
        masked = delta.copy()
        masked[:, self.n_train :] = 0
        return masked


def dense_fixed_point(p: Problem) -> Referee:
    """Horizon by horizon: given Delta before t, iterate all kernels up to t until they rest."""
    times, points, outputs = p.shape
    delta = np.zeros(p.shape)
    c, s2, g2 = p.lr / p.n_train, p.sigma**2, p.gamma**2
    for t in range(times):
        n = t + 1
        strict = np.tri(n, k=-1, dtype=bool)
        drive = p.driving(delta)[:n]
        layers = range(1, p.depth + 1)
        h = {layer: np.zeros((n * points, n * points)) for layer in layers}
        h[0] = np.tile(p.gram, (n, n))
        g = {layer: np.zeros((n * outputs, n * outputs)) for layer in layers}
        g[p.depth + 1] = np.tile(np.eye(outputs), (n, n))
        a = {layer: np.zeros((n * points, n * outputs)) for layer in range(p.depth + 1)}
        b = {layer: np.zeros((n * outputs, n * points)) for layer in range(p.depth + 1)}
        q, cc = {}, {}
        for _ in range(1000):
            change = 0.0
            for layer in layers:
                below = h[layer - 1].reshape(n, points, n, points)
                above = g[layer + 1].reshape(n, outputs, n, outputs)
                hd = np.einsum("tmsn,snk->tmsk", below, drive) * strict[:, None, :, None]
                gd = np.einsum("tksj,smj->tksm", above, drive) * strict[:, None, :, None]
                cc[layer] = s2 * a[layer - 1] + c * hd.reshape(n * points, n * outputs)
                d = s2 * b[layer] + c * gd.reshape(n * outputs, n * points)
                s = np.linalg.inv(np.eye(n * outputs) - g2 * d @ cc[layer])
                r = np.linalg.inv(np.eye(n * points) - g2 * cc[layer] @ d)
                q[layer] = s2 * h[layer - 1] @ (s @ d).T
                new = {
                    "a": (a, layer, cc[layer] @ s),
                    "b": (b, layer - 1, s @ d),
                    "g": (g, layer, s2 * s @ g[layer + 1] @ s.T + g2 * (s @ d) @ q[layer]),
                    "h": (
                        h,
                        layer,
                        s2 * r @ (h[layer - 1] + g2 * cc[layer] @ g[layer + 1] @ cc[layer].T) @ r.T,
                    ),
                }
                for store, index, value in new.values():
                    change = max(change, np.abs(store[index] - value).max())
                    store[index] = value
            if change == 0.0:
                break
        top = q[p.depth] + cc[p.depth] @ g[p.depth]
        f = top.reshape(n, points, n, outputs)[t, :, t]
        delta[t] = p.targets - f
    return Referee(delta, h, g, a, b)


def uncontracted_march(p: Problem) -> Referee:
    """One causal pass with all pattern indices, storing H^l over (t, mu)."""
    times, points, outputs = p.shape
    layers = range(1, p.depth + 1)
    c, s2, g2 = p.lr / p.n_train, p.sigma**2, p.gamma**2
    tp, tk = times * points, times * outputs
    delta = np.zeros(p.shape)
    drive = np.zeros(p.shape)
    h = {layer: np.zeros((tp, tp)) for layer in layers} | {0: np.tile(p.gram, (times, times))}
    g = {layer: np.zeros((tk, tk)) for layer in layers}
    g[p.depth + 1] = np.tile(np.eye(outputs), (times, times))
    cc = {layer: np.zeros((tp, tk)) for layer in layers}
    d = {layer: np.zeros((tk, tp)) for layer in layers}
    s = {layer: np.zeros((tk, tk)) for layer in layers}
    q = {layer: np.zeros((tp, tk)) for layer in layers}
    a = {layer: np.zeros((tp, tk)) for layer in range(p.depth + 1)}
    b = {layer: np.zeros((tk, tp)) for layer in range(p.depth + 1)}
    for t in range(times):
        ip, ep = t * points, (t + 1) * points
        ik, ek = t * outputs, (t + 1) * outputs
        for layer in reversed(layers):
            above = g[layer + 1][ik:ek, :ik].reshape(outputs, t, outputs)
            gd = np.einsum("ksj,smj->ksm", above, drive[:t]).reshape(outputs, ip)
            d[layer][ik:ek, :ip] = s2 * b[layer][ik:ek, :ip] + c * gd
            step = g2 * d[layer][ik:ek, :ip] @ cc[layer][:ip, :ik]
            s[layer][ik:ek, :ik] = step @ s[layer][:ik, :ik]
            s[layer][ik:ek, ik:ek] = np.eye(outputs)
            b[layer - 1][ik:ek, :ip] = d[layer][ik:ek, :ip] + step @ b[layer - 1][:ik, :ip]
            row = b[layer - 1][ik:ek, :ip]
            q[layer][:ip, ik:ek] = s2 * h[layer - 1][:ip, :ip] @ row.T
            sg = s[layer][ik:ek, :ek] @ g[layer + 1][:ek, :ek]
            new = s2 * sg @ s[layer][:ek, :ek].T + g2 * row @ q[layer][:ip, :ek]
            g[layer][ik:ek, :ek] = new
            g[layer][:ek, ik:ek] = new.T
        for layer in layers:
            below = h[layer - 1][ip:ep, :ep]
            hd = np.einsum("msn,snk->msk", below[:, :ip].reshape(points, t, points), drive[:t])
            row = s2 * a[layer - 1][ip:ep, :ik] + c * hd.reshape(points, ik)
            cc[layer][ip:ep, :ik] = row
            q[layer][ip:ep, :ek] = s2 * below[:, :ip] @ b[layer - 1][:ek, :ip].T
            a[layer][ip:ep, :ik] = row @ s[layer][:ik, :ik]
            cg = row @ g[layer][:ik, :ek]
            left = q[layer][ip:ep, :ik] + cg[:, :ik]
            new = s2 * below + g2 * (row @ q[layer][:ep, :ik].T + left @ cc[layer][:ep, :ik].T)
            h[layer][ip:ep, :ep] = new
            h[layer][:ep, ip:ep] = new.T
        delta[t] = p.targets - (q[p.depth][ip:ep, ik:ek] + cg[:, ik:ek])
        drive[t] = p.driving(delta[t : t + 1])[0]
    return Referee(delta, h, g, a, b)


def optimizer_tables(training):
    """c(t) and kap(t,s) of an optimiser, by running it once for each unit impulse."""
    steps = training.steps

    def trajectory(theta, impulse_at):
        path, velocity = [theta], 0.0
        for t, rate in enumerate(training.rates):
            descent = 1.0 if t == impulse_at else 0.0
            velocity = training.momentum * velocity + descent - training.weight_decay * theta
            theta = theta + rate * velocity
            path.append(theta)
        return np.array(path)

    kept = trajectory(1.0, None)
    impulses = [trajectory(0.0, s) for s in range(steps)]
    return kept, np.array([*impulses, np.zeros(steps + 1)]).T


def whole_network(p: Problem, training, branch=None) -> Referee:
    """The single-site process of all layers at once, as one linear system, iterated to rest.

    Sites x = (h^1..h^L, g^1..g^L) obey x = N x + noise, with skips between the layers, the
    responses gamma C, gamma D inside them, and noise from the weights that were kept. Responses
    and correlations are blocks of (1 - N)^{-1} and of its congruence. No sweep over layers, no
    contraction; B has columns at all points.
    """
    times, points, outputs = p.shape
    kept, learned = optimizer_tables(training)
    learned = learned / p.n_train
    s2, skip = p.sigma**2, 0.0 if branch is None else 1.0
    layers = range(1, p.depth + 1)
    # Of the weights above layer l = 0..L.
    factor = dict.fromkeys(range(p.depth + 1), 1.0)
    if branch is not None:
        factor |= dict.fromkeys(range(1, p.depth), branch)
    delta = np.zeros(p.shape)
    for t in range(times):
        n = t + 1
        hs, gs = n * points, n * outputs
        drive = p.driving(delta)[:n]
        w = s2 * np.outer(kept[:n], kept[:n])
        e = learned[:n, :n]
        w_hh, w_gg, w_hg = (
            np.kron(w, np.ones(shape))
            for shape in ((points, points), (outputs, outputs), (points, outputs))
        )
        ph = {layer: slice((layer - 1) * hs, layer * hs) for layer in layers}
        pg = {
            layer: slice(p.depth * hs + (layer - 1) * gs, p.depth * hs + layer * gs)
            for layer in layers
        }
        size = p.depth * (hs + gs)
        h = {layer: np.zeros((hs, hs)) for layer in layers} | {0: np.tile(p.gram, (n, n))}
        g = {layer: np.zeros((gs, gs)) for layer in layers}
        g[p.depth + 1] = np.tile(np.eye(outputs), (n, n))
        a = {layer: np.zeros((hs, gs)) for layer in range(p.depth + 1)}
        b = {layer: np.zeros((gs, hs)) for layer in range(p.depth + 1)}
        for _ in range(1000):
            mixing, noise = np.zeros((size, size)), np.zeros((size, size))
            for layer in layers:
                below, above = factor[layer - 1], factor[layer]
                hd = np.einsum(
                    "tmsn,snk,ts->tmsk", h[layer - 1].reshape(n, points, n, points), drive, e
                ).reshape(hs, gs)
                gd = np.einsum("tksj,smj,ts->tksm", g[layer + 1].reshape(n, outputs, n, outputs),
                               drive, e).reshape(gs, hs)  # fmt: skip
                c = below**2 * (w_hg * a[layer - 1] + hd)
                d = above**2 * (w_hg.T * b[layer] + gd)
                mixing[ph[layer], pg[layer]] = p.gamma * c
                mixing[pg[layer], ph[layer]] = p.gamma * d
                noise[ph[layer], ph[layer]] = below**2 * w_hh * h[layer - 1]
                noise[pg[layer], pg[layer]] = above**2 * w_gg * g[layer + 1]
                if layer > 1:
                    mixing[ph[layer], ph[layer - 1]] = skip * np.eye(hs)
                if layer < p.depth:
                    mixing[pg[layer], pg[layer + 1]] = skip * np.eye(gs)
            inverse = np.linalg.inv(np.eye(size) - mixing)
            correlations = inverse @ noise @ inverse.T
            change = 0.0
            for layer in layers:
                for store, index, new in (
                    (h, layer, correlations[ph[layer], ph[layer]]),
                    (g, layer, correlations[pg[layer], pg[layer]]),
                    (a, layer, inverse[ph[layer], pg[layer]] / p.gamma),
                    (b, layer - 1, inverse[pg[layer], ph[layer]] / p.gamma),
                ):
                    change = max(change, np.abs(store[index] - new).max())
                    store[index] = new
            if change < 1e-15:
                break
        readout = correlations[ph[p.depth], pg[p.depth]].reshape(n, points, n, outputs)
        delta[t] = p.targets - readout[t, :, t] / p.gamma
    return Referee(delta, h, g, a, b)
