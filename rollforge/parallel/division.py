"""How heads and tokens are divided among the processes of one video. Plain arithmetic, so that it is checked early."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import gcd

from rollforge.errors import UserError
from rollforge.spec import ModelSpec


@dataclass(frozen=True)
class ShareSpec(ModelSpec):
    """What one process keeps of a model: some of its heads, and of every frame ``1 / parts`` of its tokens."""

    parts: int = 1

    @property
    def tokens(self) -> int:
        return super().tokens // self.parts


@dataclass(frozen=True)
class Division:
    """``heads`` times ``keys`` processes.

    Args:
        heads: processes among which the heads are divided.
        keys: processes among which the keys are divided: each attends to its share of the tokens of every frame.
    """

    heads: int
    keys: int

    @property
    def processes(self) -> int:
        return self.heads * self.keys

    def share(self, spec: ModelSpec) -> ModelSpec:
        """What one process keeps keys and values of."""
        whole = {each.name: getattr(spec, each.name) for each in fields(ModelSpec)}
        kept = [heads // self.heads for heads in kv_heads(spec)]
        return ShareSpec(**whole | {"heads": spec.heads // self.heads, "kv_heads": tuple(kept)}, parts=self.keys)


def divide(spec: ModelSpec, processes: int) -> Division:
    """The division of a model among ``processes``: of its heads as far as they can be divided, of the keys beyond.

    Raises ``UserError`` where the tokens of a frame cannot be divided evenly.
    """
    if spec.tokens % processes:
        fitting = [str(n) for n in range(2, 17) if spec.tokens % n == 0]
        choice = f"one of {', '.join(fitting)}" if fitting else "another backbone, or leave it out"
        raise UserError(
            f"model.context_parallel is {processes}, and the {spec.tokens} tokens of a frame of the backbone cannot be "
            f"divided evenly among {processes} processes; choose {choice}."
        )
    heads = gcd(processes, spec.heads, *kv_heads(spec))
    return Division(heads, processes // heads)


def check_processes(run: int, video: int) -> None:
    """Raises ``UserError`` where the processes of a run cannot be divided into groups of ``video``."""
    if run % video:
        count = "1 process" if run == 1 else f"{run} processes"
        raise UserError(
            f"model.context_parallel is {video}, and this run has {count}; set trainer.devices (times "
            f"trainer.num_nodes) to {video} or a multiple of it."
        )


def kv_heads(spec: ModelSpec) -> list[int]:
    """Heads of the keys of each layer."""
    return [spec.kv_shape(layer)[0] for layer in range(spec.layers)]
