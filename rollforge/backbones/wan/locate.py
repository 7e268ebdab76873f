"""Where the weights of a Wan transformer lie: a file, a folder as the hub has it, or a hub id."""

from __future__ import annotations

import re
from pathlib import Path

from rollforge.backbones.tensors import INDEX, TORCH
from rollforge.errors import UserError

MAIN = "diffusion_pytorch_model.safetensors"
PATTERNS = ("transformer/*", "diffusion_pytorch_model*")  # of a hub repository; not its text encoder
EXPECTED = f"transformer/ in diffusers' layout, {MAIN} or its shards with their .index.json, or one .pt"
OTHER_PARTS = re.compile(r"vae|t5|clip|text_encoder", re.IGNORECASE)  # beside it in the original layout


def locate(weights: str, what: str) -> Path:
    """The weights file, or index of shards, that ``weights`` means. Raises ``UserError`` where there is none."""
    path = Path(weights).expanduser()
    if weights.strip() and path.is_file():
        return path
    if weights.strip() and path.is_dir():
        found = _in_folder(path, what)
        if found is None:
            raise UserError(
                f"{what}: the folder {path} holds no weights of a Wan transformer; expected {EXPECTED}: download them "
                "there, or name the file."
            )
        return found
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", weights) or path.suffix in (*TORCH, ".safetensors", ".json"):
        raise UserError(
            f"{what}: there is no weights file or folder {weights!r}; name a .safetensors or .pt file, a folder, or a "
            "hub id such as Wan-AI/Wan2.1-T2V-1.3B."
        )
    return _from_hub(weights, what)


def _in_folder(folder: Path, what: str) -> Path | None:
    inner = folder / "transformer"
    if inner.is_dir():
        return _only(inner, f"*{INDEX}", what) or _safetensors(inner, what) or _pickled(inner, what)
    return _only(folder, f"*{INDEX}", what) or _safetensors(folder, what) or _pickled(folder, what)


def _safetensors(folder: Path, what: str) -> Path | None:
    return folder / MAIN if (folder / MAIN).is_file() else _only(folder, "*.safetensors", what)


def _pickled(folder: Path, what: str) -> Path | None:
    return _only(folder, "*.pt", what) or _only(folder, "*.pth", what)


def _only(folder: Path, pattern: str, what: str) -> Path | None:
    """The one file of a kind that may be a transformer; several leave it open which is meant."""
    found = sorted(file for file in folder.glob(pattern) if file.is_file() and not OTHER_PARTS.search(file.name))
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:4])
        raise UserError(f"{what}: {folder} holds several files of weights ({names}); name the one that is meant.")
    return found[0] if found else None


def _from_hub(repository: str, what: str) -> Path:
    """Finds in the hub's cache, or downloads, the transformer of a repository in either layout."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"{what}: there is no folder {repository}, and a hub id needs the package huggingface_hub, which is not "
            "installed; install it with pip install 'rollforge[wan]'."
        ) from error
    try:
        found = _in_folder(Path(snapshot_download(repository, allow_patterns=list(PATTERNS))), what)
        reason = "it holds no such files"
    except UserError:
        raise
    except Exception as error:  # whatever the network, the hub or its cache may come up with
        found, reason = None, (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if found:
        return found
    raise UserError(
        f"{what}: {repository} is no file or folder here, and the hub did not give a transformer ({reason}); download "
        f"transformer/ or diffusion_pytorch_model* (or a .pt) from https://huggingface.co/{repository} into a folder, "
        "and name that folder or file as weights."
    )
