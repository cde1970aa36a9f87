"""Quasi-random numbers: Sobol's sequence, its scrambling, and what it is good for."""

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import f as f_distribution
from scipy.stats import qmc

import dmftcore as dc
from dmftcore.sampled.blocks import Sampling
from dmftcore.sampled.ensemble import Ensemble
from dmftcore.sampled.particles import CounterNormals
from dmftcore.sampled.quasi import DIMENSIONS, WORDS, quasi_normals


def points(size, dimension, words):
    """In (0, 1)."""
    column = np.empty(size)
    quasi_normals(column, dimension, words)
    return ndtr(column)


def test_without_scrambling_it_is_the_sequence():
    """Of scipy, which goes through it in the order of Gray's code."""
    places = np.arange(256)
    expected = qmc.Sobol(DIMENSIONS, scramble=False, bits=32).random(256)
    for dimension in range(DIMENSIONS):
        found = points(256, dimension, np.zeros(WORDS, np.uint32))
        # The middle of an interval of 2^-32, and rounding where ndtr is small.
        shifted = expected[:, dimension] + 2.0**-33
        np.testing.assert_allclose(found[places ^ places >> 1], shifted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dimension", [0, 1, 7, DIMENSIONS - 1])
def test_scrambled_points_are_as_even(dimension):
    """One in each interval of 1/S, wherever they lie in it."""
    words = np.random.SeedSequence(dimension).generate_state(WORDS)
    found = 512 * points(512, dimension, words)
    assert np.array_equal(np.sort(found.astype(int)), np.arange(512))
    assert 0.2 < np.std(found % 1) < 0.4


def test_pairs_of_scrambled_columns_are_even():
    """The first two dimensions: one point in every box of area 1/S."""
    words = np.random.SeedSequence(3).generate_state(2 * WORDS).reshape(2, WORDS)
    x, y = (points(256, dimension, words[dimension]) for dimension in range(2))
    for wide in (1, 4, 16, 64, 256):
        boxes = (x * wide).astype(int) * (256 // wide) + (y * (256 // wide)).astype(int)
        assert np.array_equal(np.sort(boxes), np.arange(256))


def test_columns_by_their_place():
    """In one call or several, and chance where there are no dimensions."""
    normals = CounterNormals(5)
    whole, parts, plain = np.empty((4, 33)), np.empty((4, 33)), np.empty((2, 33))
    normals.fill(whole, 1, 2, 6, DIMENSIONS - 2)
    for i in range(4):
        normals.fill(parts[i : i + 1], 1, 2, 6 + i, DIMENSIONS - 2 + i)
    normals.fill(plain, 1, 2, 8)
    assert np.array_equal(whole, parts)
    assert np.array_equal(whole[2:], plain)
    assert len(np.unique(whole)) == whole.size


def test_the_same_losses_with_less_scatter():
    """As by chance, within errors; their scatter is smaller than chance would let it be."""
    inputs, runs = np.random.default_rng(4).normal(size=(3, 5)), 32
    data = dc.Dataset(inputs=inputs, targets=np.array([1.0, -1.0, 1.0]))
    network, training = dc.MLP(2, "relu").architecture, dc.GradientDescent(0.2, 20)
    logs = []
    for quasi in (False, True):
        sampling = Sampling(512, runs, 1e-3, quasi=quasi)
        march = Ensemble(network, data.coordinates, data.targets[:, None], training, sampling)
        outputs = march.advance(np.array([20]))[0, :, :, 0]
        logs.append(np.log(((data.targets - outputs) ** 2).mean(axis=1)))
    variances = [log.var(ddof=1) for log in logs]
    assert variances[0] / variances[1] > f_distribution.isf(1e-3, runs - 1, runs - 1)
    assert abs(logs[0].mean() - logs[1].mean()) < 4 * np.sqrt(sum(variances) / runs)
