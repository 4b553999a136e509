"""Mendelian randomization on what a regulatory-genomics network has learned."""

__version__ = "0.1.0"
