"""What a folder of Wan 2.2 in diffusers' layout holds, read from its configs; no weights are opened.

Facts, from diffusers' ``WanPipeline``: ``transformer`` predicts at timesteps of ``boundary_ratio`` times
``num_train_timesteps`` and above, ``transformer_2`` below. A pipeline with one expert has neither ``transformer_2`` nor
``boundary_ratio``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rollforge.backbones.hub import HubName
from rollforge.backbones.wan.sizes import EvenWidth, Layers, Width
from rollforge.errors import UserError
from rollforge.files.reading import CONFIG, read_json
from rollforge.ranges import Count, NonNegative, Range, fitted
from rollforge.samplers.base import TIMESTEPS

INDEX = "model_index.json"
EXAMPLE = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
PIPELINES = ("WanPipeline", "WanImageToVideoPipeline")
EXPERTS = ("transformer", "transformer_2")  # for high noise, for low noise
TRANSFORMER, VAE = "WanTransformer3DModel", "AutoencoderKLWan"

SIZES = {  # in a transformer's config, and what values make sense
    "in_channels": Width, "out_channels": Width, "num_attention_heads": Count, "attention_head_dim": EvenWidth,
    "num_layers": Layers, "ffn_dim": Width, "freq_dim": EvenWidth, "text_dim": Width, "eps": NonNegative,
}  # fmt: skip
FIXED = {  # what the network here always is
    "patch_size": [1, 2, 2], "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "image_dim": None,
    "added_kv_proj_dim": None, "pos_embed_seq_len": None,
}  # fmt: skip
Boundary = Annotated[float, Range(above=0, below=1)]


@dataclass(frozen=True)
class Layout:
    """The experts of a folder: where they are, the sizes that they share, and which of them predicts when.

    ``boundary`` is the timestep (0 clean, 1000 noise) from which on the first expert predicts, and below it the second;
    None for one expert. ``sizes`` are arguments of ``rollforge.backbones.wan.network.Wan``.
    """

    folders: tuple[Path, ...]
    sizes: dict[str, Any]
    boundary: float | None


def read_layout(folder: Path, what: str) -> Layout:
    """The experts of a local folder. Raises ``UserError``, said by ``what``, for what is not a text-to-video Wan."""
    index = _index(folder, what)
    names = [name for name in EXPERTS if _component(index, name, TRANSFORMER, folder, what)]
    if not names or names[0] != EXPERTS[0]:
        raise UserError(f"{what}: {folder / INDEX} names no transformer; take a complete folder such as {EXAMPLE}.")
    sizes = [_sizes(folder / name / "config.json", what) for name in names]
    if sizes[0] != sizes[-1]:
        key = next(key for key in sizes[0] if sizes[0][key] != sizes[1][key])
        raise UserError(
            f"{what}: the experts in {folder} differ in {key} ({sizes[0][key]} and {sizes[1][key]}); both must have "
            "the same sizes, so take both from one release."
        )
    return Layout(tuple(folder / name for name in names), sizes[0], _boundary(index, len(names), folder, what))


def read_vae_config(folder: Path, what: str) -> dict[str, Any]:
    """The config of the VAE of a local folder. Raises ``UserError`` where there is none."""
    if not _component(_index(folder, what), "vae", VAE, folder, what):
        raise UserError(f"{what}: {folder / INDEX} names no VAE; take a complete folder such as {EXAMPLE}.")
    return _config(folder / "vae" / "config.json", VAE, what)


def locate(folder: str, parts: tuple[str, ...], what: str) -> Path:
    """The local folder that a path or the name of a hub repository means. Raises ``UserError`` where there is none.

    Of a repository the index and the folders ``parts`` are downloaded.
    """
    path = Path(folder).expanduser()
    if folder.strip() and path.is_dir():
        return path
    name = None if path.exists() else HubName.parse(folder)
    if name is None:
        raise UserError(
            f"{what}: {folder!r} is not a folder; name a folder in diffusers' layout, which holds {INDEX}, or a hub "
            f"name such as {EXAMPLE}."
        )
    return name.download((INDEX, *(f"{part}/*" for part in parts)), what, option="folder")


def _index(folder: Path, what: str) -> dict[str, Any]:
    file = folder / INDEX
    if not os.path.lexists(file):
        raise UserError(
            f"{what}: {folder} holds no {INDEX}, so it is not in diffusers' layout; take a repository whose name ends "
            f"in -Diffusers, such as {EXAMPLE}."
        )
    content = read_json(file, CONFIG, "index")
    pipeline = content.get("_class_name") if isinstance(content, dict) else None
    if pipeline not in PIPELINES:
        raise UserError(
            f"{what}: {file} is that of {pipeline!r:.60}, expected WanPipeline; take a folder of Wan 2.2 such as "
            f"{EXAMPLE}."
        )
    return dict(content)


def _component(index: dict[str, Any], name: str, expected: str, folder: Path, what: str) -> bool:
    """Whether a pipeline has a component. Raises ``UserError`` for one of another class."""
    entry = index.get(name)
    if entry is None or entry == [None, None]:
        return False
    if not isinstance(entry, list) or entry[-1:] != [expected]:
        raise UserError(
            f"{what}: {folder / INDEX} names {entry!r:.80} as its {name}, expected {expected}; take a text-to-video "
            f"folder such as {EXAMPLE}."
        )
    return True


def _boundary(index: dict[str, Any], experts: int, folder: Path, what: str) -> float | None:
    """The timestep between two experts."""
    where, ratio = f"{what}: {folder / INDEX}", index.get("boundary_ratio")
    if (ratio is None) == (experts == 2):
        held = "two transformers and no boundary_ratio" if experts == 2 else "a boundary_ratio and one transformer"
        raise UserError(f"{where} has {held}; expected both or neither, so take the complete folder of one release.")
    if ratio is None:
        return None
    scheduler = folder / "scheduler" / "scheduler_config.json"
    config = read_json(scheduler, CONFIG, "scheduler's config") if os.path.lexists(scheduler) else {}
    steps = config.get("num_train_timesteps", TIMESTEPS) if isinstance(config, dict) else None
    if steps != TIMESTEPS:
        raise UserError(
            f"{what}: {scheduler} has {steps!r:.60} num_train_timesteps, expected {TIMESTEPS:g}; take the scheduler of "
            "the release."
        )
    return float(fitted(where, {"boundary_ratio": Boundary}, {"boundary_ratio": ratio})["boundary_ratio"] * TIMESTEPS)


def _sizes(file: Path, what: str) -> dict[str, Any]:
    """The sizes of a transformer, as arguments of ``Wan``."""
    config = _config(file, TRANSFORMER, what)
    if absent := [key for key in SIZES if config.get(key) is None]:
        raise UserError(f"{what}: {file} lacks {absent[0]}; fetch it again.")
    found = fitted(f"{what}: {file}", SIZES, config)
    if found["in_channels"] != found["out_channels"]:
        raise UserError(
            f"{what}: {file} is that of a model conditioned on a picture or a video ({found['in_channels']} channels "
            f"in, {found['out_channels']} out), which is not supported; take a text-to-video model such as "
            "Wan-AI/Wan2.2-T2V-A14B-Diffusers, or the 5B."
        )
    if odd := [key for key, value in FIXED.items() if key in config and config[key] != value]:
        raise UserError(
            f"{what}: {file} says {odd[0]}: {config[odd[0]]!r:.60}, expected {FIXED[odd[0]]}; take a text-to-video "
            "model of Wan 2.2."
        )
    heads = found["num_attention_heads"]
    same = {"heads": heads, "dim": heads * found["attention_head_dim"], "channels": found["in_channels"]}
    return (
        same | {"layers": found["num_layers"]} | {key: found[key] for key in ("ffn_dim", "freq_dim", "text_dim", "eps")}
    )


def _config(file: Path, expected: str, what: str) -> dict[str, Any]:
    if not os.path.lexists(file):
        raise UserError(f"{what}: {file} is missing; download it, as of {EXAMPLE}.")
    config = read_json(file, CONFIG, "config")
    if not isinstance(config, dict) or config.get("_class_name") != expected:
        raise UserError(f"{what}: {file} does not describe {expected}, as {INDEX} says; fetch the folder again.")
    return config
