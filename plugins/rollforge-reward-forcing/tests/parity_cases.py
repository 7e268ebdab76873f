"""The parity case of this package, which ``tests/parity`` runs."""

from parity_method import Method
from rollforge_reward_forcing import RewardForcing

METHODS = (Method("reward forcing", lambda meta: RewardForcing(meta["window"], meta["sink"], meta["ema"])),)
