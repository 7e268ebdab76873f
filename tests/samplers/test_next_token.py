"""An autoregressive model that is not a diffusion model: video of tokens, drawn one by one by a sampler of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rollforge.backbones.base import Backbone, Condition
from rollforge.memory import FullMemory
from rollforge.noise import IndependentNoise
from rollforge.policies import Window
from rollforge.rollout import Rollout
from rollforge.samplers import Finished, Job, Pass, Passes, Sampler
from rollforge.spec import ModelSpec

WORDS, ROWS, COLUMNS = 5, 2, 2
NOTHING = Condition("", torch.zeros(1, 1, 1))


class NextToken(Backbone):
    """One layer: one-hot tokens ``[B, F, words, rows, columns]``, 0 where unknown, to logits of every token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.spec = ModelSpec(WORDS, ROWS, COLUMNS, (1, 1), 1, 2, 6, 1, 4, 4, 4.0)
        self.project, self.out = nn.Linear(WORDS + 1, 3 * 12), nn.Linear(12, WORDS)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Condition, memory: Any) -> Tensor:
        tokens = latents.permute(0, 1, 3, 4, 2).flatten(1, 3)  # [B, F * tokens, words]
        place = torch.arange(tokens.shape[1]).remainder(ROWS * COLUMNS) / 4
        x = torch.cat([tokens, place[None, :, None].expand(len(tokens), -1, 1)], dim=-1)
        q, k, v = self.project(x).unflatten(-1, (3, 2, 6)).unbind(2)
        logits = self.out(memory.attend(0, q, k, v).flatten(2))
        return logits.unflatten(1, (-1, ROWS, COLUMNS)).permute(0, 1, 4, 2, 3)


class Tokens(Sampler):
    """Draws the tokens of a frame in raster order: Gumbel noise, made of the addressed noise, decides."""

    def run(self, job: Job) -> Passes:
        for step in job.steps:
            noise = job.noise(step, 0)
            frame = torch.zeros_like(noise)
            for row in range(ROWS):
                for column in range(COLUMNS):
                    logits = yield Pass(step, frame, 0.0)
                    frame = chosen(frame, logits, noise, row, column)
            yield Finished(step, frame)
            yield from self.commit(step, frame, job.noise)


def chosen(frame: Tensor, logits: Tensor, noise: Tensor, row: int, column: int) -> Tensor:
    gumbel = -torch.log(-torch.log(torch.special.ndtr(noise[..., row, column])))
    word = (logits[..., row, column] + gumbel).argmax(-1)
    frame = frame.clone()
    frame[..., row, column] = nn.functional.one_hot(word, WORDS).to(frame)
    return frame


@torch.no_grad()
def by_hand(network: NextToken, frames: int, sample: int) -> Tensor:
    """Each token from all of the frames in the window at once, without a cache."""
    video = torch.zeros(1, 0, WORDS, ROWS, COLUMNS)
    for number in range(frames):
        noise = IndependentNoise().batch(0, [sample], range(number, number + 1), 0, (WORDS, ROWS, COLUMNS))
        seen, frame = video[:, max(0, number - 3) :], torch.zeros_like(noise)
        for row in range(ROWS):
            for column in range(COLUMNS):
                both = torch.cat([seen, frame], dim=1)
                memory = FullMemory(network.spec, range(number - seen.shape[1], number + 1))
                logits = network(both, torch.zeros(both.shape[:2]), NOTHING, memory)[:, -1:]
                frame = chosen(frame, logits, noise, row, column)
        video = torch.cat([video, frame], dim=1)
    return video


@pytest.mark.parametrize("kv", [True, False])
def test_tokens_follow_those_in_the_window_whether_cached_resumed_or_batched(kv: bool) -> None:
    network = NextToken()
    rollout, both = Rollout(network, Window(3), Tokens()), Condition("", torch.zeros(2, 1, 1))
    expected = torch.cat([by_hand(network, 8, sample) for sample in (0, 5)])
    run = rollout(both, 8, samples=[0, 5])
    before = [next(run).latents for _ in range(4)]
    state = run.state_dict(kv)
    after = rollout(both, 8, samples=[0, 5], state=state, finished=[] if kv else before)
    made = torch.cat([*before, *(block.latents for block in after)], dim=1)
    assert torch.equal(made, expected)
    assert (made.sum(2) == 1).all()
    assert len(made.argmax(2).unique()) > 2
