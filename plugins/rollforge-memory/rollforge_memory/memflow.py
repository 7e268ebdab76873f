"""MemFlow: a bank of single frames that fit the prompt, chosen in each layer and for each sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rollforge.policies import CachePolicy
from rollforge.policies.checks import check_window
from rollforge.ranges import Count, CountFromZero
from rollforge.spec import Capacity, Event, ModelSpec, Phase, PromptSwitch, ReadPlan, Seen, Segment, Step, Virtual
from rollforge_memory.choice import chosen_of, shared_heads


class MemFlow(CachePolicy):
    """Reads a sink, a bank of single frames, and the last frames at their own time indices.

    The candidate of block ``i`` is its first frame as committed, with the number ``e = i // interval + 1``. Before the
    next block it enters the bank: slot ``e`` while there are as many; later the bank becomes its best frames, one fewer
    than it holds, followed by the candidate. A frame's score is its mean rotated key times the mean key of the text,
    summed over heads; each layer and sample chooses by itself. Keys keep the rotation that they had. Source: MemFlow
    (arXiv 2512.14699) and its released program, whose settings are the defaults.

    Args:
        window_frames: frames that a block sees besides the bank, itself included.
        sink_frames: frames of the sink.
        bank_frames: frames of the bank.
        interval: blocks that share a slot while the bank fills.
        interactive: as the released program for prompts that change. Only every ``interval``-th block has a candidate,
            and the latest one enters again before each block. At a switch the frames of the window, without the sink
            once the window is full, are read again under the new prompt, and see sink and bank.
    """

    observes = "all"
    sees = ("k_rotated", "text_k")
    batches = True  # each sample chooses for itself
    recomputes = True  # it learns from commits alone

    def __init__(
        self,
        window_frames: Count = 12,
        sink_frames: CountFromZero = 3,
        bank_frames: Count = 3,
        interval: Count = 3,
        interactive: bool = False,
    ) -> None:
        self.window_frames, self.sink_frames, self.bank_frames = window_frames, sink_frames, bank_frames
        self.interval, self.interactive = interval, interactive
        self.number = 0  # of the latest candidate
        self.candidate: int | None = None  # its frame, if it has not entered the bank yet
        self.seen: dict[int, Tensor] = {}  # by layer, its mean key [B, heads, head_dim]
        self.text: dict[int, Tensor] = {}  # by layer, the mean key of the text [B, heads, head_dim]
        self.bank: dict[int, Tensor] = {}  # by layer, mean keys [B, frames, heads, head_dim]
        self.choice: dict[int, Tensor] = {}  # by layer, what the bank becomes: [B, frames] of itself and the candidate

    def check_sizes(self, spec: ModelSpec, longest: int) -> None:
        check_window(self, self.window_frames, {"sink_frames": self.sink_frames}, spec.block)

    def plan(self, step: Step) -> ReadPlan:
        start, again = step.start, step.phase is Phase.RECACHE
        recent = start if again else self._recent(start, step.block)
        filled = min(-(-step.index // self.interval), self.bank_frames)
        runs = [
            Segment(0, 0, min(recent, self.sink_frames)),
            Segment(-self.bank_frames, -self.bank_frames, filled),
            Segment(recent, recent, start - recent),
        ]
        return ReadPlan(tuple(run for run in runs if run.length), start)

    def virtual(self, step: Step) -> Sequence[Virtual]:
        bank, entering = range(-self.bank_frames, 0), [] if self.candidate is None else [self.candidate]
        if not self.number:
            return ()
        if self.number > self.bank_frames:
            return [Virtual(bank[0], (*bank, *entering), make=self._take, rotated=True, count=self.bank_frames)]
        return [Virtual(bank[self.number - 1], tuple(entering), rotated=True)] if entering else ()

    def observe(self, step: Step, layer: int | None, seen: Seen) -> None:
        if step.phase.final and layer is not None and seen.k_rotated is not None and seen.text_k is not None:
            self.text[layer] = seen.text_k.float()
            if self._records(step):
                self.seen[layer] = seen.k_rotated[:, 0].float()

    def on_commit(self, step: Step) -> None:
        if self._records(step):
            self.number = step.index // self.interval + 1
        self.candidate = step.start if self._records(step) else None
        for layer, key in self.seen.items():
            if self.number > self.bank_frames:
                self._choose(layer)
            else:
                before = self.bank[layer][:, : self.number - 1] if layer in self.bank else key[:, None][:, :0]
                self.bank[layer] = torch.cat([before, key[:, None]], dim=1)

    def on_event(self, event: Event) -> Sequence[range]:
        if not (self.interactive and isinstance(event, PromptSwitch)):
            return ()
        start = event.step.start
        return [range(0 if start <= self.window_frames else self._first_read_again(start), start)]

    def live(self, start: int, block: int) -> frozenset[int]:
        again = self._first_read_again(start) if self.interactive else start
        recent = min(self._recent(start, block), start - block, again)
        sink, bank = range(min(start, self.sink_frames)), range(-self.bank_frames, 0)
        return frozenset([*sink, *bank, *range(max(0, recent), start)])

    def moves(self, start: int, block: int) -> frozenset[int]:
        return frozenset(range(-self.bank_frames, 0))

    def visible(self, block: int) -> int:
        return self.window_frames - block + self.bank_frames

    def capacity(self, block: int) -> Capacity:
        held = self.window_frames - self.sink_frames - (0 if self.interactive else block)
        return Capacity(self.sink_frames + self.bank_frames + max(held, block), self.bank_frames)

    def _records(self, step: Step) -> bool:
        """Whether a block has a candidate."""
        return not self.interactive or step.index % self.interval == 0

    def _recent(self, start: int, block: int) -> int:
        """The first frame behind the sink that the block at ``start`` sees."""
        return max(min(start, self.sink_frames), start - (self.window_frames - block - self.sink_frames))

    def _first_read_again(self, start: int) -> int:
        """The first frame that is read again at a switch once the window is full."""
        return start - (self.window_frames - self.sink_frames)

    def _choose(self, layer: int) -> None:
        """The best frames of a full bank, and the latest candidate."""
        bank, key = self.bank[layer], self.seen[layer]
        text = shared_heads(self.text[layer], bank.shape[2])
        best = (bank * text[:, None]).sum(dim=(2, 3)).topk(self.bank_frames - 1, dim=1).indices
        latest = self.bank_frames - (self.candidate is None)  # which is in the last slot, if it has entered before
        self.choice[layer] = torch.cat([best, best.new_full((len(best), 1), latest)], dim=1)
        self.bank[layer] = chosen_of(torch.cat([bank, key[:, None]], dim=1), self.choice[layer])

    def _take(self, layer: int, keys: Tensor, values: Tensor, of: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """What becomes of the bank and the candidate."""
        return chosen_of(keys, self.choice[layer]), chosen_of(values, self.choice[layer])
