"""The naive network: the outcome on the observed exposure, as if nothing confounded the two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepmr.deepiv.stages import fitting
from deepmr.deepiv.stages.networks import Contexts, Design
from deepmr.deepiv.stages.response import Response, fit_response

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


def fit_naive(
    contexts: Contexts,
    exposure: Array,
    outcome: Array,
    *,
    design: Design,
    settings: fitting.Settings,
    rows: Rows,
    held_out: Rows,
    seed: int,
    name: str = "naive",
) -> Response:
    """Fit E[Y | p, c] by minimising the mean of (y - h(p, c))², with the network of stage 2.

    Parameters
    ----------
    contexts : Contexts
        Contexts of n rows.
    exposure, outcome : ndarray, shape (n,)
        Their exposures and outcomes, in any units.
    design : Design
        How the network is made.
    settings : fitting.Settings
        How it is fitted.
    rows, held_out : ndarray of int64
        The rows to learn from and the rows to judge by.
    seed : int
        Of everything random.
    name : str
        Of the network, for the log and errors.

    Returns
    -------
    Response
        What Deep IV's response would be if the exposure were as good as randomised.

    Raises
    ------
    ValueError
        If shapes do not agree, or a used row is missing or infinite.
    fitting.FittingError
        If there are too few rows, or the loss is not finite.
    """
    # An F that is known to be at the observed exposure makes stage 2 a plain regression.
    observed = np.asarray(exposure, dtype=np.float64)[:, None]
    return fit_response(
        contexts,
        outcome,
        observed,
        design=design,
        settings=settings,
        rows=rows,
        held_out=held_out,
        seed=seed,
        gradient="one_sample",
        n_samples=1,
        name=name,
    )
