"""Runs of the verbs that were interrupted or extended: every answer to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

import dmftcore as dc


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(27, 12))
DATA = dc.Dataset(
    inputs=POINTS[:20],
    targets=RNG.normal(size=(20, 2)),
    test_inputs=POINTS[20:],
    test_targets=RNG.normal(size=(7, 2)),
)
PLAIN = {"lr": 0.03}
MEMORY = {"lr": 0.02, "momentum": 0.6, "weight_decay": 0.01}
SOLVE, SIMULATE = {"save": ("H", "G")}, {"save": "H", "width": 24, "seeds": 2, "seed": 3}


class TestVerbs:
    """Every engine, interrupted anywhere: all that it answers is the same to the last bit."""

    @pytest.fixture(
        params=[
            ("solve", dc.DeepLinear(3, gamma=1.2), PLAIN, SOLVE | {"tol": 1e-8}),
            ("solve", dc.DeepLinear(2, readout="ntk"), PLAIN, SOLVE | {"tol": 1e-8}),
            ("solve", dc.DeepLinear(3, branch_scale=0.8), MEMORY, SOLVE | {"tol": 1e-8}),
            ("solve", dc.DeepLinear(2, gamma=0.0), PLAIN, SOLVE),
            ("solve", dc.DeepLinear(3, gamma=1.2), PLAIN, {"save": "all"}),
            ("solve", dc.DeepLinear(3, branch_scale=0.8), MEMORY, {"method": "chain"}),
            ("simulate", dc.DeepLinear(3, gamma=1.2), PLAIN, SIMULATE),
            ("simulate", dc.DeepLinear(3, branch_scale=0.8), MEMORY, SIMULATE),
        ],
        ids=["growing", "growing-ntk", "growing-memory", "lazy", "chain", "chain-memory",
             "networks", "networks-memory"],
    )  # fmt: skip
    def run(self, request):
        verb, limit, training, options = request.param

        def run(steps=60, checkpoint=None, stop_at=None):
            def progress(step, loss):
                if step == stop_at:
                    raise KeyboardInterrupt

            # Steps up to 60 are stored by a longer run as well.
            return getattr(dc, verb)(
                limit, DATA, dc.GradientDescent(**training, steps=steps), **options,
                kernel_times=[t for t in (0, 7, 31, 60, 90) if t <= steps],
                progress=progress, checkpoint=checkpoint,
            )  # fmt: skip

        return run

    @staticmethod
    def arrays(solution):
        """All arrays of a solution by name."""
        found = {}

        def collect(name, value):
            if isinstance(value, dict):
                for key, inner in value.items():
                    collect(f"{name}.{key}", inner)
            elif isinstance(value, np.ndarray):
                found[name] = value

        for name, value in vars(solution).items():
            if name not in ("config", "diagnostics"):
                collect(name, value)
        return found

    def assert_equal(self, found, wanted):
        found, wanted = self.arrays(found), self.arrays(wanted)
        assert found.keys() == wanted.keys()
        for name, array in wanted.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)

    def test_resume(self, run, path):
        whole = run()
        for stop_at in (0, 1, 6, 7, 8, 30, 31, 45, 59, 60):
            path.unlink(missing_ok=True)
            with pytest.raises(KeyboardInterrupt):
                run(checkpoint=path, stop_at=stop_at)
            resumed = run(checkpoint=path)
            self.assert_equal(resumed, whole)
            assert resumed.diagnostics["resumed_from"] == ([stop_at] if stop_at < 60 else [])

    def test_extend(self, run, path):
        run(checkpoint=path)
        self.assert_equal(run(90, checkpoint=path), run(90))

    def test_repeat(self, run, path):
        whole = run(checkpoint=path)
        before = path.read_bytes()
        again = run(checkpoint=path)
        self.assert_equal(again, whole)
        assert path.read_bytes() == before
        assert again.config["versions"]


def test_infinite_depth_resumes_and_extends(path):
    def stop(step, loss):
        if step == 9:
            raise KeyboardInterrupt

    call = dc.DeepLinear(dc.INFINITE, branch_scale=0.8), DATA
    with pytest.raises(KeyboardInterrupt):
        dc.solve(*call, dc.GradientDescent(0.03, 12), progress=stop, checkpoint=path)
    longer = dc.solve(*call, dc.GradientDescent(0.03, 15), checkpoint=path)
    TestVerbs().assert_equal(longer, dc.solve(*call, dc.GradientDescent(0.03, 15)))


def test_long_runs_of_default_times_resume_and_extend(path):
    """Log-spaced steps, a network that has grown, and the default tolerance."""
    limit, data = dc.DeepLinear(2), dc.Dataset(inputs=POINTS, targets=np.cos(np.arange(27)))
    whole = dc.solve(limit, data, dc.GradientDescent(0.02, 12_000))

    def stop(step, loss):
        if step > 5000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dc.solve(limit, data, dc.GradientDescent(0.02, 12_000), progress=stop, checkpoint=path)
    resumed = dc.solve(limit, data, dc.GradientDescent(0.02, 12_000), checkpoint=path)
    TestVerbs().assert_equal(resumed, whole)
    longer = dc.solve(limit, data, dc.GradientDescent(0.02, 15_000), checkpoint=path)
    np.testing.assert_array_equal(longer.times[: len(whole.times)], whole.times)
    np.testing.assert_array_equal(longer.outputs[: len(whole.times)], whole.outputs)
    assert longer.times[-1] == longer.kernel_times[-1] == 15_000
    assert longer.diagnostics["multiply_adds"] > whole.diagnostics["multiply_adds"]


def test_an_extended_run_keeps_its_default_tolerance(path):
    """Short runs keep every direction, long ones do not."""
    limit, short, long = (
        dc.DeepLinear(2),
        dc.GradientDescent(0.03, 60),
        dc.GradientDescent(0.03, 400),
    )
    tol = dc.solve(limit, DATA, short, checkpoint=path).diagnostics["tol"]
    extended = dc.solve(limit, DATA, long, checkpoint=path, kernel_times=None)
    assert extended.diagnostics["tol"] == tol != dc.solve(limit, DATA, long).diagnostics["tol"]
    whole = dc.solve(limit, DATA, long, tol=tol, kernel_times=extended.kernel_times)
    TestVerbs().assert_equal(extended, whole)
    with pytest.raises(ValueError, match="tol is 1e-13 there and 1e-06 here"):
        dc.solve(limit, DATA, long, checkpoint=path, tol=1e-6)


class TestVerbRefusals:
    LIMIT, TRAINING = dc.DeepLinear(2), dc.GradientDescent(0.03, 300)

    @pytest.fixture
    def saved(self, path):
        dc.solve(self.LIMIT, DATA, self.TRAINING, checkpoint=path)
        return path

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"limit": dc.DeepLinear(3)}, "limit.depth is 2 there and 3 here"),
            ({"training": dc.GradientDescent(0.02, 300)}, "lr at update 0 is 0.03 there"),
            ({"training": dc.GradientDescent(0.03, 200)}, "steps = 200, but the checkpoint is at"),
            ({"data": dc.Dataset(inputs=POINTS, targets=np.ones(27))}, "data.inputs.shape is"),
            ({"tol": 1e-6}, "tol is 1e-08 there and 1e-06 here"),
            ({"method": "chain"}, "engine is 'growing' there and 'chain' here"),
            ({"save": "H"}, "solve.save is"),
            ({"times": [3]}, "times lacks step 0"),
        ],
    )
    def test_name_the_difference(self, saved, change, text):
        call = {"limit": self.LIMIT, "data": DATA, "training": self.TRAINING, **change}
        with pytest.raises(ValueError, match=text):
            dc.solve(**call, checkpoint=saved)

    def test_what_the_defaults_amount_to_may_be_said(self, saved):
        dc.solve(self.LIMIT, DATA, self.TRAINING, checkpoint=saved, method="growing", tol=1e-8)

    def test_the_other_verb(self, saved):
        with pytest.raises(ValueError, match="solve is known to it only"):
            dc.simulate(self.LIMIT, DATA, self.TRAINING, width=10, checkpoint=saved)


def test_the_run_that_measures_the_error_is_resumed_too(path):
    training = dc.GradientDescent(0.03, 300)
    call = {"limit": dc.DeepLinear(2), "data": DATA, "training": training, "estimate_error": True}
    whole = dc.solve(**call)
    seen = []

    def stop(step, loss):
        seen.append(step)
        if seen.count(150) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"at step 150 .*run\.reference\.npz holds"):
        dc.solve(**call, progress=stop, checkpoint=path)
    seen.clear()
    resumed = dc.solve(**call, progress=lambda step, loss: seen.append(step), checkpoint=path)
    assert min(seen) > 150
    found, wanted = (s.diagnostics["error_estimate"] for s in (resumed, whole))
    assert found.pop("wall_seconds") != wanted.pop("wall_seconds")
    assert found == wanted
