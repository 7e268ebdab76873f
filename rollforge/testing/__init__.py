"""Checks for components: one line in a test of a plugin, on a CPU in seconds.

    def test_compact() -> None:
        check_policy(Compact(recent_blocks=2))

Each check raises ``CheckFailed``, an ``AssertionError``, with the rule that the part breaks.
"""

from rollforge.testing.attention import check_attention
from rollforge.testing.backbone import check_backbone
from rollforge.testing.codec import check_codec
from rollforge.testing.conditioner import check_conditioner
from rollforge.testing.finish import check_finish
from rollforge.testing.flow import check_flow
from rollforge.testing.kv_codec import check_kv_codec
from rollforge.testing.matching import check_matching
from rollforge.testing.memory import check_memory
from rollforge.testing.metric import check_metric
from rollforge.testing.noise import check_noise
from rollforge.testing.plans import check_plans
from rollforge.testing.policy import check_policy
from rollforge.testing.positions import check_combine, check_positions
from rollforge.testing.resume import check_resume
from rollforge.testing.rules import RULES, CheckFailed
from rollforge.testing.sampler import check_sampler
from rollforge.testing.training import check_dataset, check_objective

__all__ = [
    "RULES",
    "CheckFailed",
    "check_attention",
    "check_backbone",
    "check_codec",
    "check_combine",
    "check_conditioner",
    "check_dataset",
    "check_finish",
    "check_flow",
    "check_kv_codec",
    "check_matching",
    "check_memory",
    "check_metric",
    "check_noise",
    "check_objective",
    "check_plans",
    "check_policy",
    "check_positions",
    "check_resume",
    "check_sampler",
]
