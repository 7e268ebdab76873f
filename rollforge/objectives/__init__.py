"""Training losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollforge.lazy import lazily

if TYPE_CHECKING:
    from rollforge.objectives.adversarial import AdversarialReconstruction
    from rollforge.objectives.base import Clips, Objective
    from rollforge.objectives.bidirectional import Bidirectional
    from rollforge.objectives.consistency import ConsistencyDistillation
    from rollforge.objectives.dmd import DMD
    from rollforge.objectives.flow import DiffusionForcing, TeacherForcing
    from rollforge.objectives.gan import GAN
    from rollforge.objectives.long_tuning import LongTuning
    from rollforge.objectives.matching import Match, Matched, Matching, ScoreMatching
    from rollforge.objectives.multigrid import Multigrid, Stage
    from rollforge.objectives.ode import OdeRegression
    from rollforge.objectives.reconstruction import Reconstruction
    from rollforge.objectives.resampling import ResamplingForcing
    from rollforge.objectives.restoration import Restoration
    from rollforge.objectives.self_forcing import SelfForcing
    from rollforge.objectives.sid import SiD

__all__ = [
    "DMD",
    "GAN",
    "AdversarialReconstruction",
    "Bidirectional",
    "Clips",
    "ConsistencyDistillation",
    "DiffusionForcing",
    "LongTuning",
    "Match",
    "Matched",
    "Matching",
    "Multigrid",
    "Objective",
    "OdeRegression",
    "Reconstruction",
    "ResamplingForcing",
    "Restoration",
    "ScoreMatching",
    "SelfForcing",
    "SiD",
    "Stage",
    "TeacherForcing",
]

__getattr__ = lazily(
    __name__,
    {
        "AdversarialReconstruction": "adversarial",
        "Bidirectional": "bidirectional",
        "OdeRegression": "ode",
        "ConsistencyDistillation": "consistency",
        "Clips": "base",
        "DiffusionForcing": "flow",
        "Objective": "base",
        "Reconstruction": "reconstruction",
        "Restoration": "restoration",
        "ResamplingForcing": "resampling",
        "TeacherForcing": "flow",
        "DMD": "dmd",
        "GAN": "gan",
        "Match": "matching",
        "Matched": "matching",
        "Matching": "matching",
        "ScoreMatching": "matching",
        "LongTuning": "long_tuning",
        "Multigrid": "multigrid",
        "Stage": "multigrid",
        "SelfForcing": "self_forcing",
        "SiD": "sid",
    },
)
