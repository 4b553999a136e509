"""The estimators by name. To add one, write its module and put it into this list."""

from __future__ import annotations

from collections.abc import Sequence

from deepmr.mr.egger import EGGER
from deepmr.mr.estimator import Estimator
from deepmr.mr.ivw import IVW, IVW_FIXED
from deepmr.mr.median import WEIGHTED_MEDIAN

ESTIMATORS: dict[str, Estimator] = {
    estimator.name: estimator for estimator in (EGGER, IVW, IVW_FIXED, WEIGHTED_MEDIAN)
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
