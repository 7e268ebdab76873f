"""Identifies a file of weights by the names and shapes in it, and by its source.

The network here is Wan's text-to-video transformer, rolled block by block. Released Wan weights were trained with
attention in both directions and cannot be used for that, but have the same names and shapes as causal ones; only the
name of the file, its folder or hub repository, and the key that the weights are under tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rollforge.backbones.stored import Tensors
from rollforge.errors import UserError

Attention = Literal["causal", "bidirectional", "unknown"]

ADAPTED = re.compile(r"\.lora[._](?:A|B|down|up|mid)\b|\.hada_w\d|\.lokr_w\d|\.diff(?:_[bm])?$|\.lora_magnitude_vector")
OTHERS = {  # names that only one kind of model has, original or diffusers'
    "a VACE model, which needs masks and reference frames": r"^vace_",
    "a model driven by speech or motion": r"^(?:audio|casual_audio|motion_encoder|face_|pose_patch|trainable_cond)",
    "a control model, which needs camera paths or control videos": r"^(?:control_adapter|ref_conv)\b",
    "an image-to-video model, which needs CLIP features of a picture":
        r"^img_emb\.|\.k_img\.|\.add_k_proj\.|image_embedder",
    "a text encoder": r"^(?:encoder\.block|shared|token_embedding|blocks\.\d+\.attn)\.",
    "a video codec (VAE)": r"^(?:decoder|encoder|conv1|conv2|quant_conv|post_quant_conv)\.",
    "a CLIP encoder": r"^(?:visual|vision_model|text_model|textual)\.",
    "a model of another family": r"^(?:double|single|joint|transformer|down|input)_blocks\.",
}  # fmt: skip
CORE = ("patch_embedding.weight", "head.head.weight", "blocks.0.self_attn.q.weight")
PATCH = 4  # latent pixels of a patch

NAMES: tuple[tuple[Attention, re.Pattern[str]], ...] = (  # the first that is found in a name counts
    ("bidirectional", re.compile(r"bidirect", re.IGNORECASE)),
    ("causal", re.compile(r"causal|causvid|autoregressive|forcing|longlive|memflow|krea-realtime", re.IGNORECASE)),
    ("bidirectional", re.compile(r"wan[-_. ]?2[._]?[12][-_ ]|\bwan-ai\b|fastwan|lightx2v|distill", re.IGNORECASE)),
)
FOLDERS = 4  # above the file whose names count: in the hub's cache the fourth may be that of the repository
KEYS = ("generator_ema", "generator", "backbone")  # of the Self Forcing family and of rollforge fit


@dataclass(frozen=True)
class Origin:
    """Whether weights are causal, and what says so."""

    attention: Attention
    evidence: str


def other_kind(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """What weights are, by names (original, without prefixes) and shapes; nothing if they may be Wan's text-to-video.

    A phrase such as "an image-to-video model, ...", to be put after "is".
    """
    if any(ADAPTED.search(name) for name in shapes):
        return "a LoRA, which changes other weights (name it with lora)"
    for description, pattern in OTHERS.items():
        if any(re.search(pattern, name) for name in shapes):
            return description
    if not any(name in shapes for name in CORE):
        return "not a transformer of Wan"
    given, made = shapes.get("patch_embedding.weight", ()), shapes.get("head.head.weight", ())
    if len(given) == 5 and len(made) == 2 and given[1] * PATCH != made[0]:
        return (
            f"a model of {given[1]} latent channels in and {made[0] // PATCH} out, so conditioned on a picture or a "
            "control video"
        )
    return None


def check_task(tensors: Tensors, file: Path, what: str) -> None:
    """Raises ``UserError`` for weights of anything but Wan's text-to-video transformer, saying what they are."""
    if found := other_kind({name: stored.shape for name, stored in tensors.items()}):
        raise UserError(f"{what}: {file} is {found}; take weights of a Wan text-to-video transformer.")


def origin(weights: str, file: Path, taken: str, metadata: Mapping[str, str]) -> Origin:
    """Whether the weights in ``file`` are causal, as far as anything says so.

    The nearest evidence counts: the name of the file, then those of its folders, then the hub name and the source that
    ``rollforge convert`` has noted; then the key that the weights were under; then the objective that ``rollforge fit``
    has noted.

    Args:
        weights: what the user has named.
        file: the file found there.
        taken: the key that the weights were under, if any.
        metadata: of the file's header, if it has any.
    """
    folders = [folder.name for folder in list(file.absolute().parents)[:FOLDERS]]
    hub_name = "" if Path(weights).expanduser().exists() else weights
    for place in (file.name, *folders, hub_name, metadata.get("source", "")):
        for attention, pattern in NAMES:
            if pattern.search(place):
                return Origin(attention, f"the name {place}")
    if (key := taken or metadata.get("taken", "")) in KEYS:
        return Origin("causal", f"the key {key}")
    if "objective" in metadata:
        return Origin("causal", f"its training with {metadata['objective']}")
    return Origin("unknown", "neither its name nor its keys")
