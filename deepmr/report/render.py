"""The HTML report: one file that needs no other file, no network and no script."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from docutils.core import publish_parts
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from deepmr.outputs import replacing
from deepmr.report import summaries, wording
from deepmr.report.answers import Answer, Effect, Head, Settings, answers, decoys_for, heads
from deepmr.report.checks import checks

CAUSAL_FIGURES = {
    "global_effects": "All pairs, both directions",
    "forest": "Sequence by sequence",
    "mr_scatter": "One sequence, mutation by mutation",
}
PREDICTION_FIGURES = {
    "roc": "Can the model tell bound from unbound?",
    "reliability": "Do its probabilities mean what they say?",
    "histogram": "How decided are its predictions?",
    "uncertainty": "How unsure is it of a prediction?",
    "learning_curves": "How was it learned?",
}
_IMAGE_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Picture:
    """A figure's file and what it shows.

    Attributes
    ----------
    kind : str
        A key of ``CAUSAL_FIGURES`` or ``PREDICTION_FIGURES``; pictures of a kind share the
        caption of this name.
    title : str
        What this one shows: a pair and direction, a target, a model.
    path : Path
        An ``.svg`` or ``.png`` file.
    """

    kind: str
    title: str
    path: Path


@dataclass(frozen=True)
class Mark:
    """One line of a strip plot; positions in percent of its width."""

    name: str
    role: str  # forward, reverse or decoy
    text: str
    found: bool
    """Whether the interval excludes 0."""
    point: float | None
    low: float
    high: float
    pi_low: float | None
    pi_high: float | None
    truth: float | None


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
    pairs: Mapping[str, Mapping[str, object]],
    captions: Mapping[str, str],
    pictures: Sequence[Picture] = (),
    truth: pd.DataFrame | None = None,
    settings: Settings | None = None,
    counts: Mapping[str, Mapping[str, object]] | None = None,
    provenance: Mapping[str, Mapping[str, object]] | None = None,
    title: str = "Deep MR report",
) -> str:
    """Return the report as one HTML document.

    Parameters
    ----------
    meta, mr, calibration : DataFrame
        The tables of these names; the columns ``draws`` and ``draws_se`` of ``mr`` are not used.
    pairs : mapping
        As in the configuration: name -> ``exposure``, ``outcome`` and, optionally, ``control``.
    captions : mapping of str to str
        Kind of figure -> reStructuredText, see :func:`read_captions`.
    pictures : sequence of Picture
        The figures; within a kind in the order given.
    truth : DataFrame, optional
        ``truth.parquet`` of a simulated genome.
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
        When a pair lacks its row in ``meta``, a picture has an unknown kind, format or no caption.
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
        cards=_cards(found, head_of, settings),
        checks=checks(found, head_of, settings),
        simulated=truth is not None,
        draw_error=_draw_error(settings),
        pairs_table=summaries.pairs_table(found, settings),
        diagonal_table=summaries.diagonal_table(found) if summaries.has_diagonal(meta) else None,
        views=[(a, summaries.views_table(meta, a)) for a in found],
        instruments_table=summaries.instruments_table(mr, found, settings),
        calibration_table=summaries.calibration_table(calibration),
        figure_sections=[
            ("causal", "The effects, drawn", _figure_groups(CAUSAL_FIGURES, pictures, captions)),
            (
                "predictions",
                "What the model predicts",
                _figure_groups(PREDICTION_FIGURES, pictures, captions),
            ),
        ],
        counts=counts or {},
        provenance=provenance or {},
    )


def _cards(
    found: Sequence[Answer],
    head_of: Mapping[tuple[str, str], Head],
    settings: Settings,
) -> list[dict[str, object]]:
    cards = []
    for answer in found:
        of_model = [a for a in found if a.model == answer.model]
        low, high = _axis(of_model)
        ticks = list(MaxNLocator(5, steps=[1, 2, 2.5, 5]).tick_values(low, high))
        rows = [(answer.forward, "forward"), (answer.reverse, "reverse")]
        if not answer.control:
            rows += [(decoy.forward, "decoy") for decoy in decoys_for(answer, found)]
        first, *others = wording.sentences(answer, found, head_of, settings)
        cards.append(
            {
                "answer": answer,
                "headline": wording.headline(answer),
                "badge": wording.badge(answer),
                "tone": _tone(answer),
                "lead": first,
                "sentences": others,
                "marks": [_mark(e, role, low, high, settings) for e, role in rows],
                "zero": _percent(0.0, low, high),
                "ticks": [
                    (_percent(t, low, high), f"{t:g}".replace("-", wording.MINUS))
                    for t in ticks
                    if low <= t <= high
                ],
            }
        )
    return cards


def _tone(answer: Answer) -> str:
    """Return the colour of a card: by sign where there is one effect, and it may be."""
    if answer.control and answer.verdict in ("forward", "reverse"):
        return "doubt"
    if answer.verdict in ("forward", "reverse"):
        effect = answer.forward if answer.verdict == "forward" else answer.reverse
        return "positive" if effect.sign > 0 else "negative"
    return {"both": "doubt", "none": "silent", "unknown": "silent"}[answer.verdict]


def _axis(found: Sequence[Answer]) -> tuple[float, float]:
    """Return limits for all strips of a model: one hopeless interval must not flatten the rest."""
    effects = [e for a in found for e in (a.forward, a.reverse) if e.known]
    if not effects:
        return -1.0, 1.0
    reach = 4 * float(np.median([e.ci_high - e.ci_low for e in effects]))
    ends = [0.0]
    for effect in effects:
        ends += [max(effect.ci_low, effect.estimate - reach), effect.estimate]
        ends += [min(effect.ci_high, effect.estimate + reach)]
        if effect.truth is not None:
            ends.append(effect.truth.value)
    low, high = min(ends), max(ends)
    pad = 0.06 * (high - low) or 1.0
    return low - pad, high + pad


def _percent(value: float, low: float, high: float) -> float:
    return round(float(np.clip(100 * (value - low) / (high - low), 0, 100)), 2)


def _mark(effect: Effect, role: str, low: float, high: float, settings: Settings) -> Mark:
    def place(value: object) -> float | None:
        if not isinstance(value, (int, float, np.number)) or not np.isfinite(value):
            return None
        return _percent(float(value), low, high)

    shown = settings.effect_scale == "logit" and effect.truth is not None
    return Mark(
        name=effect.name,
        role=role,
        text=wording.with_interval(effect) if effect.known else "not estimated",
        found=effect.sign != 0,
        point=place(effect.estimate) if effect.known else None,
        low=place(effect.ci_low) or 0.0,
        high=place(effect.ci_high) or 0.0,
        pi_low=place(effect.row["pi_low"]),
        pi_high=place(effect.row["pi_high"]),
        truth=place(effect.truth.value) if shown and effect.truth else None,
    )


def _draw_error(settings: Settings) -> str | None:
    """Return the relative error of an SD from so many draws, in percent."""
    if settings.n_draws < 2:
        return None
    return wording.percent(1 / np.sqrt(2 * (settings.n_draws - 1)))


def _figure_groups(
    kinds: Mapping[str, str], pictures: Sequence[Picture], captions: Mapping[str, str]
) -> list[tuple[str, str, Markup, list[tuple[str, str]]]]:
    """Return (kind, title, caption, [(picture's title, data URI)]) for the kinds with pictures."""
    known = [*CAUSAL_FIGURES, *PREDICTION_FIGURES]
    for picture in pictures:
        if picture.kind not in known:
            raise ValueError(
                f"{picture.path}: unknown kind of figure {picture.kind!r}; "
                f"use one of {', '.join(known)}"
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
