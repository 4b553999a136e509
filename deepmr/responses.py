"""How the logits of each target of a run become effects: its calibrator, and its SE's scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepmr import tables
from deepmr.calibration.maps import Calibrator, Identity
from deepmr.calibration.parameters import effect_calibrators
from deepmr.effects import Response
from deepmr.uncertainty.applied import applied_scales

Section = Mapping[str, Any]


def responses(
    model: str,
    targets: Mapping[str, Section],
    applied: Section,
    calibrators: str | Path | None,
    scales: str | Path | None,
) -> dict[str, Response]:
    """Return how the logits of each target become effects.

    Parameters
    ----------
    model : str
        Name of the model.
    targets : mapping
        Section ``targets`` of the configuration.
    applied : mapping
        ``calibrator``: the map of ``calibration.apply``; ``method``: ``uncertainty.method``.
    calibrators : path or None
        ``calibrators.parquet``, where ``calibration.apply`` names a map.
    scales : path or None
        ``uncertainty.parquet``, where ``uncertainty.apply_scale`` is true.

    Returns
    -------
    dict of str to Response
        By target.

    Raises
    ------
    deepmr.calibration.maps.NotStrictlyIncreasingError
        If the map may not be applied to effects.
    """
    maps: dict[str, Calibrator] = {}
    if calibrators:
        fitted = effect_calibrators(tables.read_table(calibrators), model, applied["calibrator"])
        # A target that could not be calibrated stays as it is, to the last bit.
        maps = {name: one for name, one in fitted.items() if not isinstance(one, Identity)}
    widened = applied_scales(tables.read_table(scales), model) if scales else {}
    moderated = applied["method"] == "ensemble"
    return {
        name: Response(target["type"], maps.get(name), widened.get(name, 1.0), moderated)
        for name, target in targets.items()
    }
