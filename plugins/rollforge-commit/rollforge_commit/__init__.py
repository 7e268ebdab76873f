"""What a finished block leaves in the cache, for any policy and any sampler.

``CommitRecent`` lets commit passes read the newest frames only (Commit Forcing). ``WithCommit`` chooses whether there
is a commit pass at all, or the keys and values of the last denoising pass stay.
"""

from rollforge.registry import Register, hookimpl
from rollforge_commit.policy import CommitRecent
from rollforge_commit.sampler import WithCommit

__all__ = ["CommitRecent", "WithCommit"]
__version__ = "0.1.0"
rollforge_api = 1


@hookimpl
def rollforge_register_cache(register: Register) -> None:
    register(CommitRecent)


@hookimpl
def rollforge_register_sampler(register: Register) -> None:
    register(WithCommit)
