"""What to roll: prompts from a config, a text file or a folder of text files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rollforge.errors import UserError


class Request(NamedTuple):
    """One video to make: its prompt, its number and seed (which decide its noise), and its latent frames."""

    prompt: str
    sample: int
    seed: int
    frames: int


def read_prompts(prompts: Sequence[str] | str | Path) -> list[str]:
    """Prompts from a list, a text file (one a line) or a folder of text files (one a file, sorted by name)."""
    if not isinstance(prompts, str | Path):
        found = [prompt.strip() for prompt in prompts]
        if not found or not all(found):
            raise UserError("data.prompts has an empty prompt; give one sentence for each video.")
        return found
    path = Path(prompts)
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            raise UserError(f"{path} holds no .txt file; a prompt folder has one prompt in each .txt file.")
        for file in files:
            if not _text(file).strip():
                raise UserError(f"The prompt file {file} is empty; write the prompt into it.")
        return [" ".join(_text(file).split()) for file in files]
    if path.is_file():
        lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
        if not lines:
            raise UserError(f"The prompt file {path} is empty; write one prompt on each line.")
        return lines
    if path.suffix == ".txt" or "/" in str(prompts):
        raise UserError(f"There is no prompt file or folder {path}.")
    return [str(prompts)]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The prompt file {file} cannot be read as UTF-8 text ({error}).") from error
