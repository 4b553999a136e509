"""The estimators by name. To add one, write its module and put it into this list."""

from __future__ import annotations

from collections.abc import Sequence

from deepmr.mr.estimator import Estimator
from deepmr.mr.estimators.bayesian_mode import BAYESIAN_MODE
from deepmr.mr.estimators.contamination import CONTAMINATION_MIXTURE
from deepmr.mr.estimators.divw import DIVW
from deepmr.mr.estimators.egger import EGGER
from deepmr.mr.estimators.ivw import IVW, IVW_DELTA, IVW_FIXED
from deepmr.mr.estimators.median import PENALIZED_WEIGHTED_MEDIAN, SIMPLE_MEDIAN, WEIGHTED_MEDIAN
from deepmr.mr.estimators.mode import SIMPLE_MODE, WEIGHTED_MODE
from deepmr.mr.estimators.presso import MR_PRESSO
from deepmr.mr.estimators.profile import EGGER_PROFILE, MAX_LIKELIHOOD, PROFILE
from deepmr.mr.estimators.raps import RAPS
from deepmr.mr.estimators.simex import EGGER_SIMEX

ESTIMATORS: dict[str, Estimator] = {
    estimator.name: estimator
    for estimator in (
        IVW,
        IVW_FIXED,
        IVW_DELTA,
        EGGER,
        EGGER_SIMEX,
        SIMPLE_MEDIAN,
        WEIGHTED_MEDIAN,
        PENALIZED_WEIGHTED_MEDIAN,
        SIMPLE_MODE,
        WEIGHTED_MODE,
        MAX_LIKELIHOOD,
        PROFILE,
        EGGER_PROFILE,
        CONTAMINATION_MIXTURE,
        DIVW,
        RAPS,
        MR_PRESSO,
        BAYESIAN_MODE,
    )
}


def estimators(names: Sequence[str]) -> list[Estimator]:
    """Return the estimators of these names.

    Raises
    ------
    ValueError
        If there is no name, one is unknown or one stands twice.
    """
    if isinstance(names, str) or not names:
        raise ValueError(f"methods must be a list of at least one method; found {names!r}")
    for name in names:
        if name not in ESTIMATORS:
            raise ValueError(f"method {name!r} is unknown; write one of {', '.join(ESTIMATORS)}")
    if len(set(names)) < len(names):
        raise ValueError(f"a method stands twice in {list(names)}; keep one of them")
    return [ESTIMATORS[name] for name in names]
