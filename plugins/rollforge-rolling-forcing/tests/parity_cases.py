"""The parity case of this package, which ``tests/parity`` runs."""

from parity_method import Meta, Method
from rollforge_rolling_forcing import JointFewStep, RollingForcing


def policy(meta: Meta) -> RollingForcing:
    return RollingForcing(meta["window"] // meta["block"] - 1, meta["sink"] // meta["block"])


def sampler(meta: Meta) -> JointFewStep:
    return JointFewStep(meta["denoising_steps"], shift=1.0, context_noise=meta["context_noise"])


METHODS = (Method("rolling forcing", policy, sampler),)
