"""One look for every figure, and files whose bytes depend on nothing but the figure."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from deepmr.outputs import replacing

P = ParamSpec("P")

INK = "#1f2933"
MUTED = "#66707c"
HAIRLINE = "#d9dce0"
# Okabe & Ito (2008): told apart under every common colour blindness.
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
ORANGE = "#E69F00"
PURPLE = "#AA4499"
SKY = "#56B4E9"
CYCLE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, "#882255", "#999933", INK)
# Tol's muted colours, for what has no colour of its own.
SPARE = ("#44AA99", "#332288", "#CC6677", "#DDCC77", "#661100", "#AA4466", INK)
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))

LABEL_COLOURS = {"1": VERMILLION, "0": BLUE, "not measured": MUTED}
STRATUM_COLOURS = {"bound": BLUE, "unbound": ORANGE, "": MUTED}
SIGN_COLOURS = {"negative": VERMILLION, "positive": BLUE}
METHOD_COLOURS = {
    "egger": BLUE,
    "ivw": VERMILLION,
    "ivw_fixed": ORANGE,
    "weighted_median": GREEN,
    "weighted_mode": PURPLE,
    "profile": SKY,
    "bayesian_mode": "#882255",
    "max_likelihood": "#999933",
}

# Narrow enough to stay legible on a telephone without being shrunk much.
WIDTH = 4.6  # inches

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.unicode_minus": True,
    "grid.color": HAIRLINE,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.06,
    "savefig.dpi": 200,
    "svg.fonttype": "path",  # the same picture on a machine without the font
    "svg.hashsalt": "deepmr",  # else the ids, and with them the bytes, are random
}
_NO_DATES: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def styled(function: Callable[P, Figure]) -> Callable[P, Figure]:
    """Make a function draw its figure in this style, whatever the caller's settings are."""

    @wraps(function)
    def draw(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _settings():
            return function(*args, **kwargs)

    return draw


@contextmanager
def _settings() -> Iterator[None]:
    """Hold matplotlib's defaults and this style, not what the user's matplotlibrc says."""
    settings: Any = {
        key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith("backend")
    }
    with mpl.rc_context(settings | RC):
        yield


def method_colour(method: str) -> str:
    """Return the colour of a method: the same in every figure."""
    return METHOD_COLOURS.get(method, SPARE[sum(method.encode()) % len(SPARE)])


def pale(colour: str, share: float = 0.62) -> str:
    """Return a colour mixed with white; `share` of it is the colour."""
    red, green, blue = (1 - share * (1 - part) for part in to_rgb(colour))
    return to_hex((red, green, blue))


def text_width(text: str, points: float) -> float:
    """Return the width of bold text in inches."""
    font = FontProperties(family=RC["font.family"], weight="bold")
    return float(TextPath((0, 0), text, size=points, prop=font).get_extents().width) / 72


def render(fig: Figure, file_format: str) -> bytes:
    """Return a figure as the bytes of an "svg", "png" or "pdf" file, equal on every call.

    Parameters
    ----------
    fig : Figure
        A figure of :mod:`deepmr.figures`.
    file_format : str
        "svg", "png" or "pdf".

    Returns
    -------
    bytes
        The file's content, without dates or random ids.

    Raises
    ------
    ValueError
        On another format.
    """
    if file_format not in _NO_DATES:
        raise ValueError(
            f"cannot write a figure as {file_format!r}; use one of {', '.join(_NO_DATES)}"
        )
    buffer = io.BytesIO()
    with _settings():
        fig.savefig(buffer, format=file_format, metadata=_NO_DATES[file_format])
    return buffer.getvalue()


@styled
def note(text: str) -> Figure:
    """Return a figure that says in words why there is nothing to draw."""
    fig = Figure(figsize=(WIDTH, 1.2), layout="constrained")
    fig.text(0.5, 0.5, text, ha="center", va="center", color=MUTED, wrap=True)
    return fig


def save(fig: Figure, path: str | Path) -> Path:
    """Write a figure to a file of the format that its suffix names, atomically.

    Parameters
    ----------
    fig : Figure
        What to write.
    path : str or Path
        Ends in ``.svg``, ``.png`` or ``.pdf``; missing folders are made.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ValueError
        On another suffix.
    """
    path = Path(path)
    content = render(fig, path.suffix.lstrip(".").lower())
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def save_all(figures: Mapping[str, Figure], paths: Iterable[str | Path]) -> None:
    """Write each figure to the path that ends in its name.

    Parameters
    ----------
    figures : mapping of str to Figure
        By name, such as ``"roc"`` or ``"reliability/GATA1"``.
    paths : iterable of path
        One for each figure.

    Raises
    ------
    ValueError
        If a figure has no path, or a path no figure.
    """
    waiting = {str(Path(path).with_suffix("")): Path(path) for path in paths}
    for name, fig in figures.items():
        stems = [stem for stem in waiting if stem.endswith(f"/{name}")]
        if len(stems) != 1:
            raise ValueError(f"{len(stems)} files for the figure {name!r} among {sorted(waiting)}")
        save(fig, waiting.pop(stems[0]))
    if waiting:
        raise ValueError(f"no figure for {sorted(waiting)}; there are {sorted(figures)}")
