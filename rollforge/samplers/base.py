"""The sampler: a generator of forward passes that reads like the algorithm in its paper."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeVar

from torch import Tensor

from rollforge.ranges import Checked, Range
from rollforge.spec import TIMESTEPS as TIMESTEPS
from rollforge.spec import Phase, ReadPlan, Step
from rollforge.state import Stateful

Timestep = Annotated[float, Range(0, TIMESTEPS)]
Level = TypeVar("Level", float, Tensor)


@dataclass(frozen=True)
class Pass:
    """A request: run these latents ``[B, F, C, H, W]`` at this timestep. The result is the predicted flow.

    ``timestep`` is one number or one for each frame, ``[B, F]``. ``guidance_branch`` names the condition (``prompt`` or
    ``negative``); each branch has a memory of its own. Of several branches, ``("prompt", "negative")``, the result is a
    tuple with the flow of each; they run as one batch where the network can. ``plan`` overrides the policy's. ``extra``
    goes to the network's ``forward`` as the argument of that name if it takes one: a second time of a flow map, say.

    With ``gradient`` the pass keeps its graph, where the caller of the rollout has gradients enabled; with
    ``checkpoint`` as well, the network runs again in the backward pass instead.

    With ``unread`` only what the pass writes into the memories is wanted: the network may leave out the rest, and the
    answer means nothing.
    """

    step: Step
    latents: Tensor
    timestep: float | Tensor
    guidance_branch: str | tuple[str, ...] = "prompt"
    plan: ReadPlan | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    gradient: bool = False
    checkpoint: bool = False
    unread: bool = False

    @property
    def branches(self) -> tuple[str, ...]:
        """The guidance branches that it runs."""
        return branches_of(self.guidance_branch)

    def answer(self, flows: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """The value that is sent back, given the flow of each branch."""
        return flows[0] if isinstance(self.guidance_branch, str) else tuple(flows)


@dataclass(frozen=True)
class Keep:
    """In place of a commit pass: the keys and values of the last pass of a finished block become final.

    The passes of the block need a step that ``keeps``.
    """

    step: Step
    guidance_branch: str | tuple[str, ...] = "prompt"

    @property
    def branches(self) -> tuple[str, ...]:
        """The guidance branches whose keys and values become final."""
        return branches_of(self.guidance_branch)


@dataclass(frozen=True)
class Finished:
    """A block is finished. True is sent back. If the block is refused, the generator is closed instead."""

    step: Step
    latents: Tensor


def branches_of(branch: str | tuple[str, ...]) -> tuple[str, ...]:
    """The guidance branches of a request."""
    return (branch,) if isinstance(branch, str) else tuple(branch)


Passes = Generator[Pass | Keep | Finished, Any, None]  # the flow of each pass is sent back, and True for each block
Noise = Callable[[Step, int], Tensor]


@dataclass(frozen=True)
class Job:
    """The work of a sampler: the blocks to generate, in order, and their noise by ``(step, level)``.

    ``first`` is the number of the first generated block, which is the number of initial blocks; the ``steps`` of an
    interrupted rollout start later.
    """

    steps: Iterable[Step]
    noise: Noise
    first: int = 0


class Sampler(Checked, Stateful, ABC):
    """Denoises blocks by requesting forward passes.

    A rollout may be interrupted after any finished block. It then resumes with ``commit`` of that block and a new
    ``run`` over the blocks that follow: what else a sampler carries from block to block belongs into its attributes.
    """

    guidance_branches: tuple[str, ...] = ("prompt",)
    in_flight: int = 1
    """Blocks that are in progress at once. With more than one, a pass may hold frames of all of them."""
    needs_extra: bool = False
    """Whether the network must take the ``extra`` of its passes. Otherwise it is passed to those that do."""
    timesteps: Sequence[float] = ()
    context_noise: float = 0.0
    recomputes: bool = True
    """Whether committing all latents again restores the keys and values, so that snapshots may leave them out.

    False for a sampler that commits with ``Keep``.
    """

    @property
    def commit_level(self) -> int:
        """The level of the commit pass: above those of all denoising passes, whose noise it must not draw again."""
        return len(self.timesteps)

    def passes(self, block: int) -> int:
        """The most frames of one pass, so that buffers are made once. Default: those of all blocks in progress."""
        return block * self.in_flight

    @abstractmethod
    def run(self, job: Job) -> Passes:
        """Yields ``Pass`` requests, is sent the flow of each, and yields ``Finished`` blocks before their commits.

        Blocks are finished in order, each with its step of the job, until the steps end. Steps may be requested ahead:
        prompts switch when a block is generated, not when its step is requested. A pass of phase ``ESTIMATE`` lets
        frames into the memory that are not finished; they stay until the next block is.
        """

    def dropped(self, step: Step) -> None:
        """Called when the block at ``step`` is refused. It is generated again, from other noise, by a new ``run``.

        The sampler is as it was when the block before was finished. One that has later blocks in progress by then
        discards them here.
        """
        return

    def commit(self, step: Step, clean: Tensor, noise: Noise) -> Iterator[Pass | Keep]:
        """Commits a finished block to the memories. Default: one pass of all branches, at ``context_noise``."""
        commit = replace(step, phase=Phase.COMMIT, level=self.commit_level)
        if self.context_noise:
            clean = add_noise(clean, noise(step, commit.level), self.context_noise)
        yield Pass(commit, clean, self.context_noise, together(self.guidance_branches), unread=True)


def together(branches: tuple[str, ...]) -> str | tuple[str, ...]:
    """The ``guidance_branch`` of a pass that runs these."""
    return branches if len(branches) > 1 else branches[0]


def shifted(timestep: Level, shift: float) -> Level:
    """Moves a timestep towards noise: ``sigma' = k sigma / (1 + (k - 1) sigma)``; towards clean where k is below 1."""
    sigma = timestep / TIMESTEPS
    return TIMESTEPS * shift * sigma / (1 + (shift - 1) * sigma)


def add_noise(clean: Tensor, noise: Tensor, timestep: float | Tensor) -> Tensor:
    """Flow matching, ``(1 - sigma) clean + sigma noise``, at one timestep or at one for each frame ``[B, F]``."""
    sigma = timestep / TIMESTEPS
    if isinstance(sigma, Tensor):
        sigma = sigma[..., None, None, None]
    return (1 - sigma) * clean + sigma * noise
