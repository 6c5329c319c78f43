"""The simulator: prices tasks, times them, searches policies, checks against published runs."""

from sim.simulate import Comparison, compare, simulate

__all__ = ["Comparison", "compare", "simulate"]
