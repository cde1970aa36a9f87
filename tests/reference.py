"""Every operation of dmftcore.twotime as clear loops: the definition the implementations follow.

Matrices without batch axes; only those elements are read that an implementation may read.
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
