"""Activations of the compiled core to the last digits, and normal numbers, by instruction set.

The exact functions are evaluated in extended precision where numpy has them there, and else by
libm, with the rounding of the argument put back by a first-order term.
"""

import math

import numpy as np
import pytest

import reference
from dmftcore import _core
from dmftcore.activations import ACTIVATIONS

ISAS = ["baseline", "v3", "v4"]
DTYPES = [np.float64, np.float32]
WIDE = np.longdouble

pytestmark = pytest.mark.skipif(
    np.finfo(WIDE).nmant < 60, reason="long double has no more digits than double here"
)


def with_isa(name, function):
    """What a function returns on an instruction set; None where the machine lacks it."""
    before = _core.isa()
    try:
        _core.set_isa(name)
    except ValueError:
        return None
    try:
        return function()
    finally:
        _core.set_isa(before)


def complement(x):
    """erfc of numbers in extended precision."""
    near = x.astype(float)
    value = np.array([math.erfc(one) for one in near.tolist()])
    density = 2 / np.sqrt(np.pi) * np.exp(-(near.astype(WIDE) ** 2))
    # The second term: -erfc''/erfc' = 2 x, and the argument is off by a relative 1e-16.
    return value - density * (x - near)


def exact(name, x):
    """phi(x) and phi'(x)."""
    if name == "tanh":
        e = np.exp(-2 * np.abs(x))
        return np.tanh(x), 4 * e / (1 + e) ** 2
    if name == "softplus":
        e = np.exp(-np.abs(x))
        return np.maximum(x, 0) + np.log1p(e), np.where(x > 0, 1, e) / (1 + e)
    if name == "erf":
        value = np.array([math.erf(one) for one in x.astype(float).tolist()])
        return value, 2 / np.sqrt(WIDE(np.pi)) * np.exp(-(x**2))
    normal = complement(-x / np.sqrt(WIDE(2))) / 2
    return x * normal, normal + x * np.exp(-(x**2) / 2) / np.sqrt(2 * WIDE(np.pi))


def evaluated(name, x):
    """phi(x) and phi'(x) of the core."""
    h = x[None, None]
    value, slope = np.empty_like(h), np.empty_like(h)
    number = ACTIVATIONS.index(name)
    _core.particle_expansion(n=1, base=h, value=value, activation=number)
    one, ones = np.ones_like(h), np.ones((1, 1, 1))
    _core.particle_expansion(n=1, a=one, c=ones, field=h, y=slope, activation=number)
    return value[0, 0], slope[0, 0]


#: Where e^(-2 |x|), e^(-x^2), e^(-x^2 / 2), e^(-|x|) are normal numbers, and more.
REACH = {
    np.float64: {"tanh": 350, "erf": 26, "gelu": 37, "softplus": 700},
    np.float32: {"tanh": 43, "erf": 9, "gelu": 13, "softplus": 86},
}
#: Largest errors of value and slope, in units of epsilon times themselves; of the slope of gelu,
#: which has a zero, times 1. The header of csrc/cpu/functions.hpp states them.
LARGEST = {"tanh": (2.5, 3.5), "erf": (2.5, 2), "gelu": (5, 2), "softplus": (2.5, 2)}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LARGEST)
def test_activations_to_the_last_digits(isa, dtype, name):
    reach, tiny = REACH[dtype][name], float(np.finfo(dtype).tiny)
    grid = [
        np.linspace(0, 4, 20_000),
        np.linspace(0, reach, 5000),
        np.geomspace(tiny, 1, 2000),
        np.linspace(0.9, 1.1, 1001),
    ]
    x = np.concatenate([*grid, *(-part for part in grid)]).astype(dtype)
    found = with_isa(isa, lambda: evaluated(name, x))
    if found is None:
        pytest.skip(f"this machine has no {isa}")
    for i, (numbers, wanted) in enumerate(zip(found, exact(name, x.astype(WIDE)), strict=True)):
        scale = np.maximum(np.abs(wanted), WIDE(tiny))
        if name == "gelu" and i == 1:
            scale = np.ones_like(scale)
        error = np.abs(numbers - wanted) / scale / np.finfo(dtype).eps
        assert error.max() < LARGEST[name][i], x[error.argmax()]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_at_the_ends(isa, dtype):
    """Zeros and denormal numbers stay, and limits are reached."""
    least = np.finfo(dtype).smallest_subnormal
    x = np.array([0.0, -0.0, least, -least, 1000, -1000, np.inf, -np.inf, np.nan], dtype)
    found = {name: with_isa(isa, lambda name=name: evaluated(name, x)) for name in LARGEST}
    if found["tanh"] is None:
        pytest.skip(f"this machine has no {isa}")
    for name in ("tanh", "erf"):
        value, slope = found[name]
        assert np.array_equal(value[4:8], [1, -1, 1, -1])
        assert np.abs(slope[4:8]).max() < 1e-36
    assert np.array_equal(found["tanh"][0][:4], x[:4])
    assert found["softplus"][0][6] == np.inf
    assert np.array_equal(found["softplus"][0][4:5], x[4:5])
    assert np.abs(found["softplus"][0][[5, 7]]).max() < 1e-36
    assert np.array_equal(found["softplus"][1][4:8] > 0.5, [True, False, True, False])
    assert np.array_equal(found["gelu"][0][[4, 6]], x[[4, 6]])
    for value, slope in found.values():
        assert np.isnan(value[8])
        assert np.isnan(slope[8])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("particles", [1, 31, 5000])
def test_normals_are_the_same_bits_everywhere(dtype, particles):
    """On every instruction set, and whatever the length of the rows and the first column."""
    which = {"seed": 2**63 + 9, "run": 2**32 - 1, "stream": 4}

    def drawn():
        x = np.empty((3, particles), dtype)
        _core.normals(x, column=7, **which)
        return x

    found = [x for x in (with_isa(isa, drawn) for isa in ISAS) if x is not None]
    longer = np.empty((1, particles + 50), dtype)
    _core.normals(longer, column=9, **which)
    assert all(np.array_equal(x, found[0]) for x in found)
    assert np.array_equal(found[0][2], longer[0, :particles])


def test_normals_to_the_last_digits():
    """The definition in extended precision, from uniform numbers near both ends, too."""
    count = 200_000
    x = np.empty((1, count))
    _core.normals(x, seed=5, run=0, stream=0, column=0)
    pairs = np.arange(0, count, 2)
    # By radius: the largest and smallest, whose uniform numbers are nearest to 0 and 1.
    order = np.argsort(np.hypot(x[0, ::2], x[0, 1::2]))
    some = pairs[np.concatenate([order[:150], order[::500], order[-150:]])]
    for p in some.tolist():
        bits = reference.philox((p // 2, 0, 0, 0), 5)
        u, v = (WIDE(2 * ((bits[i + 1] << 32 | bits[i]) >> 12) + 1) / WIDE(2) ** 53 for i in (0, 2))
        radius = np.sqrt(-2 * np.log(u))
        angle = 2 * WIDE("3.14159265358979323846264338327950288") * v
        # Three roundings of each factor and one of the product; the angle is off by 1e-19 here.
        for found, wanted in ((x[0, p], np.cos(angle)), (x[0, p + 1], np.sin(angle))):
            wanted = radius * wanted
            assert abs(found - wanted) <= 3 * 2.0**-52 * abs(wanted) + 1e-18 * radius
