"""Every operation of the compiled core as clear loops: the definition the implementations follow.

Two-time kernels: matrices without batch axes; only those elements are read that an implementation
may read. Random matrices: one parameter, or one pair of them, at a time.
"""

import math

import numpy as np


def later(i, block):
    """First column that row i of a causal kernel does not have."""
    return (i // block + 1) * block


def earlier(i, block):
    """First column of the equal-time block of row i."""
    return i // block * block


def causal_matmul(a, b, *, transposed=None, block=1):
    n = len(a)
    c = np.zeros((n, n))
    for i in range(n):
        for j in range(later(i, block)):
            if transposed == "a":
                for k in range(earlier(i, block), n):
                    c[i, j] += a[k, i] * b[k, j]
            elif transposed == "b":
                for k in range(later(j, block)):
                    c[i, j] += a[i, k] * b[j, k]
            else:
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


def causal_apply(k, g, strict=True, *, transposed=False, block=1):
    y = np.zeros(g.shape)
    for t in range(len(k)):
        for s in range(earlier(t, block) if strict else later(t, block)):
            if transposed:
                y[s] += k[t, s] * g[t].astype(float)
            else:
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


# Particles: rows over particles, of one run. Where a run has spare rows, those in use are passed.


def activation(name, h):
    """phi(h) of one number."""
    return {
        "linear": lambda: h,
        "relu": lambda: max(h, 0.0),
        "tanh": lambda: math.tanh(h),
        "erf": lambda: math.erf(h),
        "gelu": lambda: h * math.erfc(-h / math.sqrt(2)) / 2,
        "softplus": lambda: max(h, 0.0) + math.log1p(math.exp(-abs(h))),
        "quadratic": lambda: h * h,
    }[name]()


def slope(name, h):
    """phi'(h) of one number."""
    return {
        "linear": lambda: 1.0,
        "relu": lambda: float(h > 0),
        "tanh": lambda: 1 / math.cosh(h) ** 2 if abs(h) < 300 else 0.0,
        "erf": lambda: 2 / math.sqrt(math.pi) * math.exp(-(h**2)),
        "gelu": lambda: (
            math.erfc(-h / math.sqrt(2)) / 2 + h * math.exp(-(h**2) / 2) / math.sqrt(2 * math.pi)
        ),
        "softplus": lambda: 1 / (1 + math.exp(-h)) if h > -700 else math.exp(h),
        "quadratic": lambda: 2 * h,
    }[name]()


def particle_products(x, n, reference=None, a=None, b=None):
    """c, d, gram: means of a_i x_j, of b_i (x_j - reference_j), and of x_i x_j."""
    shifted = x if reference is None else x - reference
    particles = x.shape[1]

    def products(left, right):
        out = np.zeros((0 if left is None else len(left), n))
        for i in range(len(out)):
            for j in range(n):
                for p in range(particles):
                    out[i, j] += float(left[i, p]) * float(right[j, p]) / particles
        return out

    return products(a, x), products(b, shifted), products(x[:n], x)


def particle_expansion(
    n, particles, a=None, c=None, b=None, d=None, skip=1.0, scale=1.0, base=None, field=None,
    repeat=1, name="linear",
):  # fmt: skip
    """u, y, value."""
    u, y, value = np.zeros((3, n, particles))
    for j in range(n):
        for p in range(particles):
            for i in range(0 if a is None else len(a)):
                u[j, p] += c[i, j] * a[i, p]
            total = u[j, p]
            for i in range(0 if b is None else len(b)):
                total += d[i, j] * b[i, p]
            gain = 1.0 if field is None else slope(name, field[j // repeat, p])
            y[j, p] = scale * gain * total + (0.0 if base is None else skip * base[j, p])
            value[j, p] = activation(name, y[j, p])
    return u, y, value


def two_layer_step(weights, velocities, x, targets, f, name, *, gamma, rate, momentum, decay):
    """One update of a, w (columns, particles) by the square loss, and <w, phi(h)> / gamma."""
    (a, w), (va, vw) = ([one.astype(float) for one in pair] for pair in (weights, velocities))
    new_va, new_vw = momentum * va - decay * a, momentum * vw - decay * w
    errors = gamma * (targets - f[: len(targets)]) / len(targets)
    for p in range(a.shape[1]):
        for mu in range(len(errors)):
            h = x[mu] @ a[:, p]
            for k in range(len(w)):
                new_va[:, p] += errors[mu, k] * w[k, p] * slope(name, h) * x[mu]
                new_vw[k, p] += errors[mu, k] * activation(name, h)
    a, w = a + rate * new_va, w + rate * new_vw
    return (a, w), (new_va, new_vw), two_layer_outputs(a, w, x, name) / gamma


def two_layer_outputs(a, w, x, name):
    """<w_k, phi(h_mu)>, (points, outputs)."""
    f = np.zeros((len(x), len(w)))
    for p in range(a.shape[1]):
        for mu in range(len(x)):
            for k in range(len(w)):
                f[mu, k] += w[k, p] * activation(name, x[mu] @ a[:, p]) / a.shape[1]
    return f


def philox(counter, key):
    """Philox4x32-10 of four words and a key of 64 bits."""
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = (
            (p1 >> 32) ^ counter[1] ^ k0,
            p1 & 0xFFFFFFFF,
            (p0 >> 32) ^ counter[3] ^ k1,
            p0 & 0xFFFFFFFF,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return counter


def normals(count, particles, *, seed, run, stream, column):
    x = np.zeros((count, particles))
    for k in range(count):
        for p in range(particles):
            bits = philox((p // 2, column + k, stream, run), seed)
            uniform = [(((bits[i + 1] << 32 | bits[i]) >> 12) + 0.5) * 2.0**-52 for i in (0, 2)]
            radius, angle = math.sqrt(-2 * math.log(uniform[0])), 2 * math.pi * uniform[1]
            x[k, p] = radius * (math.sin(angle) if p % 2 else math.cos(angle))
    return x
