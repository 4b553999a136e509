from deepmr.meta.shrinkage.mixture import draw_wise_shares, fit_mixture, posterior

__all__ = ["draw_wise_shares", "fit_mixture", "posterior"]
