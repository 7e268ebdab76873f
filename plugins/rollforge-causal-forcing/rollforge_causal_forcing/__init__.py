"""The samplers of Causal Forcing, its models of fewer steps included, and of CausVid: ``FewStep`` with their levels.

Source: thu-ml/Causal-Forcing at 1fc7bbc, and tianweiy/CausVid.
"""

from rollforge.registry import Register, hookimpl
from rollforge_causal_forcing.samplers import CausalForcing, CausVid

__all__ = ["CausVid", "CausalForcing"]
__version__ = "0.1.0"
rollforge_api = 1


@hookimpl
def rollforge_register_sampler(register: Register) -> None:
    register(CausalForcing)
    register(CausVid)
