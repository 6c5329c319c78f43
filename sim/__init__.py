"""The simulator: prices tasks, times them, searches policies, checks against published runs."""

from sim.api import Comparison, compare, simulate

__all__ = ["Comparison", "compare", "simulate"]
