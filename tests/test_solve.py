"""What `solve` promises besides numbers: choices, schedules, errors, warnings, provenance."""

import json
import threading
import time

import numpy as np
import pytest

import dmftcore as dc
import dmftcore.memory

GRAM = np.exp(-((np.arange(4)[:, None] - np.arange(4)) ** 2) / 4.5)
DATA = dc.Dataset(gram=GRAM, targets=np.cos(np.arange(4)))
LIMIT = dc.DeepLinear(2)
TRAINING = dc.GradientDescent(0.05, 20)


class TestEngine:
    @pytest.mark.parametrize(
        ("limit", "steps", "options", "engine"),
        [
            (LIMIT, 20, {}, "growing"),
            (LIMIT, 2000, {}, "growing"),
            (LIMIT, 400, {"save": "A"}, "chain"),
            (LIMIT, 400, {"save": "all"}, "chain"),
            (LIMIT, 400, {"save": ("H", "G")}, "growing"),
            (LIMIT, 400, {"method": "chain"}, "chain"),
            (LIMIT, 20, {"method": "growing"}, "growing"),
            (dc.DeepLinear(2, gamma=0), 20, {}, "lazy"),
            (dc.DeepLinear(2, gamma=0), 20, {"save": "B"}, "chain"),
        ],
    )
    def test_choice_and_reason(self, limit, steps, options, engine):
        training = dc.GradientDescent(0.05, steps)
        solution = dc.solve(limit, DATA, training, kernel_times=[0, 3], **options)
        assert solution.diagnostics["engine"] == engine
        assert solution.diagnostics["reason"]

    def test_growing_has_no_responses(self):
        with pytest.raises(ValueError, match=r"'A'.*method='chain'"):
            dc.solve(LIMIT, DATA, TRAINING, method="growing", save="A")

    def test_short_runs_are_exact_by_default(self):
        chain = dc.solve(LIMIT, DATA, TRAINING, method="chain")
        default = dc.solve(LIMIT, DATA, TRAINING)
        np.testing.assert_allclose(default.outputs, chain.outputs, atol=1e-13)
        assert (
            default.diagnostics["tol"]
            < dc.solve(LIMIT, DATA, dc.GradientDescent(0.05, 1000)).diagnostics["tol"]
        )

    def test_tolerance_controls_the_error(self):
        """The relative error of the loss is of the order of tol, and falls with it."""
        training = dc.GradientDescent(0.05, 300)
        exact = dc.solve(LIMIT, DATA, training, method="chain", kernel_times=[])
        errors = []
        for tol in (1e-4, 1e-6, 1e-8):
            rough = dc.solve(LIMIT, DATA, training, method="growing", tol=tol, kernel_times=[])
            errors.append(np.abs(rough.train_loss / exact.train_loss - 1).max())
            assert errors[-1] < 10 * tol
        assert errors[0] > 10 * errors[1] > 100 * errors[2]

    def test_reported_residual_sees_a_wrong_history(self):
        """The residual is small for the march, and large once a kernel is spoilt."""
        from dmftcore.limits.linear_marches import ChainMarch
        from dmftcore.modes import LinearProblem

        problem = LinearProblem(
            DATA, depth=3, gamma=1.0, init_scale=1.0, branch=None,
            training=dc.GradientDescent(lr=0.08, steps=30), follow_ntk=False, loss_limit=np.inf,
        )  # fmt: skip
        system = ChainMarch(problem, steps=30)
        system.advance(np.array([30]))
        assert system.residual() < 1e-14
        for kind in ("b", "c", "g", "h"):
            for kernel in system.chain.histories[kind].values():
                kernel[20, 10] += 1e-6
                assert system.residual() > 1e-8
                kernel[20, 10] -= 1e-6


class TestSchedule:
    def test_short_runs_store_everything(self):
        solution = dc.solve(LIMIT, DATA, TRAINING)
        np.testing.assert_array_equal(solution.times, np.arange(21))
        np.testing.assert_array_equal(solution.kernel_times, np.arange(21))
        assert solution.outputs.shape == (21, 4)
        assert solution.ntk.shape == (21, 4, 4)

    def test_long_runs_store_log_spaced_steps(self):
        solution = dc.solve(LIMIT, DATA, dc.GradientDescent(0.02, 12_345))
        for times, most in ((solution.times, 1000), (solution.kernel_times, 64)):
            assert times[0] == 0
            assert times[-1] == 12_345
            assert most / 2 < len(times) <= most
            assert np.all(np.diff(times) > 0)

    @pytest.mark.parametrize("method", ["chain", "growing"])
    def test_stored_steps_do_not_change_values(self, method):
        every = dc.solve(LIMIT, DATA, TRAINING, method=method)
        some = dc.solve(LIMIT, DATA, TRAINING, method=method, times=[3, 17], kernel_times=[5, 20])
        np.testing.assert_array_equal(some.outputs, every.outputs[[3, 17]])
        np.testing.assert_allclose(some.ntk, every.ntk[[5, 20]], rtol=1e-12)
        np.testing.assert_allclose(
            some.kernel("H", 2, 5, 5), every.kernel("H", 2, 5, 5), rtol=1e-12
        )

    def test_no_kernels(self):
        solution = dc.solve(LIMIT, DATA, TRAINING, kernel_times=[])
        assert solution.ntk is None
        assert solution.equal_time == {}

    @pytest.mark.parametrize(
        ("times", "error"),
        [([0, 21], ValueError), ([3, 3], ValueError), ([-1, 2], ValueError), ([0.5], TypeError),
         ([[0, 1]], TypeError)],
    )  # fmt: skip
    @pytest.mark.parametrize("name", ["times", "kernel_times"])
    def test_wrong_steps(self, name, times, error):
        with pytest.raises(error, match=name):
            dc.solve(LIMIT, DATA, TRAINING, **{name: times})

    def test_progress_ends_at_the_last_step(self):
        calls = []
        solution = dc.solve(
            LIMIT, DATA, dc.GradientDescent(0.05, 500), progress=lambda *call: calls.append(call)
        )
        steps, losses = zip(*calls, strict=True)
        assert steps[-1] == 500
        assert list(steps) == sorted(steps)
        assert losses[-1] == pytest.approx(solution.train_loss[-1], rel=1e-12)

    @pytest.mark.parametrize("verb", ["solve", "simulate"])
    def test_progress_is_even_where_few_steps_are_stored(self, verb):
        steps = []
        training = dc.GradientDescent(0.001, 20_000 if verb == "solve" else 400)
        options = {"times": [0, training.steps], "kernel_times": []}
        if verb == "simulate":
            options["width"] = 10
        getattr(dc, verb)(
            LIMIT, DATA, training, progress=lambda step, _: steps.append(step), **options
        )
        assert np.diff(steps).max() <= training.steps / 100
        assert len(steps) <= 250

    @pytest.mark.parametrize("method", ["chain", "growing"])
    def test_nothing_wanted_is_nothing_done(self, method):
        solution = dc.solve(LIMIT, DATA, TRAINING, times=[], kernel_times=[], method=method)
        assert len(solution.train_loss) == 0

    def test_an_interrupt_from_progress_passes_through(self):
        def interrupt(step, loss):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            dc.solve(LIMIT, DATA, TRAINING, progress=interrupt)


class TestStability:
    @pytest.mark.parametrize("method", ["chain", "growing"])
    @pytest.mark.filterwarnings("ignore::dmftcore.StabilityWarning")
    def test_divergence_keeps_what_was_solved(self, method):
        training = dc.GradientDescent(2.0, 300)
        with pytest.raises(dc.DivergenceError, match="lower lr") as caught:
            dc.solve(LIMIT, DATA, training, method=method)
        step, partial = caught.value.step, caught.value.partial
        assert 0 < step < 300
        np.testing.assert_array_equal(partial.times, np.arange(step))
        assert np.isfinite(partial.train_loss).all()
        assert partial.train_loss[-1] <= 1e8 * partial.train_loss[0]
        assert len(partial.ntk) == len(partial.kernel_times)

    @pytest.mark.filterwarnings("ignore::dmftcore.StabilityWarning")
    def test_engines_diverge_at_the_same_step(self):
        steps = set()
        for method in ("chain", "growing"):
            with pytest.raises(dc.DivergenceError) as caught:
                dc.solve(LIMIT, DATA, dc.GradientDescent(2.0, 300), method=method)
            steps.add(caught.value.step)
        assert len(steps) == 1

    @pytest.mark.filterwarnings("ignore::dmftcore.StabilityWarning")
    def test_lazy_divergence_names_the_first_step(self):
        """Found in closed form, although only the last step was asked for."""
        limit, training = dc.DeepLinear(2, gamma=0), dc.GradientDescent(3.0, 5000)
        steps = set()
        for options in ({"times": [0, 5000]}, {}, {"method": "chain"}):
            with pytest.raises(dc.DivergenceError) as caught:
                dc.solve(limit, DATA, training, kernel_times=[], **options)
            steps.add(caught.value.step)
        assert len(steps) == 1

    def test_warns_beyond_the_bound(self):
        largest = np.linalg.eigvalsh(GRAM)[-1]
        bound = 2 * 4 / (3 * largest)
        for lr, warned in ((0.99 * bound, False), (1.01 * bound, True)):
            training = dc.GradientDescent(lr, 1)
            if warned:
                with pytest.warns(dc.StabilityWarning, match="step 0"):
                    solution = dc.solve(dc.DeepLinear(2, gamma=0), DATA, training)
            else:
                solution = dc.solve(dc.DeepLinear(2, gamma=0), DATA, training)
            assert solution.diagnostics["stability_bound"] == pytest.approx(bound)
            assert solution.sharpness[0] == pytest.approx(2 / bound)

    def test_warns_when_the_sharpness_grows_beyond_the_bound(self):
        limit = dc.DeepLinear(3, gamma=3.0)
        with pytest.warns(dc.StabilityWarning, match="edge of stability"):
            dc.solve(limit, DATA, dc.GradientDescent(0.25, 40))


class TestMemory:
    def test_refuses_before_the_start(self, monkeypatch):
        monkeypatch.setattr(dmftcore.memory, "_available_memory", lambda: 10**6)
        calls = []
        with pytest.raises(MemoryError, match=r"chain .*method='growing'"):
            dc.solve(
                LIMIT, DATA, dc.GradientDescent(0.05, 2000), method="chain",
                progress=lambda *call: calls.append(call),
            )  # fmt: skip
        assert calls == []

    def test_names_the_kernels(self):
        data = dc.Dataset(inputs=np.ones((20_000, 2)), targets=np.ones(20_000))
        with pytest.raises(MemoryError, match=r"kernel_times=\[\]"):
            dc.solve(LIMIT, data, TRAINING)

    def test_many_points_of_few_dimensions_need_no_gram_matrix(self):
        """2e5 points: Kx alone would take 320 GB."""
        x = np.random.default_rng(0).normal(size=(200_000, 3))
        data = dc.Dataset(inputs=x, targets=x @ [1.0, -0.5, 0.2])
        solution = dc.solve(LIMIT, data, dc.GradientDescent(0.1, 40), kernel_times=[], times=[40])
        assert solution.diagnostics["memory"] < 10**8
        assert solution.train_loss[0] < 0.5

    def test_plan_covers_the_result(self):
        solution = dc.solve(LIMIT, DATA, TRAINING, save="all")
        arrays = [solution.outputs, solution.errors, solution.ntk]
        for families in (solution.equal_time, solution.two_time, solution.responses):
            arrays += [layer for layers in families.values() for layer in layers.values()]
        assert sum(a.nbytes for a in arrays) <= solution.diagnostics["memory"]

    def test_too_many_neurons(self, monkeypatch):
        monkeypatch.setattr("dmftcore.growing.interfaces.MAX_NEURONS", 10)
        with pytest.raises(MemoryError, match=r"10 neurons.*raise tol"):
            dc.solve(LIMIT, DATA, TRAINING, method="growing")


class TestArguments:
    @pytest.mark.parametrize(
        ("change", "error", "text"),
        [
            ({"limit": "deep"}, TypeError, "limit"),
            ({"data": GRAM}, TypeError, "data must be a Dataset"),
            ({"training": 0.1}, TypeError, "training must be"),
            ({"method": "fast"}, ValueError, "method must be one of 'growing', 'chain'"),
            ({"save": "Phi"}, ValueError, "save must be one of"),
            ({"tol": 0.0}, ValueError, "tol"),
            ({"estimate_error": "no"}, TypeError, "estimate_error must be True or False"),
        ],
    )
    def test_are_checked(self, change, error, text):
        arguments = {"limit": LIMIT, "data": DATA, "training": TRAINING} | change
        with pytest.raises(error, match=text):
            dc.solve(**arguments)

    @pytest.mark.parametrize(
        ("fields", "error", "name"),
        [
            ({"depth": 0}, ValueError, "depth"),
            ({"depth": 1.5}, TypeError, "depth"),
            ({"gamma": -1}, ValueError, "gamma"),
            ({"gamma": np.nan}, ValueError, "gamma"),
            ({"init_scale": 0}, ValueError, "init_scale"),
            ({"init_scale": "big"}, TypeError, "init_scale"),
            ({"readout": "exact"}, ValueError, "readout"),
        ],
    )
    def test_limit(self, fields, error, name):
        with pytest.raises(error, match=name):
            dc.DeepLinear(**({"depth": 2} | fields))

    @pytest.mark.parametrize(
        ("fields", "error", "name"),
        [
            ({"lr": 0}, ValueError, "lr"),
            ({"lr": np.inf}, ValueError, "lr"),
            ({"steps": -1}, ValueError, "steps"),
            ({"steps": 2.0}, TypeError, "steps"),
            ({"steps": True}, ValueError, "steps"),
        ],
    )
    def test_training(self, fields, error, name):
        with pytest.raises(error, match=name):
            dc.GradientDescent(**({"lr": 0.1, "steps": 3} | fields))

    @pytest.mark.parametrize(
        ("fields", "error", "text"),
        [
            ({"targets": np.ones(4)}, ValueError, "exactly one of inputs, gram, full_gram"),
            ({"gram": GRAM}, ValueError, "targets is missing"),
            ({"gram": GRAM, "inputs": GRAM, "targets": np.ones(4)}, ValueError, "exactly one"),
            ({"gram": GRAM, "targets": np.ones(3)}, ValueError, r"gram must have shape \(3, 3\)"),
            ({"gram": GRAM[:, :3], "targets": np.ones(4)}, ValueError, "gram must have shape"),
            ({"gram": GRAM + np.eye(4, k=1), "targets": np.ones(4)}, ValueError, "not symmetric"),
            ({"gram": -GRAM, "targets": np.ones(4)}, ValueError, "positive semi-definite"),
            ({"gram": GRAM * np.nan, "targets": np.ones(4)}, ValueError, "gram holds a non"),
            ({"gram": GRAM * 1j, "targets": np.ones(4)}, TypeError, "real numbers"),
            ({"gram": GRAM, "targets": [1, 2, np.inf, 4]}, ValueError, "targets holds a non"),
            ({"gram": GRAM, "targets": np.ones((4, 1, 1))}, ValueError, "targets must have 1 or 2"),
            ({"gram": GRAM, "targets": np.ones((4, 0))}, ValueError, "targets is empty"),
            ({"full_gram": GRAM, "targets": np.ones(5)}, ValueError, "at least 5 rows"),
            ({"full_gram": GRAM, "targets": np.ones(3), "test_targets": np.ones(2)}, ValueError,
             r"test_targets must have shape \(1,\)"),
            ({"inputs": np.ones((3, 2)), "targets": np.ones(4)}, ValueError, "targets has 4 rows"),
            ({"inputs": np.ones((4, 2)), "targets": np.ones(4), "test_inputs": np.ones((2, 3))},
             ValueError, "test_inputs has 3 columns"),
            ({"gram": GRAM, "targets": np.ones(4), "test_inputs": np.ones((2, 3))}, ValueError,
             "pass full_gram"),
            ({"inputs": [["a"]], "targets": [1.0]}, TypeError, "inputs must hold real numbers"),
        ],
    )  # fmt: skip
    def test_data(self, fields, error, text):
        with pytest.raises(error, match=text):
            dc.Dataset(**fields)

    @pytest.mark.parametrize("points", [40, 700])
    def test_semi_definite_up_to_rounding(self, points):
        """Whichever way it is tested, the limit is 1e-8 of the largest eigenvalue."""
        rng = np.random.default_rng(points)
        basis, _ = np.linalg.qr(rng.normal(size=(points, points)))
        values = np.linspace(0, 3, points)
        for smallest, accepted in ((-1.5e-8, True), (-6e-8, False)):
            values[0] = smallest
            gram = basis * values @ basis.T
            gram = (gram + gram.T) / 2
            if accepted:
                dc.Dataset(gram=gram, targets=np.ones(points))
            else:
                with pytest.raises(ValueError, match="positive semi-definite"):
                    dc.Dataset(gram=gram, targets=np.ones(points))

    @pytest.mark.parametrize("points", [40, 700])
    def test_largest_eigenvalue(self, points):
        x = np.random.default_rng(1).normal(size=(points, 2 * points))
        data = dc.Dataset(inputs=x, targets=np.ones(points))
        expected = np.linalg.norm(x, 2) ** 2 / (2 * points)
        assert data.largest_eigenvalue == pytest.approx(expected, rel=1e-4)

    def test_zero_data(self):
        data = dc.Dataset(inputs=np.zeros((3, 2)), targets=np.ones(3))
        with pytest.raises(ValueError, match="zero"):
            dc.solve(LIMIT, data, TRAINING)

    def test_float32_and_integers_are_promoted(self):
        data = dc.Dataset(inputs=np.ones((3, 2), dtype=np.float32), targets=[1, 0, 1])
        assert data.inputs.dtype == data.targets.dtype == np.float64

    def test_data_cannot_be_changed_behind_a_result(self):
        source = GRAM.copy()
        data = dc.Dataset(gram=source, targets=np.ones(4))
        source[:] = 0
        assert data.gram[0, 0] == 1
        with pytest.raises(ValueError, match="read-only"):
            data.gram[0, 0] = 2


def test_output_axis_follows_the_targets():
    column = dc.Dataset(gram=GRAM, targets=np.cos(np.arange(4))[:, None])
    flat, tall = dc.solve(LIMIT, DATA, TRAINING), dc.solve(LIMIT, column, TRAINING)
    assert tall.outputs.shape == (21, 4, 1)
    assert tall.ntk.shape == (21, 4, 1, 4, 1)
    np.testing.assert_allclose(tall.outputs[..., 0], flat.outputs, atol=1e-15)
    assert flat.kernel("G", 1, 3, 3).shape == (1, 1)


def test_configuration_is_complete_and_plain():
    solution = dc.solve(LIMIT, DATA, TRAINING, times=[0, 20], tol=1e-9)
    config = json.loads(json.dumps(solution.config))
    assert config["limit"] == {
        "type": "DeepLinear", "depth": 2, "gamma": 1.0, "init_scale": 1.0,
        "branch_scale": None, "branch": "sqrt", "readout": "gd",
    }  # fmt: skip
    assert config["training"] == {
        "type": "GradientDescent", "lr": 0.05, "steps": 20, "loss": "square",
        "weight_decay": 0.0, "momentum": 0.0,
    }  # fmt: skip
    assert config["data"]["gram"]["shape"] == [4, 4]
    assert config["solve"]["times"] == [0, 20]
    assert config["solve"]["tol"] == 1e-9
    assert config["versions"]["dmftcore"] == dc.__version__


def test_growing_march_releases_the_interpreter():
    """Another thread counts on while one compiled stretch of many steps runs."""
    from dmftcore import _core

    network = _core.GrowingNetwork(
        scales=np.linspace(1, 0.5, 20), targets=np.ones((1, 20)), depth=3, branch=None,
        rates=np.array([1e-4]), momentum=0.0, decay=0.0, gamma=1.0, sigma=1.0, tol=1e-8,
        floor=1e-10, max_neurons=1000, follow_ntk=False, loss_limit=np.inf,
    )  # fmt: skip
    done, ticks = threading.Event(), []

    def march():
        network.advance(np.array([50_000]))
        done.set()

    thread = threading.Thread(target=march)
    thread.start()
    while not done.is_set():
        ticks.append(time.perf_counter())
        time.sleep(1e-3)
    thread.join()
    assert len(ticks) > 5


@pytest.mark.parametrize("isa", ["baseline", "v3", "v4"])
def test_growing_on_every_instruction_set(isa):
    from dmftcore import _core

    best = _core.isa()
    try:
        _core.set_isa(isa)
    except ValueError:
        pytest.skip(f"this processor or build has no {isa}")
    try:
        data = dc.Dataset(gram=GRAM, targets=np.random.default_rng(0).normal(size=(4, 2)))
        limit, training = dc.DeepLinear(3, gamma=1.5), dc.GradientDescent(0.03, 150)
        growing = dc.solve(limit, data, training, method="growing", tol=1e-13)
    finally:
        _core.set_isa(best)
    chain = dc.solve(limit, data, training, method="chain")
    np.testing.assert_allclose(growing.outputs, chain.outputs, atol=1e-12)
