"""The causal model behind simulated marks: motif sites move marks, and marks move marks.

On the logit scale every mark is linear in how occupied its own motif is, in the confounder motif
that several marks share, in the marks that cause it, and in noise that no sequence explains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, logsumexp

from deepmr.genome.alphabet import Codes
from deepmr.motifs import Motif, find, scan, threshold

Floats = NDArray[np.float64]

SCENARIOS = ("none", "random", "sequence", "both")
"""What confounds the marks: nothing, shared noise, a shared motif, or both."""

_QUADRATURE_NODES = 64


class StructureError(ValueError):
    """The marks given do not make a causal model."""


@dataclass(frozen=True)
class Mark:
    """One simulated mark, a target of the network.

    Attributes
    ----------
    name : str
        Name of the target.
    motif : str
        Matrix ID or name of the motif that moves this mark directly.
    intercept : float
        Logit without any site.
    effect : float
        What a fully occupied site of `motif` adds to the logit.
    confounder : float
        What a fully occupied site of the confounder motif adds directly.
    noise : float
        What one unit of the shared noise adds directly.
    causes : mapping of str to float
        Structural effect (theta, logit per logit) of every mark that causes this one.
    """

    name: str
    motif: str
    intercept: float
    effect: float
    confounder: float = 0.0
    noise: float = 1.0
    causes: Mapping[str, float] = field(default_factory=dict)


class Structure:
    """A structural causal model of several marks on one sequence (method: logit scale).

    z_m = intercept + effect * occ(motif of m) + confounder * occ(confounder motif)
    + sum over causes c of theta_mc * z_c + noise * u, with u ~ N(0, noise_sd^2) shared by all
    marks of a window; labels are Bernoulli(sigmoid(z_m)). The occupancy of a motif in a sequence
    is 1 - prod(1 - sigmoid((score - midpoint) / temperature)) over all words of both strands.

    Parameters
    ----------
    marks : sequence of Mark
        In any order; no mark may cause itself, over whatever path.
    motifs : mapping of str to Motif
        Library that holds every motif named.
    confounder : str
        ID or name of the motif that several marks share.
    scenario : str
        One of `SCENARIOS`: whether the confounder motif ("sequence"), the shared noise ("random"),
        "both" or "none" of them act.
    noise_sd : float
        Standard deviation of the shared noise, in logits.
    midpoint_p_value : float
        A word that a random one beats with this probability is half occupied.
    temperature : float
        Bits by which the logit of a word's occupancy changes by 1 unit.

    Attributes
    ----------
    marks : tuple of Mark
        In an order in which causes stand before what they cause.
    sites : dict of str to Motif
        The motifs that act, by matrix ID; with the confounder where the scenario has it.

    Raises
    ------
    StructureError
        If a cause is not a mark, marks cause each other in a circle, a name stands twice, the
        scenario is unknown, or a scale is not positive.
    deepmr.motifs.MotifError
        If a motif is not in the library or too short for `midpoint_p_value`.
    """

    def __init__(
        self,
        marks: Sequence[Mark],
        motifs: Mapping[str, Motif],
        confounder: str,
        *,
        scenario: str = "sequence",
        noise_sd: float = 1.0,
        midpoint_p_value: float = 2.5e-4,
        temperature: float = 1.5,
    ) -> None:
        if scenario not in SCENARIOS:
            raise StructureError(f"scenario {scenario!r} is none of {', '.join(SCENARIOS)}")
        if not temperature > 0 or noise_sd < 0:
            raise StructureError(
                "temperature must be above 0 and noise_sd at least 0, "
                f"got {temperature} and {noise_sd}"
            )
        self.marks = _causes_first(marks)
        self.temperature = temperature
        self.noise_sd = noise_sd if scenario in ("random", "both") else 0.0
        self._motif_of = {mark.name: find(motifs, mark.motif) for mark in self.marks}
        self.sites = {motif.id: motif for motif in self._motif_of.values()}
        self._confounder: str | None = None
        if scenario in ("sequence", "both"):
            shared = find(motifs, confounder)
            self._confounder = shared.id
            self.sites[shared.id] = shared
        self._midpoints = {key: threshold(m, midpoint_p_value) for key, m in self.sites.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the marks, causes first."""
        return tuple(mark.name for mark in self.marks)

    def motif(self, mark: str) -> Motif:
        """Return the motif that moves a mark directly."""
        return self._motif_of[mark]

    def total_effects(self) -> dict[tuple[str, str], float]:
        """Return theta of every ordered pair of marks: the structural effect over all paths.

        Returns
        -------
        dict of (exposure, outcome) to float
            What one logit more of the exposure adds to the outcome's logit.
        """
        effects: dict[tuple[str, str], float] = {}
        for exposure in self.names:
            total = {exposure: 1.0}
            for mark in self.marks:
                if mark.name != exposure:
                    total[mark.name] = sum(
                        theta * total.get(cause, 0.0) for cause, theta in mark.causes.items()
                    )
                    effects[exposure, mark.name] = total[mark.name]
        return effects

    def noise_loadings(self) -> dict[str, float]:
        """Return by mark what one unit of the shared noise adds to it, over all paths."""
        loadings: dict[str, float] = {}
        for mark in self.marks:
            loadings[mark.name] = mark.noise + sum(
                theta * loadings[cause] for cause, theta in mark.causes.items()
            )
        return loadings

    def occupancies(self, codes: Codes) -> dict[str, Floats]:
        """Return by matrix ID the probability that a sequence holds a bound site, shape (n,)."""
        occupied: dict[str, Floats] = {}
        for key, motif in self.sites.items():
            excess = scan(codes, motif.log_odds()) - self._midpoints[key]
            # log(1 - sigmoid(x)) = log sigmoid(-x), summed over words and strands.
            free = log_expit(-excess / self.temperature).sum(axis=(1, 2))
            occupied[key] = -np.expm1(free)
        return occupied

    def logits(self, codes: Codes) -> dict[str, Floats]:
        """Return by mark the structural logits (n,) of sequences (n, length), without the noise."""
        occupied = self.occupancies(codes)
        logits: dict[str, Floats] = {}
        for mark in self.marks:
            value = mark.intercept + mark.effect * occupied[self._motif_of[mark.name].id]
            if self._confounder is not None:
                value = value + mark.confounder * occupied[self._confounder]
            for cause, theta in mark.causes.items():
                value = value + theta * logits[cause]
            logits[mark.name] = value
        return logits

    def marginal_logits(self, codes: Codes) -> dict[str, Floats]:
        """Return by mark logit(E_u[sigmoid(z + u)]) of shape (n,): all that a sequence can tell.

        A network trained on binary labels learns this function; the logit is not collapsible, so
        its slopes lie below the structural ones wherever there is noise. Gauss-Hermite quadrature.
        """
        logits = self.logits(codes)
        if self.noise_sd == 0:
            return logits
        nodes, weights = np.polynomial.hermite_e.hermegauss(_QUADRATURE_NODES)
        log_weights = np.log(weights / weights.sum())
        marginal: dict[str, Floats] = {}
        for name, loading in self.noise_loadings().items():
            noisy = logits[name][:, None] + loading * self.noise_sd * nodes
            yes = logsumexp(log_expit(noisy) + log_weights, axis=1)
            no = logsumexp(log_expit(-noisy) + log_weights, axis=1)
            marginal[name] = yes - no
        return marginal

    def sample_labels(self, codes: Codes, rng: np.random.Generator) -> dict[str, NDArray[np.bool_]]:
        """Draw by mark the binary labels (n,) of sequences (n, length)."""
        logits = self.logits(codes)
        noise = rng.standard_normal(len(codes)) * self.noise_sd
        loadings = self.noise_loadings()
        return {
            name: rng.random(len(codes)) < expit(logits[name] + loadings[name] * noise)
            for name in self.names
        }


def _causes_first(marks: Sequence[Mark]) -> tuple[Mark, ...]:
    names = [mark.name for mark in marks]
    if len(set(names)) < len(names) or not names:
        raise StructureError(f"a model needs marks of different names, got: {', '.join(names)}")
    for mark in marks:
        unknown = sorted(set(mark.causes) - set(names))
        if unknown:
            raise StructureError(
                f"{mark.name} is caused by {', '.join(unknown)}, which is no mark; "
                f"there are: {', '.join(names)}"
            )
    ordered: list[Mark] = []
    waiting = list(marks)
    while waiting:
        done = {mark.name for mark in ordered}
        ready = [mark for mark in waiting if set(mark.causes) <= done]
        if not ready:
            circle = ", ".join(mark.name for mark in waiting)
            raise StructureError(f"marks cause each other in a circle: {circle}; break it")
        ordered += ready
        waiting = [mark for mark in waiting if mark not in ready]
    return tuple(ordered)
