"""What a solution says about its own worth: the edge of stability, the error of truncation."""

from __future__ import annotations

import json
import warnings
from itertools import pairwise

import numpy as np
import pytest

import dmftcore as dc
from dmftcore.worth import stability, unstable

GRAM = np.exp(-((np.arange(4)[:, None] - np.arange(4)) ** 2) / 4.5)
DATA = dc.Dataset(gram=GRAM, targets=np.cos(np.arange(4)))


def power_law(strength):
    """Spectrum k^-1.5 and target power k^-1.9 of modes k <= 2e6, in 60 log-spaced groups."""
    edges = np.unique(np.rint(np.geomspace(1, 2_000_001, 61)).astype(int))
    modes, power = [], []
    for first, end in pairwise(edges):
        k = np.arange(first, end, dtype=float)
        power.append(np.sum(k**-1.9))
        modes.append(np.sum(k**-3.4) / power[-1])
    gram = len(modes) * np.diag(modes)
    return dc.Dataset(gram=gram, targets=strength * np.sqrt(power))


#: Passes the edge of stability midway.
EDGE = {
    "limit": dc.DeepLinear(2),
    "data": power_law(3.0),
    "training": dc.GradientDescent(0.3, 3000),
}


class TestStability:
    def test_of_a_sequence(self):
        steps = np.array([0, 10, 20, 30, 40])
        training = dc.GradientDescent(0.1, 40)
        report = stability(training, steps, np.array([5.0, 19.0, 21.0, 18.0, 20.5]))
        assert report == {
            "quantity": "lr * sharpness", "bound": 2.0, "largest": pytest.approx(2.1),
            "largest_at": 20, "unstable": [20, 40], "stable_until": 10,
        }  # fmt: skip
        text = unstable(report, training)
        for part in (
            "from step 20 to step 40",
            "2.1 at step 20",
            "sure up to step 10 only",
            "0.0952",
        ):
            assert part in text

    def test_stable(self):
        training = dc.GradientDescent(0.1, 40)
        report = stability(training, np.array([0, 40]), np.array([5.0, 19.9]))
        assert report["unstable"] is None
        assert report["stable_until"] == 40
        assert unstable(report, training) is None

    def test_unstable_from_the_start(self):
        training = dc.GradientDescent(0.1, 40)
        report = stability(training, np.array([0, 40]), np.array([25.0, 19.9]))
        assert report["unstable"] == [0, 0]
        assert report["stable_until"] is None
        text = unstable(report, training)
        assert "exceeds 2 at step 0, at most 2.5" in text
        assert "no digits are sure" in text

    def test_the_rate_is_that_of_the_update_that_follows(self):
        training = dc.GradientDescent(np.array([1.0, 2.0, 3.0]), 3)
        for step, rate in ((0, 1.0), (1, 2.0), (2, 3.0), (3, 3.0)):
            report = stability(training, np.array([step]), np.array([0.5]))
            assert report["largest"] == rate * 0.5

    @pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
    @pytest.mark.parametrize("decay", [0.0, 0.3])
    @pytest.mark.parametrize("distance", [-1e-3, 1e-3])
    def test_is_where_the_heavy_ball_amplifies(self, momentum, decay, distance):
        """The linear map (v, x) -> (m v - (s + decay) x, x + lr v') has an eigenvalue beyond 1."""
        sharpness, lr = 3.0, 2 * (1 + momentum) / (3.0 + decay) * (1 + distance)
        curvature = sharpness + decay
        update = np.array([[momentum, -curvature], [lr * momentum, 1 - lr * curvature]])
        amplifies = np.abs(np.linalg.eigvals(update)).max() > 1
        training = dc.GradientDescent(lr, 1, momentum=momentum, weight_decay=decay)
        report = stability(training, np.array([0]), np.array([sharpness]))
        assert (report["unstable"] is not None) == amplifies == (distance > 0)

    def test_is_reported_by_solve(self):
        with pytest.warns(dc.StabilityWarning, match=r"edge of stability: lr \* sharpness exceeds"):
            solution = dc.solve(**EDGE, times=[], kernel_times=range(0, 3001, 50))
        report = solution.diagnostics["stability"]
        lr = EDGE["training"].lr
        first, last = report["unstable"]
        beyond = solution.kernel_times[lr * solution.sharpness > 2]
        assert [first, last] == [beyond[0], beyond[-1]]
        assert report["stable_until"] == first - 50 > 0
        assert report["largest"] == pytest.approx(lr * solution.sharpness.max())

    def test_needs_the_sharpness(self):
        solution = dc.solve(dc.DeepLinear(2), DATA, dc.GradientDescent(0.05, 20), kernel_times=[])
        assert "stability" not in solution.diagnostics

    def test_survives_storage(self, tmp_path):
        pytest.importorskip("h5netcdf")
        solution = dc.solve(
            dc.DeepLinear(2), DATA, dc.GradientDescent(0.05, 300), estimate_error=True
        )
        solution.save(tmp_path / "run.nc")
        stored = dc.Solution.load(tmp_path / "run.nc")
        assert stored.diagnostics == json.loads(json.dumps(solution.diagnostics))
        assert stored.diagnostics["stability"]["unstable"] is None


class TestTruncationError:
    @pytest.mark.parametrize("tol", [1e-4, 1e-6, 1e-8, 1e-12])
    def test_is_the_error(self, tol):
        """Against the chain, which truncates nothing.

        The finer run errs by about a hundredth of what is measured: within a factor of 10 of
        that, the estimate is the error to 10 %. At 1e-12 the other run is the coarser one, and
        the estimate a bound.
        """
        limit, training = dc.DeepLinear(3, gamma=1.5), dc.GradientDescent(0.02, 300)
        solve = {"times": range(0, 301, 3), "kernel_times": []}
        solution = dc.solve(limit, DATA, training, tol=tol, estimate_error=True, **solve)
        exact = dc.solve(limit, DATA, training, method="chain", **solve)
        found = solution.diagnostics["error_estimate"]
        by_time = np.abs(solution.outputs - exact.outputs).max(axis=1)
        relative = np.abs(solution.train_loss / exact.train_loss - 1).max()
        if tol >= 1e-8:
            assert found["reference_tol"] == pytest.approx(tol / 100)
            assert found["outputs"] == pytest.approx(by_time.max(), rel=0.1)
            assert found["train_loss"] == pytest.approx(relative, rel=0.1)
            largest = by_time > 0.5 * by_time.max()
            np.testing.assert_allclose(
                np.array(found["outputs_by_time"])[largest], by_time[largest], rtol=0.2
            )
        else:
            assert found["reference_tol"] == pytest.approx(tol * 100)
            assert found["outputs"] >= by_time.max()
            assert found["train_loss"] >= relative

    def test_sees_the_test_points(self):
        """One lies along a training point, ten times as far out, and errs ten times as much."""
        x = np.random.default_rng(0).normal(size=(5, 4))
        data = dc.Dataset(
            inputs=x, targets=np.ones(5), test_inputs=10 * x[:1], test_targets=np.ones(1)
        )
        solution = dc.solve(
            dc.DeepLinear(2), data, dc.GradientDescent(0.05, 300), tol=1e-5, estimate_error=True
        )
        alone = dc.solve(
            dc.DeepLinear(2), dc.Dataset(inputs=x, targets=np.ones(5)),
            dc.GradientDescent(0.05, 300), tol=1e-5, estimate_error=True,
        )  # fmt: skip
        found, of_patterns = (s.diagnostics["error_estimate"]["outputs"] for s in (solution, alone))
        assert found > 2 * of_patterns

    @pytest.mark.filterwarnings("ignore::dmftcore.StabilityWarning")
    def test_beyond_the_edge(self):
        """Digits are lost there and nowhere else: before it, the error is of the order of tol."""
        solution = dc.solve(
            **EDGE, tol=1e-6, times=range(0, 3001, 50), kernel_times=range(0, 3001, 50),
            estimate_error=True,
        )  # fmt: skip
        found = solution.diagnostics["error_estimate"]
        assert found["before_edge"]["train_loss"] < 1e-5
        assert found["after_edge"]["train_loss"] > 1e-3
        assert found["after_edge"]["train_loss"] == found["train_loss"]

    def test_warns_once(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            dc.solve(**EDGE, times=[3000], kernel_times=range(0, 3001, 50), estimate_error=True)
        assert len(caught) == 1

    def test_needs_times(self):
        solution = dc.solve(
            dc.DeepLinear(2), DATA, dc.GradientDescent(0.05, 20), times=[], estimate_error=True
        )
        assert solution.diagnostics["error_estimate"] == {"reason": "no times are stored"}

    @pytest.mark.parametrize(
        ("gamma", "method", "engine"), [(0.0, None, "lazy"), (1.0, "chain", "chain")]
    )
    def test_engines_without_truncation_say_so(self, gamma, method, engine):
        solution = dc.solve(
            dc.DeepLinear(2, gamma=gamma), DATA, dc.GradientDescent(0.05, 20),
            method=method, estimate_error=True,
        )  # fmt: skip
        assert solution.diagnostics["error_estimate"] == {
            "reason": f"the engine '{engine}' truncates nothing"
        }

    def test_a_reference_that_does_not_fit_leaves_the_solution(self, monkeypatch):
        limit, training = dc.DeepLinear(3, gamma=1.5), dc.GradientDescent(0.02, 300)
        neurons = dc.solve(limit, DATA, training, tol=1e-4).diagnostics["neurons"]
        monkeypatch.setattr("dmftcore.growing.interfaces.MAX_NEURONS", max(neurons) + 1)
        solution = dc.solve(limit, DATA, training, tol=1e-4, estimate_error=True)
        found = solution.diagnostics["error_estimate"]
        assert found["reason"].startswith("the run at tol = 1e-06 failed: the growing network")
        assert len(solution.outputs) == 301

    def test_on_request_only(self):
        solution = dc.solve(dc.DeepLinear(2), DATA, dc.GradientDescent(0.05, 20))
        assert "error_estimate" not in solution.diagnostics
