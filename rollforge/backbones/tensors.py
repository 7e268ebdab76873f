"""Files of named tensors, opened without being read: safetensors and torch's own, in one file or in shards."""

from __future__ import annotations

import re
from pathlib import Path

from rollforge.backbones.safetensors_file import HEADER, open_safetensors
from rollforge.backbones.stored import Stored, Tensors, check_names, check_present, numbers, odd_format
from rollforge.backbones.torch_file import TORCH, open_torch, tensors_of
from rollforge.errors import UserError
from rollforge.files.reading import open_regular, read_json

__all__ = [
    "HEADER", "INDEX", "SUFFIXES", "TORCH", "Stored", "Tensors", "check_kind", "check_names", "index_of",
    "named_in", "numbers", "odd_format", "open_file", "open_safetensors", "open_sharded", "open_torch", "tensors_of",
]  # fmt: skip

INDEX = ".index.json"
SUFFIXES = (".safetensors", *TORCH)
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
FOREIGN = {  # how files begin that are often taken for weights
    b"GGUF": "is a GGUF file, the quantised format of llama.cpp and ComfyUI-GGUF, which is not read here; take the "
    "same model as safetensors in bf16, fp16 or fp8",
    b"version https://git-lfs": "is a Git LFS pointer of a few bytes and not the file itself; fetch it with "
    "`git lfs pull` or `hf download`",
    b"<!DOCTYPE html": "is a web page and not the file itself; download it again with `hf download`",
    b"<html": "is a web page and not the file itself; download it again with `hf download`",
}


def open_file(file: Path, what: str) -> Tensors:
    """The tensors of a safetensors file, an index of shards, or a file of ``torch.save`` that holds nothing else."""
    check_kind(file, what)
    if file.name.endswith(INDEX):
        return open_sharded(file, what)
    if file.suffix in TORCH:
        return tensors_of(open_torch(file, what), file, what)
    return open_safetensors(file, what)


def check_kind(file: Path, what: str) -> None:
    """Raises ``UserError`` for a file that is known to be something else, or one shard of several without its index."""
    if file.is_dir():
        return  # the caller says what was expected
    try:
        with open_regular(file) as opened:
            start = opened.read(64)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{what}: {file} cannot be read ({error.strerror}); check the path.") from error
    for mark, problem in FOREIGN.items():
        if start.lower().startswith(mark.lower()):
            raise UserError(f"{what}: {file} {problem}.")


def index_of(file: Path, what: str) -> Path | None:
    """The index next to ``file`` if it is one shard of several, else nothing.

    Raises ``UserError`` for a shard without an index next to it.
    """
    shard = SHARD.fullmatch(file.name)
    if shard is None or int(shard[3]) < 2:
        return None
    index = file.with_name(f"{shard[1]}{shard[4]}{INDEX}")
    if not index.is_file():
        raise UserError(
            f"{what}: {file} is shard {int(shard[2])} of {int(shard[3])}, and {index.name} is not next to it; download "
            "all shards and the index into one folder, and name the folder."
        )
    return index


def open_sharded(index: Path, what: str) -> Tensors:
    """The tensors of several files, which the index next to them names."""
    listed = named_in(index, what)
    files = sorted(set(listed.values()))
    if absent := [file for file in files if not (index.parent / file).is_file()]:
        raise UserError(
            f"{what}: {index} names {', '.join(absent[:3])}, and {len(absent)} of its {len(files)} files are not "
            "there; download them next to it."
        )
    shards = {file: open_file(index.parent / file, what) for file in files}
    if lost := [name for name, file in listed.items() if name not in shards[file]]:
        raise UserError(
            f"{what}: {index} says that {listed[lost[0]]} holds {lost[0]}, and it does not; fetch it again."
        )
    return check_present({name: shards[file][name] for name, file in listed.items()}, index, what)


def named_in(index: Path, what: str) -> dict[str, str]:
    """What an index of shards says: the file of each tensor, all of which are next to the index.

    Raises ``UserError`` for an index that is damaged, or names anything but weights files in its own folder.
    """
    try:
        listed = read_json(index, HEADER, "index")["weight_map"]
        files = sorted(set(listed.values()))
        outside = [file for file in files if not _beside(file)]
    except (UserError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{what}: {index} is not an index of weights files ({reason:.300}); fetch it again.") from error
    check_names([*listed, *files], index, what)
    if outside:
        raise UserError(f"{what}: {index} names {outside[0]}, which is not a weights file next to it; fetch it again.")
    return dict(listed)


def _beside(file: str) -> bool:
    return Path(file).name == file and "\\" not in file and Path(file).suffix in SUFFIXES
