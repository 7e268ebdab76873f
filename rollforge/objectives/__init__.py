"""Training losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollforge.lazy import lazily

if TYPE_CHECKING:
    from rollforge.objectives.base import Clips, Objective
    from rollforge.objectives.bidirectional import Bidirectional
    from rollforge.objectives.consistency import ConsistencyDistillation
    from rollforge.objectives.flow import DiffusionForcing, TeacherForcing
    from rollforge.objectives.ode import OdeRegression
    from rollforge.objectives.reconstruction import Reconstruction
    from rollforge.objectives.resampling import ResamplingForcing

__all__ = [
    "Bidirectional",
    "Clips",
    "ConsistencyDistillation",
    "DiffusionForcing",
    "Objective",
    "OdeRegression",
    "Reconstruction",
    "ResamplingForcing",
    "TeacherForcing",
]

__getattr__ = lazily(
    __name__,
    {
        "Bidirectional": "bidirectional",
        "OdeRegression": "ode",
        "ConsistencyDistillation": "consistency",
        "Clips": "base",
        "DiffusionForcing": "flow",
        "Objective": "base",
        "Reconstruction": "reconstruction",
        "ResamplingForcing": "resampling",
        "TeacherForcing": "flow",
    },
)
