"""Rolling Forcing: several blocks are denoised in one pass, each at a lower noise level than the block after it.

``JointFewStep`` is the sampler, ``RollingForcing`` the cache policy. Source: Rolling Forcing (arXiv 2509.25161) and its
released program, TencentARC/RollingForcing at a1477d0.
"""

from rollforge.registry import Register, hookimpl
from rollforge_rolling_forcing.policy import RollingForcing
from rollforge_rolling_forcing.sampler import JointFewStep

__all__ = ["JointFewStep", "RollingForcing"]
__version__ = "0.1.0"
rollforge_api = 1


@hookimpl
def rollforge_register_cache(register: Register) -> None:
    register(RollingForcing)


@hookimpl
def rollforge_register_sampler(register: Register) -> None:
    register(JointFewStep)
