"""Where a umT5 encoder and its tokenizer lie, in each of the layouts they are published in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

from rollforge.errors import UserError
from rollforge.safe_files import MANIFEST, read_json

ORIGINAL = "models_t5_umt5-xxl-enc-bf16.pth"
TOKENIZER = "google/umt5-xxl"
VOCABULARY = ("tokenizer.json", "spiece.model")  # a tokenizer has at least one of them
TOKENIZER_FILES = (*VOCABULARY, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
ENCODER_FILES = ("text_encoder/*", ORIGINAL, "config.json", "model*.safetensors*", "pytorch_model*.bin*")
WHOLE = 1 << 26  # bytes that are read in full
SAMPLES, SAMPLE = 256, 1 << 12  # how many, and bytes of each


@dataclass(frozen=True)
class TextFiles:
    """The files of one encoder. ``config`` is missing where the sizes must be told from the weights' shapes."""

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
        told = {name: _fingerprint(file) for name, file in parts.items() if file.is_file()}
        return blake2b(repr(told).encode(), digest_size=16).hexdigest()


def locate(weights: str, tokenizer: str | None) -> TextFiles:
    """The files under a path or a Hugging Face id. Raises ``UserError`` for what is not there."""
    tokenizers = [f"{folder}/*" for folder in ("tokenizer", TOKENIZER)] + list(TOKENIZER_FILES)
    path = _local(weights, "weights", (*ENCODER_FILES, *tokenizers))
    config, files = _encoder(path)
    return TextFiles(config, files, _named_tokenizer(tokenizer) if tokenizer else _tokenizer_beside(path, config))


def _encoder(path: Path) -> tuple[Path | None, tuple[Path, ...]]:
    """Config and weights of what a user has named."""
    if path.is_file():
        return None, (path,)
    if (path / "text_encoder").is_dir():
        path = path / "text_encoder"
    elif (path / ORIGINAL).is_file():
        return None, (path / ORIGINAL,)
    config = path / "config.json"
    if not config.is_file():
        raise UserError(
            f"UMT5: {path} holds no umT5 encoder; expected text_encoder/ and tokenizer/, a config.json, or {ORIGINAL}: "
            "name the folder of Wan's weights with --model.conditioner.weights."
        )
    return config, _shards(path)


def _shards(folder: Path) -> tuple[Path, ...]:
    """The weights files of a folder that transformers saved."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                named = sorted(set(read_json(index, MANIFEST, "index")["weight_map"].values()))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"UMT5: {index} is no index of weights files ({error}); fetch it again.") from error
            missing = [file for file in named if not (folder / file).is_file()]
            if missing:
                raise UserError(f"UMT5: {folder} lacks {missing[0]}, which {index.name} names; fetch it again.")
            return tuple(folder / file for file in named)
        if (folder / name).is_file():
            return (folder / name,)
    raise UserError(f"UMT5: {folder} holds no weights; expected model.safetensors there, so fetch the folder again.")


def _tokenizer_beside(path: Path, config: Path | None) -> Path:
    """Where the layouts keep the tokenizer; a lone weights file has none beside it, and its id is looked up."""
    if config is None:
        folder = path if path.is_dir() else path.parent
        found = _first_tokenizer(folder / TOKENIZER, folder / "tokenizer")
        return found or _named_tokenizer(TOKENIZER)
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
    """A path as it is; a Hugging Face id as the folder that it is downloaded to."""
    path = Path(name).expanduser()
    if path.exists():
        return path
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) or path.suffix in (".pth", ".pt", ".bin", ".safetensors"):
        raise UserError(
            f"UMT5: there is no file or folder {name}; name one, or a Hugging Face id, with "
            f"--model.conditioner.{option}."
        )
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # the hub's client has no common base for what can go wrong on the way
        raise UserError(
            f"UMT5: {name} is no folder here, and as a Hugging Face id it cannot be fetched "
            f"({first_line(error)}); download {', '.join(patterns)} of https://huggingface.co/{name} "
            f"to a folder, and name that folder with --model.conditioner.{option}."
        ) from error


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _fingerprint(file: Path) -> str:
    """Of all of a file; of one too large to read each time, its size, its time of change and samples."""
    facts = file.stat()
    if facts.st_size <= WHOLE:
        return blake2b(file.read_bytes(), digest_size=16).hexdigest()
    told = blake2b(f"{facts.st_size} {facts.st_mtime_ns}".encode(), digest_size=16)
    with file.open("rb") as opened:
        for n in range(SAMPLES):
            opened.seek(n * (facts.st_size - SAMPLE) // (SAMPLES - 1))
            told.update(opened.read(SAMPLE))
    return told.hexdigest()
