import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr.mr.estimators.covariance import (
    DenseErrors,
    DiagonalErrors,
    FactorErrors,
    errors_from_correlation,
)
from deepmr.mr.estimators.draw_covariance import (
    common_factors,
    errors_from_draws,
    noise_edge,
    shrinkage_intensity,
)


def compound(n, r):
    return np.where(np.eye(n, dtype=bool), 1.0, r)


def neighbours(n, length):
    place = np.arange(n)
    return np.exp(-np.abs(place[:, None] - place) / length)


def standard_errors(n, seed=0):
    rng = np.random.default_rng(seed)
    return 0.02 * np.exp(0.3 * rng.normal(size=n)), 0.03 * np.exp(0.3 * rng.normal(size=n))


def draws_of(n, n_draws, seed=0, shared=0.5, local=0.0, x_y=0.6):
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky((1 - local) * np.eye(n) + local * neighbours(n, 3.0))

    def standard():
        return np.sqrt(shared) * rng.normal(size=(n_draws, 1)) + np.sqrt(1 - shared) * (
            rng.normal(size=(n_draws, n)) @ root.T
        )

    u, v = standard(), standard()
    return u, x_y * u + np.sqrt(1 - x_y**2) * v


def dense_parts(errors):
    """S_xx, S_yy, S_xy as matrices, from the fields."""
    if isinstance(errors, DenseErrors):
        return errors.xx, errors.yy, errors.xy
    diagonal = errors.diagonal if isinstance(errors, FactorErrors) else errors
    parts = [np.diag(v[0]) for v in (diagonal.xx, diagonal.yy, diagonal.xy)]
    if isinstance(errors, FactorErrors):
        x, y = errors.factors_x, errors.factors_y
        parts = [p + q for p, q in zip(parts, (x.T @ x, y.T @ y, x.T @ y), strict=True)]
    return parts


def example(kind, n):
    se_x, se_y = standard_errors(n)
    rho = np.linspace(-0.7, 0.8, n)
    if kind == "diagonal":
        return DiagonalErrors.from_rho(se_x[None], se_y[None], rho[None])
    if kind == "shared":
        return errors_from_correlation(se_x, se_y, rho, compound(n, 0.5))
    if kind == "local":
        return errors_from_correlation(se_x, se_y, rho, neighbours(n, 2.0))
    if kind == "few draws":
        return errors_from_draws(*draws_of(n, 40), se_x, se_y)
    return errors_from_draws(*draws_of(n, n + 50, local=0.6), se_x, se_y)


KINDS = ("diagonal", "shared", "local", "few draws", "many draws")


@pytest.mark.parametrize("n", [60, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_equals_the_dense_formula(kind, n):
    errors = example(kind, n)
    xx, yy, xy = dense_parts(errors)
    rng = np.random.default_rng(1)
    x, r = rng.normal(size=(2, 1, n))
    for a, b, tau2 in ((1.0, 0.0, 0.0), (0.8, 0.6, 1e-4), (0.6, -0.8, 0.0), (0.0, 1.0, 1e-4)):
        v = a * a * (yy + tau2 * np.eye(n)) - a * b * (xy + xy.T) + b * b * xx
        solve = errors.solver(np.array([a]), np.array([b]), np.array([tau2]))
        for left, right in ((r, r), (x, r), (x, x)):
            np.testing.assert_allclose(
                (left * solve(right)).sum(), left[0] @ np.linalg.solve(v, right[0]), rtol=1e-9
            )
    for found, matrix in zip(errors.products(r), (yy, xy + xy.T, xx), strict=True):
        np.testing.assert_allclose(found[0], matrix @ r[0], rtol=1e-9, atol=1e-12)
    pairs = [(x, r), (np.ones_like(x), np.zeros_like(x)), (r, x)]
    whole = np.block([[xx, xy], [xy.T, yy + 1e-4 * np.eye(n)]])
    vectors = np.array([np.hstack(pair)[0] for pair in pairs])
    np.testing.assert_allclose(
        errors.joint_gram(pairs, np.array([1e-4]))[0],
        vectors @ np.linalg.solve(whole, vectors.T),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_joint_covariance_is_positive_definite(kind):
    xx, yy, xy = dense_parts(example(kind, 60))
    assert np.linalg.eigvalsh(np.block([[xx, xy], [xy.T, yy]])).min() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_orientation_changes_the_sign_of_rows_and_columns(kind):
    n = 60
    errors = example(kind, n)
    sign = np.where(np.random.default_rng(3).random((1, n)) < 0.5, -1.0, 1.0)
    both = sign.T * sign
    for found, plain in zip(dense_parts(errors.oriented(sign)), dense_parts(errors), strict=True):
        np.testing.assert_array_equal(found, plain * both)


@pytest.mark.parametrize("matrix", [compound(40, 0.5), compound(40, 0.0), neighbours(40, 4.0)])
def test_a_correlation_matrix_gives_the_reference_covariance(matrix):
    se_x, se_y = standard_errors(40)
    errors = errors_from_correlation(se_x, se_y, np.full(40, 0.6), matrix)
    expected = (
        np.outer(se_x, se_x) * matrix,
        np.outer(se_y, se_y) * matrix,
        0.6 * np.outer(se_x, se_y) * matrix,
    )
    for found, wanted in zip(dense_parts(errors), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-18)


def test_a_shared_reference_is_one_factor_for_each_source():
    n = 50
    se_x, se_y = standard_errors(n)
    rho = np.full(n, 0.3)
    errors = errors_from_correlation(se_x, se_y, rho, compound(n, 0.4))
    assert isinstance(errors, FactorErrors)
    assert len(errors.factors_x) == 2
    # Two references, by eigenvalues.
    blocks = np.kron(np.eye(2), compound(n // 2, 0.4) - np.eye(n // 2)) + np.eye(n)
    errors = errors_from_correlation(se_x, se_y, rho, blocks)
    assert len(errors.factors_x) == 4
    np.testing.assert_allclose(
        dense_parts(errors)[0], np.outer(se_x, se_x) * blocks, rtol=1e-9, atol=1e-16
    )


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), "4 x 4"),
        (np.where(np.eye(4) > 0, 1.0, np.nan), "missing"),
        (np.eye(4) + np.triu(np.full((4, 4), 0.1), 1), "not symmetric"),
        (2.0 * np.eye(4), "diagonal"),
        (compound(4, -0.4), "not positive definite"),
        (compound(4, 1.0), "not positive definite"),
    ],
)
def test_what_is_no_correlation_matrix_is_named(matrix, message):
    with pytest.raises(ValueError, match=message):
        errors_from_correlation(*standard_errors(4), np.zeros(4), matrix)


@pytest.mark.parametrize(("n", "n_draws"), [(60, 20), (60, 100), (30, 200), (5, 3), (4, 2)])
def test_draws_keep_variances_and_covariance_within_a_mutation(n, n_draws):
    se_x, se_y = standard_errors(n)
    x, y = draws_of(n, n_draws, local=0.5)
    xx, yy, xy = dense_parts(errors_from_draws(x, y, se_x, se_y))
    rho = np.array([np.corrcoef(x[:, j], y[:, j])[0, 1] for j in range(n)])
    np.testing.assert_allclose(np.diag(xx), se_x**2, rtol=1e-10)
    np.testing.assert_allclose(np.diag(yy), se_y**2, rtol=1e-10)
    clipped = np.abs(rho) > 0.99
    np.testing.assert_allclose(np.diag(xy)[~clipped], (rho * se_x * se_y)[~clipped], rtol=1e-9)


def test_draws_that_share_a_reference_give_its_two_factors_and_their_size():
    n = 450
    x, y = draws_of(n, 100)
    errors = errors_from_draws(x, y, np.ones(n), np.ones(n))
    assert isinstance(errors, FactorErrors)
    assert len(errors.factors_x) == 2
    xx, yy, xy = dense_parts(errors)
    off = ~np.eye(n, dtype=bool)
    # The SD of a variance over 100 draws is 14 %.
    assert abs(xx[off].mean() / 0.5 - 1) < 0.3
    assert abs(yy[off].mean() / 0.5 - 1) < 0.3
    assert abs(xy[off].mean() / 0.3 - 1) < 0.4
    assert abs(errors.diagonal.xx.mean() / 0.5 - 1) < 0.3


def test_independent_draws_have_no_factor():
    found = []
    for seed in range(20):
        errors = errors_from_draws(
            *draws_of(300, 50, seed=seed, shared=0.0), np.ones(300), np.ones(300)
        )
        found.append(isinstance(errors, FactorErrors))
    assert sum(found) <= 2


def test_many_draws_give_the_whole_covariance():
    n = 12
    x, y = draws_of(n, 20_000, local=0.8)
    errors = errors_from_draws(x, y, np.ones(n), np.ones(n))
    truth = 0.5 + 0.5 * (0.2 * np.eye(n) + 0.8 * neighbours(n, 3.0))
    xx, yy, xy = dense_parts(errors)
    for found, wanted in ((xx, truth), (yy, truth), (xy, 0.6 * truth)):
        np.testing.assert_allclose(found, wanted, atol=0.03)


def test_what_does_not_vary_is_independent():
    n = 80
    x, y = draws_of(n, 30)
    x[:, 3] = 1.0
    y[:, 5] = 2.0
    se_x, se_y = standard_errors(n)
    xx, yy, xy = dense_parts(errors_from_draws(x, y, se_x, se_y))
    np.testing.assert_allclose(xx[3], np.where(np.arange(n) == 3, se_x**2, 0.0), atol=1e-18)
    np.testing.assert_allclose(yy[5], np.where(np.arange(n) == 5, se_y**2, 0.0), atol=1e-18)
    assert xy[3, 3] == xy[5, 5] == 0.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(2, 30), n_draws=st.integers(3, 30))
def test_shrinkage_by_gram_matrices_equals_the_sum_over_pairs(seed, n, n_draws):
    x, y = draws_of(n, n_draws, seed=seed)
    z_x, z_y = ((v - v.mean(0)) / v.std(0, ddof=1) for v in (x, y))
    z = np.hstack([z_x, z_y])
    mutation = np.tile(np.arange(n), 2)
    pairs = mutation[:, None] != mutation
    w = z[:, :, None] * z[:, None, :]
    r = w.sum(axis=0) / (n_draws - 1)
    variance = n_draws / (n_draws - 1) ** 3 * ((w - w.mean(axis=0)) ** 2).sum(axis=0)
    expected = min(1.0, variance[pairs].sum() / (r[pairs] ** 2).sum())
    assert shrinkage_intensity(z_x, z_y) == pytest.approx(expected, rel=1e-9)


def test_shrinkage_is_complete_without_correlations():
    assert shrinkage_intensity(np.zeros((5, 3)), np.zeros((5, 3))) == 1.0


def test_the_edge_of_noise_is_that_of_marchenko_and_pastur():
    n, df = 200, 40
    edge, noise = noise_edge(np.ones(n), np.ones(n), np.zeros(n), df)
    gamma = 2 * n / df
    expected = (1 + np.sqrt(gamma)) ** 2 + np.sqrt(gamma) * df ** (-2 / 3)
    assert edge == pytest.approx(expected, rel=1e-9)
    assert noise == pytest.approx(gamma)


def test_noise_stays_below_the_edge_also_where_x_and_y_correlate():
    n, n_draws, rho = 400, 40, 0.8
    edge, _ = noise_edge(np.ones(n), np.ones(n), np.full(n, rho), n_draws - 1)
    largest = []
    for seed in range(30):
        x, y = draws_of(n, n_draws, seed=seed, shared=0.0, x_y=rho)
        z = np.hstack([x, y])
        z -= z.mean(axis=0)
        largest.append(np.linalg.eigvalsh(z @ z.T / (n_draws - 1)).max())
    # The edge lies where the largest eigenvalue of noise does: above nearly all, by little.
    assert np.mean(np.array(largest) > edge) <= 0.1
    assert np.median(largest) > 0.85 * edge


def test_factors_are_orthogonal_combinations_of_the_draws():
    x, y = draws_of(200, 40)
    z = np.hstack([x, y])
    z = (z - z.mean(0)) / z.std(0, ddof=1)
    basis, factors = common_factors(z, (z[:, :200] * z[:, 200:]).sum(0) / 39)
    np.testing.assert_allclose(basis.T @ basis, np.eye(len(factors)), atol=1e-12)
    gram = factors @ factors.T
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9 * gram.max())


def test_rows_of_independent_sequences_are_their_own():
    se_x, se_y = (np.stack([standard_errors(9, seed)[k] for seed in range(4)]) for k in (0, 1))
    errors = DiagonalErrors.from_rho(se_x, se_y, np.full((4, 9), 0.4))
    some = errors.rows(np.array([2, 0]))
    np.testing.assert_array_equal(some.xy, 0.4 * se_x[[2, 0]] * se_y[[2, 0]])
