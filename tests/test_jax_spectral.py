"""Functions of random matrices in JAX against dmftcore.spectral, and differences of it."""

import numpy as np
import pytest

import dmftcore as dc
import gpu
from dmftcore import _core, spectral

jax = pytest.importorskip("jax", minversion="0.6", reason="jax is not installed")
# Before the first array is made. Compilation is what these tests spend their time in.
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)

import jax.numpy as jnp  # noqa: E402

from dmftcore import jax as dj  # noqa: E402

MODES = 8
VALUES = np.arange(1, MODES + 1.0) ** -1.5
TARGET = VALUES * np.cos(np.arange(MODES)) ** 2
COUNTS = np.arange(MODES) % 3 + 1.0
OBSERVABLE = np.linspace(0.5, 2, MODES)
Z = np.array([0.3, 0.02 + 0.1j, -0.4 + 0.05j, -0.1 - 0.2j])
SIZES = [(7.0, 11.0), (11.0, 7.0), (12.0, np.inf), (np.inf, 9.0), (np.inf, np.inf)]

#: Sums over a few modes, with denominators of order 1e-2.
ROUNDING = 1e-12


def spectrum(values=VALUES, target=TARGET):
    return dc.Spectrum(values, target, multiplicities=COUNTS)


@pytest.mark.parametrize(("samples", "features"), SIZES)
def test_one_point(samples, features):
    found = dj.deterministic_equivalent(Z, spectrum(), samples, features)
    expected = spectral.deterministic_equivalent(Z, spectrum(), samples, features)
    for name in ("kappa", "R1", "R3"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=ROUNDING, err_msg=name
        )


@pytest.mark.parametrize(("samples", "features"), SIZES)
def test_two_point(samples, features):
    arguments = Z[:3], Z, spectrum(), samples, features, 0.3, OBSERVABLE
    found, expected = dj.two_point(*arguments), spectral.two_point(*arguments)
    for name in ("test", "train", "observable"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=ROUNDING, err_msg=name
        )
    assert dj.two_point(0.3, 0.3, spectrum(), samples, features).test.shape == ()


def test_jit_and_vmap():
    def kappa(z, samples):
        return dj.deterministic_equivalent(z, spectrum(), samples, 11.0).kappa

    samples = jnp.array([5.0, 7.0, 30.0])
    found = jax.jit(jax.vmap(kappa, in_axes=(None, 0)))(Z, samples)
    expected = [kappa(Z, p) for p in samples]
    np.testing.assert_allclose(found, np.stack(expected), rtol=ROUNDING)
    np.testing.assert_allclose(jax.vmap(kappa, in_axes=(0, None))(Z, 7.0), found[1], rtol=ROUNDING)


def test_slopes_against_differences():
    """Of ridge regression on random features: z1 = z2 = ridge."""
    move_values, move_target = VALUES * np.sin(np.arange(MODES)), TARGET * 0.5
    x = {
        "ridge": 0.05,
        "samples": 7.0,
        "features": 11.0,
        "noise": 0.3,
        "values": 0.0,
        "target": 0.0,
    }

    def ours(x):
        modes = dj.Modes(
            VALUES + x["values"] * move_values, TARGET + x["target"] * move_target, COUNTS
        )
        z = x["ridge"]
        return dj.two_point(z, z, modes, x["samples"], x["features"], x["noise"]).test.real

    def referee(x):
        modes = spectrum(VALUES + x["values"] * move_values, TARGET + x["target"] * move_target)
        z = x["ridge"]
        return spectral.two_point(z, z, modes, x["samples"], x["features"], x["noise"]).test.real

    slopes = jax.grad(ours)(x)
    for name in x:
        # Five points: the error is h^4 f^(5) / 30, with h = 1e-3 of the scale, beside 1e-14 / h.
        h = 1e-3 * (x[name] or 1.0)

        def at(steps, name=name, h=h):
            return referee({**x, name: x[name] + steps * h})

        differences = (8 * (at(1) - at(-1)) - at(2) + at(-2)) / (12 * h)
        assert abs(slopes[name] * (x[name] or 1.0)) > 1e-3, name
        np.testing.assert_allclose(slopes[name], differences, rtol=1e-7, err_msg=name)


@pytest.mark.slow
def test_curvatures_against_differences():
    def value(x):
        z, samples = x
        return dj.two_point(z, z, spectrum(), samples, 11.0, 0.3).test.real

    gradient = jax.jit(jax.grad(value))
    x, toward = jnp.array([0.05, 7.0]), jnp.array([0.1, 1.0])
    # The error of the differences: h^2 / 6 times a fourth derivative of order one along `toward`.
    h = 1e-4
    differences = (gradient(x + h * toward) - gradient(x - h * toward)) / (2 * h)
    found = jax.jvp(gradient, (x,), (toward,))[1]
    np.testing.assert_allclose(found, differences, rtol=1e-5)


def test_slope_in_closed_form():
    # One eigenvalue 1 of D directions, N = inf, c = D / P: a quadratic for kappa.
    c = 0.4
    modes = dj.Modes(np.array([1.0]), np.array([0.0]), np.array([4.0]))

    def known(z):
        return (z + c - 1 + np.sqrt((z + c - 1) ** 2 + 4 * z)) / 2

    z = 0.2
    root = np.sqrt((z + c - 1) ** 2 + 4 * z)
    slope = (1 + (z + c - 1 + 2) / root) / 2

    def kappa(z):
        return dj.deterministic_equivalent(z, modes, 10.0, np.inf).kappa.real

    np.testing.assert_allclose(kappa(z), known(z), rtol=ROUNDING)
    np.testing.assert_allclose(jax.grad(kappa)(z), slope, rtol=ROUNDING)


def test_errors():
    with pytest.raises(TypeError, match=r"(?s)Spectrum or a PowerLaw, not .* may also be a Modes"):
        dj.deterministic_equivalent(0.1, VALUES, 7, 11)
    with pytest.raises(ValueError, match=r"z1 must be a number or \(n,\), not \(2, 2\)"):
        dj.two_point(np.ones((2, 2)), 0.1, spectrum(), 7, 11)
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(TypeError, match="random matrices need float64"):
            dj.deterministic_equivalent(0.1, spectrum(), 7, 11)
    finally:
        jax.config.update("jax_enable_x64", True)


# -- on a GPU ---------------------------------------------------------------------------------


def kappa(z, samples):
    return dj.deterministic_equivalent(z, spectrum(), samples, 11.0).kappa


def test_the_target_for_cuda_where_it_was_built():
    traced = jax.jit(kappa).trace(Z, 7.0)
    if _core.cuda_compiler():
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert "dmftcore_spectral_kappa" in text
    else:
        with pytest.raises(NotImplementedError, match="this dmftcore was built without CUDA"):
            traced.lower(lowering_platforms=("cuda",))


@pytest.mark.gpu
def test_kappa_on_a_gpu():
    gpu.cupy()
    try:
        device = jax.devices("gpu")[0]
    except RuntimeError:
        pytest.skip("jax sees no GPU")
    z, samples = jax.device_put(Z, device), jax.device_put(np.array([5.0, 7.0, np.inf]), device)
    found = jax.jit(jax.vmap(kappa, in_axes=(None, 0)))(z, samples)
    expected = [
        spectral.deterministic_equivalent(Z, spectrum(), p, 11.0).kappa for p in (5.0, 7.0, np.inf)
    ]
    np.testing.assert_allclose(found, np.stack(expected), rtol=ROUNDING)
