"""The simulator: prices tasks, times them, searches policies, checks against published runs."""

from sim.api import Comparison, compare, simulate
from sim.question import Question

__all__ = ["Comparison", "Question", "compare", "simulate"]
