from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from deepmr.figures import style
from deepmr.figures.heterogeneity import RASTER_LIMIT, funnel

OVERALL = {"estimate": 0.5, "se": 0.05, "tau2": 0.04}
SHARES = {"share_negative": 0.03, "share_zero": 0.27, "share_positive": 0.7} | {
    "share_negative_sd": 0.012,
    "share_zero_sd": 0.05,
    "share_positive_sd": 0.05,
    "reason": None,
}


def sequences(n=60, seed=2):
    rng = np.random.default_rng(seed)
    se = rng.gamma(6, 0.03, n)
    estimate = 0.5 + 0.2 * rng.normal(size=n) + se * rng.normal(size=n)
    return pd.DataFrame(
        {
            "estimate": estimate,
            "se": se,
            "lfsr": rng.random(n),
            "influential": np.arange(n) == 3,
            "status": "ok",
        }
    )


def drawn(effects, overall=OVERALL, diagnostics=SHARES):
    return funnel(effects, overall, diagnostics, exposure="GATA1", outcome="open")


def points(fig):
    """Return the points by colour, and those with a ring."""
    sets = [c for c in fig.axes[1].collections if len(c.get_offsets()) and c.get_sizes().size]
    found = {}
    for one in sets:
        ring = not len(one.get_facecolors())
        found["ring" if ring else tuple(one.get_facecolors()[0][:3])] = one.get_offsets()
    return found


def words(fig):
    found = [t.get_text() for t in fig.texts]
    found += [t.get_text() for ax in fig.axes for t in (*ax.texts, ax.xaxis.label, ax.yaxis.label)]
    found += [ax.get_title(loc="left") for ax in fig.axes]
    return " | ".join(found + [t.get_text() for legend in fig.legends for t in legend.get_texts()])


def test_colour_tells_the_sign_and_strength_that_it_is_sure():
    effects = pd.DataFrame(
        {
            "estimate": [0.9, 0.2, -0.9, -0.1, 0.3, 7.0],
            "se": [0.1, 0.2, 0.1, 0.2, 0.15, 0.1],
            "lfsr": [0.001, 0.3, 0.049, 0.05, np.nan, 0.001],
            "influential": [False, False, True, False, None, None],
            "status": ["ok"] * 5 + ["no_motif_hit"],
        }
    )
    fig = drawn(effects)
    found = {key: value.tolist() for key, value in points(fig).items()}
    blue, red = style.SIGN_COLOURS["negative"], style.SIGN_COLOURS["positive"]
    assert found == {
        to_rgb(red): [[0.9, 0.1]],
        to_rgb(style.pale(red)): [[0.2, 0.2]],
        to_rgb(blue): [[-0.9, 0.1]],
        to_rgb(style.pale(blue)): [[-0.1, 0.2]],
        to_rgb(style.MUTED): [[0.3, 0.15]],
        "ring": [[-0.9, 0.1]],
    }
    said = words(fig)
    assert "GATA1 → open: 5 of 6 sequences" in said
    assert "negative, sure (lfsr < 0.05): 1 | negative, not sure: 1" in said
    assert "no local false sign rate: 1 | influential: 1" in said


def test_the_standard_error_runs_downwards_and_the_limits_are_where_95_percent_lie():
    fig = drawn(sequences())
    ax = fig.axes[1]
    low, high = ax.get_ylim()
    assert low > high == 0
    sides = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert len(sides) == 2
    for sign, line in zip((-1, 1), sides, strict=True):
        np.testing.assert_allclose(
            line.get_xdata(), 0.5 + sign * 1.959964 * line.get_ydata(), atol=1e-6
        )
    band = next(c for c in ax.collections if not c.get_sizes().size)
    edge = band.get_paths()[0].vertices
    middle = edge[np.isclose(edge[:, 1], 0)][:, 0]
    assert sorted({round(float(x), 3) for x in middle}) == [0.108, 0.892]
    said = words(fig)
    assert "global effect  0.50" in said
    assert "95 % with τ² = 0.04" in said
    assert "effect on open per unit of GATA1 (logit)" in said


@pytest.mark.parametrize("tau2", [np.nan, 0.0])
def test_without_a_variance_between_sequences_there_is_no_second_limit(tau2):
    fig = drawn(sequences(), OVERALL | {"tau2": tau2})
    assert "τ² =" not in words(fig)
    assert all(c.get_sizes().size for c in fig.axes[1].collections)


def test_the_bar_holds_the_shares():
    fig = drawn(sequences())
    bars = fig.axes[0].patches
    np.testing.assert_allclose([bar.get_width() for bar in bars], [0.03, 0.27, 0.7])
    np.testing.assert_allclose([bar.get_x() for bar in bars], [0, 0.03, 0.3])
    said = words(fig)
    assert "negative 3 ± 1 %" in said
    assert "no effect 27 ± 5 %" in said
    assert "positive 70 ± 5 %" in said
    plain = words(drawn(sequences(), diagnostics=SHARES | {"share_zero_sd": np.nan}))
    assert "no effect 27 %" in plain


def test_missing_shares_have_their_reason():
    none = dict.fromkeys(SHARES, np.nan)
    said = words(drawn(sequences(2), diagnostics=none | {"reason": "2 sequences say little"}))
    assert "No shares of effects: 2 sequences say little" in said
    bare = words(drawn(sequences(2), diagnostics=none))
    assert "No shares of effects |" in bare
    assert "nan" not in bare


def test_no_sequence_and_no_global_effect_are_said():
    effects = sequences(5)
    for nothing in (
        effects.assign(status="no_motif_hit"),
        effects.assign(estimate=np.nan, status="no_motif_hit"),
    ):
        fig = drawn(nothing)
        assert not fig.axes
        assert "no sequence has an estimate (5 no_motif_hit)" in fig.texts[0].get_text()
    assert "(none asked)" in drawn(effects.head(0)).texts[0].get_text()
    unusable = effects.assign(se=[0.0, -1.0, np.inf, np.nan, 0.1])
    assert "1 of 5 sequences" in words(drawn(unusable))
    alone = drawn(effects, dict.fromkeys(OVERALL, np.nan))
    assert "global effect" not in words(alone)
    assert style.render(alone, "svg") == style.render(
        drawn(effects, dict.fromkeys(OVERALL, np.nan)), "svg"
    )


def test_the_panel_keeps_99_percent_and_counts_the_rest():
    effects = sequences(400)
    effects.loc[0, "estimate"] = 500.0
    effects.loc[1, "se"] = 80.0
    fig = drawn(effects)
    ax = fig.axes[1]
    left, right = ax.get_xlim()
    assert -3 < left < 0.5 < right < 3
    assert ax.get_ylim()[0] < 2
    outside = (effects["estimate"].to_numpy() > right) | (effects["estimate"].to_numpy() < left)
    outside |= effects["se"].to_numpy() > ax.get_ylim()[0]
    assert 2 <= outside.sum() <= 8
    assert f"(logit); {outside.sum()} not in the panel" in words(fig)


def test_thousands_of_points_are_pixels():
    assert RASTER_LIMIT < 5000
    many, few = (drawn(sequences(n)) for n in (5000, 60))
    rasterized = {
        fig: {c.get_rasterized() for c in fig.axes[1].collections if c.get_sizes().size > 0}
        for fig in (many, few)
    }
    assert True in rasterized[many]
    assert True not in rasterized[few]
    size = len(style.render(many, "svg"))
    assert size < 600_000
