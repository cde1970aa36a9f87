"""Recorded row operations against the same operations on arrays."""

import numpy as np
import pytest

import dmftcore as dc
from dmftcore import _core, twotime
from dmftcore.chain import HiddenChain, ResidualChain
from dmftcore.recording import RowProgram

TIMES = 12


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def histories(rng, count, times=TIMES):
    return [np.tril(rng.standard_normal((times, times))) for _ in range(count)]


def test_a_step_that_has_been_run_is_complete(rng):
    (a,) = histories(rng, 1)
    program = RowProgram(TIMES)
    x = program.input(1)
    program.result(twotime.rows_causal(x, a))
    program.run(0)
    with pytest.raises(AssertionError, match="complete"):
        twotime.rows_causal(x, a)


@pytest.mark.parametrize("per_step", [1, 3])
def test_recorded_operations_are_those_on_arrays(rng, per_step):
    a, c = histories(rng, 2)
    u, v = rng.standard_normal((2, TIMES, 2))
    weights = rng.standard_normal(TIMES)
    factors, matrix = rng.standard_normal(2), rng.standard_normal((3, 2))
    program = RowProgram(TIMES, per_step)
    x, w = program.input(2), program.input(2)
    pair = twotime.rows_causal_pair(x, w, a)
    recorded = [
        program.result(rows)
        for rows in (
            twotime.rows_causal(x, a) - 0.5 * w,
            twotime.rows_causal_transposed(2 * x + w / 4 - x, a),
            pair[0],
            pair[1],
            twotime.rows_symmetric(x, c),
            *twotime.rows_congruence(x, c, a),
            twotime.rows_low_rank(x, u, v),
            program.before(x, weights),
            program.now(x),
            program.unit(per_step),
            program.by_row(factors, x),
            program.by_row(factors, x[1:]),
            program.mix(matrix, x),
            program.columns(u),
            -w[:1],
        )
    ]
    for step in (0, 1, TIMES // per_step - 1):
        first, n = step * per_step, (step + 1) * per_step
        xa, wa = rng.standard_normal((2, 2, n))
        program.at(x, step)[:], program.at(w, step)[:] = xa, wa
        program.run(step)
        at_step = np.arange(n) >= first
        pair = twotime.rows_causal_pair(xa, wa, a)
        expected = [
            twotime.rows_causal(xa, a) - 0.5 * wa,
            twotime.rows_causal_transposed(xa + wa / 4, a),
            *pair,
            twotime.rows_symmetric(xa, c),
            *twotime.rows_congruence(xa, c, a),
            twotime.rows_low_rank(xa, u, v),
            np.where(at_step, 0, weights[:n] * xa),
            np.where(at_step, xa, 0),
            np.eye(per_step, n, first),
            factors[:, None] * xa,
            factors[:, None] * xa[1],
            matrix @ xa,
            u[:n].T,
            -wa[:1],
        ]
        for i, (rows, array) in enumerate(zip(recorded, expected, strict=True)):
            np.testing.assert_allclose(program.at(rows, step), array, rtol=1e-12, err_msg=str(i))


def test_rows_are_appended_step_by_step(rng):
    history, batch, table = (
        np.zeros((TIMES, TIMES)),
        np.zeros((2, TIMES, TIMES)),
        np.zeros((TIMES, 2)),
    )
    program = RowProgram(TIMES)
    x = program.input(2)
    program.append(history, x[:1])
    program.append(batch, x)
    program.append_now(table, x)
    # Reads what it has just appended.
    last = program.result(twotime.rows_causal_batch(x, batch, transposed=True))
    given = [rng.standard_normal((2, step + 1)) for step in range(TIMES)]
    for step, rows in enumerate(given):
        program.at(x, step)[:] = rows
        program.run(step)
        np.testing.assert_array_equal(history[step, : step + 1], rows[0])
        np.testing.assert_array_equal(batch[:, step, : step + 1], rows)
        np.testing.assert_array_equal(table[step], rows[:, -1])
        np.testing.assert_allclose(
            program.at(last, step)[:, step], (rows**2).sum(axis=1), rtol=1e-12
        )
    assert not np.triu(history, 1).any()
    assert not np.triu(batch, 1).any()


def test_places_are_used_again():
    program = RowProgram(TIMES)
    rows = start = program.input(1)
    for _ in range(50):
        rows = program.by_row(np.array([2.0]), rows)
    end = program.result(rows)
    program.at(start, 3)[:] = 1.0
    program.run(3)
    np.testing.assert_array_equal(program.at(end, 3), 2.0**50)
    np.testing.assert_array_equal(program.at(start, 3), 1.0)
    assert program.room_rows <= 4


def test_what_does_not_fit_is_refused(rng):
    program = RowProgram(TIMES)
    with pytest.raises(ValueError, match="fewer than the 12 of x"):
        twotime.rows_causal(program.input(1), np.zeros((TIMES - 1, TIMES - 1)))
    program.append(np.zeros((TIMES, TIMES)), program.input(2))
    with pytest.raises(ValueError, match="append: the numbers of rows do not fit"):
        program.run(0)
    core = _core.RowProgram(TIMES, 1)
    for place, text in (((0, 0, 2), "overlaps what is read"), ((3, 0, 1), "do not fit")):
        with pytest.raises(ValueError, match=text):
            core.add("scale", [place], [(1, 0, 2)], [], [2.0])
    program = RowProgram(TIMES)
    program.result(program.now(program.input(1)))
    with pytest.raises(ValueError, match="no such steps"):
        program.run(TIMES)
    program = RowProgram(TIMES)
    strided = np.zeros((TIMES, 2 * TIMES))[:, ::2]
    program.append(strided, program.input(1))
    with pytest.raises(TypeError):
        program.run(0)


@pytest.mark.parametrize("chain", [HiddenChain, ResidualChain])
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_chain_is_the_same_recorded(rng, monkeypatch, chain, outputs):
    x = rng.standard_normal((5, 7))
    data = dc.Dataset(inputs=x, targets=np.cos(x[:, :outputs]))
    limit = dc.DeepLinear(3, branch_scale=1.0 if chain is ResidualChain else None)
    training = dc.GradientDescent(np.linspace(0.1, 0.2, 15), 15)
    recorded = dc.solve(limit, data, training, method="chain")
    monkeypatch.setattr(chain, "repeats", False)
    direct = dc.solve(limit, data, training, method="chain")
    np.testing.assert_allclose(recorded.outputs, direct.outputs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("modes", [1, 3, 20])
@pytest.mark.parametrize("training", [dc.GradientDescent(0.1, 40), dc.OnlineSGD(0.1, 40)])
def test_random_data_are_the_same_recorded(monkeypatch, modes, training):
    target = np.arange(modes) % 2 + float(modes == 1)
    spectrum = dc.Spectrum(np.arange(1, modes + 1) ** -0.5, target)
    limit = dc.ProportionalLinear(2, 0.5, 2.0, noise=0.3, spectrum=spectrum)
    options = {"method": "chain", "save": ("Cv", "RD")}
    recorded = dc.solve(limit, None, training, **options)
    monkeypatch.setattr(HiddenChain, "repeats", False)
    direct = dc.solve(limit, None, training, **options)
    for name in ("test_loss", "train_loss", "overlap"):
        np.testing.assert_allclose(
            getattr(recorded, name), getattr(direct, name), rtol=1e-12, atol=1e-14, err_msg=name
        )
    for name in ("Cv", "RD"):
        kernels = [s.kernel(name) if name == "Cv" else s.response(name) for s in (recorded, direct)]
        np.testing.assert_allclose(*kernels, rtol=1e-10, atol=1e-13, err_msg=name)
