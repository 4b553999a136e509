from deepmr.meta.dependence.dependent import combine_dependent, working_weights
from deepmr.meta.dependence.error_covariance import Blocks, Diagonal, LowRank

__all__ = ["Blocks", "Diagonal", "LowRank", "combine_dependent", "working_weights"]
