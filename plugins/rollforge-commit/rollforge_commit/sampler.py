"""The sampler wrapper: a commit pass, or the keys and values of the last denoising pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from rollforge.errors import UserError
from rollforge.samplers import Finished, Job, Keep, Pass, Passes, Sampler
from rollforge.samplers.base import Noise
from rollforge.spec import Phase, Step


class WithCommit(Sampler):
    """Samples as ``sampler`` does, with or without commit passes.

    ``clean`` runs the commit passes of ``sampler``. ``last`` runs none: what the last denoising pass of a block, whose
    latents still have noise, has left in the cache is what later blocks read. A branch that no denoising pass of the
    block ran in (``guided_blocks`` of ``Euler``) is committed with a pass. Policies that observe passes are refused:
    they would not see a commit. Snapshots cannot do without keys and values then.

    Args:
        sampler: the sampler that is wrapped, with one block in progress at a time.
        commit: ``clean`` or ``last``.

    Raises:
        UserError: ``last`` with a sampler that has several blocks in progress.
    """

    def __init__(self, sampler: Sampler, commit: Literal["clean", "last"] = "last") -> None:
        if commit == "last" and sampler.in_flight > 1:
            raise UserError(
                f"WithCommit cannot keep the last pass of a block with {type(sampler).__name__}, which has "
                f"{sampler.in_flight} blocks in progress at once; set commit to 'clean', or choose another sampler."
            )
        self.sampler, self.how = sampler, commit
        self.guidance_branches, self.in_flight = sampler.guidance_branches, sampler.in_flight
        self.needs_extra, self.timesteps = sampler.needs_extra, sampler.timesteps
        self.context_noise, self.recomputes = sampler.context_noise, sampler.recomputes and commit == "clean"
        self.block = -1  # the block of the last denoising pass
        self.branches: list[str] = []  # in which its passes ran

    @property
    def commit_level(self) -> int:
        return self.sampler.commit_level

    def passes(self, block: int) -> int:
        return self.sampler.passes(block)

    def run(self, job: Job) -> Passes:
        passes, reply = self.sampler.run(job), None
        while True:
            try:
                request = passes.send(reply)
            except StopIteration:
                return
            reply = yield request if isinstance(request, Finished) else self._request(request)

    def commit(self, step: Step, clean: Tensor, noise: Noise) -> Iterator[Pass | Keep]:
        for request in self.sampler.commit(step, clean, noise):
            yield self._request(request)

    def dropped(self, step: Step) -> None:
        self.sampler.dropped(step)

    def _request(self, request: Pass | Keep) -> Pass | Keep:
        """What is requested in place of a request of the wrapped sampler."""
        step, branches = request.step, request.branches
        if self.how == "clean" or isinstance(request, Keep):
            return request
        if step.phase is Phase.DENOISE:
            if step.index != self.block:
                self.block, self.branches = step.index, []
            self.branches += [branch for branch in branches if branch not in self.branches]
            return replace(request, step=replace(step, keeps=True))
        if step.phase is Phase.COMMIT and step.index == self.block and {*branches} <= {*self.branches}:
            return Keep(step, request.guidance_branch)
        return request

    def __getattr__(self, name: str) -> Any:
        if name == "sampler" or name.startswith("__"):  # which a copy asks for before it has any attribute
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.sampler, name)
