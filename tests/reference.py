"""Every operation as clear loops: the definition the implementations follow.

Two-time kernels: matrices without batch axes; only those elements are read that an implementation
may read. Random matrices: one parameter, or one pair of them, at a time.
"""

import numpy as np


def later(i, block):
    """First column that row i of a causal kernel does not have."""
    return (i // block + 1) * block


def earlier(i, block):
    """First column of the equal-time block of row i."""
    return i // block * block


def causal_matmul(a, b, *, block=1):
    n = len(a)
    c = np.zeros((n, n))
    for i in range(n):
        for j in range(later(i, block)):
            for k in range(earlier(j, block), later(i, block)):
                c[i, j] += a[i, k] * b[k, j]
    return c


def causal_solve(a, b, dense=False, *, block=1):
    n, m = b.shape
    x = np.zeros((n, m))
    for i in range(n):
        for j in range(m if dense else later(i, block)):
            x[i, j] = b[i, j]
            for k in range(earlier(i, block)):
                x[i, j] += a[i, k] * x[k, j]
    return x


def resolvent(a, *, block=1):
    return causal_solve(a, np.eye(len(a)), block=block)


def congruence(r, c, *, block=1):
    n = len(r)
    s = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            for k in range(later(i, block)):
                for m in range(later(j, block)):
                    s[i, j] += r[i, k] * c[max(k, m), min(k, m)] * r[j, m]
    return s


def causal_apply(k, g, strict=True, *, block=1):
    y = np.zeros(g.shape)
    for t in range(len(k)):
        for s in range(earlier(t, block) if strict else later(t, block)):
            y[t] += k[t, s] * g[s].astype(float)
    return y


def rows_causal(x, a):
    m, n = x.shape
    y = np.zeros((m, n))
    for p in range(m):
        for i in range(n):
            for j in range(i + 1):
                y[p, j] += x[p, i] * a[i, j]
    return y


def rows_causal_transposed(x, a):
    m, n = x.shape
    y = np.zeros((m, n))
    for p in range(m):
        for i in range(n):
            for j in range(i + 1):
                y[p, i] += x[p, j] * a[i, j]
    return y


def rows_causal_pair(x, w, a):
    return rows_causal(x, a), rows_causal_transposed(w, a)


def rows_symmetric(x, c):
    m, n = x.shape
    y = np.zeros((m, n))
    for p in range(m):
        for i in range(n):
            for j in range(n):
                y[p, j] += x[p, i] * c[max(i, j), min(i, j)]
    return y


def rows_congruence(x, c, r):
    y = rows_symmetric(x, c)
    return y, rows_causal_transposed(y, r)


def rows_low_rank(x, u, v):
    m, n = x.shape
    y = np.zeros((m, n))
    for p in range(m):
        for k in range(u.shape[1]):
            s = sum(x[p, i] * u[i, k] for i in range(n))
            for j in range(n):
                y[p, j] += s * v[j, k]
    return y


def rows_causal_batch(x, a, transposed=False):
    product = rows_causal_transposed if transposed else rows_causal
    y = np.zeros(x.shape)
    for k in range(len(x)):
        y[k] = product(x[k : k + 1], a[k])[0]
    return y


def spectral_kappa(z, lam, mu, samples, features, sweeps=200_000):
    """kappa(z) for Im z > 0 or z > 0, by maps of the upper half plane into itself.

    kappa1 = z + kappa1 df(kappa) / P, and in it kappa = kappa1 + kappa df(kappa) / N.
    """

    def df(kappa):
        return sum(m * x / (x + kappa) for x, m in zip(lam, mu, strict=True))

    kappa = kappa1 = complex(z)
    for _ in range(sweeps):
        before = kappa1
        for _ in range(sweeps):
            inner = kappa
            kappa = kappa1 + kappa * df(kappa) / features
            if abs(kappa - inner) <= 1e-15 * abs(kappa):
                break
        kappa1 = z + kappa1 * df(kappa) / samples
        if abs(kappa1 - before) <= 1e-15 * abs(kappa1):
            return kappa
    raise ArithmeticError(f"no convergence at z = {z}")


def spectral_two_point(kappas, R1s, lam, mu, target, samples, features, noise, observable):
    """test, train and observable at a pair of parameters, by their sums over the modes."""
    (k1, k2), (first, second) = kappas, R1s
    modes = list(zip(lam, mu, target, observable, strict=True))

    def total(weight):
        return sum(weight(*mode) / ((mode[0] + k1) * (mode[0] + k2)) for mode in modes)

    P, N = samples, features
    G1 = total(lambda x, m, w, o: m * x)
    G2 = total(lambda x, m, w, o: m * x * x)
    S1 = k1 * k2 * total(lambda x, m, w, o: x * w)
    S2 = total(lambda x, m, w, o: x * x * w)
    den = (1 - G2 * (1 / P)) * (1 - G2 * (1 / N)) - k1 * k2 * G1**2 * (1 / (N * P))
    test = ((S1 + noise) * (1 - G2 * (1 / N)) + k1 * k2 * G1 * S2 * (1 / N)) / den
    C3 = (S2 * (1 - G2 * (1 / P)) + G1 * (S1 + noise) * (1 / P)) * (1 / N) / den
    value = k1 * k2 * (
        total(lambda x, m, w, o: o * w) + C3 * total(lambda x, m, w, o: m * o)
    ) + test * (1 / P) * total(lambda x, m, w, o: m * o * x)
    return test, first * second * test, value
