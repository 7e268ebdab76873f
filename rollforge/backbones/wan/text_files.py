"""Where a umT5 encoder and its tokenizer lie, in each of the layouts they are published in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

from rollforge.backbones.hub import HubName
from rollforge.backbones.tensors import INDEX, SUFFIXES, index_of, named_in, open_file
from rollforge.backbones.wan import sentencepiece_model
from rollforge.errors import UserError
from rollforge.files.reading import check_regular, open_regular, read_bytes

WHO = "UMT5"
ORIGINAL = "models_t5_umt5-xxl-enc-bf16.pth"
TOKENIZER = "google/umt5-xxl"
VOCABULARY = ("tokenizer.json", "spiece.model")  # a tokenizer has at least one of them
TOKENIZER_FILES = (*VOCABULARY, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
ENCODER_FILES = ("text_encoder/*", ORIGINAL, "config.json", "model*.safetensors*", "pytorch_model*.bin*")
PATTERNS = (*ENCODER_FILES, *(f"{folder}/*" for folder in ("tokenizer", TOKENIZER)), *TOKENIZER_FILES)
WHOLE = 1 << 26  # bytes that are read in full
SAMPLES, SAMPLE = 256, 1 << 12  # how many, and bytes of each


@dataclass(frozen=True)
class TextFiles:
    """The files of one encoder.

    ``config`` is None where the sizes are read from the weights' shapes. ``tokenizer`` is a folder, or a weights
    file that has the tokenizer inside.
    """

    config: Path | None
    weights: tuple[Path, ...]
    tokenizer: Path

    @cached_property
    def identity(self) -> str:
        """Differs between files with different content, wherever they lie."""
        parts = {f"weights {n}": file for n, file in enumerate(self.weights)}
        parts |= {name: self.tokenizer / name for name in TOKENIZER_FILES}
        if self.config:
            parts["config"] = self.config
        fingerprints = {name: _fingerprint(file) for name, file in parts.items() if file.is_file()}
        return blake2b(repr(fingerprints).encode(), digest_size=16).hexdigest()


def locate(weights: str, tokenizer: str | None) -> TextFiles:
    """The files under a path or a Hugging Face id. Raises ``UserError`` for what is not there."""
    path = _local(weights, "weights", PATTERNS)
    config, files = encoder_of(path)
    found = _named_tokenizer(tokenizer) if tokenizer else _tokenizer_beside(path, config, files)
    return TextFiles(config, files, found)


def encoder_of(path: Path) -> tuple[Path | None, tuple[Path, ...]]:
    """Config and weights of an encoder in a local file or folder. Raises ``UserError`` where there is none."""
    if path.is_file():
        return None, _files_of(index_of(path, WHO) or path)
    if (path / "text_encoder").is_dir():
        path = path / "text_encoder"
    elif (path / ORIGINAL).is_file():
        return None, (path / ORIGINAL,)
    config = path / "config.json"
    alone = sorted(path.glob("*umt5*.safetensors"))  # in ComfyUI's layout
    if not config.is_file() and len(alone) == 1:
        return None, (alone[0],)
    if not config.is_file():
        raise UserError(
            f"UMT5: {path} holds no umT5 encoder; expected text_encoder/ and tokenizer/, a config.json, or {ORIGINAL}: "
            "name the folder of Wan's weights with --model.conditioner.weights."
        )
    return config, _shards(path)


def _shards(folder: Path) -> tuple[Path, ...]:
    """The weights files of a folder that transformers saved."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        for file in (folder / f"{name}{INDEX}", folder / name):
            if file.is_file():
                return _files_of(file)
    raise UserError(f"UMT5: {folder} holds no weights; expected model.safetensors there, so fetch the folder again.")


def _files_of(file: Path) -> tuple[Path, ...]:
    """A weights file, or those that an index names."""
    if not file.name.endswith(INDEX):
        return (file,)
    named = sorted(set(named_in(file, WHO).values()))
    if missing := [name for name in named if not (file.parent / name).is_file()]:
        raise UserError(f"UMT5: {file.parent} lacks {missing[0]}, which {file.name} names; fetch it again.")
    return tuple(file.parent / name for name in named)


def _tokenizer_beside(path: Path, config: Path | None, files: tuple[Path, ...]) -> Path:
    """Where the layouts keep the tokenizer: next to the weights, or inside; else it is looked up on the hub."""
    if config is None:
        folder = path if path.is_dir() else path.parent
        found = _first_tokenizer(folder / TOKENIZER, folder / "tokenizer")
        inside = next((file for file in files if sentencepiece_model.STORED in open_file(file, WHO)), None)
        return found or inside or _named_tokenizer(TOKENIZER)
    found = _first_tokenizer(path / "tokenizer", path, path.parent / "tokenizer", path / TOKENIZER)
    if found is None:
        raise UserError(
            f"UMT5: {path} holds no tokenizer; expected {path / 'tokenizer'} with tokenizer.json in it: fetch it from "
            f"https://huggingface.co/{TOKENIZER}, or name its folder with --model.conditioner.tokenizer."
        )
    return found


def _named_tokenizer(name: str) -> Path:
    folder = _local(name, "tokenizer", TOKENIZER_FILES)
    found = _first_tokenizer(folder, folder / "tokenizer", folder / TOKENIZER)
    if found is None:
        raise UserError(
            f"UMT5: {name} holds no tokenizer; expected a folder with tokenizer.json or spiece.model: fetch them from "
            f"https://huggingface.co/{TOKENIZER} and name their folder with --model.conditioner.tokenizer."
        )
    return found


def _first_tokenizer(*folders: Path) -> Path | None:
    return next((each for each in folders if any((each / name).is_file() for name in VOCABULARY)), None)


def _local(name: str, option: str, patterns: tuple[str, ...]) -> Path:
    """A path as it is; a hub name as the file or folder that it is downloaded to."""
    path = Path(name).expanduser()
    if path.exists():
        return path
    found = HubName.parse(name, SUFFIXES)
    if found is None:
        raise UserError(
            f"UMT5: there is no file or folder {name}; name one, or a hub name, with --model.conditioner.{option}."
        )
    return found.download(patterns, WHO, option=f"--model.conditioner.{option}")


def _fingerprint(file: Path) -> str:
    """Of all of a file; of one too large to read each time, its size, its time of change and samples."""
    facts = check_regular(file)
    if facts.st_size <= WHOLE:
        return blake2b(read_bytes(file, WHOLE, "file"), digest_size=16).hexdigest()
    hasher = blake2b(f"{facts.st_size} {facts.st_mtime_ns}".encode(), digest_size=16)
    with open_regular(file) as opened:
        for n in range(SAMPLES):
            opened.seek(n * (facts.st_size - SAMPLE) // (SAMPLES - 1))
            hasher.update(opened.read(SAMPLE))
    return hasher.hexdigest()
