"""Resolvents of random matrices: printed values, closed forms, identities, and random matrices."""

import math

import numpy as np
import pytest

import dmftcore as dc
import reference
from dmftcore import _core, spectral
from test_twotime import available_isas

INF = math.inf
K = np.arange(1, 101.0)
LAM = K**-1.2
MODES = dc.Spectrum(LAM, K**-1.9 / LAM)
NOISE = 0.05
SIZES = [(80, INF), (80, 60), (INF, 60)]
Z = np.array([0.3 + 0.2j, -0.1 + 0.05j, 1e-3, -0.4 - 0.02j])

#: Reference tables for MODES, one column for each of SIZES, printed to 12 digits.
EDGES = [1.27473376535, 1.47640857219, 1.32618732784]
KAPPA = [
    [0.32879589392 + 0.203965543902j, -0.0830774747204 + 0.0674587221376j,
     0.00547597053855, -0.38685766583 - 0.0499261871254j],
    [0.365946180429 + 0.209346674189j, -0.0632625788075 + 0.0906110873632j,
     0.0126689094849, -0.347227881446 - 0.0791571977276j],
    [0.338614737754 + 0.205179563627j, -0.0772858611283 + 0.0725276932807j,
     0.00964509279647, -0.378283067217 - 0.0563127603797j],
]  # fmt: skip
#: Phi at (z0, z0), (z0, z1), (z1, z3), (z2, z2); Phi(1e-8, 1e-8); Obs of m = 1 at (z0, z1).
PHI = [
    [0.442163219716 + 0.15551360072j, 0.126059657278 + 0.290206593105j,
     0.693783292695 + 0.728521466658j, 0.13391389331],
    [0.497541295347 + 0.144294069053j, 0.213077503774 + 0.268864791867j,
     0.597671383393 + 0.755086227696j, 0.231701781905],
    [0.467620795095 + 0.149215619334j, 0.16989735182 + 0.28273013099j,
     0.671372865495 + 0.834818767321j, 0.109074499997],
]  # fmt: skip
AT_1E8 = [0.283059326139, 0.427006727853, 0.106755265413]
AT_ZERO = [0.283068545, 0.427021062, 0.106755265]
SQUARED_WEIGHTS = [
    7.42176080911 + 2.91905702477j, 9.64461635231 + 1.07029072327j, 9.76287476979 + 1.47680982964j
]  # fmt: skip


@pytest.fixture(autouse=True)
def _restore_core():
    isa, threads = _core.isa(), _core.get_num_threads()
    yield
    _core.set_isa(isa)
    _core.set_num_threads(threads)


def df(kappa, spectrum=MODES):
    mu = 1 if spectrum.multiplicities is None else spectrum.multiplicities
    return np.sum(mu * spectrum.values / (spectrum.values + kappa[..., None]), axis=-1)


def plane(count, seed=0, low=-8, high=1, angle=3.13):
    """Parameters spread over the scales of |z| and over the angles of the upper half plane."""
    rng = np.random.default_rng(seed)
    return 10 ** rng.uniform(low, high, count) * np.exp(1j * rng.uniform(0, angle, count))


# -- printed values ---------------------------------------------------------------------------


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("column", range(3))
def test_kappa_of_the_reference_tables(column, isa):
    _core.set_isa(isa)
    one = spectral.deterministic_equivalent(Z, MODES, *SIZES[column])
    np.testing.assert_allclose(one.kappa, KAPPA[column], rtol=1e-10)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("column", range(3))
def test_two_point_functions_of_the_reference_tables(column, isa):
    _core.set_isa(isa)
    two = spectral.two_point(Z, Z, MODES, *SIZES[column], NOISE, np.ones(100))
    found = two.test[[0, 0, 1, 2], [0, 1, 3, 2]]
    np.testing.assert_allclose(found, PHI[column], rtol=1e-10)
    np.testing.assert_allclose(two.observable[0, 1], SQUARED_WEIGHTS[column], rtol=1e-10)
    at = spectral.two_point(1e-8, 1e-8, MODES, *SIZES[column], NOISE).test
    np.testing.assert_allclose(at, AT_1E8[column], rtol=1e-10)
    at = spectral.two_point(0, 0, MODES, *SIZES[column], NOISE).test
    np.testing.assert_allclose(at, AT_ZERO[column], rtol=5e-9)  # 9 decimals


@pytest.mark.parametrize("column", range(3))
def test_edge_of_the_reference_tables(column):
    edge = spectral.spectral_edge(MODES, *SIZES[column])
    np.testing.assert_allclose(edge, EDGES[column], rtol=1e-11)


# -- one point --------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
def test_white_data_have_a_closed_form(ratio):
    # kappa^2 - (z + c - 1) kappa - z = 0 with c = D / P, on the branch with Im kappa > 0.
    white = dc.Spectrum([1.0], [1.0], multiplicities=[100.0])
    z = np.concatenate([plane(200, angle=3.1), 10.0 ** np.arange(-8, 3) + 0j])
    b = z + (ratio - 1)
    root = np.sqrt(b * b + 4 * z)
    roots = np.stack([(b + root) / 2, (b - root) / 2])
    exact = np.take_along_axis(
        roots, np.where(z.imag > 0, roots.imag, roots.real).argmax(0)[None], 0
    )[0]
    one = spectral.deterministic_equivalent(z, white, 100 / ratio, INF)
    # The quadratic formula itself loses eps |b| / |kappa|.
    assert (abs(one.kappa / exact - 1) < 1e-14 + 1e-15 * abs(b) / abs(exact)).all()


@pytest.mark.parametrize("size", [(8, INF), (8, 6), (INF, 6), (10, 10)])
def test_kappa_is_what_the_nested_maps_converge_to(size):
    lam, mu = [1.0, 0.3, 0.05], [2.0, 3.0, 5.0]
    spectrum = dc.Spectrum(lam, np.ones(3), multiplicities=mu)
    z = np.array([0.5 + 0.1j, -0.2 + 0.8j, -1.5 + 0.7j, 0.4])
    one = spectral.deterministic_equivalent(z, spectrum, *size)
    for kappa, at in zip(one.kappa, z, strict=True):
        # Where maps contract by 1 - c per sweep they stop within eps / c.
        expected = reference.spectral_kappa(at, lam, mu, *size)
        assert abs(kappa - expected) < 1e-12 * abs(expected)


@pytest.mark.parametrize(
    "size",
    [(80, INF), (80, 60), (INF, 60), (100, 100), (100, INF), (99.5, 100.5), (80, 80), (5, 7),
     (1000, 3), (1e5, 1e5), (1e-3, 50)],
)  # fmt: skip
@pytest.mark.parametrize("exponent", [0.0, 1.2, 3.0])
def test_kappa_solves_the_equations_on_the_physical_branch(size, exponent):
    spectrum = dc.Spectrum(K**-exponent, np.ones(100))
    rng = np.random.default_rng(1)
    far, x = plane(500), 10 ** rng.uniform(-8, 1, 500)
    cut = -x + 1j * x * 10 ** rng.uniform(-13, -1, 500)
    z = np.concatenate([far, cut])
    one = spectral.deterministic_equivalent(z, spectrum, *size)
    kappa, R1, R3 = one.kappa, one.R1, one.R3
    np.testing.assert_allclose(kappa * R1 * R3, z, rtol=1e-14)
    # The two responses by their definition, which loses eps times the condition of df.
    spread = df(abs(kappa) + 0j, spectrum).real
    for R, Q in [(R1, size[0]), (R3, size[1])]:
        error = abs(1 - df(kappa, spectrum) * (1 / Q) - R)
        condition = np.sum(spectrum.values / abs(spectrum.values + kappa[:, None]), axis=1)
        assert (error < 1e-12 * (1 + (spread + condition**2) / Q)).all()
    # Both are images of maps of the upper half plane into itself, which have one fixed point.
    angles = np.stack([np.zeros(len(z)), np.angle(kappa), np.angle(kappa * R3), np.angle(z)])
    assert (np.diff(angles, axis=0) > -1e-8).all()
    assert (np.angle(kappa * R1) < np.angle(z) + 1e-8).all()
    assert (kappa.imag > -2e-16 * abs(kappa)).all()


def test_the_lower_half_plane_is_the_mirror_image():
    z = plane(50)
    up, down = (spectral.deterministic_equivalent(one, MODES, 80, 60) for one in (z, z.conj()))
    for name in ("kappa", "R1", "R3"):
        np.testing.assert_array_equal(getattr(down, name), getattr(up, name).conj())


@pytest.mark.parametrize("size", [*SIZES, (80, 80), (200, 300), (INF, INF)])
def test_zero_is_the_limit(size):
    at, near = (spectral.deterministic_equivalent(z, MODES, *size) for z in (0.0, 1e-14))
    # Next to 0 the equations are linear in z; where P = N, R = sqrt(z / kappa).
    tolerance = 2 * abs(1e-14 / at.kappa) ** 0.5 if size[0] == size[1] < 100 else 1e-9
    for name in ("kappa", "R1", "R3"):
        assert abs(getattr(at, name) - getattr(near, name)) < tolerance
    if min(size) < 100:
        np.testing.assert_allclose(df(np.atleast_1d(at.kappa)), min(size), rtol=1e-13)
        smaller = at.R1 if size[0] <= size[1] else at.R3
        assert smaller == 0
    else:
        assert at.kappa == 0
        np.testing.assert_array_equal(at.R1, 1 - 100 / size[0])


@pytest.mark.parametrize("z", [1e-300, 1e-30 + 1e-32j, 1e30j, 1e300])
@pytest.mark.parametrize("size", [*SIZES, (80, 80), (200, 200)])
def test_extreme_parameters(z, size):
    one = spectral.deterministic_equivalent(z, MODES, *size)
    np.testing.assert_allclose(one.kappa * one.R1 * one.R3 / z, 1, rtol=1e-13)


def test_without_samples_and_features_to_count_nothing_is_renormalised():
    z = plane(20)
    one = spectral.deterministic_equivalent(z, MODES, INF, INF)
    np.testing.assert_allclose(one.kappa, z, rtol=1e-14)
    assert (one.R1 == 1).all()
    assert (one.R3 == 1).all()


def test_edge_is_where_kappa_turns_complex():
    edge = spectral.spectral_edge(MODES, 80, 60)
    below, above = (
        spectral.deterministic_equivalent(-x + 1e-12j, MODES, 80, 60).kappa.imag
        for x in (edge * 0.999, edge * 1.001)
    )
    assert above < 1e-9 < 1e-3 < below
    assert spectral.spectral_edge(MODES, INF, INF) == 1


# -- two points -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, INF), (8, 6), (INF, 6), (INF, INF)])
def test_two_point_functions_by_their_definition(size):
    rng = np.random.default_rng(2)
    lam, mu, target, observable = rng.uniform(0.1, 1, (4, 5))
    spectrum = dc.Spectrum(lam, target, multiplicities=mu)
    z = plane(6, seed=3, low=-1)
    # Equal, conjugate and close pairs among them.
    z1, z2 = z, np.concatenate([z, z.conj(), z * (1 + 1e-5)])
    two = spectral.two_point(z1, z2, spectrum, *size, 0.2, observable)
    first, second = (spectral.deterministic_equivalent(x, spectrum, *size) for x in (z1, z2))
    for i in range(len(z1)):
        for j in range(len(z2)):
            expected = reference.spectral_two_point(
                (first.kappa[i], second.kappa[j]), (first.R1[i], second.R1[j]),
                lam, mu, target, *size, 0.2, observable,
            )  # fmt: skip
            found = two.test[i, j], two.train[i, j], two.observable[i, j]
            np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_ward_identity():
    # Phi_tr (z' - z) = z z' (g - g'), g = (R1 / z) [ sigma^2 + sum lam w^2 kappa / (lam + kappa) ].
    for size in [*SIZES, (80, 80), (150, 200)]:
        z = plane(40, seed=4, low=-3, high=0.5)
        one = spectral.deterministic_equivalent(z, MODES, *size)
        signal = MODES.values * MODES.target
        explained = (signal * one.kappa[:, None] / (LAM + one.kappa[:, None])).sum(1)
        g = one.R1 / z * (NOISE + explained)
        left = spectral.two_point(z, z, MODES, *size, NOISE).train * (z - z[:, None])
        right = z * z[:, None] * (g[:, None] - g)
        scale = abs(z * z[:, None]) * (abs(g) + abs(g[:, None]))
        assert (abs(left - right) < 1e-12 * scale).all()


def test_observing_the_covariance_gives_the_loss():
    z = plane(30, seed=5, low=-3)
    for size in [*SIZES, (INF, INF)]:
        two = spectral.two_point(z, z.conj(), MODES, *size, NOISE, LAM)
        np.testing.assert_allclose(two.observable + NOISE, two.test, rtol=1e-10)


def test_small_ridge_with_more_samples_than_directions():
    # kappa << lam: the loss without noise is of second order in z, and keeps its digits.
    spectrum = dc.Spectrum([1.0, 0.5, 0.25], [1.0, 2.0, 3.0], multiplicities=[2, 3, 4])
    for z in (1e-3, 1e-6, 1e-9):
        two = spectral.two_point(np.array([z]), np.array([z, 2 * z]), spectrum, 20, 30)
        one = spectral.deterministic_equivalent(np.array([z, 2 * z]), spectrum, 20, 30)
        for j in range(2):
            test, train, _ = reference.spectral_two_point(
                (one.kappa[0], one.kappa[j]), (one.R1[0], one.R1[j]), [1.0, 0.5, 0.25], [2, 3, 4],
                [1.0, 2.0, 3.0], 20, 30, 0.0, np.zeros(3),
            )  # fmt: skip
            np.testing.assert_allclose(two.test[0, j], test, rtol=1e-11)
            np.testing.assert_allclose(two.train[0, j], train, rtol=1e-11)


def test_multiplicities_are_repeated_modes():
    counts = np.array([1, 3, 2, 7])
    lam, target = np.array([1.0, 0.4, 0.3, 0.01]), np.array([1.0, 2.0, 0.5, 4.0])
    grouped = dc.Spectrum(lam, target, multiplicities=counts)
    single = dc.Spectrum(np.repeat(lam, counts), np.repeat(target / counts, counts))
    observable = np.array([1.0, 0.2, 3.0, 1.0])
    z = plane(20, seed=6)
    a = spectral.two_point(z, z, grouped, 9, 7, 0.1, observable)
    b = spectral.two_point(z, z, single, 9, 7, 0.1, np.repeat(observable, counts))
    for name in ("test", "train", "observable"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-11)
    np.testing.assert_allclose(
        spectral.spectral_edge(grouped, 9, 7), spectral.spectral_edge(single, 9, 7), rtol=1e-12
    )


def test_limits_of_the_two_point_function():
    power = np.sum(LAM * MODES.target)
    # t = 0: nothing has been learned.
    two = spectral.two_point(1e12, 1e12j, MODES, 80, 60, NOISE)
    np.testing.assert_allclose(two.test, power + NOISE, rtol=1e-10)
    # Finite sizes approach the infinite ones with a first correction of 1/size.
    z = plane(10, seed=7, low=-2)
    for few, many in [((80, INF), (80, 1e9)), ((INF, 60), (1e9, 60))]:
        a, b = (spectral.two_point(z, z, MODES, *size, NOISE).test for size in (few, many))
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("features", [INF, 300.0])
def test_ridge_regression_of_random_data(features):
    """Test and training error of ridge regression, on a flat spectrum and random samples."""
    rng = np.random.default_rng(8)
    D, P, ridge, noise, draws = 200, 120, 0.2, 0.3, 60
    lam = np.linspace(0.5, 1.5, D)
    w = rng.choice([-1.0, 1.0], D) / np.sqrt(D)
    found = np.empty((draws, 2))
    for draw in found:
        X = rng.standard_normal((P, D)) * np.sqrt(lam)
        y = X @ w + np.sqrt(noise) * rng.standard_normal(P)
        F = np.eye(D) if features == INF else rng.standard_normal((D, 300)) / np.sqrt(features)
        Q = X @ F
        a = np.linalg.solve(Q.T @ Q / P + ridge * np.eye(F.shape[1]), Q.T @ y / P)
        v = w - F @ a
        draw[:] = v @ (lam * v) + noise, np.mean((y - Q @ a) ** 2)
    two = spectral.two_point(ridge, ridge, dc.Spectrum(lam, w**2), P, features, noise)
    mean, error = found.mean(0), found.std(0, ddof=1) / np.sqrt(draws)
    # Beside the statistical error, that of a finite matrix, of order 1/D.
    assert (abs(mean - [two.test.real, two.train.real]) < 4 * error + mean / D).all()


def test_resolvent_of_a_random_matrix():
    rng = np.random.default_rng(9)
    D, draws = 150, 40
    lam, P, N = K[0] * np.linspace(1.5, 0.5, D), 90, 120
    for z in (0.3 + 0.2j, -0.5 + 0.5j):
        traces = []
        for _ in range(draws):
            X = rng.standard_normal((P, D)) * np.sqrt(lam)
            F = rng.standard_normal((D, N)) / np.sqrt(N)
            G = np.linalg.inv(z * np.eye(D) + F @ F.T @ (X.T @ X / P))
            traces.append(z * np.trace(G) / D)
        one = spectral.deterministic_equivalent(z, dc.Spectrum(lam, np.ones(D)), P, N)
        error = np.std(traces, ddof=1) / np.sqrt(draws)
        assert abs(np.mean(traces) - np.mean(one.kappa / (lam + one.kappa))) < 4 * error + 1 / D


# -- power laws -------------------------------------------------------------------------------


def test_groups_of_a_power_law_keep_its_sums():
    law = dc.PowerLaw(1.5, 1.9, 20_000)
    grouped = law.grouped()
    assert len(grouped.values) < 300
    assert grouped.multiplicities.sum() == 20_000
    np.testing.assert_array_equal(grouped.values[:200], law.values[:200])
    for p, sums in [
        (1.5, grouped.multiplicities * grouped.values),
        (1.9, grouped.values * grouped.target),
    ]:
        # An integral over a half-integer interval for the sum: wrong by p (p + 1) / (24 k^2).
        exact = np.arange(201, 20_001.0) ** -p
        assert abs(sums[200:].sum() / exact.sum() - 1) < p * (p + 1) / (24 * 200**2)


def test_error_of_a_grouped_power_law():
    law, z = dc.PowerLaw(1.5, 1.9, 20_000), 1e-4
    exact = spectral.two_point(z, z, law, 500, 300).test
    errors = [
        abs(spectral.two_point(z, z, law.grouped(per=per), 500, 300).test / exact - 1)
        for per in (6, 12, 24)
    ]
    assert errors[1] < 1e-3
    # Of second order in the width of the groups.
    assert errors[0] / errors[1] > 3
    assert errors[1] / errors[2] > 3


def test_a_long_power_law_is_grouped():
    law = dc.PowerLaw(1.5, 1.9, 10**16)
    two, again = (
        spectral.two_point(1e-3, 1e-3, one, 1000, INF).test for one in (law, law.grouped())
    )
    assert two == again
    assert len(law.grouped().values) < 700
    assert dc.PowerLaw(1.0, 1.0, 10**6).grouped().multiplicities.sum() == 10**6
    short = dc.PowerLaw(1.2, 1.9, 50).grouped()
    np.testing.assert_array_equal(short.values, dc.PowerLaw(1.2, 1.9, 50).values)


# -- how it is computed -----------------------------------------------------------------------


@pytest.mark.parametrize("isa", available_isas())
def test_bits_do_not_depend_on_threads(isa):
    _core.set_isa(isa)
    z = plane(700, seed=10)
    results = []
    for threads in (1, 2, 5):
        dc.set_num_threads(threads)
        one = spectral.deterministic_equivalent(z, MODES, 80, 60)
        two = spectral.two_point(z[:70], z[100:170], MODES, 80, 60, NOISE, LAM)
        results.append(b"".join(x.tobytes() for x in (one.kappa, two.test, two.observable)))
    assert len(set(results)) == 1


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("modes", [1, 2, 3, 5, 257])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_any_number_of_modes_and_parameters(isa, modes, count):
    _core.set_isa(isa)
    lam = np.linspace(1, 0.1, modes)
    spectrum = dc.Spectrum(lam, np.ones(modes))
    z = plane(count, seed=11, low=-2)
    one = spectral.deterministic_equivalent(z, spectrum, 0.7 * modes, 2 * modes)
    np.testing.assert_allclose(
        one.R1, 1 - df(one.kappa, spectrum) / (0.7 * modes), rtol=1e-11, atol=1e-12
    )
    two = spectral.two_point(z, z, spectrum, 0.7 * modes, 2 * modes, 0.1, lam)
    np.testing.assert_allclose(two.observable + 0.1, two.test, rtol=1e-10)


def test_modes_of_any_scale():
    # Products of |lam + kappa|^2 under- and overflow where modes share divisions.
    for scale in (1e-60, 1e60):
        spectrum = dc.Spectrum(LAM * scale, MODES.target / scale)
        one = spectral.deterministic_equivalent(Z * scale, spectrum, 80, 60)
        np.testing.assert_allclose(one.kappa / scale, KAPPA[1], rtol=1e-10)
        two = spectral.two_point(Z * scale, Z * scale, spectrum, 80, 60, NOISE)
        np.testing.assert_allclose(two.test[[0, 0, 1, 2], [0, 1, 3, 2]], PHI[1], rtol=1e-10)


def test_shapes():
    one = spectral.deterministic_equivalent(Z.reshape(2, 2), MODES, 80, 60)
    assert one.kappa.shape == one.R1.shape == one.R3.shape == (2, 2)
    assert spectral.deterministic_equivalent(np.empty(0), MODES, 80, 60).kappa.shape == (0,)
    assert spectral.deterministic_equivalent(0.5, MODES, 80, 60).kappa.shape == ()
    grid = spectral.two_point(Z, Z[:3], MODES, 80, 60)
    assert grid.test.shape == grid.train.shape == (4, 3)
    assert grid.observable is None
    assert spectral.two_point(Z, 0.5, MODES, 80, 60).test.shape == (4,)
    assert spectral.two_point(0.5, Z, MODES, 80, 60).test.shape == (4,)
    assert spectral.two_point(0.5, 0.3, MODES, 80, 60).test.shape == ()
    assert spectral.two_point(Z[:0], Z, MODES, 80, 60).test.shape == (0, 4)
    batch = spectral.two_point(Z.reshape(2, 2), Z.reshape(2, 2)[:, :1].copy(), MODES, 80, 60)
    assert batch.test.shape == (2, 2, 1)
    np.testing.assert_array_equal(
        batch.test[:, :, 0].ravel(), grid.test[[0, 1, 2, 3], [0, 0, 2, 2]]
    )


def test_transform():
    rng = np.random.default_rng(12)
    w1, phi, w2 = (
        rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
        for shape in [(5, 4), (4, 3), (5, 3)]
    )  # fmt: skip
    table = spectral.transform(w1, phi, w2)
    np.testing.assert_allclose(table, np.einsum("ti,ij,sj->ts", w1, phi, w2).real, rtol=1e-13)
    np.testing.assert_allclose(spectral.transform_diagonal(w1, phi, w2), np.diag(table), rtol=1e-13)
    each = rng.standard_normal((5, 4, 3)) + 1j * rng.standard_normal((5, 4, 3))
    np.testing.assert_allclose(
        spectral.transform_diagonal(w1, each, w2),
        np.einsum("ti,tij,tj->t", w1, each, w2).real,
        rtol=1e-13,
    )


# -- errors -----------------------------------------------------------------------------------

PLAIN = {"spectrum": MODES, "samples": 80, "features": 60}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"z": -0.3}, ValueError, "z is -0.3, on the negative real axis"),
        ({"z": np.array([1, -2 + 0j])}, ValueError, r"z is -2.0 at \(1,\), on the negative"),
        ({"z": np.array([1, np.nan])}, ValueError, r"z is nan at \(1,\), which is not finite"),
        ({"z": complex(INF, 1)}, ValueError, "which is not finite"),
        ({"z": Z.astype(np.complex64)}, TypeError, "not complex64; pass z.astype"),
        ({"z": np.arange(1, 3)}, TypeError, "z must be complex128 or float64, not int64"),
        ({"z": np.ones((2, 4), complex)[:, ::2]}, TypeError, "numpy.ascontiguousarray"),
        ({"z": [1.0, 2.0]}, TypeError, "z must be a numpy array, not list; pass numpy.asarray"),
        ({"z": True}, TypeError, "not bool"),
        ({"samples": 0}, ValueError, "samples must be a number > 0 or inf, not 0"),
        ({"features": -1.5}, ValueError, "features must be a number > 0 or inf, not -1.5"),
        ({"samples": math.nan}, ValueError, "samples must be a number > 0 or inf, not nan"),
        ({"features": "many"}, TypeError, "features must be a number > 0 or inf, not 'many'"),
        ({"spectrum": LAM}, TypeError, "must be a Spectrum or a PowerLaw"),
        ({"spectrum": dc.Spectrum([1.0, 0.0], [1.0, 1.0])}, ValueError, "found 0 at 1; leave out"),
        (
            {"spectrum": dc.Spectrum([1.0], [1.0], weights=[1.0])},
            ValueError,
            "give it multiplicities",
        ),
    ],
)
def test_errors_of_one_point(change, error, message):
    arguments = {"z": 0.5, **PLAIN, **change}
    with pytest.raises(error, match=message):
        spectral.deterministic_equivalent(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"z2": -1.0}, ValueError, "z2 is -1.0, on the negative real axis"),
        ({"z1": Z.astype(np.complex64)}, TypeError, "z1 must be complex128"),
        ({"z1": np.ones((3, 2)), "z2": np.ones((2, 2))}, ValueError, "batch axes are not broadc"),
        ({"noise_variance": -1}, ValueError, "noise_variance must be a number >= 0"),
        (
            {"observable": np.ones(3)},
            ValueError,
            "observable has 3 modes, but the spectrum has 100",
        ),
        ({"z1": 0.0, "z2": 0.0, "samples": 60}, ValueError, "no limit at z = 0"),
    ],
)
def test_errors_of_two_points(change, error, message):
    arguments = {"z1": 0.5, "z2": 0.5, **PLAIN, "noise_variance": NOISE, **change}
    with pytest.raises(error, match=message):
        spectral.two_point(**arguments)


def test_a_failure_names_the_parameter(monkeypatch):
    monkeypatch.setattr(_core, "spectral_kappa", lambda z, *_: np.where(z.imag > 0, np.nan, z))
    with pytest.raises(ArithmeticError, match=r"not found at z = \(0\.3\+0\.2j\), samples = 80"):
        spectral.deterministic_equivalent(np.array([0.3 + 0.2j, 0.1]), MODES, 80, 60)
