"""Writes ``docs/gallery.md`` and its clips: python docs/gallery.py [NAME ...]

Every cache policy of ``catalogue.yaml`` rolls the same prompt and seed on Pocket, as ``configs/field/methods`` has it.
Its plan is drawn block by block. Run it with the packages importable, as ``make gallery`` does (some ten minutes).
With names, only these are rolled again; ``front`` is the picture of the front page, ``page`` the text alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from catalogue import DOCS, built
from PIL import Image, ImageDraw, ImageSequence

import rollforge
from rollforge.commands.plan_picture import ITSELF, OTHER_TIME, OWN_TIME, VIRTUAL
from rollforge.commands.plan_record import BlockRead, entries, every_block
from rollforge.pipeline import Pipeline
from rollforge.registry import registry

CONFIGS = DOCS.parent / "configs"
METHODS = CONFIGS / "field" / "methods"
CLIPS = DOCS / "images" / "gallery"
PROMPT, SEED = "a purple ball and a red box over grass at night", 4
SECONDS, EVERY = 31.5, 4
"""Seconds of a video (12 times the horizon), and which of its frames a clip shows."""
SIZE, MILLISECONDS, QUALITY = 128, 100, 55
CELL, PAPER = 4, "#eef0f3"
"""Pixels of a frame in the picture of a plan, and its background."""
FRONT, WIDE, GAP, HEAD = ("Window", "RollingSink"), 240, 8, 20
"""The policies of the front page, and pixels: the edge of a video, between two, and the height of the names."""
CARD = """-   **[{name}](catalogue.md#{anchor})** reads {reads}

    ![{name} on Pocket](images/gallery/{name}.webp){{ .clip }}
    ![Plan of {name}, block by block](images/gallery/{name}-plan.webp){{ .clip }}
"""


def main() -> None:
    torch.set_num_threads(1)
    registry().load()
    only = sys.argv[1:]
    rows = [row for row in yaml.safe_load((DOCS / "catalogue.yaml").read_text()) if row.get("kind", "cache") == "cache"]
    for row in rows:
        if not only or row["part"] in only:
            print(row["part"], flush=True)  # noqa: T201 # a script that takes minutes
            write(clip(pipeline(row)), CLIPS / f"{row['part']}.webp")
            write_plan(plan(row), CLIPS / f"{row['part']}-plan.webp")
    if not only or {"front", *FRONT} & set(only):
        write(front(), DOCS / "images" / "drift-and-cure.webp")
    cards = [CARD.format(name=row["part"], anchor=row["part"].lower(), reads=ended(row["reads"])) for row in rows]
    template = (DOCS / "gallery.template.txt").read_text()
    (DOCS / "gallery.md").write_text(template.replace("{cards}", "\n".join(cards)))


def ended(text: str) -> str:
    """With one full stop."""
    return text if text.endswith("...") else f"{text}."


def pipeline(row: dict[str, Any]) -> Pipeline:
    """Pocket under a policy, with the sampler of its config."""
    name, table = row["part"], CONFIGS / "field" / "table.yaml"
    files = sorted(METHODS.glob("*.yaml"))
    named = [file for file in files if file.stem.replace("-", "") == name.lower()]
    others = [file for file in files if policy_of(file) == name]
    if named or others:
        return rollforge.load(table, f"--config={(named or others)[0]}")
    return rollforge.load(table, f"model.policy={name}")


def policy_of(file: Path) -> str | None:
    """The policy that a config names."""
    policy = yaml.safe_load(file.read_text())["model"].get("policy")
    return policy["class_path"] if isinstance(policy, dict) else policy


def clip(made: Pipeline) -> list[Image.Image]:
    """The frames to show of a video, enlarged."""
    frames = [frame for block in made.roll(PROMPT, SECONDS, seed=SEED) for frame in block.frames[0]]
    pictures = (Image.fromarray(np.asarray(frame)) for frame in frames[::EVERY])
    return [picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC) for picture in pictures]


def plan(row: dict[str, Any]) -> list[BlockRead]:
    """What the first blocks of a policy read."""
    policy = built(registry().find(row["part"]), "policy", row.get("args") or {})
    sampler = built(registry().find(row["sampler"]), "sampler", {}) if "sampler" in row else None
    return every_block(policy, sampler=sampler)


def write_plan(blocks: list[BlockRead], file: Path) -> None:
    """Time index from left to right, content frame upwards, one picture for each block."""
    seen = [(content, time) for block in blocks for content, time, *_ in entries(block.plan)]
    low = min(0, *(content for content, _ in seen), *(time for _, time in seen))
    high = max(len(blocks) * blocks[0].step.block, *(time for _, time in seen)) + 1
    pictures = []
    for block in blocks:
        picture = Image.new("RGB", ((high - low) * CELL,) * 2, PAPER)
        draw = ImageDraw.Draw(picture)
        own = [(frame, block.plan.query + n, ITSELF) for n, frame in enumerate(block.step.frames)]
        for content, time, colour in [*(coloured(*each[:2]) for each in entries(block.plan)), *own]:
            x, y = (time - low) * CELL, (high - content - 1) * CELL
            draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), fill=colour)
        pictures.append(picture)
    write(pictures, file, 400, lossless=True)


def coloured(content: int, time: int) -> tuple[int, int, str]:
    """A frame with the colour that the pictures of the catalogue give it."""
    return content, time, VIRTUAL if content < 0 else OWN_TIME if content == time else OTHER_TIME


def front() -> list[Image.Image]:
    """The clips of the plain window and of Rolling Sink side by side, with a bar that marks the time."""
    clips = [ImageSequence.all_frames(Image.open(CLIPS / f"{name}.webp")) for name in FRONT]
    pictures = []
    for number, pair in enumerate(zip(*clips, strict=True)):
        both = Image.new("RGB", (2 * WIDE + GAP, WIDE + HEAD), PAPER)
        draw = ImageDraw.Draw(both)
        for at, (name, picture) in zip((0, WIDE + GAP), zip(FRONT, pair, strict=True), strict=True):
            both.paste(picture.convert("RGB").resize((WIDE, WIDE), Image.Resampling.BICUBIC), (at, HEAD))
            draw.text((at + 2, 3), name, fill="#222222")
        draw.rectangle((0, HEAD - 3, both.width * (number + 1) // len(clips[0]), HEAD - 2), fill=OTHER_TIME)
        pictures.append(both)
    return pictures


def write(pictures: list[Image.Image], file: Path, milliseconds: int = MILLISECONDS, lossless: bool = False) -> None:
    """An animated WebP that loops; the last picture stays for a second."""
    file.parent.mkdir(parents=True, exist_ok=True)
    times = [milliseconds] * (len(pictures) - 1) + [1000]
    pictures[0].save(
        file,
        save_all=True,
        append_images=pictures[1:],
        duration=times,
        loop=0,
        quality=QUALITY,
        method=6,
        lossless=lossless,
    )


if __name__ == "__main__":
    main()
