"""The growing network with residual blocks, momentum, weight decay and schedules.

Against numbers printed to ten digits by independent prototypes, against a referee that writes every
matrix out, and against itself where it may not differ.
"""

import numpy as np
import pytest

import dmftcore as dc
from dmftcore import _core
from dmftcore.growing.interfaces import GrowingNetwork
from dmftcore.modes import LinearProblem
from referees import optimizer_tables

# -- residual networks: reference tables ------------------------------------------------------

PAIR = dc.Dataset(gram=[[1.0, 0.3], [0.3, 0.8]], targets=[1.0, -0.5])


def agree(found, printed, tolerance=1e-9):
    np.testing.assert_allclose(found, printed, rtol=0, atol=tolerance)


def test_residual_reference_table():
    """Three blocks, lr = 0.2, five steps: all printed digits."""
    limit = dc.DeepLinear(4, branch_scale=1.0)
    solution = dc.solve(limit, PAIR, dc.GradientDescent(0.2, 5), save=("H", "G"))
    assert solution.diagnostics["engine"] == "growing"
    agree(
        solution.outputs,
        [[0, 0], [0.5540740741, -0.0651851852], [0.7948301262, -0.2207619215],
         [0.9133806588, -0.3553689098], [0.9655454062, -0.4372662264],
         [0.9869544681, -0.4755674115]],
    )  # fmt: skip
    agree(
        solution.train_loss,
        [0.3125, 9.6978463649e-02, 3.0017145399e-02, 7.1052656303e-03, 1.2806613449e-03,
         1.9178432173e-04],
        1e-11,
    )  # fmt: skip
    agree(
        solution.sharpness,
        [3.9640016078, 4.2504222784, 4.8055068880, 5.1999938809, 5.4152588615, 5.5133223886],
    )
    agree(solution.ntk[0], [[6.5185185185, 1.9555555556], [1.9555555556, 5.2148148148]])
    agree(solution.ntk[5], [[9.9898779066, 1.9598053739], [1.9598053739, 7.3220153058]])
    agree(
        solution.kernel("H", 4, 5, 5),
        [[3.2333870887, 0.2479263226], [0.2479263226, 2.1165771129]],
    )
    agree(
        solution.kernel("H", 4, 5, 0),
        [[2.5075293478, 0.6824099478], [0.5622307202, 1.9346129978]],
    )
    agree(solution.kernel("G", 1, 5, 5), 4.0397078268)


def test_one_residual_block():
    solution = dc.solve(dc.DeepLinear(2, branch_scale=1.0), PAIR, dc.GradientDescent(0.2, 5))
    agree(solution.outputs[1], [0.425, -0.05])
    agree(solution.outputs[5], [0.9414857451, -0.4048960898])


def test_the_scale_of_a_branch_counts_blocks_or_not():
    """beta_0 = 1/2 without depth scaling is beta_0 = 1 with it at four blocks."""
    training = dc.GradientDescent(0.2, 5)
    sqrt = dc.solve(dc.DeepLinear(5, branch_scale=1.0), PAIR, training)
    none = dc.solve(dc.DeepLinear(5, branch_scale=0.5, branch="none"), PAIR, training)
    np.testing.assert_array_equal(sqrt.outputs, none.outputs)


def test_residual_start():
    """t = 0: H^l = s q^{l-1} Kx, G^l = s q^{L-l}, q = 1 + b^2 s, and their tangent kernel."""
    limit = dc.DeepLinear(4, init_scale=0.9, branch_scale=0.8)
    solution = dc.solve(limit, PAIR, dc.GradientDescent(0.1, 0))
    s = 0.9**2
    q = 1 + 0.8**2 / 3 * s
    for layer in range(1, 5):
        agree(solution.kernel("H", layer, 0, 0), s * q ** (layer - 1) * PAIR.gram, 1e-14)
        agree(solution.kernel("G", layer, 0, 0), s * q ** (4 - layer), 1e-14)
    agree(solution.ntk[0], limit.initial_tangent_scale * PAIR.gram, 1e-13)


# -- momentum and weight decay: reference tables ----------------------------------------------


def test_momentum_and_decay_reference_table():
    """Three layers, lr = 0.15, lambda = 0.05, m = 0.4, the third point a test point."""
    gram = [[1, 0.2, -0.1], [0.2, 0.8, 0.3], [-0.1, 0.3, 1.2]]
    data = dc.Dataset(full_gram=gram, targets=[1.0, -1.0])
    training = dc.GradientDescent(0.15, 10, weight_decay=0.05, momentum=0.4)
    solution = dc.solve(dc.DeepLinear(3), data, training, save=("H", "G"))
    agree(solution.train_loss[[1, 5, 10]], [0.3161959467, 0.0007835473, 0.0020696039], 1e-10)
    agree(solution.outputs[10], [0.9426514803, -0.9293631614], 1e-10)
    agree(solution.test_outputs[10], [-0.5649571301], 1e-10)
    agree(solution.kernel("H", 3, 10, 10)[0, 0], 1.3406034414, 1e-10)
    agree(solution.kernel("G", 1, 10, 10), 2.9172144773, 1e-10)
    agree(solution.kernel("G", 1, 0, 10), 1.0670287548, 1e-10)


def problem_of(limit, data, training, loss_limit=1e99):
    return LinearProblem(
        data, depth=limit.depth, gamma=limit.gamma, init_scale=limit.init_scale,
        branch=limit.branch_factor, training=training, follow_ntk=limit.readout == "ntk",
        loss_limit=loss_limit,
    )  # fmt: skip


@pytest.mark.parametrize("blocks", [{}, {"branch_scale": 1.0}])
def test_initial_weights_decay_as_printed(blocks):
    """c(t) for lr = 0.1, lambda = 0.5, m = 0.9."""
    training = dc.GradientDescent(0.1, 4, weight_decay=0.5, momentum=0.9)
    march = GrowingNetwork(problem_of(dc.DeepLinear(3, **blocks), PAIR, training), 1e-13)
    found = []
    for step in range(5):
        march.advance(np.array([step]))
        found.append(march.snapshot().initial_weight)
    agree(found, [1, 0.95, 0.8575, 0.731375, 0.58129375], 1e-15)


def test_the_stationary_point_is_a_kernel_predictor():
    """Training with decay rests where f = K (K + lambda (L + 1) P)^{-1} y, K the tangent kernel.

    Every weight matrix is a homogeneous factor of degree one of f.
    """
    training = dc.GradientDescent(0.1, 6000, weight_decay=0.05, momentum=0.5)
    limit = dc.DeepLinear(2, gamma=1.2)
    solution = dc.solve(limit, PAIR, training, kernel_times=[6000])
    k = solution.ntk[0]
    expected = k @ np.linalg.solve(k + 0.05 * 3 * 2 * np.eye(2), PAIR.targets)
    np.testing.assert_allclose(solution.outputs[-1], expected, rtol=1e-7)


# -- the referee: every matrix written out ----------------------------------------------------


class Explicit:
    """The infinite network in one coordinate space of all layers, with full matrices.

    W^0 (n, r), W^1..W^{L-1} (n, n), w (n, K), and velocities of the same shapes; a new direction q
    of W^l appends an axis with the row c sigma q^T, or the column c sigma q. All loops are plain.
    """

    def __init__(self, limit, data, training):
        self.limit, self.training, self.data = limit, training, data
        values, vectors = np.linalg.eigh(data.kernel[: data.n_train, : data.n_train])
        self.x = vectors * np.sqrt(values)  # training points as rows
        inside = data.kernel[:, : data.n_train] @ vectors / np.sqrt(values)
        self.points = inside
        self.y = data.targets.reshape(data.n_train, -1)
        r, k = len(values), self.y.shape[1]
        s, self.b = limit.init_scale, limit.branch_factor
        self.weights = [np.zeros((k, r))]
        self.weights += [np.zeros((k, k)) for _ in range(limit.depth - 1)]
        self.weights.append(s * np.eye(k))
        self.velocity = [np.zeros_like(w) for w in self.weights]
        self.forward = [np.zeros((0, r))] + [np.zeros((0, k)) for _ in range(limit.depth - 1)]
        self.backward = [np.zeros((0, k)) for _ in range(limit.depth)]
        self.c, self.c_velocity = 1.0, 0.0

    def append_axis(self):
        last = self.limit.depth
        for arrays in (self.weights, self.velocity):
            for i, w in enumerate(arrays):
                arrays[i] = np.pad(w, ((0, 1), (0, 1 if 0 < i < last else 0)))
        self.forward[1:] = [np.pad(q, ((0, 0), (0, 1))) for q in self.forward[1:]]
        self.backward[1:] = [np.pad(q, ((0, 0), (0, 1))) for q in self.backward[1:]]

    def visit(self, link, vector, bases, is_row):
        for _ in range(2):
            rest = vector - bases[link].T @ (bases[link] @ vector)
            rest -= bases[link].T @ (bases[link] @ rest)
        size = np.linalg.norm(rest)
        if size <= 1e-13 * np.linalg.norm(vector):
            return
        bases[link] = np.vstack([bases[link], rest / size])
        self.append_axis()
        q = bases[link][-1]
        for arrays, factor in ((self.weights, self.c), (self.velocity, self.c_velocity)):
            line = factor * self.limit.init_scale * q
            if is_row:
                arrays[link][-1] = line
            else:
                arrays[link][:, -1] = line

    def size(self):
        return len(self.weights[-1])

    def widened(self, rows):
        return np.pad(rows, ((0, 0), (0, self.size() - rows.shape[1])))

    def through(self, link, rows, transposed=False):
        w = self.weights[link] if transposed else self.weights[link].T
        if link == 0 or self.b is None:
            return rows @ w
        return rows + self.b * rows @ w

    def step(self, t):
        """Outputs of all points at step t, then the update."""
        limit, depth = self.limit, self.limit.depth
        g = {depth: self.weights[depth].T}
        for link in range(depth - 1, 0, -1):
            for k in range(self.y.shape[1]):
                self.visit(link, self.widened(g[link + 1])[k], self.backward, False)
            g[link + 1] = self.widened(g[link + 1])
            g[link] = self.through(link, g[link + 1], transposed=True)
        predictor = self.widened(g[1]) @ self.weights[0] / limit.gamma
        errors = self.y - self.x @ predictor.T
        h = {0: errors.T @ self.x}
        for link in range(depth):
            for k in range(self.y.shape[1]):
                vector = h[link][k] if link == 0 else self.widened(h[link])[k]
                self.visit(link, vector, self.forward, True)
            h[link + 1] = self.through(link, h[link] if link == 0 else self.widened(h[link]))
        outputs = self.points @ predictor.T
        if t == self.training.steps:
            return outputs
        g[depth + 1] = np.eye(self.y.shape[1])
        scale = limit.gamma / len(self.y)
        lr, m = self.training.rates[t], self.training.momentum
        decay = self.training.weight_decay
        for i, w in enumerate(self.weights):
            left = self.widened(g[i + 1]) if i < depth else g[i + 1]
            right = h[i] if i == 0 else self.widened(h[i])
            factor = 1.0 if self.b is None or i in (0, depth) else self.b
            gradient = right.T @ left if i == depth else left.T @ right
            self.velocity[i] = m * self.velocity[i] + scale * factor * gradient - decay * w
            self.weights[i] = w + lr * self.velocity[i]
        self.c_velocity = m * self.c_velocity - decay * self.c
        self.c += lr * self.c_velocity
        return outputs


def explicit_outputs(limit, data, training):
    referee = Explicit(limit, data, training)
    return np.array([referee.step(t) for t in range(training.steps + 1)])


def data_of(outputs, test_points=1):
    rng = np.random.default_rng(outputs)
    x = rng.normal(size=(3 + test_points, 5)) / np.sqrt(3)
    return dc.Dataset(
        full_gram=x @ x.T, targets=rng.normal(size=(3, outputs)),
        test_targets=rng.normal(size=(test_points, outputs)) if test_points else None,
    )  # fmt: skip


FALLING = np.linspace(0.2, 0.02, 12)
TRAININGS = {
    "plain": dc.GradientDescent(0.1, 12),
    "schedule": dc.GradientDescent(FALLING, 12),
    "momentum": dc.GradientDescent(0.1, 12, momentum=0.7),
    "decay": dc.GradientDescent(0.1, 12, weight_decay=0.3),
    "all": dc.GradientDescent(FALLING, 12, momentum=0.5, weight_decay=0.2),
}
LIMITS = {
    "one layer": dc.DeepLinear(1, gamma=1.1),
    "three layers": dc.DeepLinear(3, gamma=1.3, init_scale=0.9),
    "one block": dc.DeepLinear(2, branch_scale=0.9),
    "three blocks": dc.DeepLinear(4, gamma=1.2, init_scale=0.8, branch_scale=1.1),
}


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("outputs", [1, 2])
def test_outputs_are_those_of_explicit_matrices(limit, training, outputs):
    limit, training, data = LIMITS[limit], TRAININGS[training], data_of(outputs)
    solution = dc.solve(limit, data, training, kernel_times=[], method="growing", tol=1e-13)
    found = np.concatenate([solution.outputs, solution.test_outputs], axis=1)
    expected = explicit_outputs(limit, data, training)
    assert np.abs(expected[-1]).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("training", ["plain", "momentum", "decay", "all"])
@pytest.mark.parametrize(("limit", "outputs"), [("three layers", 10), ("three blocks", 2)])
@pytest.mark.parametrize("isa", ["baseline", "v3", "v4"])
def test_every_instruction_set(isa, training, limit, outputs):
    """Ten outputs make updates of more rows than the kernels hold at a time."""
    best = _core.isa()
    limit, data, training = LIMITS[limit], data_of(outputs), TRAININGS[training]
    try:
        _core.set_isa(isa)
    except ValueError:
        pytest.skip(f"this processor or build has no {isa}")
    try:
        options = {"method": "growing", "tol": 1e-13, "kernel_times": []}
        found = dc.solve(limit, data, training, **options).outputs
    finally:
        _core.set_isa(best)
    np.testing.assert_allclose(
        found, explicit_outputs(limit, data, training)[:, :3], rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("decay", [4.0, 9.0])
def test_weights_may_decay_at_once(decay):
    """To 0.6 or 0.1 of their values in every step: updates cannot be collected over many."""
    limit, data = LIMITS["three layers"], data_of(2)
    training = dc.GradientDescent(0.1, 12, weight_decay=decay)
    found = dc.solve(limit, data, training, kernel_times=[], method="growing", tol=1e-13).outputs
    expected = explicit_outputs(limit, data, training)[:, :3]
    assert np.abs(expected).max() > 1e-5
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_converged_runs_do_not_grow():
    """Errors that have reached rounding have directions, but these mean nothing."""
    rng = np.random.default_rng(0)
    data = dc.Dataset(inputs=rng.normal(size=(20, 40)), targets=np.repeat([1.0, -1.0], 10))
    limit, training = dc.DeepLinear(3, gamma=1.5), dc.GradientDescent(0.05, 2000)
    network = GrowingNetwork(problem_of(limit, data, training), 1e-8)
    errors = data.targets - network.advance(np.array([800, 2000]))[..., 0]
    assert np.abs(errors[0]).max() < 1e-8
    assert np.abs(errors[1]).max() < 1e-13
    before = GrowingNetwork(problem_of(limit, data, training), 1e-8)
    before.advance(np.array([800]))
    assert network.neurons == before.neurons


# -- kernels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("limit", LIMITS)
def test_two_time_kernels_do_not_know_what_comes_later(limit, training):
    """Kernels of the first steps, lifted to the neurons of all steps, stay what they were."""
    limit, data, training = LIMITS[limit], data_of(2), TRAININGS[training]
    times, options = [0, 2, 5], {"save": ("H", "G"), "method": "growing", "tol": 1e-13}
    short = dc.GradientDescent(
        training.rates[:5], 5, weight_decay=training.weight_decay, momentum=training.momentum
    )
    first = dc.solve(limit, data, short, kernel_times=times, **options)
    whole = dc.solve(limit, data, training, kernel_times=[*times, 12], **options)
    for name in ("H", "G"):
        for layer in range(1, limit.depth + 1):
            before, after = first.kernel(name, layer), whole.kernel(name, layer)
            np.testing.assert_allclose(after[:3, :, :3], before, rtol=0, atol=1e-11)
            for i, t in enumerate(times):
                equal = whole.kernel(name, layer, t, t)
                np.testing.assert_allclose(after[i, :, i], equal, rtol=0, atol=1e-11)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("training", TRAININGS)
def test_top_gradients_are_the_history_of_the_readout(limit, training):
    """g^L = w(t) = c(t) w(0) + (gamma / P) sum_s kap(t,s) sum_mu Delta_mu(s) h^L_mu(s).

    So the two-time G^L follows from the two-time H^L, the errors, and G^L(0, t).
    """
    limit, data, training = LIMITS[limit], data_of(1, 0), TRAININGS[training]
    solution = dc.solve(
        limit, data, training, save=("H", "G"), method="growing", tol=1e-13,
        kernel_times=np.arange(13),
    )  # fmt: skip
    c, kap = optimizer_tables(training)
    h, delta = solution.kernel("H", limit.depth), solution.errors[..., 0]
    learned = limit.gamma / 3 * np.einsum("ts,sm->tsm", kap, delta)
    square = np.einsum("tam,ambn,sbn->ts", learned, h, learned)
    # What the learned part shares with w(0).
    start = solution.kernel("G", limit.depth)[0, 0, :, 0]
    cross = start - c * start[0]
    expected = np.outer(c, c) * start[0] + np.outer(c, cross) + np.outer(cross, c) + square
    found = solution.kernel("G", limit.depth)[:, 0, :, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


def test_memory_of_the_optimizer_as_printed():
    """lr = 0.1, lambda = 0.5, m = 0.9: of the function that other tests rely on."""
    c, kap = optimizer_tables(dc.GradientDescent(0.1, 4, weight_decay=0.5, momentum=0.9))
    agree(c, [1, 0.95, 0.8575, 0.731375, 0.58129375], 1e-15)
    agree(kap[1:, 0], [0.1, 0.185, 0.25225, 0.3001625], 1e-15)


@pytest.mark.parametrize("limit", ["three layers", "three blocks"])
@pytest.mark.parametrize("training", ["plain", "schedule"])
def test_ntk_readout_follows_the_tangent_kernel(limit, training):
    limit, training = LIMITS[limit], TRAININGS[training]
    limit = dc.DeepLinear(
        limit.depth, gamma=limit.gamma, branch_scale=limit.branch_scale, readout="ntk"
    )
    solution = dc.solve(limit, data_of(2), training, method="growing", tol=1e-13)
    moved = np.diff(solution.outputs, axis=0)
    pull = np.einsum("tmknj,tnj->tmk", solution.ntk, solution.errors)[:-1] / 3
    np.testing.assert_allclose(moved, training.rates[:, None, None] * pull, rtol=0, atol=1e-12)


# -- what may not differ ----------------------------------------------------------------------


@pytest.mark.parametrize("limit", LIMITS)
def test_a_constant_schedule_is_a_constant(limit):
    limit, data = LIMITS[limit], data_of(2)
    constant = dc.solve(limit, data, dc.GradientDescent(0.1, 12))
    schedule = dc.solve(limit, data, dc.GradientDescent(np.full(12, 0.1), 12))
    np.testing.assert_array_equal(constant.outputs, schedule.outputs)
    np.testing.assert_array_equal(constant.ntk, schedule.ntk)


@pytest.mark.parametrize("limit", LIMITS)
def test_rules_join(limit):
    """Vanishing momentum or decay, by kernels of their own, are plain gradient descent."""
    limit, data = LIMITS[limit], data_of(2)

    def run(**rule):
        return dc.solve(limit, data, dc.GradientDescent(0.1, 12, **rule), tol=1e-13).outputs

    np.testing.assert_allclose(run(momentum=1e-16), run(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(run(weight_decay=1e-16), run(), rtol=0, atol=1e-12)
    both = run(momentum=1e-16, weight_decay=0.3)
    np.testing.assert_allclose(both, run(weight_decay=0.3), rtol=0, atol=1e-12)


CHECKPOINTED = {
    "plain": (dc.DeepLinear(3, gamma=1.5), dc.GradientDescent(0.02, 300)),
    "plain, all": (
        dc.DeepLinear(2),
        dc.GradientDescent(np.linspace(0.1, 0.01, 300), 300, momentum=0.6, weight_decay=0.01),
    ),
    "decay": (dc.DeepLinear(2), dc.GradientDescent(0.05, 300, weight_decay=0.01)),
    "blocks": (dc.DeepLinear(4, branch_scale=1.0), dc.GradientDescent(0.02, 300)),
    "blocks, all": (
        dc.DeepLinear(3, branch_scale=1.0),
        dc.GradientDescent(np.linspace(0.1, 0.01, 300), 300, momentum=0.6, weight_decay=0.01),
    ),
    "ntk": (dc.DeepLinear(2, readout="ntk"), dc.GradientDescent(0.02, 300)),
}


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("case", CHECKPOINTED)
def test_a_resumed_run_is_the_uninterrupted_one(case, outputs):
    """Bit for bit: outputs, kernels, and every part of the state itself."""
    limit, training = CHECKPOINTED[case]
    data, tol = data_of(outputs), 1e-8

    def start():
        return GrowingNetwork(problem_of(limit, data, training), tol)

    def march(system, times):
        rows = []
        for t in times:
            rows.append(system.advance(np.array([t])))
            system.store_kernels()
        return np.concatenate(rows)

    first = start()
    march(first, [0, 7, 137])
    saved = {name: np.array(part) for name, part in first.state().items()}
    expected = march(first, [138, 200, 300])
    resumed = start()
    resumed.restore(saved)
    np.testing.assert_array_equal(march(resumed, [138, 200, 300]), expected)
    assert resumed.neurons == first.neurons
    a, b = first.state(), resumed.state()
    assert sorted(a) == sorted(b)
    for name, part in a.items():
        np.testing.assert_array_equal(b[name], part, err_msg=name)
    for one, other in zip(first.kernels(), resumed.kernels(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(first.two_time_features(), resumed.two_time_features(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_may_be_extended_and_its_rate_changed():
    """A piecewise constant schedule is plain gradient descent, taken up again at another rate."""
    data, limit = data_of(2), LIMITS["three layers"]
    first = GrowingNetwork(problem_of(limit, data, dc.GradientDescent(0.15, 7)), 1e-13)
    first.advance(np.array([7]))
    second = GrowingNetwork(problem_of(limit, data, dc.GradientDescent(0.05, 12)), 1e-13)
    second.restore(first.state())
    expected = second.advance(np.arange(8, 13))
    schedule = dc.GradientDescent([0.15] * 7 + [0.05] * 5, 12)
    found = GrowingNetwork(problem_of(limit, data, schedule), 1e-13).advance(np.arange(13))
    np.testing.assert_array_equal(found[8:], expected)


@pytest.mark.parametrize("limit", ["two layers", "one block"])
def test_a_state_of_another_problem_is_refused(limit):
    limits = {"two layers": dc.DeepLinear(2), "one block": dc.DeepLinear(2, branch_scale=1.0)}

    def march(data, training):
        return GrowingNetwork(problem_of(limits[limit], data, training), 1e-8)

    first = march(data_of(2), TRAININGS["plain"])
    first.advance(np.array([5]))
    with pytest.raises(ValueError, match="does not fit"):
        march(data_of(1), TRAININGS["plain"]).restore(first.state())
    with pytest.raises(KeyError, match="drift"):
        march(data_of(2), TRAININGS["momentum"]).restore(first.state())
    state = first.state()
    state["core.forward.1.neurons"] = state["core.forward.1.neurons"] + 100
    with pytest.raises(ValueError, match=r"forward\.1\.neurons"):
        march(data_of(2), TRAININGS["plain"]).restore(state)
    state = first.state()
    state["core.weights.1.collected"] = np.array(8)
    with pytest.raises(ValueError, match=r"weights\.1\.collected"):
        march(data_of(2), TRAININGS["plain"]).restore(state)


def test_a_state_must_be_complete():
    march = GrowingNetwork(problem_of(LIMITS["one block"], PAIR, TRAININGS["plain"]), 1e-8)
    march.advance(np.array([3]))
    state = march.state()
    del state["core.forward.1.directions"]
    with pytest.raises(KeyError, match=r"forward\.1\.directions"):
        march.restore(state)


# -- long runs, truncation, errors ------------------------------------------------------------


@pytest.mark.parametrize(
    "training",
    [
        dc.GradientDescent(0.05, 600),
        dc.GradientDescent(0.02, 600, momentum=0.8, weight_decay=0.001),
    ],
)
def test_tolerance_controls_the_error_with_blocks(training):
    """The error of outputs of order one is of the order of tol, and falls with it."""
    i = np.arange(4)
    data = dc.Dataset(gram=np.exp(-((i[:, None] - i) ** 2) / 4.5), targets=np.cos(i))
    limit = dc.DeepLinear(4, gamma=1.5, branch_scale=1.0)
    exact = dc.solve(limit, data, training, tol=1e-12, kernel_times=[])
    errors = []
    for tol in (1e-4, 1e-6, 1e-8):
        rough = dc.solve(limit, data, training, tol=tol, kernel_times=[])
        errors.append(np.abs(rough.outputs - exact.outputs).max())
        assert errors[-1] < tol
        assert rough.diagnostics["neurons"][0] < exact.diagnostics["neurons"][0]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"readout='ntk'.*momentum"):
        dc.solve(
            dc.DeepLinear(2, readout="ntk"), PAIR, dc.GradientDescent(0.1, 3, momentum=0.5),
            method="growing",
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"infinite depth.*method='chain'"):
        dc.solve(
            dc.DeepLinear(dc.INFINITE, branch_scale=1.0), PAIR, dc.GradientDescent(0.1, 3),
            method="growing",
        )  # fmt: skip


def test_shared_neurons_have_a_limit(monkeypatch):
    monkeypatch.setattr("dmftcore.growing.interfaces.MAX_SHARED_NEURONS", 20)
    with pytest.raises(MemoryError, match=r"20 neurons.*raise tol"):
        dc.solve(LIMITS["three blocks"], data_of(1), TRAININGS["plain"])
