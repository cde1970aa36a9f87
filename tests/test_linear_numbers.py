"""Deep linear theory against printed numbers.

The digits come from independent numpy prototypes of the uncontracted march and of the growing
network (float64, printed to 10 decimals or 11 digits), with Kx[i,j] = exp(-(i-j)^2 / 4.5) and
y_i = cos(i), i = 0..3. Losses there are the mean of sum_k Delta^2, twice the loss here.
"""

import numpy as np
import pytest

import dmftcore as dc

POINTS = np.arange(4)
GRAM = np.exp(-((POINTS[:, None] - POINTS) ** 2) / 4.5)
COS = np.cos(POINTS)
DATA = dc.Dataset(gram=GRAM, targets=COS)
TWO_OUTPUTS = dc.Dataset(gram=GRAM, targets=np.stack([COS, np.sin(1 + 2 * POINTS)], axis=1))
TEST_POINT = dc.Dataset(full_gram=GRAM, targets=COS[:3], test_targets=COS[3:])
ONE_POINT = dc.Dataset(gram=[[1.0]], targets=[1.5])
GD = dc.GradientDescent

# name: limit, data, training, mean Delta^2 at t = 0, 1, 2, 5, last
LOSSES = {
    "A1": (dc.DeepLinear(1), DATA, GD(0.3, 14),
           [0.6112974787, 0.4344584763, 0.3059616518, 0.0898557324, 0.0007890181]),
    "A2": (dc.DeepLinear(2), DATA, GD(0.3, 14),
           [0.6112974787, 0.3574228793, 0.1963891510, 0.0110877636, 0.0001951113]),
    "A3": (dc.DeepLinear(3, gamma=1.5, init_scale=0.9), DATA, GD(0.2, 14),
           [0.6112974787, 0.4828572513, 0.3643483767, 0.0332861877, 0.0001930421]),
    "A4": (dc.DeepLinear(2), TWO_OUTPUTS, GD(0.3, 14),
           [1.1310863363, 0.8156889184, 0.6076730067, 0.3196633875, 0.1220098300]),
    "A5": (dc.DeepLinear(3, gamma=0), DATA, GD(0.1, 14),
           [0.6112974787, 0.4900318018, 0.3929438231, 0.2028542910, 0.0282269637]),
    "A6": (dc.DeepLinear(2, readout="ntk"), DATA, GD(0.3, 14),
           [0.6112974787, 0.3574228793, 0.2020007171, 0.0128202369, 0.0001949335]),
    "A7": (dc.DeepLinear(2), TEST_POINT, GD(0.3, 14),
           [0.4883682571, 0.2464431298, 0.1556712564, 0.0349770257, 0.0038654576]),
    "A8": (dc.DeepLinear(3), ONE_POINT, GD(0.05, 19),
           [2.25, 1.44, 0.8749775653, 0.0695071734, 0.0]),
}  # fmt: skip

# name: H^1(e,e)[0,0], H^L(e,e)[0,1], H^L(e,1)[0,1], G^1(e,e), G^L(e,2), first output, e = last;
# with a single point [0,0] in place of [0,1]
KERNELS = {
    "A1": [1.3425995227, 0.9733195910, 0.8582636311, 1.7670806590, 1.3216284455],
    "A2": [1.1887421485, 1.1482888834, 0.9253863277, 2.5485750120, 1.2346655765],
    "A3": [1.0748037869, 1.3992912995, 0.6512835897, 4.8608761969, 1.0903772899],
    "A4": [1.2851411349, 1.0940849989, 0.9636162555, 2.5277363600, 1.2318251470],
    "A6": [1.1968009308, 1.1642504438, 0.9294481334, 2.6221260704, 1.2416704114],
    "A7": [1.2039509829, 1.1059268601, 1.0353086914, 2.3010512905, 1.1905088155],
    "A8": [1.2768196990, 3.2199964591, 1.6680535998, 3.2199964591, 1.1457261999],
}

METHODS = {"chain": {"method": "chain"}, "growing": {"method": "growing", "tol": 1e-12}}


def agree(found, printed):
    """Up to the printed decimals and the working tolerance of both programs."""
    found, printed = np.asarray(found), np.asarray(printed)
    np.testing.assert_array_less(np.abs(found - printed), 1e-10 + 1e-9 * np.abs(printed))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, method):
    limit, data, training, expected = LOSSES[name]
    solution = dc.solve(limit, data, training, **METHODS[method])
    agree(2 * solution.train_loss[[0, 1, 2, 5, -1]], expected)


def test_test_loss():
    limit, data, training, _ = LOSSES["A7"]
    solution = dc.solve(limit, data, training)
    agree(2 * solution.test_loss[[0, 5, 14]], [0.9800851433, 0.3833199185, 0.1070587504])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", KERNELS)
def test_kernels(name, method):
    limit, data, training, _ = LOSSES[name]
    solution = dc.solve(limit, data, training, save=("H", "G"), **METHODS[method])
    end, top = training.steps, limit.depth
    column = min(1, data.n_train - 1)
    found = [
        solution.kernel("H", 1, end, end)[0, 0],
        solution.kernel("H", top, end, end)[0, column],
        solution.kernel("H", top, end, 1)[0, column],
        solution.kernel("G", 1, end, end)[0, 0],
        solution.kernel("G", top, end, 2)[0, 0],
    ]
    agree(found, KERNELS[name])


LONG_TIMES = [1, 10, 100, 1000, 3000]
# limit, training, mean Delta^2 at LONG_TIMES, neurons of layers 1..L at tol 1e-9
LONG_RUNS = {
    "LT1": (dc.DeepLinear(2), GD(0.05, 3000),
            [5.6424175203e-01, 2.5884784411e-01, 1.6661264822e-04, 1.3104975192e-05,
             8.7678854403e-08], None),
    "LT2": (dc.DeepLinear(3, gamma=1.5, init_scale=0.9), GD(0.02, 3000),
            [5.9776755709e-01, 4.8313995006e-01, 2.7012367031e-04, 3.0266043021e-05,
             1.0394977155e-06], [54, 65, 59]),
    "LT3": (dc.DeepLinear(3, gamma=5.0), GD(0.002, 3000),
            [6.0873994318e-01, 5.8597887125e-01, 2.0469828295e-01, 7.7825974161e-05,
             1.7042403654e-05], [60, 71, 64]),
}  # fmt: skip


@pytest.mark.parametrize("name", LONG_RUNS)
def test_long_runs(name):
    limit, training, expected, _ = LONG_RUNS[name]
    solution = dc.solve(limit, DATA, training, times=LONG_TIMES, kernel_times=[], tol=1e-11)
    assert solution.diagnostics["engine"] == "growing"
    # Eleven printed digits, and a truncation whose effect on the loss is of the order of tol.
    np.testing.assert_allclose(2 * solution.train_loss, expected, rtol=3e-10)


@pytest.mark.parametrize("name", ["LT2", "LT3"])
def test_neurons(name):
    """The growth rule: as many neurons as the prototype needed, within a fifth."""
    limit, training, _, neurons = LONG_RUNS[name]
    solution = dc.solve(limit, DATA, training, kernel_times=[], tol=1e-9)
    np.testing.assert_allclose(solution.diagnostics["neurons"], neurons, rtol=0.2)
