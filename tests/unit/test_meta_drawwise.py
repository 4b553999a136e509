import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import chdtrc
from scipy.stats import t

from deepmr import meta, mr
from deepmr.meta.combine import METHODS, TESTS
from deepmr.meta.effective_df import effective_df, tau2_bounds
from deepmr.meta.intervals import PREDICTIONS
from deepmr.mr.drawwise import rubin
from deepmr.uncertainty.moderation import moderate


def drawn(n_draws=15, k=12, seed=2):
    rng = np.random.default_rng(seed)
    return 1 + rng.normal(size=(n_draws, k)), rng.uniform(0.2, 0.6, (n_draws, k))


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("method", METHODS)
def test_draw_wise_is_the_analysis_of_each_draw_combined(method, test):
    y, v = drawn()
    result = meta.draw_wise(y, v, method, test)
    single = [meta.random_effects(a, b, method, test) for a, b in zip(y, v, strict=True)]
    estimates = np.array([s.estimate for s in single])
    within = np.mean([s.se**2 for s in single])
    assert result.estimate == pytest.approx(estimates.mean())
    assert result.se_within == pytest.approx(np.sqrt(within))
    assert result.se_draws == pytest.approx(estimates.std(ddof=1))
    between = (1 + 1 / 15) * estimates.var(ddof=1)
    assert result.se == pytest.approx(np.sqrt(within + between))
    assert result.fmi == pytest.approx(between / (within + between))
    inverse = result.fmi**2 / 14 + (0 if test == "z" else (1 - result.fmi) ** 2 / 11)
    assert result.df == pytest.approx(1 / inverse)
    half = t.ppf(0.975, result.df) * result.se
    assert result.ci_low == pytest.approx(result.estimate - half)
    assert result.ci_high == pytest.approx(result.estimate + half)
    p_value = 2 * t.sf(abs(result.estimate) / result.se, result.df)
    assert result.p_value == pytest.approx(p_value)
    assert (result.k, result.status, result.test, result.reason) == (12, "ok", test, "")
    deviations = y - estimates[:, None]
    errors = v.mean(0) + (1 + 1 / 15) * moderate(deviations.var(axis=0, ddof=1), 14).variance
    beyond = meta.random_effects(y.mean(0), errors, method)
    for name in ("tau2", "i2", "h2", "q"):
        assert getattr(result, name) == pytest.approx(getattr(beyond, name), nan_ok=True), name
    h = effective_df(deviations, errors, 0.0)
    assert result.q_p == pytest.approx(chdtrc(h, result.q * h / 11))
    if method != "FE":
        bounds = tau2_bounds(y.mean(0), deviations, errors, result.tau2)
        assert (result.tau2_low, result.tau2_high) == pytest.approx(bounds)
        w = 1 / errors
        typical = 11 / (w.sum() - (w**2).sum() / w.sum())
        assert result.h2_high == pytest.approx(1 + result.tau2_high / typical)
        assert result.i2_low == pytest.approx(100 * bounds[0] / (bounds[0] + typical))
    if method == "FE":
        assert np.isnan([result.pi_low, result.tau2_low, result.i2_high]).all()
    else:
        half = t.ppf(0.975, result.df) * np.sqrt(result.tau2 + result.se**2)
        assert result.pi_low == pytest.approx(result.estimate - half)
        assert result.pi_high == pytest.approx(result.estimate + half)


def test_heterogeneity_is_that_of_the_effects_not_of_the_draws():
    rng = np.random.default_rng(8)
    k, n_draws, rounds, tau2 = 60, 40, 150, 0.01
    found, held, predicted = [], [], []
    for _ in range(rounds):
        theta = rng.normal(0.5, np.sqrt(tau2), k)
        within = rng.uniform(0.02, 0.1, k)
        own = rng.uniform(0.05, 0.15, k)

        def error(size, own=own):
            # Common to all sequences, and the model's own in each.
            return 0.12 * rng.normal(size=(size, 1)) + own * rng.normal(size=(size, k))

        y = theta + error(1) + within * rng.normal(size=k) + error(n_draws)
        result = meta.draw_wise(y, np.tile(within**2, (n_draws, 1)), "REML")
        found.append(result.tau2)
        held.append(result.tau2_low <= tau2 <= result.tau2_high)
        predicted.append(
            np.mean(
                np.abs(rng.normal(0.5, np.sqrt(tau2), 50) - result.estimate)
                < (result.pi_high - result.pi_low) / 2
            )
        )
    assert np.mean(found) == pytest.approx(tau2, abs=3 * np.std(found) / np.sqrt(rounds))
    assert 0.9 < np.mean(held) < 0.99
    assert 0.92 < np.mean(predicted) < 0.98


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(2, 25),
    st.sampled_from(METHODS),
    st.sampled_from(TESTS),
    st.sampled_from(PREDICTIONS),
)
def test_draws_that_agree_are_one_analysis(seed, k, method, test, prediction):
    y, v = drawn(1, k, seed)
    one = meta.random_effects(y[0], v[0], method, test, prediction)
    many = meta.draw_wise(np.repeat(y, 7, 0), np.repeat(v, 7, 0), method, test, prediction)
    for name, value in vars(one).items():
        if name not in ("se_within", "se_draws", "fmi", "df"):
            ours = getattr(many, name)
            if isinstance(value, str | int):
                assert ours == value, name
            else:
                np.testing.assert_allclose(ours, value, rtol=1e-9, atol=1e-12, err_msg=name)
    assert many.se_within == pytest.approx(one.se)
    assert many.se_draws <= 1e-12
    assert many.fmi <= 1e-24
    assert many.df > 1e20 if np.isinf(one.df) else many.df == pytest.approx(one.df)


def test_few_draws_and_few_sequences_both_widen_the_interval():
    y, v = drawn(200, 6)
    few = meta.draw_wise(y[:5], v[:5], "REML", "knha")
    assert few.df < meta.draw_wise(y[:5], v[:5], "REML", "z").df
    many = meta.draw_wise(y, v, "REML", "knha")
    assert many.df <= 5 / (1 - many.fmi) ** 2
    assert many.df <= 199 / many.fmi**2


def test_degrees_of_freedom_of_rubin():
    estimates, within = np.array([[1.0, 2.0, 4.0, 5.0]]), np.array([2.0])
    error = 1.25 * estimates.var(ddof=1)
    share = error / (error + 2)
    known = rubin(estimates, within)
    assert known.df[0] == pytest.approx(3 / share**2)
    estimated = rubin(estimates, within, 8.0)
    assert estimated.df[0] == pytest.approx(1 / (share**2 / 3 + (1 - share) ** 2 / 8))
    assert estimated.se[0] == known.se[0]
    assert estimated.ci_low[0] < known.ci_low[0]
    # A large number of them is no different from infinitely many.
    assert rubin(estimates, within, 1e15).df[0] == pytest.approx(known.df[0])
    # Draws that agree leave the test of a single analysis, even where nothing scatters.
    assert rubin(np.ones((1, 4)), within, 8.0).df[0] == 8
    assert rubin(np.ones((1, 4)), np.zeros(1), 8.0).df[0] == 8


def simulated_means(k, n_draws, share, n=20_000):
    """Means of k sequences, true value 0, whose error of the model is a share of the variance."""
    rng = np.random.default_rng(3)
    shared = np.sqrt(share / (1 - share) / k)
    means = rng.normal(size=(n, k))
    draws = means.mean(1, keepdims=True) + shared * rng.normal(size=(n, 1))
    draws = draws + shared * rng.normal(size=(n, n_draws))
    return draws, means.var(axis=1, ddof=1) / k


def coverage(total):
    return ((total.ci_low < 0) & (total.ci_high > 0)).mean()


def test_degrees_of_freedom_of_few_sequences_that_share_little_error():
    draws, within = simulated_means(k=5, n_draws=40, share=0.1)
    assert coverage(rubin(draws, within, 4.0)) == pytest.approx(0.95, abs=0.01)
    assert coverage(rubin(draws, within)) < 0.92


def test_degrees_of_freedom_of_sequences_that_share_most_of_their_error():
    draws, within = simulated_means(k=13, n_draws=100, share=0.9)
    ours = rubin(draws, within, 12.0)
    assert coverage(ours) == pytest.approx(0.95, abs=0.006)
    assert np.median(t.ppf(0.975, ours.df)) == pytest.approx(1.98, abs=0.01)
    share = 1.01 * ours.se_draws**2 / ours.se**2
    observed = 13 / 15 * 12 * (1 - share)
    barnard_rubin = t.ppf(0.975, 1 / (share**2 / 99 + 1 / observed))
    assert np.median(barnard_rubin) == pytest.approx(13.5, rel=0.03)
    assert (np.abs(ours.estimate) < barnard_rubin * ours.se).mean() > 0.999


def test_prediction_intervals_of_draws():
    y, v = drawn()
    found = {p: meta.draw_wise(y, v, "REML", "z", p) for p in PREDICTIONS}
    width = {p: result.pi_high - result.pi_low for p, result in found.items()}
    assert width["metafor"] == width["normal"] < width["t_k-1"] < width["hts"]
    assert len({result.ci_low for result in found.values()}) == 1


def test_few_sequences_of_draws():
    y, v = drawn(10, 3)
    none = meta.draw_wise(y[:, :0], v[:, :0])
    assert (none.status, none.k) == ("no_sequences", 0)
    assert none.reason == "no sequence to combine"
    assert np.isnan(none.estimate)
    assert meta.draw_wise(np.empty((0, 0)), np.empty((0, 0))).status == "no_sequences"
    one = meta.draw_wise(y[:, :1], v[:, :1], test="knha")
    assert (one.status, one.k) == ("single_sequence", 1)
    assert one.se == pytest.approx(np.sqrt(v[:, 0].mean() + 1.1 * y[:, 0].var(ddof=1)))
    assert one.reason == "a single sequence tells nothing of the scatter between sequences"
    assert np.isfinite([one.ci_low, one.ci_high, one.p_value, one.df, one.fmi]).all()
    two = meta.draw_wise(y[:, :2], v[:, :2], test="knha", prediction="hts")
    assert two.status == "few_sequences"
    assert np.isfinite([two.se, two.ci_low, two.tau2, two.df]).all()
    assert np.isnan(two.pi_low)
    assert "needs 3 sequences" in two.reason


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sequence_without_an_estimate_in_one_draw_is_left_out_of_all(bad):
    y, v = drawn()
    y[4, 3] = bad
    result = meta.draw_wise(y, v)
    kept = np.arange(12) != 3
    assert (result.k, result.n_dropped, result.status) == (11, 1, "ok")
    expected = "1 of 12 sequences left out: estimate is missing or infinite in a draw"
    assert result.reason == expected
    assert result.estimate == meta.draw_wise(y[:, kept], v[:, kept]).estimate
    middle = meta.median(y)
    assert (middle.k, middle.n_dropped, middle.reason) == (11, 1, expected)
    assert middle.estimate == meta.median(y[:, kept]).estimate


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0, 1e-33])
def test_a_sequence_without_a_standard_error_in_one_draw_is_left_out_of_all(bad):
    y, v = drawn()
    v[0, [1, 5]] = bad
    result = meta.draw_wise(y, v)
    assert (result.k, result.n_dropped, result.status) == (10, 2, "ok")
    cause = "mere rounding (an exact fit)" if bad == 1e-33 else "0, missing or infinite"
    assert result.reason == f"2 of 12 sequences left out: standard error is {cause} in a draw"
    assert np.isfinite([result.estimate, result.se, result.tau2_high]).all()


def test_a_draw_in_which_all_fits_are_exact_leaves_nothing():
    y, v = drawn()
    v[3] *= 1e-20
    result = meta.draw_wise(y, v)
    assert (result.k, result.status) == (0, "no_sequences")
    assert result.reason.startswith("12 of 12 sequences left out: standard error is mere rounding")


def test_every_sequence_left_out():
    y, v = drawn()
    result = meta.draw_wise(y, np.zeros_like(v))
    assert (result.k, result.n_dropped, result.status) == (0, 12, "no_sequences")
    assert result.reason.startswith("12 of 12 sequences left out: standard error is 0")
    assert meta.median(np.full((4, 3), np.nan)).status == "no_sequences"


def test_median_over_sequences_resists_a_third_of_nonsense():
    rng = np.random.default_rng(4)
    draws = 0.7 + 0.05 * rng.normal(size=(30, 60)) + 0.1 * rng.normal(size=(30, 1))
    draws[:, :18] += 50
    result = meta.median(draws)
    assert result.estimate == pytest.approx(0.7, abs=0.1)
    assert result.se_draws == pytest.approx(0.1, rel=0.4)
    assert np.isnan(result.tau2)
    plain = meta.median(draws[:1])
    # Woodruff at the 71 % quantile of the 42 good ones: sqrt(60)/2 over 60 times the density.
    assert plain.se == pytest.approx(0.0135, rel=0.6)
    assert np.isnan(plain.se_draws)


def test_median_of_few_sequences():
    draws = drawn(10, 2)[0]
    for k, status in ((0, "no_sequences"), (1, "single_sequence"), (2, "few_sequences")):
        result = meta.median(draws[:, :k])
        assert (result.status, result.k) == (status, k)
        assert result.reason
    assert np.isnan(meta.median(draws[:, :1]).se)
    assert meta.median(draws[:, :1]).estimate == pytest.approx(draws[:, 0].mean())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: meta.draw_wise([1.0], [1.0]), r"must both have shape \(draws, k\)"),
        (lambda: meta.draw_wise([[1.0, 2.0]], [[1.0, 1.0]]), "found 1 draws; give 2 or more"),
        (lambda: meta.draw_wise(np.ones((2, 3)), np.ones((2, 3)), "mean"), "method 'mean' is"),
        (lambda: meta.draw_wise(np.ones((2, 3)), np.ones((2, 3)), test="f"), "test 'f' is"),
        (
            lambda: meta.draw_wise(np.ones((2, 3)), np.ones((2, 3)), prediction="x"),
            "prediction 'x' is unknown; write one of metafor, hts",
        ),
        (
            lambda: meta.draw_wise(np.ones((2, 3)), np.ones((2, 3)), scatter=[1.0]),
            r"scatter must have shape \(3,\), that of a draw; found \(1,\)",
        ),
        (lambda: meta.median([1.0, 2.0]), r"draws must have shape \(draws, k\); found \(2,\)"),
        (lambda: meta.median(np.empty((0, 2))), r"found \(0, 2\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def replicate(rng, theta=0.7, n_sequences=40, n=24, n_draws=30, shared=0.1, own=0.07):
    """Effects of one trained model: its error is shared by sequences, X and Y, and mutations.

    `theta` is a number, or an effect for each sequence, shape (sequences, 1).
    """
    profile = -np.abs(rng.normal(1, 0.6, n))
    site = rng.uniform(0.4, 1.2, (n_sequences, 1))
    bx = profile * site * (1 + 0.3 * rng.normal(size=(n_sequences, n)))
    by = theta * bx + 0.1 * rng.normal(size=bx.shape)

    def error(count):
        scale = (
            shared
            * rng.normal(size=(3, count, 1, 1))
            * np.sqrt([0.5, 0.5, 0.5])[:, None, None, None]
        )
        local = own * rng.normal(size=(3, count, n_sequences, n)) * np.sqrt(0.5)
        return (
            (scale[0] + scale[1]) * bx + (local[0] + local[1]) * site,
            (scale[0] + scale[2]) * by + theta * (local[0] + local[2]) * site,
        )

    (error_x, error_y), (draw_x, draw_y) = error(1), error(n_draws)
    draws_x = (bx + error_x + draw_x).transpose(1, 0, 2)
    draws_y = (by + error_y + draw_y).transpose(1, 0, 2)
    return draws_x, draws_y


def test_coverage_where_sequences_share_the_error_of_the_model():
    rng = np.random.default_rng(11)
    theta, n_replicates = 0.7, 100
    held = dict.fromkeys(("global", "global_diagonal", "local", "local_diagonal"), 0.0)
    for _ in range(n_replicates):
        x, y = replicate(rng, theta)
        table = mr.estimate(
            x.mean(1), x.std(1, ddof=1), y.mean(1), y.std(1, ddof=1), ("egger",),
            draws_x=x, draws_y=y,
        )  # fmt: skip
        drawn = meta.draw_wise(np.stack(table["draws"]).T, np.stack(table["draws_se"]).T ** 2)
        plain = meta.random_effects(table["estimate_diagonal"], table["se_diagonal"] ** 2)
        held["global"] += drawn.ci_low < theta < drawn.ci_high
        held["global_diagonal"] += plain.ci_low < theta < plain.ci_high
        held["local"] += table["ci_low"].lt(theta).mul(table["ci_high"].gt(theta)).mean()
        z = (table["estimate_diagonal"] - theta).abs() / table["se_diagonal"]
        held["local_diagonal"] += (z < 1.96).mean()
    coverage = {name: value / n_replicates for name, value in held.items()}
    assert 0.89 <= coverage["global"] <= 0.99, coverage
    assert coverage["global_diagonal"] < 0.5, coverage
    assert 0.92 <= coverage["local"] <= 0.97, coverage
    assert coverage["local_diagonal"] < coverage["local"], coverage


def test_heterogeneity_counts_the_error_of_mutations_once():
    rng = np.random.default_rng(5)
    tau2, rounds = 0.01, 60
    given, residual, held = [], [], []
    for _ in range(rounds):
        x, y = replicate(rng, 0.7 + np.sqrt(tau2) * rng.normal(size=(40, 1)), own=0.15)
        table = mr.estimate(
            x.mean(1), x.std(1, ddof=1), y.mean(1), y.std(1, ddof=1), ("egger",),
            draws_x=x, draws_y=y,
        )  # fmt: skip
        draws, errors = np.stack(table["draws"]).T, np.stack(table["draws_se"]).T ** 2
        given.append(meta.draw_wise(draws, errors, scatter=table["se_within"] ** 2))
        residual.append(meta.draw_wise(draws, errors))
        # What a mean effect is diluted by, its spread is too.
        held.append(given[-1].estimate / 0.7)
    diluted = tau2 * np.mean(held) ** 2
    found = np.array([one.tau2 for one in given])
    assert found.mean() == pytest.approx(diluted, abs=3 * found.std() / np.sqrt(rounds))
    assert np.mean([one.tau2 for one in residual]) < 0.8 * diluted
    for one, other in zip(given, residual, strict=True):
        assert (one.estimate, one.se, one.df) == (other.estimate, other.se, other.df)


def test_scatter_stands_in_the_place_of_the_errors_of_the_draws():
    y, v = drawn(30, 12)
    scatter = np.linspace(0.0, 0.3, 12)
    scatter[3], v[0, 7] = np.nan, 0.0
    result = meta.draw_wise(y, v, "PM", scatter=scatter)
    keep = np.arange(12) != 7
    y, own = y[:, keep], np.where(np.isnan(scatter), v.mean(0), scatter)[keep]
    mu = [meta.random_effects(a, b, "PM").estimate for a, b in zip(y, v[:, keep], strict=True)]
    spread = (y - np.array(mu)[:, None]).var(axis=0, ddof=1)
    errors = own + (1 + 1 / 30) * moderate(spread, 29).variance
    expected = meta.random_effects(y.mean(0), errors, "PM")
    for name in ("tau2", "i2", "q"):
        assert getattr(result, name) == pytest.approx(getattr(expected, name)), name


def test_no_scatter_at_all_is_no_crash():
    y, v = np.tile([0.5, 0.7, 0.6], (4, 1)), np.full((4, 3), 0.01)
    result = meta.draw_wise(y, v, scatter=np.zeros(3))
    assert np.isfinite([result.tau2, result.q, result.i2_high, result.pi_low]).all()


def test_median_of_sequences_that_agree_says_why_there_is_no_interval():
    result = meta.median(np.full((5, 4), 0.3))
    assert (result.estimate, result.se) == (0.3, 0.0)
    assert result.reason.startswith("the standard error is 0")


@pytest.mark.parametrize(("n_draws", "share"), [(5, 0.33), (10, 0.28), (40, 0.13)])
def test_few_draws_find_differences_where_there_are_none(n_draws, share):
    """The figures of docs/meta_analysis.md: how often Q has p < .05 without heterogeneity."""
    rng = np.random.default_rng(8)
    k, small = 60, []
    for _ in range(150):
        within, own = rng.uniform(0.01, 0.05, k), rng.uniform(0.05, 0.15, k)

        def error(size, own=own):
            return 0.12 * rng.normal(size=(size, 1)) + own * rng.normal(size=(size, k))

        y = 0.5 + error(1) + within * rng.normal(size=k) + error(n_draws)
        small.append(meta.draw_wise(y, np.tile(within**2, (n_draws, 1))).q_p < 0.05)
    assert np.mean(small) == pytest.approx(share, abs=0.1)
