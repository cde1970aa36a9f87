"""Trained models of finite size against the theory, in standard errors."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import dmftcore as dc
import fake_cupy
from dmftcore import _arrays

INF = dc.INFINITE
#: Flat: the deviations of steep spectra at finite dimension belong to their few large modes.
RANKS = np.arange(1.0, 101.0)
SPECTRUM = dc.Spectrum(RANKS**-0.6, RANKS**-0.15)
#: What the largest of some tens of correlated deviations stays below, in standard errors; what is
#: left of the finite dimension is of the order of 1/D, one percent.
DEVIATION, BIAS = 3.5, 0.01


def compare(limit, training, seeds, names=("test_loss",), spectrum=SPECTRUM):
    theory = dc.solve(limit, spectrum, training, kernel_times=[])
    experiment = dc.simulate(limit, spectrum, training, seeds=seeds, seed=3, kernel_times=[])
    for name in names:
        expected, error = getattr(theory, name)[1:], experiment.stderr(name)[1:]
        difference = np.abs(getattr(experiment, name)[1:] - expected)
        assert np.all(difference <= DEVIATION * error + BIAS * expected), name
        # The comparison has teeth: errors of the mean of a few percent at most.
        assert np.all(error < 0.05 * expected), name


@pytest.mark.parametrize("gamma", [0.0, 1.0])
@pytest.mark.parametrize(("features", "seeds"), [(50, 100), (200, 40)])
def test_learned_features(features, gamma, seeds):
    compare(dc.FeatureLearning(features, gamma), dc.GradientDescent(0.15, 30), seeds)


def test_learned_features_converge_with_their_dimension():
    """The same model at D and N four times as large is closer to its own theory."""
    limit, training = dc.FeatureLearning(20, 3.0), dc.GradientDescent(0.1, 30)
    deviations = []
    for scale, seeds in ((1, 1600), (4, 400)):
        k = np.arange(1.0, 20 * scale + 1)
        spectrum = dc.Spectrum(k**-0.3, k**-0.3)
        limit = dc.FeatureLearning(20 * scale, 3.0)
        theory = dc.solve(limit, spectrum, training, kernel_times=[]).test_loss[-1]
        models = dc.simulate(limit, spectrum, training, seeds=seeds, kernel_times=[])
        deviations.append(
            ((models.test_loss[-1] - theory) / theory, models.stderr("test_loss")[-1] / theory)
        )
    (small, small_error), (large, large_error) = deviations
    # The small one deviates visibly, and by more than the large one.
    assert abs(small) > 3 * small_error
    assert abs(large) + 2 * large_error < abs(small)


def test_a_schedule_of_rates():
    rates = np.geomspace(0.3, 0.03, 30)
    compare(dc.FeatureLearning(60, 1.0), dc.GradientDescent(rates, 30), 60)


@pytest.mark.parametrize(
    ("limit", "training"),
    [
        (dc.RandomFeatures(50, 75, 0.1), dc.GradientDescent(0.2, 30)),
        (dc.RandomFeatures(120, INF, 0.1), dc.GradientDescent(0.2, 20, momentum=0.5)),
        (dc.RandomFeatures(INF, 60), dc.GradientDescent(0.2, 30)),
        # What a rate multiplies, the velocity or the gradient, is a matter of a tenth here.
        (
            dc.RandomFeatures(120, INF, 0.1),
            dc.GradientDescent(np.tile([0.3, 0.03], 10), 20, momentum=0.5),
        ),
    ],
)
def test_random_features(limit, training):
    compare(limit, training, 100, ("test_loss", "train_loss"))


@pytest.mark.parametrize("features", [60, INF])
def test_one_pass_training(features):
    limit = dc.RandomFeatures(INF, features, noise_variance=0.05)
    compare(limit, dc.OnlineSGD(0.1, 30, batch=8), 100)


def test_kernels_over_two_times():
    times = [0, 3, 10, 20]
    for limit, lr in ((dc.FeatureLearning(100, 1.0), 0.15), (dc.RandomFeatures(90, 70, 0.1), 0.2)):
        training = dc.GradientDescent(lr, 20)
        theory, experiment = (
            verb(limit, SPECTRUM, training, save="all", kernel_times=times, **seeds)
            for verb, seeds in ((dc.solve, {}), (dc.simulate, {"seeds": 60}))
        )
        assert set(theory.two_time) == set(experiment.two_time)
        for name in theory.two_time:
            expected, found = theory.kernel(name), experiment.kernel(name)
            error = experiment.stderr(name)[0]
            # Of unequal times no more than of equal ones, by Cauchy and Schwarz.
            bound = DEVIATION * np.sqrt(np.outer(error, error)) + 2 * BIAS * np.abs(expected).max()
            assert np.all(np.abs(found - expected) <= bound), name


def test_models_do_not_depend_on_their_number():
    limit, training = dc.FeatureLearning(7, 1.0), dc.GradientDescent(0.1, 5)
    several = dc.simulate(limit, SPECTRUM, training, seeds=3, seed=5)
    alone = dc.simulate(limit, SPECTRUM, training, seeds=1, seed=5)
    np.testing.assert_allclose(several.per_seed["test_loss"][0], alone.test_loss, rtol=1e-12)
    assert np.ptp(several.per_seed["test_loss"][:, -1]) > 0


@pytest.mark.parametrize(
    ("limit", "training"),
    [
        (dc.FeatureLearning(7, 1.0), dc.GradientDescent(0.1, 40)),
        (dc.RandomFeatures(12, 9, 0.1), dc.GradientDescent(0.1, 40, momentum=0.6)),
        (dc.RandomFeatures(INF, 9, 0.1), dc.OnlineSGD(0.05, 40, batch=3)),
    ],
)
def test_an_interrupted_simulation_goes_on_bit_for_bit(limit, training, tmp_path):
    options = {"seeds": 2, "save": "all"}
    whole = dc.simulate(limit, SPECTRUM, training, **options)

    def stop(step, _):
        if step >= 17:
            raise KeyboardInterrupt

    path = tmp_path / "run.npz"
    with pytest.raises(KeyboardInterrupt, match="holds the run"):
        dc.simulate(limit, SPECTRUM, training, progress=stop, checkpoint=path, **options)
    rest = dc.simulate(limit, SPECTRUM, training, checkpoint=path, **options)
    assert rest.diagnostics["resumed_from"]
    np.testing.assert_array_equal(rest.per_seed["test_loss"], whole.per_seed["test_loss"])
    for name in whole.two_time:
        np.testing.assert_array_equal(rest.kernel(name), whole.kernel(name))


def test_a_diverging_model_is_reported():
    with pytest.raises(dc.DivergenceError, match="lower lr") as caught:
        dc.simulate(dc.FeatureLearning(9, 1.0), SPECTRUM, dc.GradientDescent(50.0, 100))
    assert caught.value.partial.times[-1] < caught.value.step


def test_groups_are_taken_apart():
    single = dc.Spectrum([1.0, 0.5, 0.5, 0.5], [1.0, 0.3, 0.3, 0.3])
    grouped = dc.Spectrum([1.0, 0.5], [1.0, 0.9], multiplicities=[1, 3])
    limit, training = dc.RandomFeatures(6, 5, 0.1), dc.GradientDescent(0.1, 5)
    first, second = (dc.simulate(limit, s, training) for s in (single, grouped))
    np.testing.assert_allclose(first.test_loss, second.test_loss, rtol=1e-12)


@pytest.mark.parametrize(
    ("limit", "training"),
    [
        (dc.FeatureLearning(7, 1.0), dc.GradientDescent(0.1, 6)),
        (dc.RandomFeatures(12, 9, 0.1), dc.GradientDescent(0.1, 6, momentum=0.6)),
        (dc.RandomFeatures(INF, INF), dc.GradientDescent(0.1, 6)),
        (dc.RandomFeatures(INF, 9, 0.1), dc.OnlineSGD(0.05, 6, batch=3)),
    ],
)
def test_a_device_trains_the_same_models(limit, training, monkeypatch):
    library = fake_cupy.module()
    monkeypatch.setitem(sys.modules, "cupy", library)
    monkeypatch.setattr(_arrays, "to_device", library.asarray)
    host, there = (
        dc.simulate(limit, SPECTRUM, training, seeds=2, save="all", device=device)
        for device in ("cpu", "cuda")
    )
    assert there.diagnostics["device"] == "cuda"
    for name in ("train_loss", "test_loss"):
        assert type(getattr(there, name)) is np.ndarray
        np.testing.assert_allclose(getattr(there, name), getattr(host, name), rtol=1e-12)
    for name in host.two_time:
        np.testing.assert_allclose(there.kernel(name), host.kernel(name), rtol=1e-11, atol=1e-13)
