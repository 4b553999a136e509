"""The figures of the report: their kinds, their captions, and how they get into the page."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from docutils.core import publish_parts
from markupsafe import Markup

CAUSAL_FIGURES = {
    "global_effects": "All pairs, both directions",
    "forest": "Sequence by sequence",
    "mr_scatter": "One sequence, mutation by mutation",
}
NETWORK_FIGURES = {"network": "All pairs in one picture"}
HETEROGENEITY_FIGURES = {"funnel": "Every sequence, by how sure it is"}
DEEP_IV_FIGURES = {"deep_iv": "Labels and network, side by side"}
PREDICTION_FIGURES = {
    "roc": "Can the model tell bound from unbound?",
    "reliability": "Do its probabilities mean what they say?",
    "calibrators": "What does calibration change?",
    "histogram": "How decided are its predictions?",
    "uncertainty": "How unsure is it of a prediction?",
    "standard_errors": "Are the standard errors of mutations right?",
    "learning_curves": "How was it learned?",
}
FIGURES = (
    CAUSAL_FIGURES | NETWORK_FIGURES | HETEROGENEITY_FIGURES | DEEP_IV_FIGURES | PREDICTION_FIGURES
)
"""Every kind of figure of the report."""

_IMAGE_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Picture:
    """A figure's file and what it shows.

    Attributes
    ----------
    kind : str
        A key of ``FIGURES``; pictures of a kind share the
        caption of this name.
    title : str
        What this one shows: a pair and direction, a target, a model.
    path : Path
        An ``.svg`` or ``.png`` file.
    """

    kind: str
    title: str
    path: Path


def read_captions(directory: str | Path) -> dict[str, str]:
    """Return the captions of a folder of reStructuredText files: file stem -> text.

    Parameters
    ----------
    directory : str or Path
        For example ``workflow/report``; the same files serve ``snakemake --report``.

    Returns
    -------
    dict of str to str
    """
    return {path.stem: path.read_text("utf-8") for path in sorted(Path(directory).glob("*.rst"))}


def figure_groups(
    kinds: Mapping[str, str], pictures: Sequence[Picture], captions: Mapping[str, str]
) -> list[tuple[str, str, Markup, list[tuple[str, str]]]]:
    """Return the figures of some kinds, inlined, in the order of the kinds.

    Parameters
    ----------
    kinds : mapping of str to str
        A part of ``FIGURES``.
    pictures : sequence of Picture
        All figures of the report.
    captions : mapping of str to str
        Kind -> reStructuredText.

    Returns
    -------
    list of tuple
        (kind, title, caption as HTML, [(picture's title, data URI)]) of each kind with pictures.

    Raises
    ------
    ValueError
        When a picture has an unknown kind, another format than SVG or PNG, or no caption.
    """
    for picture in pictures:
        if picture.kind not in FIGURES:
            raise ValueError(
                f"{picture.path}: unknown kind of figure {picture.kind!r}; "
                f"use one of {', '.join(FIGURES)}"
            )
        if picture.kind not in captions:
            raise ValueError(f"figure {picture.kind!r} has no caption: write {picture.kind}.rst")
    return [
        (
            kind,
            title,
            _html_of(captions[kind]),
            [(picture.title, _data_uri(picture.path)) for picture in of_kind],
        )
        for kind, title in kinds.items()
        if (of_kind := [picture for picture in pictures if picture.kind == kind])
    ]


def _data_uri(path: Path) -> str:
    media_type = _IMAGE_TYPES.get(Path(path).suffix.lower())
    if media_type is None:
        raise ValueError(f"{path}: a picture of the report must be .svg or .png")
    return f"data:{media_type};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


def _html_of(text: str) -> Markup:
    """Return reStructuredText as HTML; malformed text is an error, not a red box in the page."""
    parts = publish_parts(
        text,
        writer="html5",
        settings_overrides={
            "file_insertion_enabled": False,
            "raw_enabled": False,
            "halt_level": 2,
            "report_level": 2,
            "warning_stream": "",
        },
    )
    return Markup(parts["fragment"])
