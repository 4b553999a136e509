from deepmr.meta.combine import Result, random_effects
from deepmr.meta.drawwise import draw_wise, median
from deepmr.meta.summary import summarise

__all__ = ["Result", "draw_wise", "median", "random_effects", "summarise"]
