"""Deep linear networks on random data: printed numbers, an independent solver, limits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import dmftcore as dc
from dmftcore.limits.proportional import ProportionalMarch
from dmftcore.limits.proportional_solve import stability_bound
from referees import optimizer_tables

GD, SGD, Net = dc.GradientDescent, dc.OnlineSGD, dc.ProportionalLinear
TWO = dc.Spectrum([0.5, 2.0], [1.0, 2.0], weights=[0.75, 0.25])
X = (np.arange(40) + 0.5) / 40
FORTY = dc.Spectrum(0.5 * X**-0.5, X**-0.4)

# Reference tables, from an independent numpy prototype (float64, printed to 10 decimals).
# name: limit, training, Cp(t,t) and CD(t,t) at t = 0, 1, 2, 5, 19
LOSSES = {
    "B1": (Net(1, 1, 1.5), GD(0.2, 19),
           [2.0, 0.9093333333, 0.6619647719, 0.3917404656, 0.1109090613],
           [2.0, 0.5061333333, 0.2771026751, 0.1012260414, 0.0128472417]),
    "B2": (Net(2, 0.5, 1.5, noise=0.5), GD(0.1, 19),
           [3.0, 1.3223360000, 1.0029176417, 0.7869564001, 0.5137944613],
           [3.25, 1.2093564444, 0.8295540090, 0.5292953209, 0.2074832839]),
    "B3": (Net(3, 1.5, 2, gamma=0.7, noise=0.3, init_scale=0.9), GD(0.1, 19),
           [1.5856696735, 0.9552728502, 0.7701764832, 0.5121420320, 0.1834140742],
           [1.6756696735, 0.8189693007, 0.5925115943, 0.3151438022, 0.0851674488]),
    "B4": (Net(2, 1, 1, noise=0.3), SGD(0.1, 19),
           [2.0, 1.0886438900, 0.7564414261, 0.3745846498, 0.0356894680],
           [2.09, 1.1786438900, 0.8464414261, 0.4645846498, 0.1256894680]),
    "B5": (Net(2, 2, 2, noise=0.3, parameterization="ntk"), GD(0.1, 19),
           [2.0, 1.0032025528, 0.7401557400, 0.4244345233, 0.1374814927],
           [2.09, 0.7469342355, 0.4758798280, 0.2162458293, 0.0651821883]),
    "B6": (Net(4, 1, 2, noise=0.3, branch_scale=1.0), GD(0.05, 19),
           [3.3703703704, 1.3742276505, 1.0132044746, 0.6620462480, 0.2523935758],
           [3.4603703704, 1.0829597464, 0.7044971556, 0.3785834814, 0.1083942401]),
    "B7": (Net(2, 1, 1, noise=0.2, spectrum=TWO), GD(0.1, 19),
           [2.25, 1.0828005256, 0.8201682335, 0.5879764025, 0.3608964893],
           [2.29, 0.7024575344, 0.4149734015, 0.1819924707, 0.0425035730]),
    "B8": (Net(1, 1, 2, noise=0.1, spectrum=FORTY), GD(0.1, 19),
           [3.1284098206, 1.4643844377, 1.0856193323, 0.6340358873, 0.1813261641],
           [3.1384098206, 1.1669139786, 0.7506546980, 0.3311774544, 0.0547098268]),
}  # fmt: skip

# name: Cv(e,e), H^L(e,e), G^1(e,e), RD(e,0), A^1(e,e-1), B^0(e,0), e = 19
KERNELS = {
    "B1": [0.0024196677, 0.0007878749, 0.9132152457, -0.0043578377, 0.8376766063, 0.1418246773],
    "B2": [0.0555343939, 0.0030327394, 0.6402963470, -0.0077929774, 1.5433017631, 0.0716933895],
    "B3": [0.0158923664, 0.0019578141, 0.7205951944, -0.0045904498, 0.3710517185, 0.0919952814],
    "B4": [0.1613789359, 0.1852688238, 0.9809256412, 0.0, 0.4796067269, 0.1079173407],
    "B5": [0.0060587555, 0.0020617215, 0.9702114625, -0.0037438457, 0.3827399205, 0.1036187407],
    "B6": [0.0278133111, 0.0072320760, 1.4254975576, -0.0055069138, 0.3285853487, 0.0926682387],
    "B7": [0.0080046043, 0.0025727860, 1.0495922974, -0.0074300144, 0.7421255072, 0.1291334691],
    "B8": [0.0149568814, 0.0058575252, 1.1071690673, -0.0049422059, 0.4849583720, 0.0794018310],
}


def agree(found, printed):
    """Up to the printed decimals and the working tolerance of both programs."""
    found, printed = np.asarray(found), np.asarray(printed)
    np.testing.assert_array_less(np.abs(found - printed), 1e-10 + 1e-9 * np.abs(printed))


@pytest.mark.parametrize("name", LOSSES)
def test_printed_numbers(name):
    limit, training, test, train = LOSSES[name]
    found = dc.solve(limit, None, training, save="all")
    printed = [0, 1, 2, 5, 19]
    agree(2 * found.test_loss[printed], test)
    agree(2 * found.train_loss[printed], train)
    agree(
        [
            found.kernel("Cv", t=19, s=19),
            found.kernel("H", limit.depth, 19, 19),
            found.kernel("G", 1, 19, 19),
            found.response("RD")[19, 0],
            found.response("A", 1)[19, 18],
            found.response("B", 0)[19, 0],
        ],
        KERNELS[name],
    )
    assert found.diagnostics["residual"] < 1e-13
    np.testing.assert_array_equal(found.kernel("Cp").diagonal(), 2 * found.test_loss)
    np.testing.assert_array_equal(found.kernel("CD").diagonal(), 2 * found.train_loss)


# -- a solver of its own ----------------------------------------------------------------------


def sweeps(limit, training):
    """The theory by sweeps over whole trajectories.

    The hidden layers are one Gaussian system of all fields h^1..h^L, g^1..g^L at all times, solved
    with a single dense inverse: no chain, no march, no recursion in depth or time. As everything is
    causal, the sweeps come to rest once each layer has passed on each time: exactly, whatever the
    learning rate.
    """
    n, depth = training.steps + 1, limit.depth
    fresh = isinstance(training, SGD)
    c, kap = optimizer_tables(GD(training.lr, training.steps) if fresh else training)
    kept, rates = limit.init_scale**2 * np.outer(c, c), np.tril(kap[:n, :n], -1)
    scale, nu, alpha = limit.output_scale, limit.width_ratio, limit.sample_ratio
    learned = rates * scale / np.sqrt(nu)
    eps = 1.0 if limit.branch_factor is None else limit.branch_factor
    skip = 0.0 if limit.branch_factor is None else 1.0
    modes = limit.modes
    mean = modes.weights @ modes.values
    one, zero, ones = np.eye(n), np.zeros((n, n)), np.ones((n, n))

    a = dict.fromkeys(range(depth + 1), zero)
    b = dict.fromkeys(range(depth + 1), zero)
    h = dict.fromkeys(range(depth + 1), zero)
    g = dict.fromkeys(range(1, depth + 1), zero) | {depth + 1: ones}
    rd, cd = one, zero
    for _ in range(2 * (depth + 1) * n):
        e = np.sqrt(nu) / scale * kept * b[0] + rates * g[1]
        cp, rp, x, y = zero, zero, zero, zero
        for lam, target, w in zip(modes.values, modes.target, modes.weights, strict=True):
            m = np.linalg.inv(one + lam * e @ rd)
            inner = target * ones + kept / scale**2 * g[1] + lam / alpha * e @ cd @ e.T
            cb = m @ inner @ m.T
            cp, y = cp + w * lam * cb, y + w * lam**2 * cb
            rp, x = rp - w * lam * m @ e, x + w * lam**2 * m @ e
        noisy = cp + limit.noise**2 * ones
        rd = one if fresh else np.linalg.inv(one - rp / alpha)
        cd = np.diag(np.diag(noisy)) if fresh else rd @ noisy @ rd.T
        cross = rd @ x @ cd
        h[0] = mean / alpha * cd + rd @ y @ rd.T - (cross + cross.T) / alpha
        a[0] = -rd @ (mean * one - x @ rd) / (scale * np.sqrt(nu))

        # fields = noise + coupling fields, ordered h^1..h^L, g^1..g^L
        coupling, noise = np.zeros((2, 2 * depth * n, 2 * depth * n))

        def at(kind, layer, n=n, depth=depth):
            begin = ((kind == "g") * depth + layer - 1) * n
            return slice(begin, begin + n)

        for layer in range(1, depth + 1):
            below = eps if layer > 1 else 1.0
            above = eps if layer < depth else 1.0
            hl, gl = at("h", layer), at("g", layer)
            coupling[hl, gl] = below * kept * a[layer - 1] + below**2 * learned * h[layer - 1]
            coupling[gl, hl] = above * kept * b[layer] + above**2 * learned * g[layer + 1]
            noise[hl, hl] = below**2 * kept * h[layer - 1]
            noise[gl, gl] = above**2 * kept * g[layer + 1]
            if layer > 1:
                coupling[hl, at("h", layer - 1)] += skip * one
            if layer < depth:
                coupling[gl, at("g", layer + 1)] += skip * one
        response = np.linalg.inv(np.eye(len(coupling)) - coupling)
        covariance = response @ noise @ response.T
        for layer in range(1, depth + 1):
            hl, gl = at("h", layer), at("g", layer)
            h[layer], g[layer] = covariance[hl, hl], covariance[gl, gl]
            a[layer] = (eps if layer < depth else 1.0) * response[hl, gl]
            b[layer - 1] = (eps if layer > 1 else 1.0) * response[gl, hl]
    return {"Cp": cp, "CD": cd, "Cv": h[0], "RD": rd, "H": h, "G": g, "A": a, "B": b}


HEAVY = GD(np.linspace(0.03, 0.05, 7), 7, momentum=0.4, weight_decay=0.3)
REFEREED = {
    "plain": (Net(3, 0.7, 1.3, gamma=1.4, noise=0.4, init_scale=0.9, spectrum=TWO), GD(0.06, 7)),
    "one layer, memory": (Net(1, 0.7, 0.6, gamma=1.4, noise=0.4, spectrum=TWO), HEAVY),
    "memory": (Net(2, 0.7, 1.3, noise=0.4, init_scale=1.1, parameterization="ntk"), HEAVY),
    "blocks, memory": (Net(3, 0.7, 1.3, noise=0.4, spectrum=TWO, branch_scale=0.8), HEAVY),
    "blocks, fresh": (Net(4, 2, 1.3, gamma=0.8, branch_scale=1.2), SGD(0.05, 7)),
    "fresh, schedule": (Net(2, 2, 1.3, spectrum=TWO), SGD(np.geomspace(0.1, 0.02, 7), 7)),
    "many modes": (Net(2, 0.7, 1.3, noise=0.4, spectrum=FORTY), HEAVY),
}


@pytest.mark.parametrize("name", REFEREED)
def test_against_sweeps_over_whole_trajectories(name):
    limit, training = REFEREED[name]
    found, wanted = dc.solve(limit, None, training, save="all"), sweeps(limit, training)
    layers = range(1, limit.depth + 1)
    pairs = [(found.kernel(k), wanted[k]) for k in ("Cp", "CD", "Cv")]
    pairs += [(found.response("RD"), wanted["RD"])]
    pairs += [(found.kernel(k, layer), wanted[k][layer]) for k in "HG" for layer in layers]
    pairs += [(found.response("A", layer), wanted["A"][layer]) for layer in layers]
    pairs += [(found.response("B", layer - 1), wanted["B"][layer - 1]) for layer in layers]
    for one, other in pairs:
        # Rounding, after some hundred inverses of order one.
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * max(1, np.abs(other).max()))
    assert found.diagnostics["residual"] < 1e-13


# -- limits and identities --------------------------------------------------------------------

MEMORY = {
    "plain": GD(0.05, 12),
    "memory": GD(np.linspace(0.05, 0.03, 12), 12, momentum=0.5, weight_decay=0.2),
}


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("branch_scale", [None, 0.9])
def test_many_samples_and_neurons_are_a_single_pattern(branch_scale, memory):
    """For nu, alpha -> infinity nothing fluctuates: the network sees its target alone."""
    common = {"gamma": 1.3, "init_scale": 0.9, "branch_scale": branch_scale}
    point = dc.Dataset(gram=[[1.0]], targets=[1.0])
    wanted = dc.solve(dc.DeepLinear(3, **common), point, MEMORY[memory], method="chain").train_loss

    def error(ratio):
        limit = Net(3, ratio, ratio, **common)
        return np.abs(dc.solve(limit, None, MEMORY[memory]).test_loss - wanted).max()

    errors = [error(1e4), error(1e6)]
    assert errors[1] < 1e-5
    # It falls as 1 / nu; the next order is of relative size 1e-4.
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize("name", ["B3", "B6", "B7"])
def test_gradient_and_features_overlap_alike_in_every_layer(name):
    limit, training, *_ = LOSSES[name]
    system = ProportionalMarch(limit, training)
    system.advance(np.arange(20))
    row = (slice(19, 20), slice(20))
    h, a = (np.ascontiguousarray(system._data.histories[k][row]) for k in ("Cv", "A0"))
    rows = system.chain.lift(h, 19, a)
    # (Q + Z G)(t,t) = <h^l(t) g^l(t)>
    overlaps = [factors[1][0][0, 19] for factors in rows.layers]
    np.testing.assert_allclose(overlaps, overlaps[0], rtol=1e-12)


@pytest.mark.parametrize("branch_scale", [None, 1.3])
@pytest.mark.parametrize("parameterization", ["mup", "ntk"])
def test_initial_loss(branch_scale, parameterization):
    """sum_k w_k lambda_k beta2_k + lbar F / kap^2, F the growth of the weights through the net."""
    limit = Net(
        3, 0.6, 1.7, gamma=1.2, init_scale=0.8, spectrum=TWO, branch_scale=branch_scale,
        parameterization=parameterization,
    )  # fmt: skip
    s2 = 0.8**2
    growth = s2**4 if branch_scale is None else s2**2 * (1 + 1.3**2 / 2 * s2) ** 2
    kap2 = 1.2**2 * (0.6 if parameterization == "mup" else 1)
    wanted = 0.75 * 0.5 * 1 + 0.25 * 2 * 2 + (0.75 * 0.5 + 0.25 * 2) * growth / kap2
    found = dc.solve(limit, None, GD(0.1, 0))
    assert 2 * found.test_loss[0] == pytest.approx(wanted, rel=1e-14)
    assert found.overlap[0] == 0


@pytest.mark.parametrize("depth", [1, 3])
def test_lazy_limit_is_ridgeless_regression(depth):
    """Gradient descent on a linear model, by integrals over the Marchenko-Pastur law."""
    alpha, noise, lr, sigma, steps = 2.0, 0.5, 0.05, 0.9, 30
    limit = Net(depth, 1e24, alpha, gamma=1e-6, noise=noise, init_scale=sigma)
    found = dc.solve(limit, None, GD(lr, steps))

    # x = center + radius cos(angle): density sqrt((x+ - x)(x - x-)) alpha / (2 pi x).
    center, radius = 1 + 1 / alpha, 2 / np.sqrt(alpha)
    angles = np.pi * np.arange(1, 400) / 400
    x = center + radius * np.cos(angles)
    weights = alpha * radius**2 * np.sin(angles) ** 2 / (2 * x * 400)
    assert weights.sum() == pytest.approx(1, abs=1e-13)
    left = (1 - lr * (depth + 1) * sigma ** (2 * depth) * x) ** np.arange(steps + 1)[:, None]
    # Neither 1 / kap^2 nor gamma^2 exceeds 1e-12.
    population = (left**2 + noise**2 / alpha * (1 - left) ** 2 / x) @ weights
    np.testing.assert_allclose(2 * found.test_loss, population, rtol=1e-9)
    np.testing.assert_allclose(found.overlap, (1 - left) @ weights, rtol=0, atol=1e-9)


def test_infinite_depth_is_the_limit_of_finite_depth():
    """By extrapolation in 1 / blocks."""
    training = GD(0.02, 12)

    def at(depth):
        limit = Net(depth, 1.0, 2.0, gamma=0.8, noise=0.3, branch_scale=1.0)
        found = dc.solve(limit, None, training, save=("Cv", "RD"))
        curves = (found.test_loss, found.train_loss, found.overlap)
        return np.concatenate([*curves, found.kernel("Cv").ravel(), found.response("RD").ravel()])

    coarse, middle, fine = (at(blocks + 1) for blocks in (16, 32, 64))
    first, second = 2 * middle - coarse, 2 * fine - middle
    third = (4 * second - first) / 3
    # What is left of the third order, in units of the second: about 1 / 64.
    assert np.abs(at(dc.INFINITE) - third).max() < 0.1 * np.abs(second - first).max()


def test_infinite_depth_reports_what_it_is_worth():
    limit = Net(dc.INFINITE, 1.0, 2.0, noise=0.3, branch_scale=1.0)
    found = dc.solve(limit, None, GD(0.02, 10), save="all")
    # exp(1) from the blocks, at the start.
    assert 2 * found.test_loss[0] == pytest.approx(1 + np.e, rel=1e-6)
    assert found.diagnostics["residual"] < 1e-11
    assert 0 < found.diagnostics["depth_error"] < 1e-5
    nodes = len(found.diagnostics["depth_nodes"])
    assert found.kernel("H").shape == found.response("A").shape == (nodes, 11, 11)


def trained(limit, training, dimension, rng):
    """Cp(t,t), CD(t,t) and the overlap of one finite network, (steps + 1, 3)."""
    kap, eps = limit.output_scale, limit.branch_factor or 1.0
    skip = limit.branch_factor is not None
    width, samples = (int(r * dimension) for r in (limit.width_ratio, limit.sample_ratio))
    target = rng.choice([-1.0, 1.0], dimension)
    inputs = rng.normal(size=(samples, dimension))
    labels = inputs @ target / np.sqrt(dimension) + limit.noise * rng.normal(size=samples)
    shapes = [(width, dimension), *[(width, width)] * (limit.depth - 1), (1, width)]
    weights = [limit.init_scale * rng.normal(size=shape) for shape in shapes]
    velocities, curve = [np.zeros(shape) for shape in shapes], []
    for rate in [*training.rates, 0.0]:
        gradients = [weights[-1][0]]
        for w in weights[-2:0:-1]:
            g = gradients[0]
            gradients.insert(0, skip * g + eps * w.T @ g / np.sqrt(width))
        predictor = weights[0].T @ gradients[0] / (kap * np.sqrt(width))
        errors = labels - inputs @ predictor / np.sqrt(dimension)
        curve.append([np.mean((target - predictor) ** 2), errors @ errors / samples])
        curve[-1].append(predictor @ target / dimension)
        v = np.sqrt(dimension) / samples * inputs.T @ errors
        features = [weights[0] @ v / np.sqrt(dimension)]
        for w in weights[1:-1]:
            features.append(skip * features[-1] + eps * w @ features[-1] / np.sqrt(width))
        # D kap^2 times the negative gradient of the loss.
        drifts = [np.outer(gradients[0], v) * kap / np.sqrt(width)]
        drifts += [
            np.outer(g, h) * eps * kap * np.sqrt(dimension) / width
            for g, h in zip(gradients[1:], features[:-1], strict=True)
        ]
        drifts.append(features[-1][None] * kap * np.sqrt(dimension / width))
        for w, velocity, drift in zip(weights, velocities, drifts, strict=True):
            velocity *= training.momentum
            velocity += drift - training.weight_decay * w
            w += rate * velocity
    return np.array(curve)


@pytest.mark.parametrize("branch_scale", [None, 1.0])
def test_networks_with_momentum_and_weight_decay(branch_scale):
    """Trained networks: what no table covers, within their standard errors."""
    training = GD(np.linspace(0.06, 0.04, 15), 15, momentum=0.5, weight_decay=0.3)
    limit = Net(3, 0.5, 2, gamma=1.2, noise=0.3, init_scale=0.9, branch_scale=branch_scale)
    theory = dc.solve(limit, None, training)
    wanted = np.stack([2 * theory.test_loss, 2 * theory.train_loss, theory.overlap], axis=1)
    rng = np.random.default_rng(0)
    runs = np.array([trained(limit, training, 200, rng) for _ in range(40)])
    error = runs.std(axis=0, ddof=1) / np.sqrt(len(runs))
    # 48 correlated numbers; the finite-size bias at D = 200 is below one standard error.
    assert np.all(np.abs(runs.mean(axis=0) - wanted) < 4 * error + 1e-12)
    # Sharp enough to tell: half the weight decay would be seen.
    other = dc.solve(limit, None, dataclasses.replace(training, weight_decay=0.15))
    assert np.abs(2 * other.overlap[-1] - 2 * wanted[-1, 2]) > 8 * error[-1, 2]


# -- stability --------------------------------------------------------------------------------


def test_bound_is_the_edge_of_the_sample_covariance():
    isotropic = Net(2, 1, 0.7, init_scale=0.9)
    edge = (1 + 0.7**-0.5) ** 2
    assert stability_bound(isotropic, GD(0.1, 1)) == pytest.approx(2 / (3 * 0.9**4 * edge))
    heavy = stability_bound(isotropic, GD(0.1, 1, momentum=0.5, weight_decay=0.2))
    assert heavy == pytest.approx(3 / (3 * 0.9**4 * edge + 0.2))
    rng = np.random.default_rng(0)
    values = np.repeat(TWO.values, [900, 300])
    inputs = np.sqrt(values) * rng.normal(size=(2400, 1200))
    top = np.linalg.eigvalsh(inputs.T @ inputs / 2400)[-1]
    # Fluctuations of the largest eigenvalue are of the order D^(-2/3) = 0.9 %.
    bound = stability_bound(Net(1, 1, 2, spectrum=TWO), GD(0.1, 1))
    assert bound == pytest.approx(2 / (2 * top), rel=0.03)


@pytest.mark.parametrize("alpha", [0.4, 3.0])
def test_bound_of_fresh_samples_separates_decay_from_growth(alpha):
    limit = Net(1, 1e24, alpha, gamma=1e-6, spectrum=TWO)
    bound = stability_bound(limit, SGD(0.1, 1))
    decaying = dc.solve(limit, None, SGD(0.95 * bound, 60)).test_loss
    with pytest.warns(dc.StabilityWarning, match="largest stable rate"):
        growing = dc.solve(limit, None, SGD(1.05 * bound, 60)).test_loss
    assert decaying[-1] < decaying[-2] < decaying[-10]
    assert growing[-1] > growing[-2] > growing[-10]


def test_divergence_keeps_what_is_solved():
    limit, lr = Net(2, 1, 1.5, noise=0.2), 0.9
    with (
        pytest.warns(dc.StabilityWarning),
        pytest.raises(dc.DivergenceError, match="lower lr") as caught,
    ):
        dc.solve(limit, None, GD(lr, 60), save="all")
    partial, step = caught.value.partial, caught.value.step
    assert len(partial.times) == step > 2
    assert np.isfinite(partial.test_loss).all()
    with pytest.warns(dc.StabilityWarning):
        known = dc.solve(limit, None, GD(lr, step - 1), save="all")
    np.testing.assert_array_equal(partial.train_loss, known.train_loss)
    np.testing.assert_array_equal(partial.kernel("H"), known.kernel("H"))


@pytest.mark.parametrize("spectrum", [None, dc.PowerLaw(1.2, 1.4, 20)], ids=["few", "many"])
def test_divergence_is_found_at_its_step(spectrum):
    """Also where the steps up to the next stored one are done at once; both engines agree."""
    limit = Net(2, 1, 1.5, noise=0.2, spectrum=spectrum)
    rate = 4 * stability_bound(limit, GD(1.0, 1))
    found = []
    for options in ({}, {"times": [0, 300]}, {"times": [0, 300], "method": "growing"}):
        with pytest.warns(dc.StabilityWarning), pytest.raises(dc.DivergenceError) as caught:
            dc.solve(limit, None, GD(rate, 300), kernel_times=[], **options)
        found.append((caught.value.step, caught.value.partial.train_loss[0]))
    assert found[0][0] > 2
    assert {step for step, _ in found} == {found[0][0]}
    np.testing.assert_allclose([loss for _, loss in found], found[0][1], rtol=1e-12)


def test_a_divergence_that_rounding_may_have_made_names_the_other_engine():
    limit = Net(2, 1, 2, gamma=4, noise=0.2)
    rate = 0.7 * stability_bound(limit, GD(1.0, 1))
    with pytest.raises(dc.DivergenceError, match="try method='growing'"):
        dc.solve(limit, None, GD(rate, 60), kernel_times=[])
    # What has no other engine, and what is beyond the bound, is told to lower lr alone.
    with pytest.raises(dc.DivergenceError, match=r"lower lr$"):
        dc.solve(limit, None, GD(rate, 60), kernel_times=[], save="RD")
    with pytest.warns(dc.StabilityWarning), pytest.raises(dc.DivergenceError, match=r"lower lr$"):
        dc.solve(limit, None, GD(2 * rate, 60), kernel_times=[])


def test_the_error_of_the_chain_is_that_of_rounding(monkeypatch):
    """Learning is unstable for a while here; another order of the same sums shows by how much."""
    modes = 100
    spectrum = dc.Spectrum(np.linspace(1, 300, modes) ** -0.5, np.ones(modes))
    limit = Net(3, 1, 0.5, gamma=2, noise=0.1, spectrum=spectrum)
    options = {"kernel_times": [], "method": "chain"}
    early, late = (
        dc.solve(limit, None, GD(0.2, steps), estimate_error=True, **options) for steps in (20, 80)
    )
    assert early.diagnostics["error_estimate"]["train_loss"] < 1e-12
    estimate = late.diagnostics["error_estimate"]["train_loss"]
    monkeypatch.setattr("dmftcore.random_data.BLOCK", 1000)
    other = dc.solve(limit, None, GD(0.2, 80), **options)
    error = np.abs(other.train_loss / late.train_loss - 1).max()
    # The residual, of whole matrices, knows nothing of it.
    assert late.diagnostics["residual"] < 1e-11 < error
    assert error / 30 < estimate < 30 * error


# -- behaviour --------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "branch_scale"), [(3, None), (3, 1.0), (dc.INFINITE, 1.0)])
def test_an_extended_run_is_the_run(tmp_path, depth, branch_scale):
    limit = Net(depth, 1, 1.5, noise=0.2, spectrum=TWO, branch_scale=branch_scale)
    whole = dc.solve(limit, None, GD(0.05, 30), save="all")
    path = tmp_path / "run.npz"
    dc.solve(limit, None, GD(0.05, 13), save="all", checkpoint=path)
    resumed = dc.solve(limit, None, GD(0.05, 30), save="all", checkpoint=path)
    assert resumed.diagnostics["resumed_from"] == [13]
    for name in ("train_loss", "test_loss", "overlap"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    for name in ("Cp", "CD", "Cv", "H", "G"):
        np.testing.assert_array_equal(resumed.kernel(name), whole.kernel(name))
    for name in ("RD", "A", "B"):
        np.testing.assert_array_equal(resumed.response(name), whole.response(name))
    other = dataclasses.replace(limit, noise=0.3)
    with pytest.raises(ValueError, match="noise"):
        dc.solve(other, None, GD(0.05, 30), save="all", checkpoint=path)


def test_stored_times_and_kernels():
    limit, training = Net(2, 1, 1.5), GD(0.1, 20)
    whole = dc.solve(limit, None, training, save="all")
    seen = []
    some = dc.solve(
        limit, None, training, times=[0, 7, 20], kernel_times=[3, 7], save=("H", "A"),
        progress=lambda step, loss: seen.append((step, loss)),
    )  # fmt: skip
    np.testing.assert_array_equal(some.test_loss, whole.test_loss[[0, 7, 20]])
    chosen = np.ix_([0, 1], [3, 7], [3, 7])
    np.testing.assert_array_equal(some.kernel("H"), whole.kernel("H")[chosen])
    np.testing.assert_array_equal(some.response("A"), whole.response("A")[chosen])
    assert some.kernel("Cv", t=7, s=7) == whole.kernel("Cv", t=7, s=7)
    with pytest.raises(KeyError, match="'Cv' was not saved"):
        some.kernel("Cv")
    assert seen[-1] == (20, whole.train_loss[-1])
    assert some.outputs is some.errors is some.ntk is None


def test_file_of_a_solution(tmp_path):
    pytest.importorskip("h5netcdf")
    solution = dc.solve(Net(2, 1, 1.5), None, SGD(0.1, 5), save=("H", "Cp", "RD"))
    solution.save(tmp_path / "x.nc")
    loaded = dc.Solution.load(tmp_path / "x.nc")
    for read in (
        lambda s: s.overlap,
        lambda s: s.test_loss,
        lambda s: s.kernel("H"),
        lambda s: s.kernel("H", 2, 3, 3),
        lambda s: s.kernel("Cp"),
        lambda s: s.kernel("CD", t=2, s=2),
        lambda s: s.response("RD"),
    ):
        np.testing.assert_array_equal(read(loaded), read(solution))
    assert loaded.outputs is None


def test_a_picture_of_random_data():
    pytest.importorskip("matplotlib")
    figure = dc.solve(Net(2, 1, 1.5), None, GD(0.1, 5), save=("H", "Cp")).plot()
    titles = [ax.get_title() for row in figure.subfigs for ax in row.axes]
    assert any("Cp(t, s)" in title for title in titles)
    assert any("H^{2}(t, s)" in title for title in titles)


def test_a_file_without_data(tmp_path):
    """The command line solves what has no [data]."""
    typer = pytest.importorskip("typer.testing")
    pytest.importorskip("h5netcdf")
    from dmftcore._commands import app

    path, output = tmp_path / "run.toml", tmp_path / "run.nc"
    path.write_text(
        '[limit]\ntype = "ProportionalLinear"\ndepth = 2\nwidth_ratio = 1\nsample_ratio = 2\n'
        'spectrum = {type = "PowerLaw", b = 0.5, a = 0.9, modes = 5}\n'
        '[training]\ntype = "OnlineSGD"\nlr = 0.1\nsteps = 4\n'
    )
    result = typer.CliRunner().invoke(app, ["solve", str(path), "-o", str(output)])
    assert result.exit_code == 0, result.output
    limit = Net(2, 1, 2, spectrum=dc.PowerLaw(0.5, 0.9, 5))
    wanted = dc.solve(limit, None, SGD(0.1, 4)).test_loss
    np.testing.assert_array_equal(dc.Solution.load(output, group="theory").test_loss, wanted)


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"width_ratio": 0}, ValueError, "width_ratio must be a number > 0"),
        ({"sample_ratio": -1}, ValueError, "sample_ratio must be a number > 0"),
        ({"gamma": 0}, ValueError, "gamma must be a number > 0"),
        ({"noise": -0.1}, ValueError, "noise must be a number >= 0"),
        ({"init_scale": np.nan}, ValueError, "init_scale must be a number > 0"),
        ({"depth": 0}, ValueError, "depth must be an integer >= 1"),
        ({"depth": 1, "branch_scale": 1.0}, ValueError, "depth must be an integer >= 2"),
        ({"depth": dc.INFINITE}, ValueError, "pass branch_scale"),
        ({"parameterization": "sp"}, ValueError, "parameterization must be one of 'mup', 'ntk'"),
        ({"spectrum": [1.0]}, TypeError, "spectrum must be a Spectrum or a PowerLaw"),
    ],
)
def test_wrong_limits_are_refused(fields, error, text):
    with pytest.raises(error, match=text):
        Net(**{"depth": 2, "width_ratio": 1, "sample_ratio": 1, **fields})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"target": [1.0]}, "target has 1 modes, but values has 2"),
        ({"values": [1.0, -1.0]}, r"values must be >= 0, found -1 at 1"),
        ({"target": [-1.0, 1.0]}, "target must be >= 0"),
        ({"values": [0.0, 0.0]}, "values are all zero"),
        ({"weights": [0.5, 0.6]}, r"weights must sum to 1, not 1\.1"),
        ({"weights": [1.0, 0.0]}, "weights must be > 0"),
        ({"weights": [0.5, 0.5], "multiplicities": [1, 1]}, "not both"),
        ({"values": [1.0, np.inf]}, "non-finite value"),
    ],
)
def test_wrong_spectra_are_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        dc.Spectrum(**{"values": [1.0, 2.0], "target": [1.0, 1.0], **arguments})


def test_groups_of_directions_are_parts_of_all():
    """A grouped power law is the power law, up to the error of the groups."""
    law = dc.PowerLaw(1.2, 1.4, 400)
    whole, fine, coarse = (
        dc.solve(Net(1, 1, 1.5, spectrum=spectrum), None, GD(0.5, 20), kernel_times=[])
        for spectrum in (law, law.grouped(exact=60, per=40), law.grouped(exact=60, per=4))
    )
    for name in ("test_loss", "train_loss", "overlap"):
        errors = [
            np.abs(getattr(one, name)[1:] / getattr(whole, name)[1:] - 1).max()
            for one in (fine, coarse)
        ]
        # Of second order in the width of the groups: 16 times as small, or half of it.
        assert errors[0] < errors[1] / 8 < 1e-3


def test_spectra():
    law = dc.PowerLaw(1.5, 1.75, 4)
    k = np.arange(1, 5)
    np.testing.assert_allclose(law.values, k**-1.5)
    np.testing.assert_allclose(law.values * law.target, k**-1.75)
    same = Net(1, 1, 1, spectrum=dc.Spectrum(law.values, law.target, weights=[0.25] * 4))
    assert Net(1, 1, 1, spectrum=law).modes == same.modes
    assert dc.Spectrum([0.5, 2], [1, 2], weights=[0.75, 0.25]) == TWO
    assert hash(TWO) == hash(dc.Spectrum([0.5, 2], [1, 2], weights=[0.75, 0.25]))
    assert dc.Spectrum([1.0], [1.0]) != dc.Spectrum([1.0], [1.0], weights=[1.0])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((Net(1, 1, 1), np.eye(2), GD(0.1, 2)), TypeError, "data must be None"),
        (
            (Net(1, 1, 1), None, dc.GradientFlow([1.0])),
            TypeError,
            "GradientDescent or an OnlineSGD",
        ),
        ((Net(1, 1, 1), None, SGD(0.1, 2, batch=3)), ValueError, "leave batch out"),
        (
            (dc.DeepLinear(1), dc.Dataset(gram=[[1.0]], targets=[1.0]), SGD(0.1, 2)),
            TypeError,
            "an OnlineSGD needs random data",
        ),
    ],
)
def test_wrong_nouns_are_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        dc.solve(*arguments)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tol": 1e-8, "method": "chain"}, "truncates nothing"),
        ({"method": "stiff"}, "method must be one of 'growing', 'chain'"),
        ({"save": "AG"}, "save must be one of 'Cp'"),
    ],
)
def test_wrong_options_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        dc.solve(Net(1, 1, 1), None, GD(0.1, 2), **options)
