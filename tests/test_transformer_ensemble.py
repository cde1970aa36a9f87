"""Transformers on particles: exact sources, the law of finite networks, infinitely many heads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import dmftcore as dc
from dmftcore.limits.transformer_ensemble import TransformerEnsemble
from dmftcore.sampled.blocks import Sampling
from test_attention import PAIR
from test_transformer import KERNELS, random_data

DATA = random_data()


def cosines(dimension, tokens, frequency):
    """Sequences of two, or three, tokens, of the reference tables."""
    d, a = np.arange(dimension)[:, None], np.arange(tokens)
    x = 2 * np.cos(frequency * (d + 1) * (a + 1) + 0.7 * d)
    return dc.Dataset(inputs=x.T.reshape(2, -1, dimension), targets=[1, -1])


#: Two sequences of two tokens, and their printed numbers.
COSINES = cosines(4, 4, 1.7)


class TestExactSources:
    """Without sampling, against the chain of two-time kernels."""

    @pytest.mark.parametrize(
        ("fields", "outputs", "training"),
        [
            ({"depth": 1}, None, {}),
            ({"depth": 3, "depth_exponent": 0.5, "mask": "causal"}, None, {}),
            ({"depth": 2, "attention": "exp", "branch_scale": 0.8}, None, {}),
            ({"depth": 2, "attention": "linear"}, 2, {}),
            ({"depth": 2, "heads": 3}, None, {"momentum": 0.5, "weight_decay": 0.2}),
        ],
    )
    def test_everything(self, fields, outputs, training):
        limit, data = dc.Transformer(gamma=1.5, **fields), random_data(outputs=outputs)
        training = dc.GradientDescent(0.05, 12, **training)
        options = {"kernel_times": [0, 3, 12], "save": KERNELS}
        chain = dc.solve(limit, data, training, method="chain", **options)
        found = dc.solve(limit, data, training, method="growing", tol=1e-20, **options)
        assert found.diagnostics["engine"] == "growing"
        # What is dropped of a field is 1e-10 of it at most.
        near = {"rtol": 1e-9, "atol": 1e-10}
        np.testing.assert_allclose(found.outputs, chain.outputs, **near)
        np.testing.assert_allclose(found.test_outputs, chain.test_outputs, **near)
        for name in KERNELS:
            for layer, values in chain.two_time[name].items():
                np.testing.assert_allclose(found.kernel(name, layer), values, **near)
            for layer, values in chain.equal_time[name].items():
                np.testing.assert_allclose(found.equal_time[name][layer], values, **near)
        for name, values in chain.order_parameters.items():
            np.testing.assert_allclose(found.order_parameters[name], values, **near)
        if outputs is None:
            np.testing.assert_allclose(found.ntk, chain.ntk, **near)

    def test_printed_numbers(self):
        """Of two sequences of three tokens, to the digits that are printed."""
        limit = dc.Transformer(4, gamma=3)
        training = dc.GradientDescent(0.02, 11)
        found = dc.solve(limit, cosines(3, 6, 1.3), training, method="growing")
        losses = found.train_loss[[1, 2, 5, 11]]
        expected = [0.47073962, 0.44243547, 0.35001409, 0.04706178]
        np.testing.assert_allclose(losses, expected, rtol=0, atol=6e-9)
        np.testing.assert_allclose(found.outputs[11], [0.66697388, -0.72189798], atol=6e-9)
        assert abs(found.kernel("H", 4, 11, 11)[0, 1] - 0.16517442) < 6e-9
        assert abs(found.kernel("G", 0, 11, 11)[0, 0] - 0.96124228) < 6e-9

    def test_truncation(self):
        """As the comment on the default promises: 1e-8 and 1e-11 at the end, with room for ten."""
        limit, training = dc.Transformer(2, gamma=3), dc.GradientDescent(0.01, 30)
        chain = dc.solve(limit, PAIR, training, kernel_times=[], method="chain")
        for tol, error in ((1e-12, 1e-7), (None, 1e-10)):
            found = dc.solve(limit, PAIR, training, kernel_times=[], method="growing", tol=tol)
            np.testing.assert_allclose(found.outputs, chain.outputs, rtol=0, atol=error)

    def test_linear_blocks_need_no_sampling(self):
        """Linear MLP blocks by exact sources, and heads of many dimensions by sampled ones."""
        limit = dc.Transformer(2, gamma=1.5, mlp_activation="linear")
        training = dc.GradientDescent(0.05, 5)
        exact = dc.solve(limit, COSINES, training, kernel_times=[])
        assert exact.diagnostics["engine"] == "growing"
        system = TransformerEnsemble(
            dc.Transformer(2, key_dim=1000, gamma=1.5, mlp_activation="linear"),
            COSINES, training, Sampling(4000, runs=8, seed=2), 4,
        )  # fmt: skip
        f = system.advance(np.arange(6))
        error = f.std(axis=1, ddof=1) / np.sqrt(8)
        distance = np.abs(f.mean(axis=1)[..., 0] - exact.outputs)[1:]
        # And 1/N = 1e-3 of their size for the finite dimension.
        assert (distance < 4 * error[1:, :, 0] + 2e-3).all()

    def test_long_runs_by_default(self):
        limit, training = dc.Transformer(1), dc.GradientDescent(0.001, 130)
        long = dc.solve(limit, COSINES, training, kernel_times=[])
        assert long.diagnostics["engine"] == "growing"
        assert "524 tokens times steps, more than 500" in long.diagnostics["reason"]
        asked = dc.solve(limit, COSINES, training, kernel_times=[0], save="Ro")
        assert asked.diagnostics["engine"] == "chain"
        np.testing.assert_allclose(long.outputs, asked.outputs, rtol=0, atol=1e-9)


class TestLaw:
    """Sources as such have the law of finite networks: means and variances of their outputs."""

    @pytest.mark.parametrize(
        ("fields", "outputs", "training"),
        [
            ({"attention_exponent": 0.5}, None, {}),
            ({"mask": "causal", "mlp_activation": "tanh"}, None,
             {"momentum": 0.5, "weight_decay": 0.2}),
            ({"mlp_activation": "relu"}, 2, {}),
        ],
    )  # fmt: skip
    def test_small_networks(self, fields, outputs, training):
        keys, heads, runs, steps = 2, 5, 300, 4
        data = random_data(1, length=2, dimension=3, outputs=outputs)
        limit = dc.Transformer(
            2, key_dim=keys, heads=heads, gamma=1.5, depth_exponent=0.5, **fields
        )
        training = dc.GradientDescent(0.05, steps, **training)
        networks = dc.simulate(limit, data, training, seeds=runs, seed=5)
        sampling = Sampling(keys * heads, runs=runs, match=False, tol=1e-12, seed=3)
        system = TransformerEnsemble(limit, data, training, sampling, heads)
        f = []
        for step in range(steps + 1):
            f.append(system.advance(np.array([step]))[0])
            system.store_kernels()
        theory = np.array(f).reshape(steps + 1, runs, -1)[1:]
        experiment = np.concatenate(
            [
                networks.per_seed[name].reshape(runs, steps + 1, -1)
                for name in ("outputs", "test_outputs")
            ],
            axis=2,
        ).swapaxes(0, 1)[1:]
        for moment in (lambda x: x, lambda x: (x - x.mean(axis=1, keepdims=True)) ** 2):
            a, b = moment(theory), moment(experiment)
            errors = np.sqrt((a.var(axis=1) + b.var(axis=1)) / runs)
            assert (np.abs(a.mean(axis=1) - b.mean(axis=1)) < 4 * errors).all()
        fields = system.fields(())
        for name in ("H", "G", "O", "P_v", "P_q"):
            found, errors = fields["equal_time"][name], fields["standard_errors"][name]
            for layer, values in networks.equal_time[name].items():
                error = np.hypot(errors[layer], networks.stderr(name)[layer])
                difference = np.abs(found[layer] - values)
                # Some 3000 numbers, half of them with heavy tails.
                assert (difference <= 5 * error + 1e-12).all()


class TestManyHeads:
    """Infinitely many heads of finitely many dimensions."""

    #: Losses at steps 1 to 5 of ten runs of 2000 heads by an independent program that stores
    #: two-time kernels, and their standard errors (reference tables).
    LOSSES = (0.29913, 0.16836, 0.07975, 0.02972, 0.00886)
    ERRORS = (0.00146, 0.00129, 0.00107, 0.00068, 0.00031)
    LIMIT = dc.Transformer(
        2, key_dim=4, gamma=2, attention_exponent=0.5, depth_exponent=0.5
    )  # fmt: skip

    @pytest.mark.parametrize("samples", [150, pytest.param(1000, marks=pytest.mark.slow)])
    def test_printed_numbers(self, samples):
        training = dc.GradientDescent(0.03, 11)
        found = dc.solve(
            self.LIMIT, COSINES, training, samples=samples, kernel_times=[0, 5, 11], seed=1
        )
        assert found.diagnostics["engine"] == "ensemble"
        of_loss = found.stderr("train_loss")[1:6]
        error = np.hypot(of_loss, self.ERRORS)
        assert (np.abs(found.train_loss[1:6] - self.LOSSES) < 4 * error).all()
        first = (slice(None), 0, 0, 0)
        for name, step, expected, errors in (
            ("S_var", 2, [0.09073, 0.11924], [0.00073, 0.00056]),
            ("A_var", 0, [4.196, 9.029], [0.055, 0.113]),
            ("A_var", 2, [5.048, 17.152], [0.064, 0.265]),
        ):
            values = found.order_parameters[name][step][first]
            error = np.hypot(found.stderr(name)[step][first], errors)
            assert (np.abs(values - expected) < 4 * error).all(), name
        h = found.equal_time["H"][2][:, 0, 0]
        error = np.hypot(found.stderr("H")[2, :, 0, 0], [0.008, 0.026, 0.030])
        assert (np.abs(h - [4.473, 7.956, 8.391]) < 4 * error).all()
        assert found.diagnostics["collapse"][0] > 0.01

    @pytest.mark.parametrize("exponent", [0.5, 1.0])
    def test_the_tangent_kernel_moves_the_outputs(self, exponent):
        """Of every sample of heads, to first order in the learning rate: all of their gradients."""
        limit = dc.Transformer(2, key_dim=4, gamma=2, attention_exponent=exponent, mask="causal")
        data, lr = random_data(test=0), 1e-6
        found = dc.solve(
            limit, data, dc.GradientDescent(lr, 1), samples=5, replicas=1, tol=1e-12, seed=2
        )
        expected = found.ntk[0] @ data.targets / 2
        # And the second order, lr times the sharpness squared.
        np.testing.assert_allclose(found.outputs[1] / lr, expected, rtol=1e-4)

    def test_networks_approach_it(self):
        """With MLP blocks and a causal mask, and two outputs."""
        limit = dc.Transformer(
            1, key_dim=2, gamma=1.5, mask="causal", mlp_activation="tanh", attention_exponent=0.5
        )
        data = random_data(3, length=2, dimension=3, outputs=2)
        training = dc.GradientDescent(0.05, 6)
        theory = dc.solve(limit, data, training, kernel_times=[6], samples=500)
        distances = []
        for width, seeds in ((8, 400), (64, 120)):
            networks = dc.simulate(
                limit, data, training, width=width, seeds=seeds, kernel_times=[6]
            )
            difference = networks.outputs[6] - theory.outputs[6]
            error = np.hypot(networks.stderr("outputs")[6], theory.stderr("outputs")[6])
            distances.append((np.abs(difference).max(), error.max()))
            last = difference, error
        difference, error = last
        assert (np.abs(difference) < 4 * error + 0.25 * distances[0][0]).all()
        h, error = theory.equal_time["H"][1][0], networks.stderr("H")[1, 0]
        error = np.hypot(error, theory.stderr("H")[1, 0])
        relative = np.abs(networks.equal_time["H"][1][0] - h) / np.sqrt(h[0, 0] * h[1, 1])
        # 1/W of the width 64 comes on top.
        assert (relative < 4 * error + 3 / 64).all()

    def test_many_dimensions(self):
        """At alpha = 1 the distance to infinitely many dimensions falls like 1 / N."""
        training = dc.GradientDescent(0.02, 8)
        limit = dc.solve(dc.Transformer(1, gamma=2), COSINES, training, kernel_times=[])
        far = []
        for keys in (2, 16):
            found = dc.solve(
                dc.Transformer(1, key_dim=keys, gamma=2), COSINES, training,
                kernel_times=[], samples=1600 // keys, seed=keys,
            )  # fmt: skip
            far.append(found.train_loss[4] - limit.train_loss[4])
            error = found.stderr("train_loss")[4]
            assert np.abs(far[-1]) > 4 * error
        assert far[1] / far[0] < 0.35

    def test_neurons_between_exact_heads(self):
        """Nonlinear MLP blocks alone are sampled; networks tend to it with their width."""
        training = dc.GradientDescent(0.02, 8)
        fields = {"depth": 1, "gamma": 1, "mlp_activation": "tanh"}
        theory = dc.solve(dc.Transformer(**fields), COSINES, training, kernel_times=[8])
        assert "MLP" in theory.diagnostics["reason"]
        assert not theory.order_parameters["S_var"].any()
        networks = dc.simulate(
            dc.Transformer(key_dim=96, heads=1, **fields), COSINES, training, seeds=100,
            kernel_times=[],
        )  # fmt: skip
        error = np.hypot(networks.stderr("outputs"), theory.stderr("outputs"))[1:]
        difference = np.abs(networks.outputs - theory.outputs)[1:]
        # At width 16 and 32 the means differ by 0.046 and 0.026: 0.8 / W.
        assert (difference < 4 * error + 0.8 / 96).all()


class TestInfiniteDepth:
    TRAINING = dc.GradientDescent(0.05, 3)

    def test_exact_sources_are_the_chain(self):
        limit, options = dc.Transformer(dc.INFINITE, gamma=2), {"kernel_times": [0, 3]}
        chain = dc.solve(limit, PAIR, self.TRAINING, save="all", **options)
        found = dc.solve(limit, PAIR, self.TRAINING, save="all", method="growing", **options)
        assert found.diagnostics["engine"] == "growing"
        assert sorted(chain.two_time) == sorted(found.two_time) == ["G", "H", "O"]
        # 1e-11 at a finite depth; the weights of the extrapolation add up to 5.
        near = {"rtol": 1e-8, "atol": 1e-9}
        np.testing.assert_allclose(found.outputs, chain.outputs, **near)
        for name, layers in chain.two_time.items():
            for node, values in layers.items():
                np.testing.assert_allclose(found.two_time[name][node], values, **near)

    def test_linear_blocks(self):
        """Finite depths are c / L away, of the order that is left after the extrapolation."""
        limit = dc.Transformer(dc.INFINITE, gamma=1, mlp_activation="linear", branch_scale=0.5)
        half, whole, infinite = (
            dc.solve(replace(limit, depth=depth), PAIR, self.TRAINING, tol=tol, kernel_times=[])
            for depth, tol in ((16, None), (32, None), (dc.INFINITE, 1e-4))
        )
        assert infinite.diagnostics["depth_error"] < 1e-4
        ratio = (half.outputs - infinite.outputs)[1:] / (whole.outputs - infinite.outputs)[1:]
        np.testing.assert_allclose(ratio, 2, atol=0.1)

    def test_sampled_heads(self, tmp_path):
        """2 f(16) - f(8) is the limit to the next order, a part of the first one, and samples."""
        options = {"samples": 40, "kernel_times": [0, 3]}
        limit = dc.Transformer(dc.INFINITE, key_dim=2, gamma=2)
        found = dc.solve(limit, PAIR, self.TRAINING, save="H", **options)
        at = {
            depth: dc.solve(replace(limit, depth=depth), PAIR, self.TRAINING, seed=5, **options)
            for depth in (8, 16)
        }
        assert found.diagnostics["engine"] == "ensemble"
        assert found.per_seed["outputs"].shape == (8, 4, 2)

        def compare(field, error):
            first = field(at[8]) - field(found)
            difference = 2 * field(at[16]) - field(at[8]) - field(found)
            scatter = np.sqrt(error(found) ** 2 + 4 * error(at[16]) ** 2 + error(at[8]) ** 2)
            assert (np.abs(difference) < 4.5 * scatter + np.abs(first).max() / 4).all()
            # An error that hides everything would show nothing.
            assert scatter.max() < np.abs(first).max()

        compare(lambda s: s.outputs[1:], lambda s: s.stderr("outputs")[1:])

        def at_the_end(s, values, axis):
            return np.take(values, -1 if s is found else len(s.equal_time["H"]) - 1, axis=axis)

        compare(
            lambda s: at_the_end(s, np.stack(list(s.equal_time["H"].values())), 0),
            lambda s: at_the_end(s, s.stderr("H"), 0),
        )
        found.save(tmp_path / "run.nc")
        again = dc.Solution.load(tmp_path / "run.nc")
        np.testing.assert_array_equal(again.stderr("S_mean"), found.stderr("S_mean"))
        assert found.stderr("S_mean").shape == found.order_parameters["S_mean"].shape
        with pytest.raises(KeyError):
            found.stderr("P_k")


class TestSingleHeads:
    """Patterns and scores of every head: (n, depth, runs, heads, P + Q, S, S)."""

    @pytest.mark.parametrize(
        ("verb", "fields", "options", "shape"),
        [
            (dc.solve, {"key_dim": 2}, {"samples": 5, "replicas": 3}, (3, 5)),
            (dc.solve, {"mask": "causal"}, {"method": "growing"}, (1, 1)),
            (dc.solve, {}, {"method": "chain"}, (1, 1)),
            (dc.simulate, {"key_dim": 2, "heads": 4}, {"seeds": 3}, (3, 4)),
        ],
    )
    def test_moments_are_theirs(self, tmp_path, verb, fields, options, shape):
        limit = dc.Transformer(2, gamma=2, **fields)
        options = options | {"kernel_times": [0, 3, 6]}
        whole = verb(limit, DATA, dc.GradientDescent(0.05, 6), save="all", **options)
        short = options | {"kernel_times": [0, 3], "save": "all", "checkpoint": tmp_path / "run"}
        verb(limit, DATA, dc.GradientDescent(0.05, 4), **short)
        resumed = verb(
            limit, DATA, dc.GradientDescent(0.05, 6), **short | {"kernel_times": [0, 3, 6]}
        )
        for name in ("S", "A"):
            heads, order = whole.order_parameters[f"{name}_heads"], whole.order_parameters
            assert heads.shape == (3, 2, *shape, 3, 3, 3)
            np.testing.assert_array_equal(resumed.order_parameters[f"{name}_heads"], heads)
            np.testing.assert_allclose(heads.mean(axis=(2, 3)), order[f"{name}_mean"], atol=1e-12)
            # Of sampled heads the variance among all that there are.
            freedom = 1 if verb is dc.solve and shape[1] > 1 else 0
            variance = heads.var(axis=3, ddof=freedom).mean(axis=2)
            np.testing.assert_allclose(variance, order[f"{name}_var"], atol=1e-12)
        assert set(KERNELS) == set(whole.two_time)


class TestRuns:
    TRAINING = dc.GradientDescent(0.05, 4, momentum=0.5, weight_decay=0.1)

    @pytest.mark.parametrize(
        ("fields", "options"),
        [
            ({"key_dim": 3}, {"samples": 20, "replicas": 3, "seed": 7}),
            ({"key_dim": 3, "mlp_activation": "relu"}, {"samples": 20, "replicas": 2}),
            ({"mlp_activation": "tanh"}, {"samples": 60, "replicas": 2}),
            ({"mask": "causal"}, {"method": "growing"}),
        ],
    )
    def test_a_run_goes_on_from_its_checkpoint(self, tmp_path, fields, options):
        longer = dc.GradientDescent(0.05, 9, momentum=0.5, weight_decay=0.1)
        limit, path = dc.Transformer(2, gamma=2, **fields), tmp_path / "run.npz"
        options = options | {"kernel_times": [0, 3, 4, 9], "save": ("H", "G", "P_k")}
        whole = dc.solve(limit, DATA, longer, **options)
        short = options | {"kernel_times": [0, 3, 4]}
        dc.solve(limit, DATA, self.TRAINING, checkpoint=path, **short)
        resumed = dc.solve(limit, DATA, longer, checkpoint=path, **options)
        assert resumed.diagnostics["resumed_from"] == [4]
        np.testing.assert_array_equal(resumed.outputs, whole.outputs)
        for name in ("H", "G", "P_k"):
            for layer, values in whole.two_time[name].items():
                np.testing.assert_array_equal(resumed.two_time[name][layer], values)
        for name, values in whole.order_parameters.items():
            np.testing.assert_array_equal(resumed.order_parameters[name], values)
        for name, values in whole.standard_errors.items():
            np.testing.assert_array_equal(resumed.standard_errors[name], values)

    def test_replicas_do_not_depend_on_each_other(self):
        limit, training = dc.Transformer(1, key_dim=2), dc.GradientDescent(0.05, 5)
        few, many = (
            dc.solve(limit, DATA, training, samples=30, replicas=n, seed=3, kernel_times=[])
            for n in (2, 4)
        )
        np.testing.assert_allclose(
            few.per_seed["outputs"], many.per_seed["outputs"][:2], rtol=0, atol=1e-10
        )
        assert 0 < many.diagnostics["replica_scatter"] < 1
        assert many.diagnostics["samples"] == 30

    def test_single_precision(self):
        limit, training = dc.Transformer(2, key_dim=2, gamma=1.5), dc.GradientDescent(0.05, 5)
        options = {"samples": 50, "replicas": 2, "kernel_times": [5]}
        double, single = (
            dc.solve(limit, DATA, training, dtype=dtype, **options)
            for dtype in ("float64", "float32")
        )
        # Fields are rounded by 6e-8, and truncated by 1e-2 in nearly the same directions.
        np.testing.assert_allclose(single.outputs, double.outputs, rtol=0, atol=1e-3)

    @pytest.mark.filterwarnings("ignore::dmftcore.StabilityWarning")
    def test_divergence_keeps_what_is_done(self):
        limit = dc.Transformer(1, key_dim=2, gamma=2)
        with pytest.raises(dc.DivergenceError, match="lower lr") as caught:
            dc.solve(limit, PAIR, dc.GradientDescent(5.0, 60), samples=20, replicas=2)
        partial = caught.value.partial
        assert 0 < len(partial.times) <= caught.value.step
        assert np.isfinite(partial.train_loss).all()

    def test_files_and_progress(self, tmp_path):
        seen = []
        found = dc.solve(
            dc.Transformer(1, key_dim=2), DATA, dc.GradientDescent(0.05, 3), samples=20,
            save="H", progress=lambda step, loss: seen.append((step, loss)),
        )  # fmt: skip
        assert [step for step, _ in seen] == [0, 1, 2, 3]
        np.testing.assert_allclose([loss for _, loss in seen], found.train_loss)
        found.save(tmp_path / "run.npz")
        again = dc.Solution.load(tmp_path / "run.npz")
        np.testing.assert_array_equal(again.kernel("H", 1), found.kernel("H", 1))
        np.testing.assert_array_equal(again.stderr("S_var"), found.stderr("S_var"))

    @pytest.mark.parametrize(
        ("fields", "options", "text"),
        [
            ({"key_dim": 2, "heads": 3}, {}, "heads = 3: with finitely many heads"),
            ({"key_dim": 2}, {"method": "growing"}, "heads of finitely many .* method='ensemble'"),
            ({}, {"method": "ensemble"}, "attention is deterministic, there is nothing to sample"),
            ({"key_dim": 2}, {"save": "Ro"}, "save='Ro': .* does not know single responses"),
            ({"key_dim": 2, "responses": "none"}, {}, "responses = 'none'"),
            (
                {"key_dim": 2, "depth": dc.INFINITE},
                {"save": "S_heads"},
                "only H, G, O have a limit",
            ),
            ({}, {"method": "growing", "samples": 3}, "samples: method='growing' samples nothing"),
            ({}, {"method": "growing", "dtype": "float32"}, "solved in float64"),
            ({"key_dim": 2}, {"dtype": "float32", "tol": 1e-8}, "below the rounding noise"),
        ],
    )
    def test_errors(self, fields, options, text):
        limit = dc.Transformer(**{"depth": 1, **fields})
        with pytest.raises(ValueError, match=text):
            dc.solve(limit, DATA, dc.GradientDescent(0.1, 2), **options)

    def test_too_large_a_run(self):
        with pytest.raises(MemoryError, match="lower samples or replicas"):
            dc.solve(
                dc.Transformer(10, key_dim=8), DATA, dc.GradientDescent(0.1, 1000),
                samples=10**6, kernel_times=[],
            )  # fmt: skip
