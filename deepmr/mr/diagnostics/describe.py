"""What is told about a sequence's instruments, whichever method estimates."""

from __future__ import annotations

import numpy as np

from deepmr.mr.diagnostics import strength
from deepmr.mr.diagnostics.leave_one_out import Method, leave_one_position_out
from deepmr.mr.diagnostics.power import smallest_detectable_effect
from deepmr.mr.diagnostics.rucker import rucker
from deepmr.mr.diagnostics.steiger import direction_share
from deepmr.mr.estimator import Array, Group

_LINE: dict[str, Method] = {"ivw": "ivw", "ivw_fixed": "ivw", "egger": "egger"}
"""The closed form that leaves a position out, by method."""


def describe(group: Group) -> dict[str, np.ndarray]:
    """Strength, direction, power and model choice of every sequence of a group.

    Returns
    -------
    dict of str to ndarray, shape (sequences,)
        ``mean_f``, ``i2_gx``, ``i2_gx_weighted``, ``stronger_on_exposure`` (share of instruments
        with a larger abs(z) on the exposure), ``detectable_effect`` (found by fixed-effect IVW
        with power .8) and ``rucker``, one of `deepmr.mr.diagnostics.rucker.MODELS` or None.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        model = rucker(group).model
        model[model == ""] = None
        return {
            "mean_f": strength.mean_f(group),
            "i2_gx": strength.i2_gx(group),
            "i2_gx_weighted": strength.i2_gx_weighted(group),
            "stronger_on_exposure": direction_share(group).share,
            "detectable_effect": smallest_detectable_effect(group),
            "rucker": model,
        }


def position_influence(group: Group, method: str) -> dict[str, Array]:
    """Range of the diagonal estimate without any one position, for IVW and Egger.

    Returns
    -------
    dict of str to ndarray, shape (sequences,)
        ``without_position_low``, ``without_position_high`` and ``influential_position``, the
        position whose loss moves the estimate most; empty for other methods, and without
        positions.
    """
    if group.positions is None or method not in _LINE:
        return {}
    influence = leave_one_position_out(group, group.positions, _LINE[method])
    known = np.isfinite(influence.estimate)
    return {
        "without_position_low": influence.low,
        "without_position_high": influence.high,
        "influential_position": np.where(known, influence.position, np.nan),
    }
