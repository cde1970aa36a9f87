"""Attention layers: printed numbers, the overlap equations, exact statements, errors."""

from __future__ import annotations

import numpy as np
import pytest

import dmftcore as dc
from attention_reference import Overlaps, infinite, of_weights
from dmftcore import _core
from dmftcore.heads import LANES, Moments, token_rows

ATTENTIONS = ("softmax", "linear", "exp", "relu")


def cos_inputs(dimension, tokens, scale, freq, phase=0.7):
    d, a = np.arange(dimension)[:, None], np.arange(tokens)
    return scale * np.cos(freq * (d + 1) * (a + 1) + phase * d)


def sequences(dimension, count, length, scale, freq):
    """Inputs (count, length, dimension) of the printed numbers."""
    return cos_inputs(dimension, count * length, scale, freq).T.reshape(count, length, dimension)


DATA = dc.Dataset(inputs=sequences(3, 3, 3, 2.0, 1.3), targets=[1, -1, 0.5])
PAIR = dc.Dataset(inputs=sequences(3, 2, 3, 2.0, 1.3), targets=[1, -1])


def random_data(seed=0, *, train=3, test=2, length=4, dimension=5, outputs=None):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(train + test, length, dimension))
    y = rng.normal(size=train + test if outputs is None else (train + test, outputs))
    return dc.Dataset(
        inputs=x[:train], targets=y[:train],
        test_inputs=x[train:] if test else None, test_targets=y[train:] if test else None,
    )  # fmt: skip


def random_parameters(heads, keys, dimension, seed=1, outputs=None):
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(size=(heads, keys, dimension)) for name in ("W_Q", "W_K", "W_V")}
    shape = (heads, keys) if outputs is None else (heads, keys, outputs)
    return weights | {"w": rng.normal(size=shape)}


def assert_printed(found, text):
    """Numbers printed with eight digits."""
    np.testing.assert_allclose(found, np.array(text.split(), float), rtol=0, atol=1e-7)


class TestPrintedNumbers:
    """Of the reference tables, cos_inputs, eight digits."""

    @pytest.mark.parametrize(
        ("attention", "loss", "patterns", "scores", "values", "readout"),
        [
            ("softmax", ".35783081 .29469958 .22076738 .02127930", ".23015512 .55622839 .21361649",
             ".69165784 -.12389781 -.10551715", "1.92018584 -2.64341086", "2.56766604"),
            ("linear", ".35783081 .29340266 .21120830 .00584048", ".28780638 .35221838 .24150039",
             ".70242904 .23723831 -.33646868", "1.88953998 -2.56081717", "2.45400602"),
            ("exp", ".35783081 .29334887 .20925030 .00140171", ".25517240 .42549829 .22256597",
             ".87421744 .26245150 -.41463229", "1.86884657 -2.49182883", "2.21503402"),
        ],
    )  # fmt: skip
    def test_infinite_keys(self, attention, loss, patterns, scores, values, readout):
        limit = dc.AttentionCore(gamma=2, attention=attention)
        solution = dc.solve(limit, DATA, dc.GradientDescent(0.05, 29))
        assert_printed(solution.train_loss[[0, 1, 5, 10, 29]], "0.375 " + loss)
        order = solution.order_parameters
        assert_printed(order["S_mean"][29, 0, 0], patterns)
        assert_printed(order["A_mean"][29, 2, 1], scores)
        assert_printed(order["V_mean"][29, 0, :2], values)
        assert_printed(order["Z_mean"][29], readout)
        assert order["S_var"].max() == 0

    def test_warm_start(self):
        nodes = [-0.8, -0.2, 0.3, 0.9]
        training = dc.GradientDescent(0.02, 29)
        for heads in (dc.INFINITE, 4):
            limit = dc.AttentionCore(heads=heads, gamma=2, initial_correlations=nodes)
            solution = dc.solve(limit, DATA, training)
            assert_printed(
                solution.train_loss[[1, 5, 10, 29]], ".36699239 .33640770 .30026738 .17134851"
            )
            order = solution.order_parameters
            assert_printed(order["S_mean"][29, 0, 0], ".31654837 .43028095 .25317069")
            assert_printed(order["S_var"][29, 0, 0], ".05209218 .13845982 .02186831")
            scores = np.array([2.20153865, 0.64999062, -0.64965276, -1.92015078])
            assert order["A_mean"][29, 0, 0, 1] == pytest.approx(scores.mean(), abs=1e-7)
            assert order["A_var"][29, 0, 0, 1] == pytest.approx(scores.var(), abs=1e-7)

    def test_quadrature_over_gaussian_scores(self):
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        data = dc.Dataset(inputs=sequences(1, 2, 3, 1.0, 1.3), targets=[1, -1])
        limit = dc.AttentionCore(
            gamma=2, attention_exponent=0.5, initial_correlations=nodes, head_weights=weights
        )
        solution = dc.solve(limit, data, dc.GradientDescent(0.1, 19))
        assert_printed(
            solution.train_loss[[1, 5, 10, 19]], ".45689556 .30167465 .12470264 .00622322"
        )
        assert_printed(solution.outputs[19], ".84883351 -.95481644")
        order = solution.order_parameters
        assert_printed(order["S_mean"][19, 0, 0], ".36092899 .31792925 .32114176")
        assert_printed(order["S_var"][19, 0, 0], ".00416445 .00142863 .00071693")
        assert_printed(order["A_mean"][19, 0, 0], ".02786577 -.08926343 -.07562149")
        assert_printed(order["A_var"][19, 0, 0], ".00528065 .05418665 .03888980")

    @pytest.mark.parametrize(
        ("exponent", "score", "loss", "outputs", "patterns"),
        [
            (0.5, "-.72786151 .25510824", ".71846530 .66273168 .50254094 .38863908",
             ".21894418 -.02814191", ".11307352 .19378445 .69314203"),
            (1.0, "-.36393076 .12755412", ".65227075 .61512713 .50088954 .41299269",
             ".17940361 -.01076175", ".22128385 .20247847 .57623768"),
        ],
    )  # fmt: skip
    def test_given_weights(self, exponent, score, loss, outputs, patterns):
        h, n, d = np.meshgrid(np.arange(2), np.arange(4), np.arange(3), indexing="ij")
        j, m = (h * 4 + n) * 3 + d + 1, (h * 4 + n + 1)[:, :, 0]
        waves = {"W_Q": 0.37, "W_K": 0.53, "W_V": 0.71}
        weights = {name: np.sqrt(2) * np.cos(c * j**2) for name, c in waves.items()}
        weights["w"] = np.sqrt(2) * np.cos(0.9 * m**2)
        limit = dc.AttentionCore(gamma=1.5, attention_exponent=exponent, parameters=weights)
        assert (limit.heads, limit.key_dim) == (2, 4)
        training = dc.GradientDescent(0.03, 9)
        for verb in (dc.solve, dc.simulate):
            solution = verb(limit, PAIR, training)
            assert_printed(solution.train_loss[[0, 1, 5, 9]], loss)
            assert_printed(solution.outputs[9], outputs)
            assert_printed(solution.order_parameters["S_mean"][9, 0, 0], patterns)
        one = {name: array[:1] for name, array in weights.items()}
        limit = dc.AttentionCore(gamma=1.5, attention_exponent=exponent, parameters=one)
        first = dc.solve(limit, PAIR, dc.GradientDescent(0.03, 0)).order_parameters
        assert_printed(first["A_mean"][0, 0, 0, :2], score)


class TestOverlaps:
    """The core, which holds a head by few components, against its overlaps as matrices."""

    @staticmethod
    def compare(solution, reference, steps, lr, *, centred, tolerance=1e-12):
        train = len(reference.y)
        centre = reference.outputs() if centred else 0.0
        for t in range(steps + 1):
            f = reference.outputs() - centre
            for found, part in ((solution.outputs, f[:train]), (solution.test_outputs, f[train:])):
                wanted = part.reshape(found[t].shape)
                np.testing.assert_allclose(found[t], wanted, rtol=0, atol=tolerance)
            heads, weights = reference.heads, reference.weights
            scores = np.array([[head["A"][b, b] for b in reference.blocks] for head in heads])
            patterns = np.array([reference.patterns(head) for head in heads])
            order = {name: values[t] for name, values in solution.order_parameters.items()}
            for name, array in (("A", scores), ("S", patterns)):
                mean = np.tensordot(weights, array, 1)
                variance = np.tensordot(weights, (array - mean) ** 2, 1)
                scale = max(1.0, np.abs(array).max() ** 2)
                for kind, wanted in (("mean", mean), ("var", variance)):
                    np.testing.assert_allclose(
                        order[f"{name}_{kind}"], wanted, rtol=0, atol=tolerance * scale
                    )
            values = np.tensordot(weights, [head["V"] for head in heads], 1)
            np.testing.assert_allclose(
                order["V_mean"], values, rtol=0, atol=tolerance * np.abs(values).max()
            )
            readout = np.tensordot(weights, [head["Z"] for head in heads], 1)
            readout = readout.reshape(order["Z_mean"].shape)
            np.testing.assert_allclose(order["Z_mean"], readout, rtol=0, atol=tolerance * 10)
            if t < steps:
                reference.update(lr, centre)

    @pytest.mark.parametrize("attention", ATTENTIONS)
    @pytest.mark.parametrize("exponent", [0.5, 0.75, 1.0])
    @pytest.mark.parametrize(("heads", "keys"), [(1, 3), (LANES + 1, 2)])
    def test_finite_networks(self, attention, exponent, heads, keys):
        data, training = random_data(), dc.GradientDescent(0.02, 12)
        weights = random_parameters(heads, keys, 5)
        limit = dc.AttentionCore(
            gamma=1.5, attention_exponent=exponent, attention=attention, parameters=weights
        )
        by_name = {name.lower(): array for name, array in weights.items()}
        reference = Overlaps(
            data.kernel, data.targets, 4, attention, 1.5, keys ** (2 * (exponent - 1)),
            of_weights(data.points, exponent, **by_name), np.ones(heads),
        )  # fmt: skip
        solution = dc.solve(limit, data, training)
        self.compare(solution, reference, 12, 0.02, centred=False)

    @pytest.mark.parametrize("attention", ATTENTIONS)
    @pytest.mark.parametrize("exponent", [0.5, 0.8, 1.0])
    @pytest.mark.parametrize("dimension", [2, 40])
    def test_infinite_keys(self, attention, exponent, dimension):
        # Of low and of full rank: the two forms of the product with C.
        data, training = random_data(dimension=dimension), dc.GradientDescent(0.02, 15)
        # Small scores for the attention that is their exponential.
        size = 0.1 if attention == "exp" else 1.0
        nodes, weights = size * np.array([-0.9, 0.1, 0.4, 0.6, 1.0]), [1.0, 2.0, 0.0, 3.0, 1.0]
        limit = dc.AttentionCore(
            gamma=1.5, attention_exponent=exponent, attention=attention,
            initial_correlations=nodes, head_weights=weights,
        )  # fmt: skip
        reference = Overlaps(
            data.kernel, data.targets, 4, attention, 1.5, float(exponent == 1),
            infinite(data.kernel, [rho * data.kernel for rho in nodes]), weights,
        )  # fmt: skip
        solution = dc.solve(limit, data, training)
        self.compare(solution, reference, 15, 0.02, centred=True)

    @pytest.mark.parametrize("attention", ATTENTIONS)
    @pytest.mark.parametrize(("mask", "outputs"), [("causal", None), (None, 3), ("causal", 2)])
    def test_masks_and_outputs(self, attention, mask, outputs):
        """One chunk of heads and more; the two forms of the product with C; scores as a state."""
        # Scores that are exponentials are stable at low rates alone.
        lr, k = 0.002 if attention == "exp" else 0.02, outputs or 1
        training, fields = dc.GradientDescent(lr, 12), {"attention": attention, "mask": mask}
        for heads, keys, exponent in ((1, 3, 0.75), (LANES + 1, 2, 1.0)):
            data = random_data(outputs=outputs)
            weights = random_parameters(heads, keys, 5, outputs=outputs)
            by_name = {name.lower(): array for name, array in weights.items()}
            reference = Overlaps(
                data.kernel, data.targets, 4, attention, 1.5, keys ** (2 * (exponent - 1)),
                of_weights(data.points, exponent, **by_name), np.ones(heads), mask,
            )  # fmt: skip
            limit = dc.AttentionCore(
                gamma=1.5, attention_exponent=exponent, parameters=weights, **fields
            )
            solution = dc.solve(limit, data, training)
            self.compare(solution, reference, 12, lr, centred=False)
            # And in the space of weights, where all moments are the same.
            networks = dc.simulate(limit, data, training)
            for name, values in solution.order_parameters.items():
                scale = max(1.0, np.abs(values).max())
                np.testing.assert_allclose(
                    networks.order_parameters[name], values, rtol=0, atol=1e-12 * scale
                )
            np.testing.assert_allclose(networks.test_outputs, solution.test_outputs, atol=1e-12)
            np.testing.assert_allclose(networks.ntk, solution.ntk, rtol=1e-10, atol=1e-11)
        nodes = 0.1 * np.array([-0.9, 0.4, 1.0])
        for exponent, dimension in ((1.0, 2), (0.5, 2), (0.5, 40)):
            data = random_data(dimension=dimension, outputs=outputs)
            reference = Overlaps(
                data.kernel, data.targets, 4, attention, 1.5, float(exponent == 1),
                infinite(data.kernel, [rho * data.kernel for rho in nodes], k), np.ones(3), mask,
            )  # fmt: skip
            limit = dc.AttentionCore(
                gamma=1.5, attention_exponent=exponent, initial_correlations=nodes, **fields
            )
            self.compare(dc.solve(limit, data, training), reference, 12, lr, centred=True)

    def test_a_gram_matrix_is_enough(self):
        data, training = random_data(dimension=3), dc.GradientDescent(0.05, 10)
        y = {"targets": data.targets, "test_targets": data.test_targets}
        by_gram = dc.Dataset(full_gram=data.kernel, **y)
        assert by_gram.sequence_length == 4
        assert (by_gram.n_train, by_gram.n_test) == (3, 2)
        limit = dc.AttentionCore(gamma=1.5)
        first, second = (dc.solve(limit, d, training) for d in (data, by_gram))
        np.testing.assert_allclose(first.test_outputs, second.test_outputs, rtol=0, atol=1e-12)
        train = dc.Dataset(gram=data.kernel[:12, :12], targets=data.targets)
        third = dc.solve(limit, train, training)
        np.testing.assert_allclose(first.outputs, third.outputs, rtol=0, atol=1e-12)

    def test_rows_have_the_gram_matrix_of_the_tokens(self):
        for data in (random_data(dimension=2), random_data(dimension=50)):
            rows = token_rows(data)
            np.testing.assert_allclose(rows @ rows.T, data.kernel, atol=1e-13)
            assert rows.shape[1] == min(20, data.inputs.shape[2])


class TestSingleHeads:
    """Patterns and scores of every head, of which the moments are means."""

    @pytest.mark.parametrize(
        ("fields", "samples", "shape"),
        [
            ({"initial_correlations": [0.3, -0.7, 0.9], "head_weights": [1, 2, 1]}, None, (1, 3)),
            ({"key_dim": 3}, 32, (8, 4)),
            ({"key_dim": 3, "attention_exponent": 0.5, "heads": 2, "mask": "causal"}, 5, (5, 2)),
            ({"attention_exponent": 0.5}, 16 * (LANES + 1), (8, 2 * (LANES + 1))),
        ],
    )
    def test_of_a_theory(self, tmp_path, fields, samples, shape):
        limit, data = dc.AttentionCore(gamma=1.5, **fields), random_data()
        options = {"samples": samples, "save": "all", "kernel_times": [0, 2, 5]}
        path = tmp_path / "run.npz"
        solution = dc.solve(limit, data, dc.GradientDescent(0.05, 5), **options)
        options |= {"kernel_times": [0, 2], "checkpoint": path}
        dc.solve(limit, data, dc.GradientDescent(0.05, 3), **options)
        options["kernel_times"] = [0, 2, 5]
        resumed = dc.solve(limit, data, dc.GradientDescent(0.05, 5), **options)
        weight = np.array(fields.get("head_weights", np.ones(shape[1])))
        weight = weight / weight.sum()
        order = solution.order_parameters
        for name in ("S", "A"):
            heads = order[f"{name}_heads"]
            assert heads.shape == (3, *shape, 5, 4, 4)
            np.testing.assert_array_equal(resumed.order_parameters[f"{name}_heads"], heads)
            by_group = np.einsum("h,tgh...->tg...", weight, heads)
            np.testing.assert_allclose(by_group.mean(axis=1), order[f"{name}_mean"], atol=1e-12)
            # Of an average over heads the variance is that among all of them.
            centre = by_group if limit.is_network else by_group.mean(axis=1, keepdims=True)
            squares = (heads - centre[:, :, None]) ** 2
            variance = np.einsum("h,tgh...->tg...", weight, squares).mean(axis=1)
            np.testing.assert_allclose(variance, order[f"{name}_var"], rtol=1e-9, atol=1e-12)
        seen = np.tri(4) if limit.mask else np.ones((4, 4))
        np.testing.assert_array_equal(order["S_heads"] > 0, np.broadcast_to(seen > 0, heads.shape))

    def test_of_networks(self, tmp_path):
        limit, data = dc.AttentionCore(heads=2, key_dim=3), random_data()
        training = dc.GradientDescent(0.05, 4)
        options = {"seeds": 3, "save": ("S_heads",), "kernel_times": [0, 4]}
        found = dc.simulate(limit, data, training, **options)
        assert "A_heads" not in found.order_parameters
        heads = found.order_parameters["S_heads"]
        assert heads.shape == (2, 3, 2, 5, 4, 4)
        mean, variance = heads.mean(axis=2), heads.var(axis=2)
        np.testing.assert_allclose(mean.mean(axis=1), found.order_parameters["S_mean"], atol=1e-14)
        np.testing.assert_allclose(
            variance.mean(axis=1), found.order_parameters["S_var"], atol=1e-14
        )
        error = mean.std(axis=1, ddof=1) / np.sqrt(3)
        np.testing.assert_allclose(found.stderr("S_mean"), error, atol=1e-14)
        found.save(tmp_path / "run.npz")
        again = dc.Solution.load(tmp_path / "run.npz")
        np.testing.assert_array_equal(again.order_parameters["S_heads"], heads)


class TestExactStatements:
    def test_first_step(self):
        """f_mu(1) = (lr / P) sum_nu (2 / S^2) sum_ab C_ab y_nu for softmax, at any rate."""
        c = DATA.kernel.reshape(3, 3, 3, 3).sum(axis=(1, 3))
        for lr in (0.05, 3.0):
            training = dc.GradientDescent(lr, 1)
            solution = dc.solve(dc.AttentionCore(gamma=2), DATA, training, kernel_times=[])
            expected = lr / 3 * 2 / 9 * c @ DATA.targets
            np.testing.assert_allclose(solution.outputs[1], expected, rtol=1e-13)

    @pytest.mark.parametrize("attention", ATTENTIONS)
    @pytest.mark.parametrize(
        ("verb", "fields"),
        [
            (dc.solve, {"initial_correlations": [0.3, -0.7, 0.9]}),
            (dc.solve, {"initial_correlations": [0.3, -0.7], "attention_exponent": 0.5}),
            (dc.solve, {"parameters": random_parameters(3, 2, 5), "attention_exponent": 0.8}),
            (dc.simulate, {"parameters": random_parameters(3, 2, 5), "attention_exponent": 0.8}),
        ],
    )
    def test_tangent_kernel(self, verb, fields, attention):
        """f(t + 1) - f(t) = (lr / P) K (y - f) for a small rate."""
        data, lr, learned = random_data(test=False), 1e-6, 3
        limit = dc.AttentionCore(gamma=1.5, attention=attention, **fields)
        # Some steps first, so that no overlap vanishes; then one that is small.
        training = dc.GradientDescent([0.02] * learned + [lr], learned + 1)
        solution = verb(limit, data, training)
        change = (solution.outputs[-1] - solution.outputs[-2]) / lr
        expected = solution.ntk[-2] @ (data.targets - solution.outputs[-2]) / 3
        # The next order in lr, and the rounding of the outputs over lr.
        np.testing.assert_allclose(change, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        largest = np.linalg.eigvalsh(solution.ntk[-2])[-1] / 3
        assert solution.sharpness[-2] == pytest.approx(largest, rel=1e-12)

    @pytest.mark.parametrize("verb", [dc.solve, dc.simulate])
    @pytest.mark.parametrize("keys", [1, 3])
    def test_tangent_kernel_of_several_outputs(self, verb, keys):
        """With fewer components than outputs, and with more."""
        data, lr = random_data(test=False, outputs=2), 1e-6
        limit = dc.AttentionCore(
            mask="causal", parameters=random_parameters(2, keys, 5, outputs=2), gamma=1.5
        )
        training = dc.GradientDescent([0.02] * 3 + [lr], 4)
        solution = verb(limit, data, training)
        change = (solution.outputs[-1] - solution.outputs[-2]) / lr
        error = data.targets - solution.outputs[-2]
        assert solution.ntk.shape == (5, 3, 2, 3, 2)
        expected = np.einsum("ajbk,bk->aj", solution.ntk[-2], error) / 3
        np.testing.assert_allclose(change, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        largest = np.linalg.eigvalsh(solution.ntk[-2].reshape(6, 6))[-1] / 3
        assert solution.sharpness[-2] == pytest.approx(largest, rel=1e-12)

    def test_the_edge_of_stability_is_noticed(self):
        limit, quiet = dc.AttentionCore(gamma=2), dc.GradientDescent(0.05, 3)
        stable = dc.solve(limit, DATA, quiet)
        assert stable.diagnostics["stability"]["unstable"] is None
        lr = 2.5 / stable.sharpness[0]
        with pytest.warns(dc.StabilityWarning, match="edge of stability"):
            solution = dc.solve(limit, DATA, dc.GradientDescent(lr, 1))
        assert solution.diagnostics["stability"]["unstable"][0] == 0

    def test_nothing_to_learn(self):
        data = dc.Dataset(inputs=DATA.inputs, targets=np.zeros(3))
        for exponent in (0.5, 1.0):
            limit = dc.AttentionCore(attention_exponent=exponent, gamma=2)
            solution = dc.solve(limit, data, dc.GradientDescent(0.05, 10))
            assert not solution.outputs.any()
            for values in solution.order_parameters.values():
                assert (values == values[0]).all()

    def test_positions_do_not_matter(self):
        order = [2, 0, 1]
        moved = dc.Dataset(inputs=DATA.inputs[:, order], targets=DATA.targets)
        for attention in ATTENTIONS[:3]:
            limit = dc.AttentionCore(gamma=2, attention=attention)
            training = dc.GradientDescent(0.05, 29)
            first, second = (dc.solve(limit, d, training) for d in (DATA, moved))
            # Sums of nine terms in another order, through 30 steps.
            np.testing.assert_allclose(first.train_loss, second.train_loss, rtol=0, atol=1e-13)
            np.testing.assert_allclose(
                first.order_parameters["S_mean"][:, :, order][..., order],
                second.order_parameters["S_mean"], rtol=0, atol=1e-12,
            )  # fmt: skip

    def test_single_tokens_are_a_linear_network(self):
        """With S = 1 softmax is 1: a linear network of one hidden layer, of W_V and w."""
        rng = np.random.default_rng(3)
        x, y = rng.normal(size=(6, 4)), rng.normal(size=6)
        training = dc.GradientDescent(0.1, 30)
        linear = dc.solve(dc.DeepLinear(1, gamma=1.3), dc.Dataset(inputs=x, targets=y), training)
        for points in (x, x[:, None]):
            data = dc.Dataset(inputs=points, targets=y)
            solution = dc.solve(dc.AttentionCore(gamma=1.3), data, training)
            np.testing.assert_allclose(solution.outputs, linear.outputs, rtol=0, atol=1e-12)

    def test_patterns_are_distributions(self):
        limit = dc.AttentionCore(key_dim=3, attention_exponent=0.5)
        solution = dc.solve(limit, DATA, dc.GradientDescent(0.05, 5), samples=64)
        total = solution.order_parameters["S_mean"].sum(axis=-1)
        np.testing.assert_allclose(total, 1, rtol=0, atol=1e-14)

    def test_large_scores_do_not_overflow(self):
        # Equal queries and keys of norm 1e4: each token attends to itself alone.
        weights = random_parameters(1, 3, 5)
        weights["W_Q"] = weights["W_K"] = 1e2 * np.linalg.qr(weights["W_Q"][0].T)[0].T[None]
        limit = dc.AttentionCore(parameters=weights)
        solution = dc.solve(limit, random_data(), dc.GradientDescent(1e-3, 0))
        patterns = solution.order_parameters["S_mean"][0]
        assert np.isfinite(patterns).all()
        np.testing.assert_allclose(patterns.sum(axis=-1), 1, atol=1e-14)


class TestCore:
    @pytest.mark.parametrize(
        "limit",
        [
            dc.AttentionCore(gamma=1.5),
            dc.AttentionCore(gamma=1.5, attention_exponent=0.5),
            dc.AttentionCore(gamma=1.5, key_dim=3),
        ],
    )
    @pytest.mark.parametrize("dimension", [2, 40])
    def test_threads_do_not_change_a_bit(self, limit, dimension):
        data, training = random_data(dimension=dimension), dc.GradientDescent(0.05, 8)
        samples = {} if limit.is_deterministic else {"samples": 16 * (LANES + 3)}
        before, results = dc.get_num_threads(), []
        try:
            for threads in (1, 2, 5):
                dc.set_num_threads(threads)
                solution = dc.solve(limit, data, training, **samples)
                results.append(
                    [solution.outputs, solution.test_outputs, *solution.order_parameters.values()]
                )
        finally:
            dc.set_num_threads(before)
        for other in results[1:]:
            assert all((a == b).all() for a, b in zip(results[0], other, strict=True))

    def test_instruction_sets_agree(self):
        best, found = _core.isa(), {}
        limit = dc.AttentionCore(gamma=1.5, key_dim=3, attention_exponent=0.5)
        try:
            for level in ("baseline", "v3", "v4"):
                try:
                    _core.set_isa(level)
                except ValueError:
                    continue
                found[level] = dc.solve(limit, DATA, dc.GradientDescent(0.05, 20), samples=64)
        finally:
            _core.set_isa(best)
        for solution in found.values():
            np.testing.assert_allclose(
                solution.outputs, found["baseline"].outputs, rtol=0, atol=1e-12
            )

    def test_where_a_run_stops_changes_no_bit(self, tmp_path):
        limit = dc.AttentionCore(gamma=1.5, key_dim=3)
        options = {"samples": 48, "seed": 3, "kernel_times": [0, 7, 20]}
        whole = dc.solve(limit, DATA, dc.GradientDescent(0.05, 20), **options)
        path = tmp_path / "run.npz"
        options["kernel_times"] = [0, 7]
        dc.solve(limit, DATA, dc.GradientDescent(0.05, 9), checkpoint=path, **options)
        options["kernel_times"] = [0, 7, 20]
        resumed = dc.solve(limit, DATA, dc.GradientDescent(0.05, 20), checkpoint=path, **options)
        assert resumed.diagnostics["resumed_from"] == [9]
        for name, values in whole.order_parameters.items():
            np.testing.assert_array_equal(resumed.order_parameters[name], values)
            np.testing.assert_array_equal(resumed.stderr(name), whole.stderr(name))
        np.testing.assert_array_equal(resumed.outputs, whole.outputs)

    @pytest.mark.parametrize("level", ["baseline", "v3", "v4"])
    @pytest.mark.parametrize("lanes", [1, LANES])
    def test_the_exponential(self, level, lanes):
        """To a few units in the last place, with the special values that a divergence meets."""
        best = _core.isa()
        special = [0.0, -0.0, 709.5, 800.0, np.inf, np.nan, -707.9, 1e-300]
        x = np.concatenate([special, np.random.default_rng(0).uniform(-700, 700, 8000)])
        score = np.ascontiguousarray(x.reshape(-1, 1, 1, 1, lanes))
        chunks = len(score)
        try:
            _core.set_isa(level)
        except ValueError:
            pytest.skip(f"no {level} here")
        try:
            scores, found = _core.attention_patterns(
                attention="exp", causal=False, sequences=1, length=1, kernel=np.eye(1),
                tokens=None, targets=np.ones((1, 1)), gamma=1.0, scale=0.0, query=None, key=None,
                score=score, value=np.zeros((chunks, 1, 1, lanes)),
                readout=np.zeros((chunks, 1, 1, lanes)), weight=np.ones((chunks, lanes)),
                centre=np.zeros((1, 1, 1)),
            )  # fmt: skip
        finally:
            _core.set_isa(best)
        np.testing.assert_array_equal(scores.ravel(), x)
        with np.errstate(over="ignore"):
            expected = np.exp(x)
        expected[2] = np.inf  # from 709 on
        np.testing.assert_allclose(found.ravel(), expected, rtol=4 * np.finfo(float).eps)

    def test_the_core_refuses_what_does_not_fit(self):
        arguments = {
            "attention": "softmax", "causal": False, "sequences": 2, "length": 1,
            "kernel": np.eye(2), "tokens": None, "targets": np.ones((2, 1)), "gamma": 1.0,
            "scale": 1.0, "query": np.zeros((1, 2, 2, 1)), "key": np.zeros((1, 2, 2, 1)),
            "score": None, "value": np.zeros((1, 2, 3, 1)), "readout": np.zeros((1, 1, 3, 1)),
            "weight": np.ones((1, 1)), "centre": np.zeros((1, 2, 1)),
        }  # fmt: skip
        _core.attention_patterns(**arguments)
        for name, value in {
            "attention": "cube",
            "tokens": np.eye(2),
            "kernel": np.eye(3),
            "scale": 0.0,
            "query": np.zeros((1, 2, 0, 1)),
            "key": np.zeros((1, 2, 3, 1)),
            "value": np.zeros((1, 2, 3, 2)),
            "readout": np.zeros((1, 2, 3, 1)),
            "weight": np.ones((2, 1)),
            "centre": np.zeros((2, 2, 1)),
            "targets": np.ones((3, 1)),
        }.items():
            with pytest.raises(ValueError, match=r"\w"):
                _core.attention_patterns(**arguments | {name: value})


@pytest.mark.parametrize("pooled", [True, False])
def test_variances_of_all_groups_together(pooled):
    """Pooled, the variance of all heads; else the mean of those of the networks."""
    heads = np.random.default_rng(0).normal(size=(3, 5)) + np.arange(3)[:, None]
    numbers = {"mean": heads.mean(axis=1), "var": heads.var(axis=1)}
    by_group = {f"{name}_{kind}": x for name in "SA" for kind, x in numbers.items()}
    moments = Moments.over_groups(by_group | {"Z_mean": numbers["mean"]}, pooled=pooled)
    expected = heads.var() if pooled else heads.var(axis=1).mean()
    assert moments.mean["S_var"] == pytest.approx(expected, rel=1e-13)
    assert moments.mean["A_mean"] == pytest.approx(heads.mean(), rel=1e-13)
    assert moments.error["A_mean"] == pytest.approx(
        heads.mean(axis=1).std(ddof=1) / np.sqrt(3), rel=1e-13
    )


class TestErrors:
    @pytest.mark.parametrize(
        ("fields", "error", "text"),
        [
            ({"attention": "cube"}, ValueError, "attention must be one of 'softmax'"),
            ({"gamma": 0}, ValueError, "gamma must be a number > 0"),
            ({"attention_exponent": 0.4}, ValueError, r"must lie in \[1/2, 1\], not 0.4"),
            ({"attention_exponent": 1.1}, ValueError, r"must lie in \[1/2, 1\]"),
            ({"heads": 0}, ValueError, "heads must be an integer >= 1"),
            ({"key_dim": 2.5}, TypeError, "key_dim must be an integer"),
            ({"head_weights": [1]}, ValueError, "head_weights says how many heads have each of"),
            ({"initial_correlations": [1.2]}, ValueError, r"must lie in \[-1, 1\].*size 1.2"),
            ({"initial_correlations": [[0.2]]}, ValueError, "1 axes"),
            ({"initial_correlations": [0.2], "key_dim": 4, "attention_exponent": 0.5}, ValueError,
             "finite key_dim need attention_exponent=1"),
            ({"initial_correlations": [0.2], "key_dim": 4}, ValueError, "pass heads=1"),
            ({"initial_correlations": [0.2], "heads": 2}, ValueError, "each of the 2 heads"),
            ({"initial_correlations": [0.2], "heads": 1, "head_weights": [1]}, ValueError,
             "parts of infinitely many heads, but heads=1"),
            ({"initial_correlations": [0.2], "head_weights": [1, 1]}, ValueError, "found 2"),
            ({"initial_correlations": [0.2], "head_weights": [0]}, ValueError, "positive sum"),
            ({"initial_correlations": [0.2, 0.3], "head_weights": [2, -1]}, ValueError, ">= 0"),
            ({"parameters": [1]}, TypeError, r"map W_Q, W_K, W_V to arrays \(H, N, D\)"),
            ({"parameters": {"W_Q": 1}}, TypeError, r"found \['W_Q'\]"),
            ({"parameters": random_parameters(2, 3, 4), "heads": 3}, ValueError,
             "heads is 3, but parameters has 2"),
            ({"parameters": random_parameters(2, 3, 4) | {"w": np.ones((2, 2))}}, ValueError,
             r"parameters\['w'\] must have shape \(2, 3\)"),
            ({"parameters": random_parameters(2, 3, 4), "initial_correlations": [0, 0]},
             ValueError, "initial_correlations and parameters both"),
        ],
    )  # fmt: skip
    def test_the_noun(self, fields, error, text):
        with pytest.raises(error, match=text):
            dc.AttentionCore(**fields)

    @pytest.mark.parametrize(
        ("limit", "options", "text"),
        [
            ({}, {"samples": 16}, "samples: nothing is random"),
            ({}, {"seed": 1}, "seed: nothing is random"),
            ({}, {"tol": 1e-6}, "tol: attention truncates nothing"),
            ({}, {"method": "ensemble"}, "all heads are equal; use method='quadrature'"),
            ({}, {"save": "H"}, "save must be one of 'S_heads', 'A_heads', 'all'"),
            ({"parameters": random_parameters(2, 3, 3, outputs=2)}, {},
             r"w'\] of shape \(2, 3, 2\) has 2 outputs, but targets of shape \(3,\) have 1"),
            ({"key_dim": 4}, {"samples": 24}, "samples must be a multiple of 16"),
            ({"key_dim": 4}, {"method": "quadrature"}, "a head of 4 keys are random"),
            ({"parameters": random_parameters(2, 3, 4)}, {}, "dimension 4, but data holds inputs"),
        ],
    )  # fmt: skip
    def test_solve(self, limit, options, text):
        with pytest.raises(ValueError, match=text):
            dc.solve(dc.AttentionCore(**limit), DATA, dc.GradientDescent(0.1, 2), **options)

    @pytest.mark.parametrize(
        ("data", "training", "error", "text"),
        [
            (DATA, dc.GradientDescent(0.1, 2, momentum=0.5), ValueError, "neither momentum nor"),
            (DATA, dc.GradientDescent(0.1, 2, weight_decay=0.5), ValueError, "nor weight_decay"),
            (DATA, dc.GradientFlow([1.0]), TypeError, "AttentionCore|not by a GradientFlow"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("verb", [dc.solve, dc.simulate])
    def test_both_verbs(self, verb, data, training, error, text):
        with pytest.raises(error, match=text):
            verb(dc.AttentionCore(heads=1, key_dim=2), data, training)

    def test_other_limits_take_points(self):
        training = dc.GradientDescent(0.1, 2)
        with pytest.raises(ValueError, match=r"sequences of 3 tokens, but a DeepLinear takes"):
            dc.solve(dc.DeepLinear(2), DATA, training)
        with pytest.raises(ValueError, match="takes points"):
            dc.simulate(dc.DeepLinear(2), DATA, training, width=3)
        with pytest.raises(ValueError, match="samples: the theory of a DeepLinear draws no random"):
            dc.solve(dc.DeepLinear(2), dc.Dataset(gram=np.eye(2), targets=[1, 2]), training,
                     samples=3)  # fmt: skip

    @pytest.mark.parametrize(
        ("fields", "text"),
        [
            ({"test_inputs": np.ones((2, 3))}, "must have 3 axes as inputs, which holds sequences"),
            ({"test_inputs": np.ones((2, 4, 3))}, "of 4 tokens, but those of inputs have 3"),
            ({"test_inputs": np.ones((2, 3, 4))}, "4 columns"),
        ],
    )
    def test_test_sequences(self, fields, text):
        with pytest.raises(ValueError, match=text):
            dc.Dataset(inputs=DATA.inputs, targets=DATA.targets, **fields)

    def test_a_gram_matrix_of_no_whole_sequences(self):
        with pytest.raises(ValueError, match=r"2 S rows and columns .* found \(5, 5\)"):
            dc.Dataset(gram=np.eye(5), targets=[1, 2])

    def test_divergence(self):
        limit = dc.AttentionCore(gamma=2, attention="exp")
        with pytest.raises(dc.DivergenceError, match="lower lr") as caught:
            dc.solve(limit, DATA, dc.GradientDescent(5.0, 50), kernel_times=[])
        partial = caught.value.partial
        assert 0 < len(partial.times) == caught.value.step
        assert np.isfinite(partial.train_loss).all()
        training = dc.GradientDescent(5.0, int(partial.times[-1]))
        whole = dc.solve(limit, DATA, training, kernel_times=[])
        np.testing.assert_array_equal(whole.train_loss, partial.train_loss)

    def test_still_relu(self):
        with pytest.warns(UserWarning, match="queries and keys never move"):
            solution = dc.solve(
                dc.AttentionCore(attention="relu"), DATA, dc.GradientDescent(0.1, 5)
            )
        assert not solution.order_parameters["A_mean"].any()

    def test_too_large_a_run(self):
        limit = dc.AttentionCore(key_dim=4)
        with pytest.raises(MemoryError, match="pass fewer samples"):
            dc.solve(limit, DATA, dc.GradientDescent(0.1, 5), samples=16 * 10**9)


class TestFiles:
    def test_configuration(self, tmp_path):
        pytest.importorskip("tomli_w")
        from dmftcore.config import Config, read_config, write_config

        for limit in (
            dc.AttentionCore(gamma=2, attention="exp", initial_correlations=[0.1, -0.4]),
            dc.AttentionCore(key_dim=4, attention_exponent=0.5, mask="causal"),
            dc.AttentionCore(parameters=random_parameters(2, 3, 3)),
        ):
            config = Config(limit, DATA, dc.GradientDescent(0.1, 3), solve={"kernel_times": [0]})
            write_config(config, tmp_path / "run.toml")
            found = read_config(tmp_path / "run.toml")
            assert found.limit == limit
            assert hash(found.limit) == hash(limit)
            assert found.limit != dc.AttentionCore()
            np.testing.assert_array_equal(found.data.inputs, DATA.inputs)
            dc.solve(found.limit, found.data, found.training, **found.solve)

    def test_solution(self, tmp_path):
        pytest.importorskip("h5netcdf")
        limit = dc.AttentionCore(key_dim=4)
        solution = dc.solve(limit, random_data(), dc.GradientDescent(0.1, 3), samples=32)
        solution.save(tmp_path / "run.nc")
        again = dc.Solution.load(tmp_path / "run.nc")
        for name, values in solution.order_parameters.items():
            np.testing.assert_array_equal(again.order_parameters[name], values)
            np.testing.assert_array_equal(again.stderr(name), solution.stderr(name))
        np.testing.assert_array_equal(again.stderr("outputs"), solution.stderr("outputs"))
        assert again.config["limit"]["type"] == "AttentionCore"
