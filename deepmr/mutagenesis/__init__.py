from deepmr.mutagenesis.saturation import saturate
from deepmr.mutagenesis.substitutions import Effects

__all__ = ["Effects", "saturate"]
