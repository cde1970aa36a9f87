"""Pictures: the right data on the right axes. How they look is for eyes, not for tests."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest

import dmftcore as dc

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from dmftcore import observables, plotting

STEPS = 12
TRAINING = dc.GradientDescent(lr=0.1, steps=STEPS)
# Targets unsorted, so that sorting by class shows.
DATA = dc.Dataset(
    inputs=np.random.default_rng(2).normal(size=(6, 4)),
    targets=[1.0, -1.0, -1.0, 1.0, -1.0, 1.0],
    test_inputs=np.random.default_rng(3).normal(size=(2, 4)),
    test_targets=[1.0, -1.0],
)


def solve(gamma=1.5, **options):
    return dc.solve(dc.DeepLinear(2, gamma=gamma), DATA, TRAINING, **options)


@pytest.fixture(scope="module")
def theory():
    return solve(save=("H", "G"), kernel_times=[0, 1, 2, 4, 8, STEPS])


@pytest.fixture(scope="module")
def experiment():
    return dc.simulate(dc.DeepLinear(2, gamma=1.5), DATA, TRAINING, width=40, seeds=3)


@pytest.fixture
def ax():
    return Figure().subplots()


def by_label(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_losses_are_lines_for_theory_and_points_with_bands_for_experiment(ax, theory, experiment):
    plotting.plot_losses(ax, {"theory": theory, "experiment": experiment})
    lines = by_label(ax)
    assert list(lines) == [
        "theory, train", "theory, test", "experiment, train", "experiment, test"
    ]  # fmt: skip
    np.testing.assert_array_equal(lines["theory, train"].get_xdata(), theory.times)
    np.testing.assert_array_equal(lines["theory, train"].get_ydata(), theory.train_loss)
    np.testing.assert_array_equal(lines["theory, test"].get_ydata(), theory.test_loss)
    assert lines["theory, test"].get_linestyle() == "-"
    np.testing.assert_array_equal(lines["experiment, test"].get_ydata(), experiment.test_loss)
    assert lines["experiment, test"].get_linestyle() == "None"
    assert lines["experiment, train"].get_marker() == "o"
    for part in ("train", "test"):
        assert lines[f"theory, {part}"].get_color() == lines[f"experiment, {part}"].get_color()
    assert lines["theory, train"].get_color() != lines["theory, test"].get_color()

    train_band, _ = ax.collections
    top = train_band.get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx(
        (experiment.train_loss + experiment.stderr("train_loss")).max(), rel=1e-12
    )
    assert ax.get_yscale() == "log"
    assert ax.get_ylabel() == "loss"
    assert ax.get_xlabel() == "step $t$"


def test_colours_tell_families_apart_and_join_theory_with_experiment(ax, experiment):
    plotting.plot_losses(
        ax, {"lazy": solve(0), "rich": solve(1.5), "network": experiment, "richer": solve(3)}
    )
    lines = by_label(ax)
    colours = {name: lines[name].get_color() for name in ("lazy", "rich", "network", "richer")}
    assert colours["rich"] == colours["network"]
    assert len(set(colours.values())) == 3
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "lazy", "rich", "network", "richer", "test"
    ]  # fmt: skip


def test_experiments_of_one_family_differ_in_their_markers(ax, experiment):
    wide = dc.simulate(dc.DeepLinear(2, gamma=1.5), DATA, TRAINING, width=60)
    plotting.plot_losses(ax, {"40": experiment, "60": wide})
    lines = by_label(ax)
    assert lines["40, train"].get_marker() != lines["60, train"].get_marker()


def test_alignment_is_the_cosine_of_matrices():
    y = np.array([1.0, -1.0, 1.0, 2.0])
    z = np.array([1.0, 1.0, 0.0, 0.0])
    kernels = np.stack([3 * np.outer(y, y), np.outer(z, z), np.eye(4), np.zeros((4, 4))])
    np.testing.assert_allclose(observables.alignment(kernels, y), [1, 0, 0.5, 0], atol=1e-15)
    targets = np.random.default_rng(0).normal(size=(4, 2))
    kernel = kernels[0] + np.eye(4)
    wanted = np.sum(kernel * (targets @ targets.T)) / (
        np.linalg.norm(kernel) * np.linalg.norm(targets @ targets.T)
    )
    assert observables.alignment(kernel[None], targets)[0] == pytest.approx(wanted, rel=1e-13)


def test_alignment_has_a_line_per_layer(ax, theory, experiment):
    plotting.plot_alignment(ax, {"theory": theory, "experiment": experiment})
    lines = ax.get_lines()
    assert [line.get_label() for line in lines] == ["layer 1", "layer 2"] * 2
    values = observables.alignment(theory.equal_time["H"][2][:, :6, :6], DATA.targets)
    np.testing.assert_array_equal(lines[1].get_ydata(), values)
    np.testing.assert_array_equal(lines[1].get_xdata(), theory.kernel_times)
    assert len(ax.get_legend().get_texts()) == 2


def test_sharpness_shows_the_edge_of_stability(ax, theory):
    plotting.plot_sharpness(ax, {"theory": theory})
    curve, edge = ax.get_lines()
    np.testing.assert_array_equal(curve.get_ydata(), theory.sharpness)
    np.testing.assert_array_equal(edge.get_ydata(), [2 / TRAINING.lr] * 2)
    assert ax.texts[0].get_text() == r"$2/\mathrm{lr} = 20$"


def test_kernels_before_and_after_are_sorted_and_share_their_colours(theory):
    axes = Figure().subplots(1, 2)
    plotting.plot_kernel_pair(axes, theory, label="theory", layer=1)
    order = [0, 3, 5, 1, 2, 4]
    for ax, step in zip(axes, (0, STEPS), strict=True):
        (image,) = ax.images
        np.testing.assert_array_equal(
            image.get_array(), theory.kernel("H", 1, step, step)[np.ix_(order, order)]
        )
        assert ax.get_title() == f"theory, $t = {step}$"
        assert [label.get_text() for label in ax.get_xticklabels()] == ["$y=+1$", "$y=-1$"]
        assert ax.get_xticks().tolist() == [1, 4]
    assert axes[0].images[0].get_clim() == axes[1].images[0].get_clim()


def test_two_time_map(ax, theory):
    mesh = plotting.plot_two_time(ax, theory)
    kernel = theory.kernel("H", 2)
    wanted = np.mean([kernel[:, p, :, p] for p in range(6)], axis=0)
    np.testing.assert_allclose(mesh.get_array(), wanted, rtol=1e-14)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step $s$", "step $t$")
    # Rows of the map are t: the value at t = 8, s = 1 lies there.
    corners = mesh.get_coordinates()
    assert corners[4, 1, 0] < 1 < corners[4, 2, 0]
    assert corners[4, 1, 1] < 8 < corners[5, 1, 1]


def test_kernels_without_a_diagonal_need_a_pair(ax):
    everything = solve(save="all", kernel_times=[0, 5, STEPS])
    with pytest.raises(ValueError, match=r"'AG' is a kernel between points and outputs.*pair="):
        plotting.plot_two_time(ax, everything, name="AG")
    plotting.plot_two_time(ax, everything, name="AG", pair=(7, 0))
    titles = [a.get_title() for a in plotting.plot_solutions({"theory": everything}).axes]
    assert not any("AG" in title or "BPhi" in title for title in titles)


def test_two_time_map_of_a_pair_of_points(ax, theory):
    mesh = plotting.plot_two_time(ax, theory, layer=1, pair=(0, 4))
    np.testing.assert_array_equal(mesh.get_array(), theory.kernel("H", 1)[:, 0, :, 4])


def test_what_is_not_held_is_refused(ax):
    bare = solve(kernel_times=[])
    with pytest.raises(ValueError, match="solutions is empty"):
        plotting.plot_solutions({})
    with pytest.raises(ValueError, match="kernel 'H' at equal times"):
        plotting.plot_alignment(ax, {"bare": bare})
    with pytest.raises(ValueError, match="kernel 'H' at equal times"):
        plotting.plot_kernel_pair(Figure().subplots(1, 2), bare)
    with pytest.raises(ValueError, match="sharpness"):
        plotting.plot_sharpness(ax, {"bare": bare})
    with pytest.raises(KeyError, match=r"save=\('H',\)"):
        plotting.plot_two_time(ax, solve())


def test_whole_figure_holds_what_the_solutions_hold(theory, experiment):
    figure = plotting.plot_solutions({"theory": theory, "experiment": experiment})
    titles = [ax.get_title() for ax in figure.axes if ax.get_visible()]
    for wanted in ("theory, $t = 0$", f"theory, $t = {STEPS}$", f"experiment, $t = {STEPS}$"):
        assert wanted in titles
    assert sum("(t, s)" in title for title in titles) == 2
    labels = [ax.get_ylabel() for ax in figure.axes]
    assert labels[0] == "loss"
    assert any(label.startswith("alignment") for label in labels)
    assert any(label.startswith("sharpness") for label in labels)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=40)
    assert stream.getvalue().startswith(b"\x89PNG")


def test_several_families_share_one_legend(theory):
    figure = plotting.plot_solutions({"lazy": solve(0), "rich": theory})
    assert all(ax.get_legend() is None for ax in figure.axes)
    (legend,) = (legend for row in figure.subfigs for legend in row.legends)
    assert [text.get_text() for text in legend.get_texts()] == ["lazy", "rich", "test"]


def test_points_of_several_outputs_are_sorted_by_their_largest_target():
    data = dc.Dataset(gram=np.diag([1.0, 2.0, 3.0]), targets=[[0, 1], [1, 0], [0, 2]])
    axes = Figure().subplots(1, 2)
    plotting.plot_kernel_pair(axes, dc.solve(dc.DeepLinear(1), data, TRAINING))
    np.testing.assert_allclose(axes[0].images[0].get_array(), np.diag([2.0, 1.0, 3.0]))
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["class 1", "class 2"]


@pytest.mark.parametrize("outputs", [1, 3])
def test_solution_plot_draws_what_there_is(outputs):
    targets = np.random.default_rng(0).normal(size=(5, outputs))
    data = dc.Dataset(inputs=np.random.default_rng(1).normal(size=(5, 3)), targets=targets)
    figure = dc.solve(dc.DeepLinear(1), data, TRAINING).plot()
    assert sum(ax.get_visible() for ax in figure.axes) == 6  # Three panels, a pair, its colours.
    curves_only = dc.solve(dc.DeepLinear(1), data, TRAINING, kernel_times=[]).plot()
    assert [ax.get_ylabel() for ax in curves_only.axes] == ["loss"]
    for result in (figure, curves_only):
        result.savefig(io.BytesIO(), dpi=30)


def test_long_runs_have_a_logarithmic_time_axis(ax):
    data = dc.Dataset(gram=[[1.0]], targets=[1.0])
    long = dc.solve(dc.DeepLinear(1, gamma=0), data, dc.GradientDescent(lr=1e-3, steps=20_000))
    plotting.plot_losses(ax, {"long": long})
    assert ax.get_xscale() == "symlog"
    assert ax.get_xlim()[1] > 20_000


def test_results_of_a_run_that_diverged_at_once_can_be_drawn():
    with pytest.warns(dc.StabilityWarning), pytest.raises(dc.DivergenceError) as caught:
        dc.solve(dc.DeepLinear(2), DATA, dc.GradientDescent(lr=1e7, steps=5))
    caught.value.partial.plot().savefig(io.BytesIO(), dpi=30)


def test_no_figure_state_is_touched():
    code = "import sys, dmftcore.plotting; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_matplotlib_names_the_extra(theory, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "dmftcore\[plot\]"'):
        theory.plot()
