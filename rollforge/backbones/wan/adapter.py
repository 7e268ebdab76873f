"""What a LoRA file adds to one parameter: low-rank changes of the kinds that are published for Wan, and differences.

LoRA (arXiv 2106.09685) adds ``scale * up @ down``. LoHa (FedPara, arXiv 2108.06098) adds the elementwise product of two
such products, LoKr the Kronecker product of two matrices, each of which may be a product itself (LyCORIS, arXiv
2309.14859, section 3). CausVid and lightx2v store differences of biases and norms as they are.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rollforge.backbones.tensors import Stored, numbers
from rollforge.errors import UserError

FACTORS = {  # the names of a factor at the end of a tensor's name, and what it is
    r"lora[._](?:A|down)(?:\.\w+)?\.weight": "down",
    r"lora[._](?:B|up)(?:\.\w+)?\.weight": "up",
    r"lora[._](?:B|up)(?:\.\w+)?\.bias": "scaled bias",
    r"hada_w1_a": "w1_a",
    r"hada_w1_b": "w1_b",
    r"hada_w2_a": "w2_a",
    r"hada_w2_b": "w2_b",
    r"lokr_w1": "k1",
    r"lokr_w1_a": "k1_a",
    r"lokr_w1_b": "k1_b",
    r"lokr_w2": "k2",
    r"lokr_w2_a": "k2_a",
    r"lokr_w2_b": "k2_b",
    r"diff|w_norm": "weight",
    r"diff_b|b_norm": "bias",
    r"diff_m": "modulation",
    r"alpha": "alpha",
}
ENTRY = re.compile("(.+?)[.](?:" + "|".join(f"({pattern})" for pattern in FACTORS) + ")")
UNKNOWN = {  # other schemes, by a pattern of their names
    "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "oft_": "OFT", "boft_": "BOFT", "on_input": "IA3",
    "ia3_l": "IA3", "lora_mid": "a Tucker decomposition", "hada_t": "a Tucker decomposition",
    "lokr_t2": "a Tucker decomposition", "vera_lambda": "VeRA", "a1.weight": "GLoRA", "set_weight": "replaced weights",
    "reshape_weight": "reshaped weights", r"^lora_te": "an adapter of the text encoder",
}  # fmt: skip
KINDS = (
    frozenset({"up", "down"}), frozenset({"w1_a", "w1_b", "w2_a", "w2_b"}),
    *(frozenset(one | other) for one in ({"k1"}, {"k1_a", "k1_b"}) for other in ({"k2"}, {"k2_a", "k2_b"})),
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """What is added to the parameter ``name`` (its original name): ``factors`` are its parts by the words above."""

    name: str
    factors: dict[str, Stored]
    scale: float

    @property
    def is_pair(self) -> bool:
        """Whether it is ``scale * up @ down`` of two matrices, which can be modules of their own."""
        return set(self.factors) == {"up", "down"} and all(len(part.shape) == 2 for part in self.factors.values())

    @property
    def file(self) -> Path:
        """The file that it comes from."""
        return next(iter(self.factors.values())).file

    def delta(self, shape: tuple[int, ...], what: str) -> Tensor:
        """The change, float32, in the parameter's ``shape``, which it must fit."""
        read = {part: numbers(stored, what, torch.float32) for part, stored in self.factors.items()}
        return (self.scale * _product(read)).reshape(shape)

    def check(self, shape: tuple[int, ...] | None, what: str) -> None:
        """Raises ``UserError`` for a parameter of another shape than the change, or, with None, for one that the model
        does not have. Reads nothing."""
        made = self._shape()
        if shape and made and made[0] == shape[0] and math.prod(made) == math.prod(shape):
            return
        shapes = list(made) if made else " and ".join(str(list(stored.shape)) for stored in self.factors.values())
        has = "is not in the model" if shape is None else f"is {list(shape)} in the model"
        raise UserError(
            f"{what}: the LoRA {self.file} changes {self.name} as {shapes}, which {has}; take the one made for "
            "these weights."
        )

    def _shape(self) -> tuple[int, ...] | None:
        """The shape of the change before it takes that of the parameter; None where the factors do not fit."""
        try:
            made = _product({part: torch.empty(each.shape, device="meta") for part, each in self.factors.items()})
        except RuntimeError:
            return None
        return tuple(made.shape)


def scheme_of(name: str) -> str | None:
    """The scheme that a tensor's name belongs to, if it is one that is known and cannot be merged here."""
    return next((scheme for pattern, scheme in UNKNOWN.items() if re.search(pattern, name)), None)


def rank_of(factors: dict[str, Stored]) -> int | None:
    """The rank that alpha is divided by; None where nothing is of low rank."""
    for part, axis in (("down", 0), ("w1_b", 0), ("k1_b", 0), ("k2_b", 0)):
        if part in factors and factors[part].shape:
            return factors[part].shape[axis]
    return None


def _product(read: dict[str, Tensor]) -> Tensor:
    """The change of factors before it is scaled, as a matrix or in the shape of the only factor."""
    if len(read) == 1:
        return next(iter(read.values()))
    if "up" in read:
        return _matrix(read["up"]) @ _matrix(read["down"])
    if "w1_a" in read:
        return (read["w1_a"] @ read["w1_b"]) * (read["w2_a"] @ read["w2_b"])
    one, other = (read[key] if key in read else read[f"{key}_a"] @ _matrix(read[f"{key}_b"]) for key in ("k1", "k2"))
    return torch.kron(one, _matrix(other))


def _matrix(value: Tensor) -> Tensor:
    """The kernel of a convolution as a matrix, one row for each channel out."""
    return value.flatten(1) if value.ndim > 2 else value
