"""The names of Wan's weights: the original ones, which the network uses, and those of diffusers; and what wraps them.

Facts: the state dicts of Wan 2.1's release and of diffusers' ``WanTransformer3DModel``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Layout = Literal["wan", "diffusers"]

OUTSIDE = {  # original: diffusers
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
INSIDE = {  # the same within a block
    "modulation": "scale_shift_table",
    "norm3": "norm2",  # the norm before cross-attention; the other two have no weights
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    **{
        f"{ours}.{part}": f"{theirs}.{name}"
        for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for part, name in {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}.items()
    },
    **{
        f"{ours}.norm_{part}": f"{theirs}.norm_{part}"
        for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for part in "qk"
    },
}
FROM_OUTSIDE, FROM_INSIDE = ({theirs: ours for ours, theirs in table.items()} for table in (OUTSIDE, INSIDE))
FLAT_OUTSIDE, FLAT_INSIDE = (
    {name.replace(".", "_"): name for name in (*table.keys(), *table.values(), *more)}
    for table, more in ((OUTSIDE, ("patch_embedding", "head", "img_emb.proj.1", "img_emb.proj.3")),
                        (INSIDE, ("cross_attn.k_img", "cross_attn.v_img")))
)  # fmt: skip
"""Modules by their names with underscores for dots, as kohya's programs write them."""

WRAPPED = re.compile(r"\b(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
PREFIX = re.compile(r"^(?:(?:base_model|model|module|generator|diffusion_model|transformer|pipe|dit)\.)+")
UNDERSCORED = re.compile(r"^(?:lora_unet|lora_transformer|lycoris)_(?:transformer_)?([^.]+)(\..+)$")
BLOCK = re.compile(r"^(blocks\.\d+\.)(.+)$")


def unwrapped(name: str) -> str:
    """A name without what FSDP, torch.compile, PEFT and training code have put around it."""
    return PREFIX.sub("", WRAPPED.sub("", name))


def spelled_out(name: str) -> str:
    """A name of kohya's kind (``lora_unet_blocks_0_self_attn_q.alpha``) with the module's dots in place.

    A name of another kind, or of a module that Wan does not have, stays as it is.
    """
    found = UNDERSCORED.match(name)
    if not found:
        return name
    module, rest = found.groups()
    block = re.fullmatch(r"blocks_(\d+)_(.+)", module)
    dotted = FLAT_INSIDE.get(block[2]) if block else FLAT_OUTSIDE.get(module)
    return name if dotted is None else (f"blocks.{block[1]}." if block else "") + dotted + rest


def layout_of(names: Iterable[str]) -> Layout:
    """Which of the two layouts (unwrapped) names are in."""
    theirs = re.compile(r"^condition_embedder\.|^blocks\.\d+\.(?:attn[12]|ffn\.net)\.")
    return "diffusers" if any(theirs.match(name) for name in names) else "wan"


def to_original(name: str) -> str:
    """diffusers' name of a weight or module to the original one. A name that is none of theirs stays as it is."""
    return _renamed(name, FROM_OUTSIDE, FROM_INSIDE)


def to_diffusers(name: str) -> str:
    """The original name of a weight or module to that of diffusers. A name that is none of them stays as it is."""
    return _renamed(name, OUTSIDE, INSIDE)


def _renamed(name: str, outside: dict[str, str], inside: dict[str, str]) -> str:
    found = BLOCK.match(name)
    block, inner = found.groups() if found else ("", name)
    table = inside if found else outside
    module, dot, kind = inner.rpartition(".")
    if kind in ("weight", "bias"):
        return f"{block}{table.get(module, module)}{dot}{kind}"
    return block + table.get(inner, inner)
