"""The HTML report: one file that needs no other file, no network and no script."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from deepmr.outputs import replacing
from deepmr.report import summaries, wording
from deepmr.report.answers import Settings, answers, heads
from deepmr.report.calibration import of_predictions
from deepmr.report.calibration_checks import calibration_checks
from deepmr.report.cards import cards
from deepmr.report.checks import checks
from deepmr.report.decoys import decoy_checks
from deepmr.report.deep_iv import of_deep_iv
from deepmr.report.deep_iv_comparison import deep_iv_checks
from deepmr.report.heterogeneity import of_heterogeneity
from deepmr.report.inferences import of_inferences
from deepmr.report.moderators import of_moderators
from deepmr.report.network import network_checks, of_network
from deepmr.report.pictures import (
    CAUSAL_FIGURES,
    DEEP_IV_FIGURES,
    HETEROGENEITY_FIGURES,
    NETWORK_FIGURES,
    PREDICTION_FIGURES,
    Picture,
    figure_groups,
)
from deepmr.report.small_study import influence_checks, of_small_study
from deepmr.report.standard_errors import of_standard_errors
from deepmr.uncertainty.draws_needed import relative_error


def write(path: str | Path, **context: object) -> Path:
    """Write the report to a file, atomically.

    Parameters
    ----------
    path : str or Path
        The ``.html`` file.
    **context
        The arguments of :func:`render`.

    Returns
    -------
    Path
        `path`.
    """
    html = render(**context)  # type: ignore[arg-type]
    with replacing(path) as temporary:
        temporary.write_text(html, "utf-8")
    return Path(path)


def render(
    *,
    meta: pd.DataFrame,
    mr: pd.DataFrame,
    calibration: pd.DataFrame,
    calibrators: pd.DataFrame,
    uncertainty: pd.DataFrame,
    network: pd.DataFrame,
    sequence_effects: pd.DataFrame,
    meta_regression: pd.DataFrame,
    meta_diagnostics: pd.DataFrame,
    pairs: Mapping[str, Mapping[str, object]],
    captions: Mapping[str, str],
    pictures: Sequence[Picture] = (),
    truth: pd.DataFrame | None = None,
    deep_iv: pd.DataFrame | None = None,
    settings: Settings | None = None,
    counts: Mapping[str, Mapping[str, object]] | None = None,
    provenance: Mapping[str, Mapping[str, object]] | None = None,
    title: str = "Deep MR report",
) -> str:
    """Return the report as one HTML document.

    Parameters
    ----------
    meta, mr, calibration, calibrators, uncertainty, network : DataFrame
        The tables of these names; the columns ``draws`` and ``draws_se`` of ``mr`` are not used.
    sequence_effects, meta_regression, meta_diagnostics : DataFrame
        The tables of these names.
    pairs : mapping
        As in the configuration: name -> ``exposure``, ``outcome`` and, optionally, ``control``.
    captions : mapping of str to str
        Kind of figure -> reStructuredText, see :func:`deepmr.report.pictures.read_captions`.
    pictures : sequence of Picture
        The figures; within a kind in the order given.
    truth : DataFrame, optional
        ``truth.parquet`` of a simulated genome.
    deep_iv : DataFrame, optional
        ``deep_iv.parquet``; without it the report has no section, check, figure or assumption of
        Deep IV.
    settings : Settings, optional
        What makes the headline; the defaults when left out.
    counts, provenance : mapping, optional
        Heading -> (name -> value): what was tiled, sampled, skipped; and seeds, versions, hashes.
    title : str
        Of the document.

    Returns
    -------
    str
        HTML that loads nothing: pictures are inlined, and a content security policy forbids
        the rest.

    Raises
    ------
    ValueError
        When a pair lacks its row in ``meta`` or in ``deep_iv``, a picture has an unknown kind,
        format or no caption, a flag of the network is unknown, or the calibrator that is applied
        was not fitted.
    """
    settings = settings or Settings()
    found = answers(meta, mr, pairs, truth, settings)
    head_of = heads(calibration, found, settings)
    environment = Environment(
        loader=PackageLoader("deepmr.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html.j2").render(
        title=title,
        settings=settings,
        models=list(dict.fromkeys(a.model for a in found)),
        cards=cards(found, head_of, settings),
        checks=[
            *decoy_checks(found),
            *checks(found, head_of, settings),
            *network_checks(network, found),
            *influence_checks(meta_diagnostics, found),
            *([] if deep_iv is None else deep_iv_checks(deep_iv, found, settings)),
            *calibration_checks(calibration, calibrators, uncertainty, settings),
        ],
        simulated=truth is not None,
        draw_error=_draw_error(settings),
        pairs_table=summaries.pairs_table(found, settings),
        fdr_level=wording.level(settings.fdr),
        network=of_network(network, settings),
        network_figures=figure_groups(NETWORK_FIGURES, pictures, captions),
        heterogeneity=of_heterogeneity(meta, meta_diagnostics, found, settings),
        heterogeneity_figures=figure_groups(HETEROGENEITY_FIGURES, pictures, captions),
        moderators=of_moderators(meta_regression, found),
        small_study=of_small_study(meta_diagnostics, sequence_effects, found),
        deep_iv=None if deep_iv is None else of_deep_iv(deep_iv, found, settings),
        deep_iv_figures=figure_groups(DEEP_IV_FIGURES, pictures, captions),
        inferences=of_inferences(found),
        views=[(a, summaries.views_table(meta, a)) for a in found],
        instruments_table=summaries.instruments_table(mr, found, settings),
        calibration=of_predictions(calibration, calibrators, found, settings),
        standard_errors=of_standard_errors(uncertainty, settings),
        figure_sections=[
            ("causal", "The effects, drawn", figure_groups(CAUSAL_FIGURES, pictures, captions)),
            (
                "predictions",
                "What the model predicts",
                figure_groups(PREDICTION_FIGURES, pictures, captions),
            ),
        ],
        counts=counts or {},
        provenance=provenance or {},
    )


def _draw_error(settings: Settings) -> str | None:
    """Return the relative error of an SD from so many draws, in percent."""
    if settings.n_draws < 2:
        return None
    return wording.percent(relative_error(settings.n_draws))
