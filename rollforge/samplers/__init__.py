"""Samplers: generators of forward passes."""

from rollforge.samplers.base import Finished, Job, Keep, Pass, Passes, Sampler
from rollforge.samplers.euler import Euler
from rollforge.samplers.few_step import FewStep

__all__ = ["Euler", "FewStep", "Finished", "Job", "Keep", "Pass", "Passes", "Sampler"]
