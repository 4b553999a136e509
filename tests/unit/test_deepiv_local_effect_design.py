"""A confounded design whose local effects are known: all of Deep IV against the naive network."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from deepmr.deepiv.cross_fitting import blocks, folds, pairs_of_folds
from deepmr.deepiv.local_effect import LocalEffect, local_effect, naive_effect
from deepmr.deepiv.stages.binary import fit_local_effects
from deepmr.deepiv.stages.densities import Categorical
from deepmr.deepiv.stages.fitting import Settings, split_held_out
from deepmr.deepiv.stages.networks import Design
from deepmr.deepiv.stages.treatment import Treatment, fit_treatment

N, K = 3000, 4
DESIGN = Design(2, hidden=(32,), dropout=0.1)
SETTINGS = Settings(epochs=20, batch_size=200, learning_rate=5e-3, averaging=0.95)


class Simulated:
    """x = 1 where z + c1 / 2 + u + noise > 0, y = sin(2 c1) + tau(c) x + 2 u + noise.

    The confounder u is not observed. P(x = 1 | z, c) is a normal probability, so the average of
    tau that the instrument identifies, weighted by Var(q | c), is known.
    """

    def __init__(self, binary_instrument: bool, seed: int) -> None:
        rng = np.random.default_rng(seed)
        c = rng.normal(size=(N, 2))
        u, noise_x, noise_y = rng.normal(size=(3, N))
        if binary_instrument:
            z = rng.choice([-1.0, 1.0], size=N)
            r = (norm.cdf((1 + c[:, 0] / 2) / 2**0.5) + norm.cdf((c[:, 0] / 2 - 1) / 2**0.5)) / 2
        else:
            z = rng.normal(size=N)
            r = norm.cdf(c[:, 0] / 2 / 3**0.5)
        q = norm.cdf((z + c[:, 0] / 2) / 2**0.5)
        self.tau = 1 + 0.7 * c[:, 1]
        self.x = (z + c[:, 0] / 2 + u + noise_x > 0).astype(float)
        self.y = np.sin(2 * c[:, 0]) + self.tau * self.x + 2 * u + noise_y
        self.z = z[:, None]
        self.contexts = torch.as_tensor(c, dtype=torch.float32)
        self.effect = float(np.average(self.tau, weights=(q - r) ** 2))
        self.block = blocks(np.repeat(["chr1", "chr2"], N // 2), np.arange(N) * 100)
        self.fold = folds(self.block, K, seed)

    def learn(self, without: tuple[int, ...], seed: int) -> dict[str, Any]:
        """Return what a fit without some folds learns from, and how."""
        rows = np.flatnonzero(~np.isin(self.fold, without))
        learn, judge = split_held_out(self.block[rows], 0.2, seed)
        split = {"rows": rows[learn], "held_out": rows[judge], "seed": seed}
        return {"design": DESIGN, "settings": SETTINGS} | split


def estimates(data: Simulated) -> tuple[LocalEffect, LocalEffect, float]:
    """Leave two folds out; return the estimate, the naive one, and how tau(c) correlates."""
    fits: dict[frozenset[int], Treatment] = {
        frozenset(pair): fit_treatment(
            data.contexts,
            data.z,
            data.x,
            density=Categorical((0.0, 1.0)),
            without_instrument=True,
            **data.learn(pair, seed=K * pair[0] + pair[1]),
        )
        for pair in pairs_of_folds(K)
    }
    q, r, (h0, h1), (n0, n1) = np.zeros(N), np.zeros(N), np.zeros((2, N)), np.zeros((2, N))
    for k in range(K):
        own = np.flatnonzero(data.fold == k)
        of_others = np.zeros(N)
        for j in set(range(K)) - {k}:
            fit, rows = fits[frozenset((j, k))], np.flatnonzero(data.fold == j)
            of_others[rows] = fit.mean(data.contexts, data.z, rows)
            q[own] += fit.mean(data.contexts, data.z, own) / (K - 1)
            r[own] += fit.mean_without(data.contexts, own) / (K - 1)
        learn = data.learn((k,), seed=100 + k)
        response = fit_local_effects(data.contexts, of_others, data.y, bounded=False, **learn)
        naive = fit_local_effects(data.contexts, data.x, data.y, bounded=False, **learn)
        h0[own], h1[own] = response.predict(data.contexts, own)
        n0[own], n1[own] = naive.predict(data.contexts, own)
    estimate = local_effect(data.y, data.x, q, r, h0 + r * (h1 - h0), data.block, tau=h1 - h0)
    naive_estimate = naive_effect(data.y, data.x, r, n0 + r * (n1 - n0), data.block, tau=n1 - n0)
    return estimate, naive_estimate, float(np.corrcoef(h1 - h0, data.tau)[0, 1])


@pytest.mark.parametrize("binary_instrument", [True, False])
def test_the_known_effect_is_found_where_the_naive_network_is_biased(
    binary_instrument: bool,
) -> None:
    data = Simulated(binary_instrument, seed=2)
    estimate, naive, correlation = estimates(data)
    assert estimate.status == naive.status == "ok"
    assert estimate.f > 100
    assert abs(estimate.estimate - data.effect) < 3 * estimate.se
    assert estimate.se < 0.25
    # Not debiased, the network shrinks: it is within a third of the confounding bias.
    assert abs(estimate.network - data.effect) < (naive.estimate - data.effect) / 3
    assert correlation > 0.5
    for biased in (naive.estimate, naive.network):
        assert biased - data.effect > 3 * naive.se
        assert biased - data.effect > 1
