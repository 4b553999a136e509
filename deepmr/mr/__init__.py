from deepmr.mr.estimation import estimate

__all__ = ["estimate"]
