from deepmr.mr.estimation import estimate
from deepmr.mr.multivariable.estimation import estimate_multivariable

__all__ = ["estimate", "estimate_multivariable"]
