"""Residual transformers: printed numbers, the equations in their sources, exact statements."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import dmftcore as dc
from test_attention import PAIR, assert_printed
from transformer_reference import Theory

KERNELS = ("H", "G", "O", "P_k", "P_q", "P_v")
RESPONSES = ("Rh", "Ro", "Rg", "Rp_k", "Rp_q", "Rp_v")


def random_data(seed=0, *, train=2, test=1, length=3, dimension=4, outputs=None):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(train + test, length, dimension))
    y = rng.normal(size=(train + test, *(() if outputs is None else (outputs,))))
    return dc.Dataset(
        inputs=x[:train], targets=y[:train],
        test_inputs=x[train:] if test else None, test_targets=y[train:] if test else None,
    )  # fmt: skip


DATA = random_data()


class TestPrintedNumbers:
    """Of the reference tables, cos_inputs, eight digits."""

    #: Depth, its exponent; loss at t = 1, 2, 5, 11; and at the last step, outputs, attention in the
    #: first block, logits in the last; H^L with the first step; H^L; G^0, O^0, Ro, Rh, Rg, Rp_v.
    CASES = (
        (1, 0.5, ".46463075 .43097023 .32754396 .07809319", ".58401527 -.62673140",
         ".28537308 .44429129 .27033563", ".02569465 .06941786 -.20596992",
         "2.27154780 -1.71408716", "3.43405414 -.35556035",
         ".87682204 .91401052 .02376434 .05433802 .00379030 .00780963"),
        (2, 0.5, ".45599114 .41427262 .27940472 .00919497", ".83514319 -.90200963",
         ".29731367 .41312944 .28955688", ".12483719 .24531802 -.15897216",
         "2.57284719 -1.31192135", "5.64336051 2.23913813",
         "1.71564612 .83855370 .01745856 .05430466 .00785368 .00995622"),
        (4, 1.0, ".47073962 .44243547 .35001409 .04706178", ".66697388 -.72189798",
         ".30075542 .40664483 .29259975", ".18418814 .33494997 -.15434400",
         "1.96687649 -1.86210303", "3.59377383 .16517442",
         ".96124228 .79713451 .01568324 .05428632 .00383995 .00285774"),
    )  # fmt: skip

    @pytest.mark.parametrize("case", CASES, ids=lambda case: f"L={case[0]}")
    def test_softmax(self, case):
        depth, exponent, loss, outputs, patterns, scores, first, last, single = case
        limit = dc.Transformer(depth, gamma=3, depth_exponent=exponent)
        solution = dc.solve(limit, PAIR, dc.GradientDescent(0.02, 11), save="all")
        assert_printed(solution.train_loss[[0, 1, 2, 5, 11]], "0.5 " + loss)
        assert_printed(solution.outputs[11], outputs)
        order = solution.order_parameters
        assert_printed(order["S_mean"][11, 0, 0, 0], patterns)
        assert_printed(order["A_mean"][11, -1, 1, 2], scores)
        assert order["S_var"].max() == order["A_var"].max() == 0
        assert_printed(solution.kernel("H", depth, 11, 0)[0, :2], first)
        assert_printed(solution.kernel("H", depth, 11, 11)[0, :2], last)
        found = [solution.kernel(name, 0, 11, 11)[0, 0] for name in ("G", "O")]
        found += [solution.response(name, 0)[11, 0, 0, 0] for name in ("Ro", "Rh", "Rg", "Rp_v")]
        assert_printed(found, single)
        assert solution.diagnostics["residual"] < 1e-13

    def test_what_responses_do(self):
        """Change of the loss without those of the stream, and of heads; relative, root mean square.

        And the largest logit, which does not vanish with depth.
        """
        data = dc.Dataset(inputs=cos_inputs_of_four(), targets=[1, -1])
        training = dc.GradientDescent(0.03, 11)

        def solution(depth, responses):
            limit = dc.Transformer(depth, gamma=2, responses=responses)
            return dc.solve(limit, data, training)

        def change(depth, responses):
            one, other = (solution(depth, kept).train_loss for kept in (responses, "all"))
            return np.sqrt(np.mean((one - other) ** 2) / np.mean(other**2))

        # Printed to two digits.
        found = [change(2, "head"), change(8, "head"), change(32, "head"), change(32, "stream")]
        np.testing.assert_allclose(found, [5.1e-2, 9.9e-3, 2.1e-3, 2.2e-2], rtol=0.025)
        largest = [solution(depth, "all").order_parameters["A_mean"].max() for depth in (8, 16, 32)]
        np.testing.assert_allclose(largest, [0.28, 0.22, 0.19], rtol=0.03)


def cos_inputs_of_four():
    d, a = np.arange(2)[:, None], np.arange(4)
    return (2 * np.cos(1.3 * (d + 1) * (a + 1) + 0.7 * d)).T.reshape(2, 2, 2)


class TestSources:
    """Against the equations in their Gaussian sources, on random sequences and a test sequence."""

    @pytest.mark.parametrize(
        "fields",
        [
            {"depth": 3, "gamma": 1.5},
            {"depth": 2, "gamma": 2.0, "depth_exponent": 0.5, "mask": "causal"},
            {"depth": 2, "gamma": 2.0, "depth_exponent": 0.7, "attention": "exp",
             "branch_scale": 0.8},
            {"depth": 2, "gamma": 2.0, "attention": "linear", "mask": "causal"},
            {"depth": 1, "gamma": 2.0, "attention": "relu"},
            {"depth": 2, "gamma": 2.0, "responses": "head"},
            {"depth": 2, "gamma": 2.0, "responses": "stream"},
            {"depth": 2, "gamma": 2.0, "responses": "none"},
        ],
    )  # fmt: skip
    @pytest.mark.filterwarnings("ignore:attention='relu'")
    def test_everything(self, fields):
        lr, steps = 0.05, 6
        solution = dc.solve(
            dc.Transformer(**fields), DATA, dc.GradientDescent(lr, steps), save="all"
        )
        theory = Theory(DATA.kernel, DATA.targets, 3, steps, lr, **fields)
        np.testing.assert_allclose(solution.outputs, theory.f[:, :2], rtol=0, atol=1e-12)
        np.testing.assert_allclose(solution.test_outputs, theory.f[:, 2:], rtol=0, atol=1e-12)
        order = solution.order_parameters
        np.testing.assert_allclose(order["S_mean"], theory.attention, rtol=0, atol=1e-12)
        np.testing.assert_allclose(order["A_mean"], theory.logits, rtol=0, atol=1e-12)
        for (name, layer), values in theory.kernels.items():
            expected = theory.two_time(values)
            found = solution.kernel(name, layer)
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13, err_msg=name)
        for (name, layer), values in theory.responses.items():
            expected = theory.two_time(values)
            found = solution.response(name, layer)
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13, err_msg=name)

    def test_kernels_at_some_steps(self):
        limit, training = dc.Transformer(2, gamma=1.5), dc.GradientDescent(0.05, 6)
        every = dc.solve(limit, DATA, training, save="all")
        some = dc.solve(limit, DATA, training, save=("G", "Ro"), kernel_times=[1, 2, 5])
        rows = np.ix_([1, 2, 5], range(9), [1, 2, 5], range(9))
        for layer in range(3):
            np.testing.assert_array_equal(some.kernel("G", layer), every.kernel("G", layer)[rows])
        for layer in range(2):
            np.testing.assert_array_equal(
                some.response("Ro", layer), every.response("Ro", layer)[rows]
            )
        for name in KERNELS:
            layers = (some.equal_time[name], every.equal_time[name])
            for layer, values in layers[0].items():
                np.testing.assert_array_equal(values, layers[1][layer][[1, 2, 5]])
        assert list(some.two_time) == ["G"]
        assert list(some.responses) == ["Ro"]


class TestExactStatements:
    def test_the_tangent_kernel_moves_the_outputs(self):
        """f(t+1) - f(t) = (lr/P) K (y - f) + O(lr^2), after steps that have learned features."""
        rates = np.full(8, 0.05)
        rates[-1] = lr = 1e-6
        limit = dc.Transformer(3, gamma=2, depth_exponent=0.7)
        for data in (PAIR, DATA):
            solution = dc.solve(limit, data, dc.GradientDescent(rates, 8))
            moved = (solution.outputs[8] - solution.outputs[7]) / (lr / data.n_train)
            expected = solution.ntk[7] @ solution.errors[7]
            # The second order, relative to the first, is of the size of lr times the sharpness.
            np.testing.assert_allclose(moved, expected, rtol=10 * lr * solution.sharpness[7])
            assert np.abs(solution.ntk[7] / solution.ntk[0] - 1).max() > 0.05

    def test_weak_feature_learning_is_lazy(self):
        training, distances = dc.GradientDescent(0.02, 20), []
        for gamma in (0.1, 0.05):
            solution = dc.solve(dc.Transformer(2, gamma=gamma), DATA, training)
            f = np.zeros(2)
            for _ in range(20):
                f = f + 0.02 / 2 * solution.ntk[0] @ (DATA.targets - f)
            distances.append(np.abs(solution.outputs[20] - f).max())
        # Quadratic in gamma, up to the next even order.
        assert distances[0] < 1e-2
        assert distances[0] / distances[1] == pytest.approx(4, rel=0.05)

    def test_nothing_to_learn(self):
        data = dc.Dataset(inputs=DATA.inputs, targets=[0.0, 0.0])
        solution = dc.solve(dc.Transformer(2), data, dc.GradientDescent(0.1, 4), save="H")
        assert not solution.outputs.any()
        for layer in range(3):
            kernel = solution.kernel("H", layer)
            at_start = np.broadcast_to(kernel[:1, :, :1], kernel.shape)
            np.testing.assert_allclose(kernel, at_start, rtol=1e-13)

    def test_without_branches_it_is_a_network_of_two_layers(self):
        data = dc.Dataset(inputs=DATA.inputs, targets=DATA.targets)
        training = dc.GradientDescent(0.1, 10)
        means = data.inputs.mean(axis=1)
        linear = dc.solve(
            dc.DeepLinear(1, gamma=1.5), dc.Dataset(inputs=means, targets=data.targets), training,
            method="chain",
        )  # fmt: skip
        for responses in ("all", "none"):
            limit = dc.Transformer(3, gamma=1.5, branch_scale=0, responses=responses)
            solution = dc.solve(limit, data, training)
            np.testing.assert_allclose(solution.outputs, linear.outputs, rtol=0, atol=1e-13)
            np.testing.assert_array_equal(solution.kernel("H", 0, 10, 10),
                                          solution.kernel("H", 3, 10, 10))  # fmt: skip

    @pytest.mark.parametrize("exponent", [0.5, 1.0])
    def test_the_start_in_closed_form(self, exponent):
        """Attention to all positions alike: their mean grows by 1 + beta^2 in every block."""
        depth, beta = 5, 0.8 / 5**exponent
        limit = dc.Transformer(depth, branch_scale=0.8, depth_exponent=exponent)
        solution = dc.solve(limit, DATA, dc.GradientDescent(0.1, 0))
        means = DATA.kernel.reshape(3, 3, 3, 3).mean(axis=(1, 3)).repeat(3, 0).repeat(3, 1)
        for layer in range(depth + 1):
            expected = DATA.kernel + means * ((1 + beta**2) ** layer - 1)
            np.testing.assert_allclose(solution.kernel("H", layer, 0, 0), expected, rtol=1e-12)
        for layer in range(depth):
            expected = means * (1 + beta**2) ** layer
            np.testing.assert_allclose(solution.kernel("O", layer, 0, 0), expected, rtol=1e-12)

    def test_single_tokens_attend_to_themselves(self):
        """A deep linear residual network, with W_O W_V in every block: no keys, no queries."""
        data = random_data(test=0, length=1, dimension=3)
        solution = dc.solve(dc.Transformer(2, gamma=1.5), data, dc.GradientDescent(0.05, 6))
        assert (solution.order_parameters["S_mean"] == 1).all()
        for name in ("P_k", "P_q"):
            assert not np.stack(list(solution.equal_time[name].values())).any()
        # At the start v and o have the covariance of h.
        gram, beta = data.kernel, 1 / 2
        for layer in range(3):
            expected = gram * (1 + beta**2) ** layer
            np.testing.assert_allclose(solution.kernel("H", layer, 0, 0), expected, rtol=1e-14)

    def test_the_order_of_positions_does_not_matter(self):
        order = [2, 0, 1]
        shuffled = dc.Dataset(inputs=DATA.inputs[:, order], targets=DATA.targets)
        plain = dc.Dataset(inputs=DATA.inputs, targets=DATA.targets)
        training = dc.GradientDescent(0.05, 8)
        for mask, close in ((None, True), ("causal", False)):
            limit = dc.Transformer(2, gamma=2, mask=mask)
            a, b = (dc.solve(limit, data, training).outputs for data in (plain, shuffled))
            assert np.allclose(a, b, rtol=0, atol=1e-13) == close

    def test_number_of_heads(self):
        training = dc.GradientDescent(0.05, 4)
        a, b = (dc.solve(dc.Transformer(2, heads=h), DATA, training) for h in (1, 7))
        np.testing.assert_array_equal(a.outputs, b.outputs)

    def test_kernels_are_covariances_and_responses_causal(self):
        solution = dc.solve(
            dc.Transformer(2, gamma=2, mask="causal"), DATA, dc.GradientDescent(0.05, 6), save="all"
        )
        for name in KERNELS:
            for layer, kernel in solution.two_time[name].items():
                matrix = kernel.reshape(63, 63)
                np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=1e-14 * matrix.max())
                values = np.linalg.eigvalsh(matrix)
                assert values[0] > -1e-12 * values[-1], (name, layer)
        for name in RESPONSES:
            for response in solution.responses[name].values():
                assert not response[np.triu_indices(7)[0], :, np.triu_indices(7)[1]].any()
        patterns = solution.order_parameters["S_mean"]
        np.testing.assert_allclose(patterns.sum(axis=-1), 1, rtol=1e-14)
        assert not np.triu(patterns, 1).any()

    def test_test_sequences_do_not_matter(self):
        alone = dc.Dataset(inputs=DATA.inputs, targets=DATA.targets)
        training = dc.GradientDescent(0.05, 6)
        limit = dc.Transformer(2, gamma=2)
        with_test, without = (dc.solve(limit, data, training) for data in (DATA, alone))
        np.testing.assert_allclose(with_test.outputs, without.outputs, rtol=0, atol=1e-14)
        doubled = dc.Dataset(inputs=DATA.inputs, targets=DATA.targets,
                             test_inputs=DATA.inputs, test_targets=DATA.targets)  # fmt: skip
        solution = dc.solve(limit, doubled, training)
        np.testing.assert_allclose(solution.test_outputs, solution.outputs, rtol=0, atol=1e-13)
        np.testing.assert_allclose(solution.test_loss, solution.train_loss, rtol=1e-12)


class TestSeveralOutputs:
    def test_one_that_is_always_zero(self):
        """The signal of one output: the same features, from gradients with their errors."""
        y = DATA.targets
        two = dc.Dataset(inputs=DATA.inputs, targets=np.stack([0 * y, y], axis=1))
        one = dc.Dataset(inputs=DATA.inputs, targets=y)
        limit = dc.Transformer(2, gamma=1.5, mask="causal")
        training = dc.GradientDescent(0.05, 6, momentum=0.5, weight_decay=0.2)
        a, b = (dc.solve(limit, data, training, save=("H", "G")) for data in (two, one))
        np.testing.assert_allclose(a.outputs[..., 1], b.outputs, rtol=0, atol=1e-13)
        np.testing.assert_allclose(a.outputs[..., 0], 0, atol=1e-15)
        errors = np.repeat(b.errors, 3, axis=1)
        for layer in range(3):
            np.testing.assert_allclose(a.kernel("H", layer), b.kernel("H", layer), rtol=1e-11)
            expected = errors[:, :, None, None] * b.kernel("G", layer) * errors
            np.testing.assert_allclose(a.kernel("G", layer), expected, rtol=1e-10, atol=1e-15)
        assert a.ntk is None
        assert a.diagnostics["residual"] < 1e-13

    def test_outputs_may_be_turned(self):
        data = random_data(outputs=3)
        turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
        turned = dc.Dataset(inputs=data.inputs, targets=data.targets @ turn)
        limit, training = dc.Transformer(2, gamma=1.5), dc.GradientDescent(0.05, 6)
        a, b = (dc.solve(limit, d, training) for d in (data, turned))
        np.testing.assert_allclose(a.outputs @ turn, b.outputs, rtol=0, atol=1e-13)
        assert np.abs(a.outputs[6]).min() > 1e-3
        assert a.test_outputs.shape == (7, 1, 3)


class TestInfiniteDepth:
    def test_it_is_where_finite_depths_tend_to(self):
        """Finite depths are c / L away: twice as much at half the depth."""
        training = dc.GradientDescent(0.02, 11)
        options = {"kernel_times": [0, 11]}
        limit = dc.solve(dc.Transformer(dc.INFINITE, gamma=3), PAIR, training, save="H", **options)
        error = limit.diagnostics["depth_error"]
        assert error < 1e-2
        assert limit.diagnostics["depth_nodes"] == [0, 0.25, 0.5, 0.75, 1]
        half, whole = (
            dc.solve(dc.Transformer(depth, gamma=3), PAIR, training, save="H", **options)
            for depth in (16, 32)
        )

        def ratio(field):
            far, near = (np.abs(field(s, s is limit) - field(limit, True)).max()
                         for s in (half, whole))  # fmt: skip
            return far / near

        for field in (
            lambda s, _: s.outputs,
            lambda s, _: s.ntk,
            lambda s, infinite: s.kernel("H", 2 if infinite else 8 if s is half else 16),
            lambda s, infinite: s.kernel("O", 1 if infinite else 4 if s is half else 8, 11, 11),
            lambda s, infinite: s.order_parameters["S_mean"][
                :, 2 if infinite else 8 if s is half else 16
            ],
        ):
            assert ratio(field) == pytest.approx(2, abs=0.2)

    def test_the_start(self):
        """Gaussian increments of variance 1 / L^2 in each of L blocks add up to nothing."""
        data = random_data(test=0)
        solution = dc.solve(
            dc.Transformer(dc.INFINITE), data, dc.GradientDescent(0.01, 1), kernel_times=[0]
        )
        # Orders 1/L and 1/L^2 are removed, of the third is left 1 / (4 8 16).
        atol = np.abs(data.kernel).max() / 512
        for node in range(5):
            found = solution.kernel("H", node, 0, 0)
            np.testing.assert_allclose(found, data.kernel, rtol=0, atol=atol)

    def test_a_coarse_answer_warns(self):
        with pytest.warns(dc.AccuracyWarning, match="exceeds 1e-09 with 128 blocks"):
            solution = dc.solve(
                dc.Transformer(dc.INFINITE, gamma=3), PAIR, dc.GradientDescent(0.02, 3), tol=1e-9
            )
        assert solution.diagnostics["depth_error"] > 1e-9

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"save": "P_k"}, "save='P_k': at depth=INFINITE single blocks do nothing"),
            ({"checkpoint": "run.npz"}, "checkpoint: depth=INFINITE is extrapolated"),
        ],
    )
    def test_what_it_does_not_have(self, options, text):
        with pytest.raises(ValueError, match=text):
            dc.solve(dc.Transformer(dc.INFINITE), PAIR, dc.GradientDescent(0.02, 3), **options)


class TestRuns:
    @pytest.mark.parametrize(
        ("training", "longer"),
        [
            (dc.GradientDescent(0.05, 5), dc.GradientDescent(0.05, 9)),
            (dc.GradientDescent(0.05, 5, momentum=0.5, weight_decay=0.1),
             dc.GradientDescent(0.05, 9, momentum=0.5, weight_decay=0.1)),
        ],
        ids=["plain", "momentum and decay"],
    )  # fmt: skip
    def test_a_run_goes_on_from_its_checkpoint(self, tmp_path, training, longer):
        limit, path = dc.Transformer(2, gamma=2, mask="causal"), tmp_path / "run.npz"
        options = {"kernel_times": [0, 3, 5, 9], "save": ("H", "Ro")}
        whole = dc.solve(limit, DATA, longer, **options)
        dc.solve(limit, DATA, training, checkpoint=path, **(options | {"kernel_times": [0, 3, 5]}))
        resumed = dc.solve(limit, DATA, longer, checkpoint=path, **options)
        assert resumed.diagnostics["resumed_from"] == [5]
        np.testing.assert_array_equal(resumed.outputs, whole.outputs)
        np.testing.assert_array_equal(resumed.ntk, whole.ntk)
        for layer in range(2):
            for read in (
                lambda s, k=layer: s.kernel("H", k),
                lambda s, k=layer: s.response("Ro", k),
            ):
                np.testing.assert_array_equal(read(resumed), read(whole))
        for name, values in whole.order_parameters.items():
            np.testing.assert_array_equal(resumed.order_parameters[name], values)

    @pytest.mark.filterwarnings("ignore::dmftcore.StabilityWarning")
    def test_divergence_keeps_what_is_done(self):
        limit = dc.Transformer(2, gamma=2)
        with pytest.raises(dc.DivergenceError, match="lower lr") as caught:
            dc.solve(limit, PAIR, dc.GradientDescent(2.0, 60))
        partial = caught.value.partial
        assert 0 < len(partial.times) <= caught.value.step
        assert np.isfinite(partial.train_loss).all()
        again = dc.solve(limit, PAIR, dc.GradientDescent(2.0, int(partial.times[-1])))
        np.testing.assert_array_equal(again.train_loss, partial.train_loss)

    def test_progress(self):
        seen = []
        solution = dc.solve(
            dc.Transformer(1), DATA, dc.GradientDescent(0.05, 4),
            progress=lambda step, loss: seen.append((step, loss)),
        )  # fmt: skip
        assert seen == list(zip(range(5), solution.train_loss.tolist(), strict=True))

    def test_no_kernels(self):
        solution = dc.solve(dc.Transformer(1), DATA, dc.GradientDescent(0.05, 4), kernel_times=[])
        assert solution.ntk is None
        assert solution.equal_time == {}

    def test_on_a_device(self, monkeypatch):
        """Arrays that refuse what cupy refuses, with the operations of the host."""
        fake_cupy = pytest.importorskip("fake_cupy")
        pytest.importorskip("pybind11", reason="the binding is compiled by the tests")
        import emulated
        import emulated_device
        from dmftcore import _core

        if emulated.COMPILER is None:
            pytest.skip("no C++ compiler")
        monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module())
        monkeypatch.setattr(_core, "cuda", emulated_device.binding().cuda, raising=False)
        monkeypatch.setattr(_core, "cuda_status", lambda: (1, ""))
        data, options = random_data(length=2, dimension=2), {"save": "all"}
        for training in (dc.GradientDescent(0.05, 3), dc.GradientDescent(0.05, 3,
                         weight_decay=0.1)):  # fmt: skip
            limit = dc.Transformer(2, gamma=2, mask="causal")
            here = dc.solve(limit, data, training, **options)
            there = dc.solve(limit, data, training, device="cuda", **options)
            assert there.diagnostics["device"] == "cuda"
            np.testing.assert_allclose(there.outputs, here.outputs, rtol=0, atol=1e-13)
            for group in ("two_time", "responses"):
                for name, layers in getattr(here, group).items():
                    for layer, values in layers.items():
                        found = getattr(there, group)[name][layer]
                        np.testing.assert_allclose(found, values, rtol=1e-11, atol=1e-13)


class TestErrors:
    @pytest.mark.parametrize(
        ("fields", "error", "text"),
        [
            ({"depth": 0}, ValueError, "depth must be an integer >= 1"),
            ({"depth": 1.5}, TypeError, "depth must be an integer"),
            ({"heads": 0}, ValueError, "heads must be"),
            ({"gamma": 0}, ValueError, "gamma must be a number > 0"),
            ({"branch_scale": -1}, ValueError, "branch_scale must be a number >= 0"),
            ({"attention_exponent": 0.4}, ValueError, r"attention_exponent must lie in \[1/2, 1\]"),
            ({"depth_exponent": 1.1}, ValueError, r"depth_exponent must lie in \[1/2, 1\]"),
            ({"attention": "max"}, ValueError, "attention must be one of 'softmax'"),
            ({"mask": "full"}, ValueError, "mask must be one of 'causal'"),
            ({"mlp_activation": "gelu"}, ValueError, "mlp_activation must be one of"),
            ({"responses": "some"}, ValueError, "responses must be one of 'all'"),
            ({"attention_exponent": 0.5}, ValueError,
             r"must be 1 for key_dim=INFINITE: .* there is no limit; pass a finite key_dim"),
            ({"depth": dc.INFINITE, "depth_exponent": 0.5}, ValueError,
             "depth_exponent must be 1 for depth=INFINITE"),
        ],
    )  # fmt: skip
    def test_the_noun(self, fields, error, text):
        with pytest.raises(error, match=text):
            dc.Transformer(**{"depth": 1, **fields})

    @pytest.mark.parametrize(
        ("fields", "options", "text"),
        [
            ({"key_dim": 4}, {"method": "chain"}, "heads of finitely many dimensions"),
            ({"mlp_activation": "linear"}, {"method": "chain"}, "the chain has no MLP blocks"),
            ({}, {"tol": 1e-6}, "tol: the two-time chain truncates nothing"),
            ({}, {"samples": 4}, "samples: the two-time chain samples nothing"),
            ({}, {"dtype": "float32"}, "dtype='float32': the two-time chain"),
            ({}, {"method": "stiff"}, "method must be one of 'chain', 'growing', 'ensemble'"),
            ({}, {"save": "Phi"}, "save must be one of 'H', 'G', 'O'"),
        ],
    )
    def test_solve(self, fields, options, text):
        limit = dc.Transformer(1, **fields)
        with pytest.raises(ValueError, match=text):
            dc.solve(limit, DATA, dc.GradientDescent(0.1, 2), **options)

    def test_a_flow(self):
        with pytest.raises(TypeError, match="which train a Transformer"):
            dc.solve(dc.Transformer(1), DATA, dc.GradientFlow([1.0]))

    def test_zero_tokens(self):
        with pytest.raises(ValueError, match="zero Gram matrix"):
            dc.solve(dc.Transformer(1), dc.Dataset(gram=np.zeros((2, 2)), targets=[1, 2]),
                     dc.GradientDescent(0.1, 2))  # fmt: skip

    def test_still_relu(self):
        with pytest.warns(UserWarning, match="queries and keys never move"):
            solution = dc.solve(
                dc.Transformer(1, attention="relu"), DATA, dc.GradientDescent(0.1, 5)
            )
        assert not solution.order_parameters["A_mean"].any()

    def test_too_large_a_run(self):
        with pytest.raises(MemoryError, match="use fewer steps, or fewer tokens"):
            dc.solve(
                dc.Transformer(10), DATA, dc.GradientDescent(0.1, 10**6),
                kernel_times=[], method="chain",
            )  # fmt: skip

    def test_too_fast_a_run_warns(self):
        with pytest.warns(dc.StabilityWarning, match="edge of stability"):
            dc.solve(dc.Transformer(1), DATA, dc.GradientDescent(1.5, 2))


class TestFiles:
    def test_configuration(self, tmp_path):
        pytest.importorskip("tomli_w")
        from dmftcore.config import Config, read_config, write_config

        for limit in (dc.Transformer(2, gamma=2, mask="causal"), dc.Transformer(dc.INFINITE)):
            config = Config(limit, DATA, dc.GradientDescent(0.1, 3), solve={"kernel_times": [0]})
            write_config(config, tmp_path / "run.toml")
            found = read_config(tmp_path / "run.toml")
            assert found.limit == limit
            np.testing.assert_array_equal(found.data.inputs, DATA.inputs)

    @pytest.mark.parametrize("outputs", [None, 2])
    def test_solution(self, tmp_path, outputs):
        pytest.importorskip("h5netcdf")
        data, training = random_data(outputs=outputs), dc.GradientDescent(0.1, 3)
        solution = dc.solve(dc.Transformer(2), data, training, save=("G", "Ro"))
        solution.save(tmp_path / "run.nc")
        again = dc.Solution.load(tmp_path / "run.nc")
        for name in KERNELS:
            for layer, values in solution.equal_time[name].items():
                np.testing.assert_array_equal(again.equal_time[name][layer], values)
        np.testing.assert_array_equal(again.kernel("G"), solution.kernel("G"))
        np.testing.assert_array_equal(again.response("Ro"), solution.response("Ro"))
        assert solution.to_xarray()["G_two_time"].dims == ("layer_G_two_time", "t", "token", "s",
                                                           "token_")  # fmt: skip
