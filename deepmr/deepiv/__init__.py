from deepmr.deepiv.binary import LocalEffects, fit_local_effects
from deepmr.deepiv.densities import Categorical, MixtureDensity
from deepmr.deepiv.fitting import Settings, split_held_out
from deepmr.deepiv.naive import fit_naive
from deepmr.deepiv.networks import Design, SequenceContexts
from deepmr.deepiv.response import Response, fit_response
from deepmr.deepiv.treatment import Treatment, fit_treatment

__all__ = [
    "Categorical",
    "Design",
    "LocalEffects",
    "MixtureDensity",
    "Response",
    "SequenceContexts",
    "Settings",
    "Treatment",
    "fit_local_effects",
    "fit_naive",
    "fit_response",
    "fit_treatment",
    "split_held_out",
]
