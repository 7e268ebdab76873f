"""Reward Forcing: an attention sink that is a moving average of the frames that have left the window.

Source: Reward Forcing (arXiv 2512.04678) and its released program, JaydenLyh/Reward-Forcing at 4317f5a.
"""

from rollforge.registry import Register, hookimpl
from rollforge_reward_forcing.policy import RewardForcing

__all__ = ["RewardForcing"]
__version__ = "0.1.0"
rollforge_api = 1


@hookimpl
def rollforge_register_cache(register: Register) -> None:
    register(RewardForcing)
