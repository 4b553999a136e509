"""The line through the slopes of sequences: against all instruments, and its coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr.deepiv.slopes.draw_wise_line import CROSSED, draw_wise_line
from deepmr.mr.drawwise import student_interval


def of_instruments(rng, n=25, each=6, n_draws=4):
    """Return weights, bx and by of instruments (n, each) with draws, and a moderator."""
    w = rng.uniform(0.2, 5.0, (n, each))
    bx = rng.normal(size=(n_draws, n, each))
    f = rng.normal(size=n)
    by = (0.5 + 0.3 * f[:, None]) * bx + rng.normal(size=bx.shape)
    return w, bx, by, f


def sums(w, bx, by):
    return (w * bx * bx).sum(-1), (w * bx * by).sum(-1)


def reference(w, bx, by, f):
    """Return line, CR2 and degrees of freedom in one draw, from every instrument and matrices."""
    n, each = w.shape
    root = np.sqrt(w).ravel()
    cluster = np.repeat(np.arange(n), each)
    design = (bx[..., None] * np.stack([np.ones(n), f], axis=-1)[:, None]).reshape(-1, 2)
    x, y = root[:, None] * design, root * by.ravel()
    bread = np.linalg.inv(x.T @ x)
    line = bread @ x.T @ y
    annihilator = np.eye(len(y)) - x @ bread @ x.T
    meat, scores = np.zeros((2, 2)), []
    for i in range(n):
        own = cluster == i
        values, vectors = np.linalg.eigh(annihilator[np.ix_(own, own)])
        adjust = vectors / np.sqrt(values) @ vectors.T
        u = x[own].T @ adjust @ (y - x @ line)[own]
        meat += np.outer(u, u)
        scores.append(bread @ x[own].T @ adjust @ annihilator[own])
    df = []
    for p in range(2):
        g = np.array([score[p] for score in scores])
        gram = g @ g.T
        df.append(np.trace(gram) ** 2 / (gram * gram).sum())
    return line, np.diagonal(bread @ meat @ bread), df


def test_agrees_with_the_regression_of_every_instrument():
    w, bx, by, f = of_instruments(np.random.default_rng(1))
    each = [reference(w, x, y, f) for x, y in zip(bx, by, strict=True)]
    xx, xy = sums(w, bx, by)
    found = draw_wise_line(xx[0], xx, xy, f)
    for p, (one, factor) in enumerate(zip(found, (1.0, CROSSED), strict=True)):
        lines = np.array([line[p] for line, _, _ in each])
        within = factor * np.mean([variance[p] for _, variance, _ in each])
        between = 1.25 * lines.var(ddof=1)
        assert one.estimate == pytest.approx(lines.mean())
        assert one.se**2 == pytest.approx(within + between)
        assert one.se_draws == pytest.approx(lines.std(ddof=1))
        share = between / (within + between)
        df = 1.0 / (share**2 / 3 + (1 - share) ** 2 / each[0][2][p])
        assert one.df == pytest.approx(df)


def test_without_moderator_it_is_the_pooled_slope():
    w, bx, by, _ = of_instruments(np.random.default_rng(2))
    xx, xy = sums(w, bx, by)
    (theta,) = draw_wise_line(xx.mean(axis=0), xx, xy)
    pooled = [(w * x * y).sum() / (w * x * x).sum() for x, y in zip(bx, by, strict=True)]
    assert theta.estimate == pytest.approx(np.mean(pooled), rel=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6), st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
@settings(max_examples=40, deadline=None)
def test_units_and_origin_of_the_moderator(seed, unit, slope, shift):
    w, bx, by, f = of_instruments(np.random.default_rng(seed))
    xx, xy = sums(w, bx, by)
    theta, gamma = draw_wise_line(xx[0], xx, xy, f)
    scaled = draw_wise_line(xx[0], xx, slope * xy, unit * f)
    assert scaled[0].estimate == pytest.approx(slope * theta.estimate, rel=1e-6, abs=1e-9)
    assert scaled[1].estimate * unit == pytest.approx(slope * gamma.estimate, rel=1e-6, abs=1e-9)
    assert scaled[1].p_value == pytest.approx(gamma.p_value, rel=1e-6, abs=1e-12)
    moved = draw_wise_line(xx[0], xx, xy, f + shift)
    assert moved[1].estimate == pytest.approx(gamma.estimate, rel=1e-6, abs=1e-9)
    assert moved[0].estimate == pytest.approx(
        theta.estimate - shift * gamma.estimate, rel=1e-6, abs=1e-8
    )


def test_a_sequence_that_decides_alone_adds_no_variance():
    xx, xy = np.ones((2, 30)), np.tile(np.linspace(0.0, 1.0, 30), (2, 1))
    _, gamma = draw_wise_line(xx[0], xx, xy, np.eye(30)[4])
    assert gamma.estimate == pytest.approx(xy[0, 4] - np.delete(xy[0], 4).mean())
    assert np.isfinite(gamma.se)


def test_a_constant_moderator_is_refused():
    xx = np.ones((3, 30))
    with pytest.raises(ValueError, match="same in every sequence"):
        draw_wise_line(xx[0], xx, xx, np.full(30, 2.0))


def test_interval_covers_when_draws_share_their_error():
    # What the model got wrong in all sequences alike, and slopes that differ between sequences.
    rng = np.random.default_rng(3)
    n, n_draws, repeats, truth = 40, 30, 600, 0.5
    xx = rng.uniform(1.0, 8.0, n)
    covered = 0
    for _ in range(repeats):
        slopes = truth + 0.2 * rng.normal(size=n) + 0.05 * rng.normal()
        draws = slopes + 0.05 * rng.normal(size=(n_draws, 1))
        (theta,) = draw_wise_line(xx, np.tile(xx, (n_draws, 1)), xx * draws)
        covered += theta.ci_low < truth < theta.ci_high
    assert 0.92 < covered / repeats < 0.98


def test_what_was_learned_across_folds_needs_twice_the_variance():
    rng = np.random.default_rng(4)
    n, columns, folds, ridge, repeats = 100, 20, 4, 10.0, 400
    xx = np.ones((2, n))
    rejected = naively = 0
    for _ in range(repeats):
        x, slopes, fold = rng.normal(size=(n, columns)), rng.normal(size=n), np.arange(n) % folds
        f = np.empty(n)
        for k in range(folds):
            others = x[fold != k]
            gram = others.T @ others + ridge * np.eye(columns)
            f[fold == k] = x[fold == k] @ np.linalg.solve(gram, others.T @ slopes[fold != k])
        _, gamma = draw_wise_line(xx[0], xx, np.tile(slopes, (2, 1)), f - f.mean())
        rejected += gamma.p_value < 0.05
        naive = student_interval(gamma.estimate, gamma.se / np.sqrt(CROSSED), gamma.df)
        naively += naive[2] < 0.05
    assert rejected / repeats < 0.085
    assert naively / repeats > 0.11
