"""The two-time chain with residual blocks, momentum, weight decay and schedules."""

import dataclasses

import numpy as np
import pytest

import dmftcore as dc
from dmftcore.limits.linear_marches import ChainMarch
from dmftcore.modes import LinearProblem
from dmftcore.optimizer import OptimizerMemory
from referees import Problem, optimizer_tables, uncontracted_march, whole_network


def problem(depth, points, outputs, steps, *, n_train=None, gamma=1.2, sigma=0.9):
    """Random correlated data; the learning rate belongs to the training."""
    rng = np.random.default_rng([depth, points, outputs])
    x = rng.normal(size=(points, points + 2)) / np.sqrt(points)
    targets = rng.normal(size=(points, outputs))
    return Problem(depth, 0.0, gamma, sigma, steps, x @ x.T, targets, n_train or points)


def nouns(p, **limit):
    data = dc.Dataset(
        full_gram=p.gram,
        targets=p.targets[: p.n_train],
        test_targets=p.targets[p.n_train :] if len(p.targets) > p.n_train else None,
    )
    return dc.DeepLinear(p.depth, gamma=p.gamma, init_scale=p.sigma, **limit), data


def all_errors(p, solution):
    outputs = [solution.outputs]
    if solution.test_outputs is not None:
        outputs.append(solution.test_outputs)
    found = np.concatenate([f.reshape(*f.shape[:2], -1) for f in outputs], axis=1)
    return p.targets - found


def close(found, expected, tolerance=1e-12):
    """Largest deviation below `tolerance` times the scale of what is expected."""
    return np.abs(found - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


TRAININGS = {
    "plain": lambda steps: dc.GradientDescent(0.08, steps),
    "schedule": lambda steps: dc.GradientDescent(np.geomspace(0.08, 0.02, steps), steps),
    "momentum": lambda steps: dc.GradientDescent(0.05, steps, momentum=0.7),
    "decay": lambda steps: dc.GradientDescent(0.08, steps, weight_decay=0.3),
    # lr * weight_decay = 1: nothing is left of the initial weights after one step.
    "forgetting": lambda steps: dc.GradientDescent(0.04, steps, weight_decay=25.0),
    "all": lambda steps: dc.GradientDescent(
        np.linspace(0.02, 0.08, steps), steps, momentum=0.6, weight_decay=0.2
    ),
}


class TestOptimizer:
    def test_printed_values(self):
        """eta = 0.1, lambda = 0.5, m = 0.9, in the reference tables."""
        memory = OptimizerMemory(dc.GradientDescent(0.1, 4, momentum=0.9, weight_decay=0.5))
        np.testing.assert_allclose(memory.kept, [1, 0.95, 0.8575, 0.731375, 0.58129375], rtol=1e-14)
        expected = [0.3001625, 0.25225, 0.185, 0.1]
        np.testing.assert_allclose(memory.row(4), expected, rtol=1e-14)

    @pytest.mark.parametrize("name", TRAININGS)
    def test_against_impulses_in_any_order(self, name):
        training = TRAININGS[name](12)
        kept, kap = optimizer_tables(training)
        memory = OptimizerMemory(training)
        np.testing.assert_allclose(memory.kept, kept, rtol=1e-13)
        for step in (3, 12, 5, 0, 6, 7, 7):
            np.testing.assert_allclose(memory.row(step), kap[step, :step], rtol=1e-13)


CASES = {
    "two layers": (problem(2, 3, 1, 6), None),
    "three layers, two outputs, a test point": (problem(3, 4, 2, 5, n_train=3), None),
    "one block": (problem(2, 3, 2, 6), 0.8),
    "two blocks and a test point": (problem(3, 4, 1, 6, n_train=3), 1.1),
    "three blocks, two outputs": (problem(4, 2, 2, 5, gamma=1.1), 0.7),
}


class TestAgainstTheWholeNetwork:
    def test_referees_agree(self):
        """Without skips and memory, the whole network is the march with pattern indices."""
        p, _ = CASES["three layers, two outputs, a test point"]
        training = TRAININGS["plain"](p.steps)
        march = uncontracted_march(
            Problem(p.depth, 0.08, p.gamma, p.sigma, p.steps, p.gram, p.targets, p.n_train)
        )
        whole = whole_network(p, training)
        assert close(march.delta, whole.delta)
        for kind in ("h", "g", "a", "b"):
            for layer, expected in getattr(whole, kind).items():
                if (kind, layer) not in (("a", 0), ("b", p.depth)):
                    assert close(getattr(march, kind)[layer], expected), (kind, layer)

    @pytest.mark.filterwarnings("ignore:lr . weight_decay = 1:dmftcore.StabilityWarning")
    @pytest.mark.parametrize("memory", TRAININGS)
    @pytest.mark.parametrize("name", CASES)
    def test_everything(self, name, memory):
        p, branch = CASES[name]
        training = TRAININGS[memory](p.steps)
        referee = whole_network(p, training, branch)
        blocks = {} if branch is None else {"branch_scale": branch, "branch": "none"}
        limit, data = nouns(p, **blocks)
        solution = dc.solve(limit, data, training, method="chain", save="all")
        assert close(all_errors(p, solution), referee.delta)
        assert solution.diagnostics["residual"] < 1e-13
        times, points, outputs = p.shape
        ntk = 0.0
        for layer in range(p.depth + 1):
            factor = branch if branch is not None and 0 < layer < p.depth else 1.0
            h = referee.h[layer].reshape(times, points, times, points)
            g = referee.g[layer + 1].reshape(times, outputs, times, outputs)
            if layer > 0:
                assert close(solution.kernel("H", layer), h)
                assert close(solution.equal_time["H"][layer][-1], h[-1, :, -1])
                a = referee.a[layer].reshape(times, points, times, outputs)
                assert close(solution.response("A", layer), a)
                ag = factor * np.einsum("tmsk,skuj->tmuj", a, g)
                assert close(solution.kernel("AG", layer), ag)
            if layer < p.depth:
                assert close(solution.kernel("G", layer + 1), g)
                b = referee.b[layer].reshape(times, outputs, times, points)
                assert close(solution.response("B", layer), b[..., : p.n_train])
                bphi = factor * np.einsum("tksm,smun->tkun", b, h)
                assert close(solution.kernel("BPhi", layer), bphi)
            train = slice(p.n_train)
            ntk += factor**2 * np.einsum("mn,kj->mknj", h[-1, train, -1, train], g[-1, :, -1])
        assert close(solution.ntk[-1].reshape(ntk.shape), ntk)


#: Data of the printed numbers for residual blocks.
DATA = dc.Dataset(gram=[[1.0, 0.3], [0.3, 0.8]], targets=[1.0, -0.5])
TWO_OUTPUTS = dc.Dataset(gram=DATA.gram, targets=[[1.0, 0.3], [-0.5, 0.2]])
TRAINING = dc.GradientDescent(0.2, 5)


class TestNumbers:
    """Residual blocks against the reference tables: three blocks with b = 1 / sqrt(3)."""

    @staticmethod
    def agree(found, printed):
        np.testing.assert_allclose(found, printed, rtol=1e-9, atol=1e-10)

    @pytest.fixture
    def solution(self):
        return dc.solve(
            dc.DeepLinear(4, branch_scale=1.0), DATA, TRAINING, method="chain", save="all"
        )

    def test_outputs(self, solution):
        self.agree(
            solution.outputs,
            [
                [0, 0],
                [0.5540740741, -0.0651851852],
                [0.7948301262, -0.2207619215],
                [0.9133806588, -0.3553689098],
                [0.9655454062, -0.4372662264],
                [0.9869544681, -0.4755674115],
            ],
        )
        losses = [0.3125, 9.6978463649e-02, 3.0017145399e-02, 7.1052656303e-03, 1.2806613449e-03,
                  1.9178432173e-04]  # fmt: skip
        self.agree(solution.train_loss, losses)

    def test_kernels(self, solution):
        sharpness = [3.9640016078, 4.2504222784, 4.8055068880, 5.1999938809, 5.4152588615,
                     5.5133223886]  # fmt: skip
        self.agree(solution.sharpness, sharpness)
        start = [[6.5185185185, 1.9555555556], [1.9555555556, 5.2148148148]]
        self.agree(solution.ntk[0], start)
        end = [[9.9898779066, 1.9598053739], [1.9598053739, 7.3220153058]]
        self.agree(solution.ntk[5], end)
        equal = [[3.2333870887, 0.2479263226], [0.2479263226, 2.1165771129]]
        self.agree(solution.kernel("H", 4, 5, 5), equal)
        unequal = [[2.5075293478, 0.6824099478], [0.5622307202, 1.9346129978]]
        self.agree(solution.kernel("H", 4, 5, 0), unequal)
        self.agree(solution.kernel("G", 1, 5, 5), 4.0397078268)
        self.agree(solution.kernel("AG", 2, 5, 0), [[0.1765730782], [-0.0823385213]])
        self.agree(solution.kernel("BPhi", 2, 5, 0), [[0.1790348429, -0.0799458446]])

    def test_one_block(self):
        limit = dc.DeepLinear(2, branch_scale=1.0)
        solution = dc.solve(limit, DATA, TRAINING, method="chain")
        self.agree(solution.outputs[1], [0.425, -0.05])
        self.agree(solution.outputs[5], [0.9414857451, -0.4048960898])

    def test_branch_scaling(self):
        """beta_0 / sqrt(4) with "sqrt" is beta_0 / 2 with "none"."""
        by_depth, fixed = (
            dc.solve(dc.DeepLinear(5, **blocks), DATA, TRAINING, method="chain").outputs
            for blocks in ({"branch_scale": 1.0}, {"branch_scale": 0.5, "branch": "none"})
        )
        np.testing.assert_array_equal(by_depth, fixed)

    def test_start(self):
        """t = 0: H^l = s Kx q^{l-1}, G^l = s q^{L-l}, q = 1 + s b^2; K(0) as the noun says."""
        limit = dc.DeepLinear(4, branch_scale=1.3, init_scale=0.8)
        gram = DATA.gram
        solution = dc.solve(limit, DATA, dc.GradientDescent(0.01, 0), method="chain")
        s, q = 0.64, 1 + 0.64 * 1.3**2 / 3
        for layer in (1, 2, 3, 4):
            h = s * q ** (layer - 1) * gram
            np.testing.assert_allclose(solution.kernel("H", layer, 0, 0), h, rtol=1e-14)
            g = s * q ** (4 - layer)
            np.testing.assert_allclose(solution.kernel("G", layer, 0, 0), g, rtol=1e-14)
        ntk = limit.initial_tangent_scale * gram
        np.testing.assert_allclose(solution.ntk[0], ntk, rtol=1e-14)


class TestInfiniteDepth:
    LIMIT = dc.DeepLinear(dc.INFINITE, branch_scale=1.0)

    def test_printed_numbers(self):
        """Reference tables, from 11 nodes."""
        solution = dc.solve(self.LIMIT, DATA, TRAINING)
        TestNumbers.agree(
            solution.outputs,
            [
                [0, 0],
                [0.6931618663, -0.0815484549],
                [0.8931131653, -0.3181304716],
                [0.97751892, -0.4518390811],
                [0.9957390279, -0.4927050884],
                [0.9997812299, -0.4988755787],
            ],
        )
        assert solution.train_loss[5] == pytest.approx(3.2804592605e-07, rel=1e-9)
        end = [[13.5559311396, 2.3421923467], [2.3421923467, 9.866905525]]
        TestNumbers.agree(solution.ntk[5], end)

    def test_printed_approach_of_finite_depth(self):
        """Largest deviation of the outputs at L = 1, 2, ..., 32 blocks."""
        limit = dc.solve(self.LIMIT, DATA, TRAINING).outputs
        found = [
            np.abs(
                dc.solve(
                    dc.DeepLinear(blocks + 1, branch_scale=1.0), DATA, TRAINING, method="chain"
                ).outputs
                - limit
            ).max()
            for blocks in (1, 2, 4, 8, 16, 32)
        ]
        printed = [0.268, 0.183, 0.112, 0.063, 0.0337, 0.0174]
        np.testing.assert_allclose(found, printed, atol=5.01e-4)

    @staticmethod
    def march(nodes):
        problem = LinearProblem(
            DATA, depth=dc.INFINITE, gamma=1.0, init_scale=1.0, branch=1.0, training=TRAINING,
            follow_ntk=False, loss_limit=np.inf,
        )  # fmt: skip
        system = ChainMarch(problem, TRAINING.steps, nodes=nodes)
        return system.advance(np.arange(TRAINING.steps + 1)), system.chain.diagnostics

    def test_error_falls_spectrally_and_is_estimated(self):
        """More than a factor 20 for each node; the estimate bounds the error of the outputs."""
        exact, _ = self.march(14)
        errors, estimates = [], []
        for nodes in range(4, 11):
            found, diagnostics = self.march(nodes)
            errors.append(np.abs(found - exact).max())
            estimates.append(diagnostics["depth_error"])
            assert len(diagnostics["depth_nodes"]) == nodes
        errors, estimates = np.array(errors), np.array(estimates)
        assert np.all(errors[1:] < errors[:-1] / 20)
        assert np.all(errors < estimates)
        assert np.all(estimates[1:] < estimates[:-1] / 5)

    @pytest.mark.filterwarnings("ignore:lr . weight_decay = 1:dmftcore.StabilityWarning")
    def test_no_initial_weights_left(self):
        """The residual does not divide by what is kept of them."""
        solution = dc.solve(self.LIMIT, DATA, TRAININGS["forgetting"](4))
        assert solution.diagnostics["residual"] < 1e-12

    @pytest.mark.parametrize("memory", ["plain", "all"])
    def test_is_the_limit_of_finite_depth(self, memory):
        """Outputs, kernels and responses at tau = 0, 1/2, 1, by extrapolation in 1 / depth.

        The error of the second extrapolation is below its distance from the first.
        """
        p = problem(2, 3, 2, 6, n_train=2)
        full = TRAININGS[memory](p.steps)
        training = dataclasses.replace(full, lr=0.4 * full.rates)

        def at_three_depths(depth, layers):
            limit = dc.DeepLinear(depth, gamma=p.gamma, init_scale=p.sigma, branch_scale=1.2)
            found = dc.solve(limit, nouns(p)[1], training, method="chain", save="all")
            below = 0 if depth == dc.INFINITE else 1
            return [
                found.outputs,
                found.test_outputs,
                found.ntk,
                *(found.kernel(name, layer) for name in "HG" for layer in layers),
                *(found.response("A", layer) for layer in layers),
                *(found.response("B", layer - below) for layer in layers),
            ]

        coarse, middle, fine = (
            at_three_depths(blocks + 1, (1, blocks // 2 + 1, blocks + 1)) for blocks in (16, 32, 64)
        )
        limit = at_three_depths(dc.INFINITE, (0, 4, 8))
        for c, m, f, found in zip(coarse, middle, fine, limit, strict=True):
            first = 2 * f - m
            second = (4 * first - (2 * m - c)) / 3
            error = np.abs(second - first).max()
            assert error < 0.2 * np.abs(f - found).max() + 1e-12
            assert np.abs(found - second).max() <= error + 1e-12

    def test_lazy(self):
        """gamma = 0: Delta moves by K = Kx s e^{s b^2} (2 + s b^2), kernels stay."""
        limit = dc.DeepLinear(dc.INFINITE, gamma=0, branch_scale=1.2, init_scale=0.9)
        solution = dc.solve(limit, DATA, dc.GradientDescent(0.1, 8), method="chain", save=("H",))
        s, beta2 = 0.81, 1.44
        ntk = DATA.gram * s * np.exp(s * beta2) * (2 + s * beta2)
        np.testing.assert_allclose(solution.ntk[-1], ntk, rtol=1e-9)
        errors = DATA.targets.copy()
        for found in solution.errors:
            np.testing.assert_allclose(found, errors, atol=1e-11)
            errors = errors - 0.1 / 2 * ntk @ errors
        nodes = np.array(solution.diagnostics["depth_nodes"])
        for layer, tau in enumerate(nodes):
            h = DATA.gram * s * np.exp(s * beta2 * tau)
            np.testing.assert_allclose(solution.kernel("H", layer, 8, 2), h, rtol=1e-9)

    def test_refusals(self):
        with pytest.raises(ValueError, match=r"no infinite depth: use method='chain'"):
            dc.solve(self.LIMIT, DATA, TRAINING, method="growing")
        limit = dc.DeepLinear(dc.INFINITE, branch_scale=1.0, readout="ntk")
        with pytest.raises(ValueError, match="finite depth"):
            dc.solve(limit, DATA, TRAINING)


@pytest.mark.filterwarnings("ignore::dmftcore.errors.StabilityWarning")
@pytest.mark.parametrize(
    ("depth", "lr", "what", "step"),
    [
        (3, 1.5, "training loss", 4),
        (dc.INFINITE, 0.8, "flow in depth", 4),
        (dc.INFINITE, 1e4, "training loss", 1),
    ],
)
def test_divergence(depth, lr, what, step):
    """All that was solved before is kept, with kernels that are right."""
    limit = dc.DeepLinear(depth, branch_scale=1.0)
    with pytest.raises(dc.DivergenceError, match=f"the {what} diverged at step {step}:") as caught:
        dc.solve(limit, DATA, dc.GradientDescent(lr, 50), method="chain", save="all")
    partial = caught.value.partial
    assert caught.value.step == step
    np.testing.assert_array_equal(partial.times, range(step))
    assert partial.diagnostics["residual"] < 1e-12
    shorter = dc.solve(limit, DATA, dc.GradientDescent(lr, step - 1), method="chain", save="all")
    np.testing.assert_array_equal(partial.outputs, shorter.outputs)
    np.testing.assert_array_equal(partial.kernel("H"), shorter.kernel("H"))
    np.testing.assert_array_equal(partial.response("A"), shorter.response("A"))


@pytest.mark.parametrize("depth", [3, dc.INFINITE])
def test_reported_residual_sees_a_wrong_history(depth):
    problem = LinearProblem(
        DATA, depth=depth, gamma=1.0, init_scale=1.0, branch=0.9,
        training=dc.GradientDescent(0.05, 30, momentum=0.3, weight_decay=0.1),
        follow_ntk=False, loss_limit=np.inf,
    )  # fmt: skip
    system = ChainMarch(problem, 30)
    system.advance(np.array([30]))
    assert system.residual() < 1e-12
    for layers in system.chain.histories.values():
        for kernel in layers.values():
            kernel[20, 10] += 1e-6
            assert system.residual() > 1e-8
            kernel[20, 10] -= 1e-6


def test_planned_memory_is_that_of_the_histories():
    for depth, branch in ((3, None), (4, 0.8), (dc.INFINITE, 1.0)):
        problem = LinearProblem(
            TWO_OUTPUTS, depth=depth, gamma=1.0, init_scale=1.0, branch=branch,
            training=TRAINING, follow_ntk=False, loss_limit=np.inf,
        )  # fmt: skip
        chain = ChainMarch(problem, TRAINING.steps).chain
        held = sum(k.size for layers in chain.histories.values() for k in layers.values())
        counted = () if depth == dc.INFINITE else (depth,)
        assert chain.count(*counted, TRAINING.steps, 2) == held


class TestState:
    """A march that was stopped and restored goes on bit for bit."""

    @pytest.mark.parametrize(
        ("depth", "branch", "readout"),
        [
            (3, None, "gd"),
            (3, None, "ntk"),
            (3, 0.8, "gd"),
            (3, 0.8, "ntk"),
            (dc.INFINITE, 1.0, "gd"),
        ],
    )
    def test_resumes_on_a_longer_run(self, depth, branch, readout):
        rng = np.random.default_rng(1)
        data = dc.Dataset(inputs=rng.normal(size=(5, 4)), targets=rng.normal(size=(5, 2)))
        memory = {} if readout == "ntk" else {"momentum": 0.5, "weight_decay": 0.1}
        rates = np.linspace(0.02, 0.06, 30)

        def march(steps):
            training = dc.GradientDescent(rates[:steps], steps, **memory)
            problem = LinearProblem(
                data, depth=depth, gamma=1.1, init_scale=0.9, branch=branch, training=training,
                follow_ntk=readout == "ntk", loss_limit=np.inf,
            )  # fmt: skip
            return ChainMarch(problem, steps)

        def run(system, stops):
            rows = []
            for stop in stops:
                rows.extend(system.advance(np.array([stop])))
                system.store_kernels()
            return rows

        whole, first, second = march(30), march(12), march(30)
        expected = run(whole, [3, 10, 20, 30])
        run(first, [3, 10])
        state = first.state()
        assert all(isinstance(array, np.ndarray) for array in state.values())
        n = 2 * 11
        assert state["chain_g1"].size == n * (n + 2) // 2
        second.restore(state)
        assert second.step == 10
        np.testing.assert_array_equal(run(second, [20, 30]), expected[2:])
        for found, wanted in zip(second.kernels(), whole.kernels(), strict=True):
            np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(second.two_time_features(), whole.two_time_features())
        for name, array in whole.state().items():
            np.testing.assert_array_equal(second.state()[name], array, err_msg=name)

    def test_needs_room(self):
        problem = LinearProblem(
            DATA, depth=2, gamma=1.0, init_scale=1.0, branch=None,
            training=dc.GradientDescent(0.1, 9), follow_ntk=False, loss_limit=np.inf,
        )  # fmt: skip
        long, short = ChainMarch(problem, 9), ChainMarch(problem, 5)
        long.advance(np.array([8]))
        with pytest.raises(ValueError, match="at step 8, this run has 5 steps"):
            short.restore(long.state())


def network(x, y, training, depth, branch, gamma, sigma, width, seed):
    """Centred outputs (steps + 1, P, K) of one finite network, from its definition."""
    rng = np.random.default_rng(seed)
    (points, dims), outputs = x.shape, y.shape[1]
    shapes = [(width, dims), *[(width, width)] * (depth - 1), (outputs, width)]
    theta = [sigma * rng.normal(size=shape) for shape in shapes]
    scales = [dims**-0.5, *[width**-0.5] * (depth - 1), 1 / (gamma * width)]
    velocity, start, path = [np.zeros(s) for s in shapes], 0.0, []
    skip, factor = (0.0, 1.0) if branch is None else (1.0, branch)
    for t in range(training.steps + 1):
        h = [x, scales[0] * x @ theta[0].T]
        for w, scale in zip(theta[1:-1], scales[1:-1], strict=True):
            h.append(skip * h[-1] + factor * scale * h[-1] @ w.T)
        f = scales[-1] * h[-1] @ theta[-1].T
        start = f if t == 0 else start
        path.append(f - start)
        if t == training.steps:
            return np.array(path)
        # g: derivative of the loss with respect to h, times -gamma^2 N.
        back = gamma**2 * width / points * (y - path[-1])
        descent = [scales[-1] * back.T @ h[-1]]
        g = scales[-1] * back @ theta[-1]
        for layer in range(depth - 1, 0, -1):
            descent.insert(0, factor * scales[layer] * g.T @ h[layer])
            g = skip * g + factor * scales[layer] * g @ theta[layer]
        descent.insert(0, scales[0] * g.T @ x)
        for v, d, w in zip(velocity, descent, theta, strict=True):
            v *= training.momentum
            v += d - training.weight_decay * w
            w += training.rates[t] * v


@pytest.mark.parametrize("branch", [None, 0.9], ids=["plain", "residual"])
def test_against_networks(branch):
    """Momentum, decay and a schedule in trained networks, in standard errors.

    24 outputs are compared, so that 5 standard errors are exceeded by chance for one choice of
    seeds in 2000 (Student's t of 31 degrees); finite width adds a bias of O(1/N).
    """
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(3, 4)), rng.normal(size=(3, 2))
    training = dc.GradientDescent(np.linspace(0.08, 0.02, 16), 16, momentum=0.5, weight_decay=0.3)
    limit = dc.DeepLinear(3, gamma=1.3, branch_scale=branch, branch="none")
    theory = dc.solve(limit, dc.Dataset(x, y), training, method="chain", kernel_times=[])
    runs = [network(x, y, training, 3, branch, 1.3, 1.0, 200, seed) for seed in range(32)]
    mean, error = np.mean(runs, axis=0), np.std(runs, axis=0, ddof=1) / np.sqrt(32)
    found = np.abs(theory.outputs - mean)[4::4]
    assert np.all(found < 5 * error[4::4])
    # Each ingredient is many standard errors large.
    for other in (
        dc.GradientDescent(training.lr, 16, momentum=0.5),
        dc.GradientDescent(training.lr, 16, weight_decay=0.3),
        dc.GradientDescent(training.lr[::-1], 16, momentum=0.5, weight_decay=0.3),
    ):
        wrong = dc.solve(limit, dc.Dataset(x, y), other, method="chain", kernel_times=[])
        assert np.any(np.abs(wrong.outputs - mean)[4::4] > 10 * error[4::4])
