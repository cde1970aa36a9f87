"""The spectral functions on a GPU: kernels on the emulator, and the way there from cupy arrays."""

import ctypes
import math
import sys

import numpy as np
import pytest

import dmftcore as dc
import emulated
import fake_cupy
import gpu
from dmftcore import _core, spectral
from test_emulated import Fault
from test_spectral import LAM, MODES, NOISE, SIZES, plane

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason="no C++ compiler")

INF = math.inf

#: Few modes between two roundings of the totals, so that more than one chunk is needed.
CHUNKS = ("cuda/spectral_sums.cuh", "CHUNK = 64", "CHUNK = 2")
#: Modes and numbers of parameters at which the decisions for large problems are taken.
LARGE_TEAMS = ("cuda/spectral_sums.cuh", "MANY_MODES = 16384", "MANY_MODES = 60")
SLOTS = (
    "cuda/spectral_one_point.cu",
    "FOR_TWO_SLOTS = 256, FOR_FOUR_SLOTS = 1024",
    "FOR_TWO_SLOTS = 20, FOR_FOUR_SLOTS = 100",
)
SCALED_DOWN = emulated.Variant(changes=(CHUNKS, LARGE_TEAMS, SLOTS))


def compare(library, modes=70, count=150, size=(80, 60), observed=True):
    """kappa and the two-point functions of the kernels beside those of the CPU."""
    lam = np.linspace(1.5, 0.1, modes)
    mu, target = np.linspace(1, 2, modes), np.linspace(2, 1, modes)
    weights = [mu * lam, mu, lam * target, target] + [mu * lam, lam * target] * observed
    weights = np.stack(weights)
    z = np.concatenate([plane(count - 2, seed=modes), [1.0, 1e-5]])
    kappa = np.full(count, np.nan, complex)
    library.call("spectral_kappa", complex, count, modes, lam, mu, *map(float, size), z, kappa)
    expected = _core.spectral_kappa(z, lam, mu, *size)
    # The condition of kappa: Newton steps end below 1e-9 squared, and rounding is that of the sums.
    np.testing.assert_allclose(kappa, expected, rtol=1e-12)

    R1, R3 = (1 - (mu * lam / (lam + kappa[:, None])).sum(1) * (1 / Q) for Q in size)
    one = np.stack([kappa, R1, R3])
    # Pairs of equal and of close parameters among others, in a batch of two.
    one1 = np.ascontiguousarray(one[:, :14].reshape(3, 2, 7))
    one2 = np.ascontiguousarray(one[:, 4:24].reshape(3, 2, 10))
    found = np.full((3, 2, 7, 10), np.nan, complex)
    library.call(
        "spectral_two_point", complex, 2, 7, 10, modes, lam, weights, *map(float, size), NOISE,
        one1, one2, *found, int(observed),
    )  # fmt: skip
    expected = _core.spectral_two_point(one1, one2, lam, weights, *size, NOISE)
    for mine, other in zip(found, expected, strict=True):
        if other is not None:
            np.testing.assert_allclose(mine, other, rtol=1e-10)


@pytest.mark.parametrize("order", emulated.ORDERS)
@pytest.mark.parametrize("size", [*SIZES, (INF, INF), (200, 300)])
def test_kernels(order, size):
    compare(emulated.Library(emulated.load(emulated.Variant(changes=(CHUNKS,))), order), size=size)


@pytest.mark.parametrize(("modes", "count"), [(1, 24), (31, 25), (257, 131)])
@pytest.mark.parametrize("observed", [False, True])
def test_any_number_of_modes_and_parameters(modes, count, observed):
    compare(emulated.library("shuffled"), modes, count, (0.6 * modes, 1.5 * modes), observed)


@pytest.mark.parametrize("order", emulated.ORDERS)
@pytest.mark.parametrize("count", [24, 31, 150])
def test_teams_of_warps(order, count):
    # 15 parameters a block, and more than the threads of a block.
    for modes in (60, 600 if count == 24 else 70):
        compare(emulated.Library(emulated.load(SCALED_DOWN), order), modes, count)


def test_bits_of_kappa_do_not_depend_on_the_other_parameters():
    lam, mu = np.linspace(1.5, 0.1, 70), np.linspace(1, 2, 70)
    z = np.concatenate([plane(148, seed=7), [1.0, 1e-5]])
    for variant in (emulated.PLAIN, SCALED_DOWN):
        found = []
        for some in (z, z[:31], z[:7]):  # four, two and one slot of a large team
            kappa = np.full(len(some), np.nan, complex)
            emulated.Library(emulated.load(variant), "shuffled").call(
                "spectral_kappa", complex, len(some), 70, lam, mu, 80.0, 60.0, some, kappa
            )
            found.append(kappa)
        np.testing.assert_array_equal(found[1], found[0][:31])
        np.testing.assert_array_equal(found[2], found[0][:7])


def test_sizes_that_lie_on_the_device():
    lam, mu, z = np.linspace(1.5, 0.1, 70), np.linspace(1, 2, 70), plane(20, seed=8)
    library = emulated.library("shuffled")
    known, read = np.full(20, np.nan, complex), np.full(20, np.nan, complex)
    library.call("spectral_kappa", complex, 20, 70, lam, mu, 80.0, 60.0, z, known)
    sizes = np.array([80.0]), np.array([60.0])
    library.call("spectral_kappa_of", complex, 20, 70, lam, mu, *sizes, z, read)
    np.testing.assert_array_equal(read, known)


FAULTS = {
    "modes_beyond_the_last": Fault(
        "", "spectral_sums.cuh", "step < CHUNK && k < modes.count", "step < CHUNK"
    ),
    "sum_over_half_a_warp": Fault("", "spectral_sums.cuh", "WARP / 2", "WARP / 4"),
    "sums_of_another_slot": Fault("", "spectral_sums.cuh", "lane == q", "lane == 0"),
    "slots_do_not_go_on": Fault("", "spectral_one_point.cu", "next += slots;", "next = p.nz;"),
    "slot_of_another_warp": Fault(
        "", "spectral_one_point.cu", "place.team * SLOTS + lane", "place.team + lane"
    ),
    "parts_overwritten_before_they_are_read": Fault(
        "", "spectral_sums.cuh", "__syncthreads(); // the parts before have been read"
    ),
    "parts_read_too_early": Fault(
        "", "spectral_sums.cuh", "__syncthreads(); // the parts of all warps are there"
    ),
    "part_of_one_warp": Fault("", "spectral_sums.cuh", "warp < TEAM", "warp < 1"),
    "conjugate_sum": Fault("", "spectral_one_point.cu", "-b * own[0]", "b * own[0]"),
    "close_pairs_as_differences": Fault(
        "", "spectral_two_point.cu", "if (lane == q) sums = found;"
    ),
    "sums_of_the_other_line": Fault("", "spectral_two_point.cu", "row.kappa.re", "column.kappa.re"),
    "first_grid_for_all": Fault(
        "", "spectral_two_point.cu", "pair / (p.n1 * p.n2) * p.n2 + pair % p.n2", "pair % p.n2"
    ),
    "first_line_for_all": Fault(
        "", "spectral_two_point.cu", "min(first + q, p.count - 1)", "first"
    ),
}
FAULTY = emulated.Variant(
    flags=("-include", str(emulated.CPP / "planted.hpp")),
    changes=(
        CHUNKS,
        LARGE_TEAMS,
        *(f.planted(number) for number, f in enumerate(FAULTS.values(), start=1)),
    ),
)


def failed(number):
    functions = emulated.load(FAULTY)
    planted = ctypes.c_int.in_dll(functions, "planted")
    for order in emulated.ORDERS:
        planted.value = number
        try:
            for modes in (70, 40):  # a large team, and a small one
                compare(emulated.Library(functions, order), modes)
        except (AssertionError, emulated.EmulatedError):
            return True
        finally:
            planted.value = 0
    return False


@pytest.mark.skipif(bool(emulated.MORE_FLAGS), reason="a sanitizer ends the process at a fault")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault):
    assert failed(1 + list(FAULTS).index(fault))


def test_nothing_is_found_where_no_fault_acts():
    assert not failed(0)


# -- from cupy arrays -------------------------------------------------------------------------


@pytest.fixture
def cupy(monkeypatch):
    """cupy where there is a GPU; elsewhere the fake library, with the emulator behind the core."""
    if gpu.missing() is None:
        return gpu.cupy()
    pytest.importorskip("pybind11", reason="the binding is compiled by the tests")
    import emulated_device

    module = fake_cupy.module()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(_core, "cuda", emulated_device.binding().cuda, raising=False)
    monkeypatch.setattr(_core, "cuda_status", lambda: (2, ""))
    return module


def test_results_follow_the_parameters(cupy):
    z = np.concatenate([plane(20, seed=20), plane(10, seed=21).conj(), [0.0, 0.5]])
    here = spectral.deterministic_equivalent(z, MODES, 80, 60)
    there = spectral.deterministic_equivalent(cupy.asarray(z), MODES, 80, 60)
    for name in ("kappa", "R1", "R3"):
        found = getattr(there, name)
        assert isinstance(found, cupy.ndarray)
        np.testing.assert_allclose(cupy.asnumpy(found), getattr(here, name), rtol=1e-12)
    two = spectral.two_point(cupy.asarray(z[:20]), 0.3, MODES, 80, 60, NOISE, LAM)
    expected = spectral.two_point(z[:20], 0.3, MODES, 80, 60, NOISE, LAM)
    for name in ("test", "train", "observable"):
        found = getattr(two, name)
        assert found.shape == (20,)
        np.testing.assert_allclose(cupy.asnumpy(found), getattr(expected, name), rtol=1e-10)


def test_transform_on_the_device(cupy):
    rng = np.random.default_rng(22)
    arrays = [
        rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
        for shape in [(5, 4), (4, 3), (5, 3)]
    ]
    for function in (spectral.transform, spectral.transform_diagonal):
        found = function(*map(cupy.asarray, arrays))
        np.testing.assert_allclose(cupy.asnumpy(found), function(*arrays), rtol=1e-13)


@pytest.mark.parametrize(
    ("sizes", "how"),
    [
        ((80, 60), {}),
        ((INF, 60), {"method": "gradient_descent", "lr": 0.2, "momentum": 0.5}),
        ((INF, 60), {"method": "sgd", "lr": 0.2, "batch": 30}),
    ],
    ids=["flow", "heavy ball", "sgd"],
)
def test_learning_curves_on_the_device(cupy, monkeypatch, sizes, how):
    times = [0, 2, 3, 30_000]
    here = spectral.learning_curve(times, MODES, *sizes, NOISE, two_time=not how, **how)
    with monkeypatch.context() as patch:
        # What is summed over modes is not summed on the host.
        patch.setattr(_core, "spectral_kappa", None)
        patch.setattr(_core, "spectral_two_point", None)
        there = spectral.learning_curve(
            times, MODES, *sizes, NOISE, two_time=not how, device="cuda", **how
        )
    for name in ("test", "train", "test_two_time", "train_two_time", "forcing"):
        found, expected = getattr(there, name), getattr(here, name)
        if expected is not None:
            assert isinstance(found, np.ndarray)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * here.test[0])


def test_random_features_are_solved_where_they_are_told(cupy):
    limit, training = dc.RandomFeatures(80, 60, NOISE), dc.GradientDescent(0.2, 100)
    here, there = (dc.solve(limit, MODES, training, device=device) for device in ("cpu", "cuda"))
    assert (here.diagnostics["device"], there.diagnostics["device"]) == ("cpu", "cuda")
    np.testing.assert_allclose(there.test_loss, here.test_loss, rtol=1e-11)


def test_errors_on_the_device(cupy):
    z = cupy.asarray(np.array([0.5, -0.25]))
    with pytest.raises(ValueError, match=r"z is -0\.25 at \(1,\), on the negative"):
        spectral.deterministic_equivalent(z, MODES, 80, 60)
    z = cupy.asarray(np.array([0.5 + 1j]))
    with pytest.raises(TypeError, match="z1 is a cupy array but z2 is a numpy array"):
        spectral.two_point(z, np.array([0.5]), MODES, 80, 60)
    with pytest.raises(TypeError, match=r"not complex64; pass z.astype\(cupy.complex128\)"):
        spectral.deterministic_equivalent(z.astype(np.complex64), MODES, 80, 60)
