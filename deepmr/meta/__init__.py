from deepmr.meta.combine import random_effects
from deepmr.meta.drawwise import draw_wise, median
from deepmr.meta.result import Result

__all__ = ["Result", "draw_wise", "median", "random_effects"]
