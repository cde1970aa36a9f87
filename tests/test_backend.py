"""dmftcore under other programs: the examples of examples/backend, and printed numbers of a model.

The numbers of the spherical p-spin model are its closed form (p = 2), exact identities, and a
reference table that was computed by another implementation of the same discrete equations and, at
long times, agrees with a third on another grid.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import special

BACKEND = Path(__file__).parents[1] / "examples" / "backend"


def load(name):
    spec = importlib.util.spec_from_file_location(name, BACKEND / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses look for the module that they are in.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


pspin = load("spherical_pspin")

both_algebras = pytest.mark.parametrize("algebra", [pspin.Dense, pspin.Causal])


# -- the spherical p-spin model -----------------------------------------------------------------


@both_algebras
def test_the_discrete_equations(algebra):
    found = pspin.solve(pspin.Model(p=3, temperature=0.5), 0.1, 20, algebra)
    numbers = found.energy[-1], found.z[-1], found.c[20, 0], found.c[20, 10], found.r[20, 10]
    expected = (
        *(-1.12283672518227, 3.86851017554681),
        *(0.36687860857180, 0.76363316703622, 0.18412971658470),
    )
    np.testing.assert_allclose(numbers, expected, rtol=0, atol=1e-10)


def test_closed_form_of_two_spin_interactions():
    # M(x) = I_1(2 sqrt2 x) / (sqrt2 x); C = M(t+s) / sqrt(M(2t) M(2s)), T = 0, random start.
    def m(x):
        x = np.asarray(x, float)
        y = np.where(x > 0, np.sqrt(2) * x, 1.0)
        # Scaled by exp(-2 sqrt2 x), which cancels in C.
        return np.where(x > 0, special.ive(1, 2 * y) / y, 1.0)

    found = pspin.extrapolated(pspin.Model(p=2, temperature=0.0), 0.08, 100)
    times = 0.08 * np.arange(101)
    t, s = times[:, None], times
    c = m(t + s) / np.sqrt(m(2 * t) * m(2 * s))
    # The error that is stated for this extrapolation.
    np.testing.assert_allclose(found.c, c, rtol=0, atol=2e-9)
    np.testing.assert_allclose(found.c[100, 50], 0.9167815826114, rtol=0, atol=2e-9)
    np.testing.assert_allclose(found.r[100, 50], 0.0339122153597, rtol=0, atol=2e-9)


TABLE = {
    "p3, T=0": (
        {"p": 3, "temperature": 0.0},
        (-1.4787150334, 4.4361451002, 0.3586943004, 0.9156544389, 0.0762585435),
    ),
    "p3, T=0.5": (
        {"p": 3, "temperature": 0.5},
        (-1.2153891846, 4.1461675538, 0.2677229042, 0.7256775382, 0.0878371357),
    ),
    "p3, T=0.8, T0=1": (
        {"p": 3, "temperature": 0.8, "b": 1.0},
        (-1.1276200254, 4.1828600761, 0.5670887779, 0.6777145919, 0.0548715854),
    ),
    "p3+p4": (
        {"p": 3, "p2": 4, "lam": 0.5, "temperature": 0.5},
        (-1.2578278745, 4.9390197610, 0.3063192754, 0.7458879517, 0.0871321084),
    ),
    "p4, T=0.4": (
        {"p": 4, "temperature": 0.4},
        (-1.3550486056, 5.8201944222, 0.3670546529, 0.8009546008, 0.0790810710),
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_reference_table(case):
    model, expected = TABLE[case]
    # Half the resolution of the table, from grids of h = 1/20, 1/40, 1/80: the next order of the
    # expansion is h^6, so 64 times its error of 2e-8.
    found = pspin.extrapolated(pspin.Model(**model), 1 / 20, 80)
    half = len(found.c) // 2
    numbers = found.energy, found.z, found.c[-1, 0], found.c[-1, half], found.r[-1, half]
    np.testing.assert_allclose(numbers, expected, rtol=0, atol=64 * 2e-8)


def test_identities():
    model = pspin.Model(p=3, temperature=0.5)
    found = pspin.solve(model, 0.05, 80)
    # From a random start; and of a pure model, at all times. To the tolerance of the steps.
    np.testing.assert_allclose(found.c[:, 0], found.r[:, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.z, 0.5 - 3 * found.energy, rtol=0, atol=1e-12)


def test_equilibrium():
    temperature = 0.7
    model = pspin.Model(p=3, temperature=temperature, b=1 / temperature)
    found = pspin.extrapolated(model, 0.05, 60)
    np.testing.assert_allclose(found.c[60, 0], 0.7986235366, rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.energy, -1 / temperature, rtol=0, atol=1e-7)
    # C depends on t - s alone.
    shifted = found.c[10:, 10:]
    np.testing.assert_allclose(shifted, found.c[:-10, :-10], rtol=0, atol=1e-7)


# -- the examples -------------------------------------------------------------------------------


def test_example_spherical_pspin(monkeypatch, capsys):
    monkeypatch.setattr(pspin, "STEPS", 60)
    assert max(pspin.main().values()) < 1e-10
    assert "ratio of the times" in capsys.readouterr().out


def test_example_notebook(monkeypatch, capsys):
    pytest.importorskip("jax", minversion="0.6", reason="jax is not installed")
    example = load("notebook_dmft")
    monkeypatch.setattr(example, "TIMES", 12)
    monkeypatch.setattr(example, "POINTS", 4)
    # Sweeps are exact after as many as there are times; they round like sums of TIMES POINTS terms.
    assert max(example.main().values()) < 1e-12
    assert "ratio of the times" in capsys.readouterr().out


@pytest.mark.parametrize("library", ["jax", "torch"])
def test_example_dlpack(library, monkeypatch, capsys):
    pytest.importorskip(library, reason=f"{library} is not installed")
    example = load("dlpack")
    monkeypatch.setattr(example.importlib.util, "find_spec", lambda name: name == library or None)
    found = example.main()
    assert found["moved bytes"] == 0
    assert found["error"] < 1e-13
    assert f"{library} at 0x" in capsys.readouterr().out


def test_example_learning_rate():
    pytest.importorskip("jax", minversion="0.6", reason="jax is not installed")
    found = load("tune_learning_rate").main()
    # The scan has 10 points for a factor of two.
    assert abs(np.log(found["descent"] / found["scan"])) < np.log(2) / 10
