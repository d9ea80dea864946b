"""Objectives: the losses that training minimises."""

from ladle.inference.bounds import bound
from ladle.objectives.objective import Loss, Objective, Progress

__all__ = ["Loss", "Objective", "Progress", "bound"]
