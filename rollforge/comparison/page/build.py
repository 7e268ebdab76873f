"""Puts the report together: one file that opens from the disk."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rollforge.comparison.page import losses, measures, protocol, settings
from rollforge.comparison.page.embed import CHARSET, block
from rollforge.comparison.page.html import note
from rollforge.comparison.page.series import series
from rollforge.comparison.page.strips import strips
from rollforge.comparison.protocol import Protocol
from rollforge.comparison.run_result import Comparison

LINKED = "The videos are too large for one page, so this one plays the files next to it: keep it in its folder."
SCRIPTS = ("dom.js", "bytes.js", "player.js", "charts.js", "page.js")
EMBEDDED = 150_000_000
"""Bytes of videos that a page holds; beyond that it names the files next to it."""


def build(
    comparison: Comparison, folder: Path, command: Sequence[str], varied: Sequence[str], against: Sequence[str] = ()
) -> bytes:
    """The page.

    Args:
        comparison: what it shows.
        folder: where it will lie.
        command: what made it.
        varied: the axes.
        against: labels of the points from which differences are taken.
    """
    shown, blocks = _videos(comparison, folder)
    first = comparison.measured[0]
    data = {
        "points": [point.label for point in comparison.measured],
        "prompts": [prompt for _, prompt in comparison.keys],
        "horizon": first.horizon,
        "videos": shown,
        "curves": series(comparison),
    }
    linked = any(video and "href" in video for row in shown for video in row)
    body = _body(Protocol(comparison, against), command, varied, linked)
    style, script = _asset("page.css"), "\n".join(_asset(name) for name in SCRIPTS)
    script = f'(() => {{\n"use strict";\n{script}\n}})();\n'
    head = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="{CHARSET}">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(_title(comparison))}</title>\n<style>{style}</style>\n</head>\n<body>\n"
    )
    scripts = f'<script type="application/json" id="data">{_json(data)}</script>\n<script>{script}</script>\n'
    page = (head + body + scripts).encode("ascii", "xmlcharrefreplace")
    return page + b"".join(blocks) + b"</body>\n</html>\n"


def _videos(comparison: Comparison, folder: Path) -> tuple[list[list[Any]], list[bytes]]:
    """For each point and prompt what the page needs to know of the video; and the blocks of bytes."""
    found = [
        [(video, point.path(video, "file")) for video in (point.videos.get(key, {}) for key in comparison.keys)]
        for point in comparison.measured
    ]
    there = [path for row in found for _, path in row if path]
    embeds = sum(path.stat().st_size for path in there) <= EMBEDDED
    sheets = dict(zip(there, strips(there), strict=True))
    shown: list[list[Any]] = []
    blocks: list[bytes] = []
    for row in found:
        shown.append([])
        for video, path in row:
            if path is None:
                shown[-1].append(None)
                continue
            entry: dict[str, Any] = {
                "fps": video.get("fps"),
                "seconds": video.get("seconds"),
                "size": video.get("size"),
            }
            if embeds:
                entry["video"] = f"b{len(blocks)}"
                blocks.append(block(entry["video"], path.read_bytes(), "video/mp4"))
            else:
                entry["href"] = quote(Path(os.path.relpath(path, folder)).as_posix())
            if strip := sheets[path]:
                entry |= {"strip": f"b{len(blocks)}", "times": [round(time, 3) for time in strip.times]}
                entry["area"] = list(strip.size)
                blocks.append(block(entry["strip"], strip.picture, "image/jpeg"))
            shown[-1].append(entry)
    return shown, blocks


def _title(comparison: Comparison) -> str:
    points, prompts = len(comparison.measured), len(comparison.keys)
    return f"Comparison of {points} point{'s' * (points != 1)} over {prompts} prompt{'s' * (prompts != 1)}"


def _body(found: Protocol, command: Sequence[str], varied: Sequence[str], linked: bool) -> str:
    """All that is plain HTML, and the places that the script fills."""
    comparison = found.comparison
    measured = comparison.measured
    first = measured[0]
    facts: Mapping[str, str] = {
        "varied": "; ".join(varied),
        "length": f"{first.config['data']['seconds']:g} s",
        "trained horizon": f"{first.horizon:.3g} s",
        "seed": str(first.config["data"].get("seed")),
        "rollforge": str(first.metrics.get("rollforge", "")),
    }
    listed = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    failed = "".join(
        f'<p class="failed"><strong>{escape(label)}</strong> failed and is not shown: {escape(why)}</p>'
        for label, why in comparison.failed.items()
    )
    remark = note(LINKED) if linked else ""
    shown = losses.pictures(measured)
    trained = f'<div class="cards trained">{shown}</div>' if shown else ""
    parts = {
        "videos": ("Videos", f'{remark}<div id="grid"></div>'),
        "sheets": ("Contact sheets", '<div id="strips"></div>'),
        "curves": (
            "Losses and curves over time" if trained else "Curves over time",
            f'<div id="legend"></div>{trained}<div id="charts" class="cards"></div>',
        ),
        "plans": ("What each policy reads", settings.pictures(measured)),
        "protocol": ("What was run, and every dimension", protocol.tables(found)),
        "ranks": ("Ranked, one measure at a time", measures.ranked(comparison)),
        "marks": ("At multiples of the horizon", measures.marks(comparison)),
        "figures": ("All figures", measures.figures(comparison)),
        "costs": ("Speed and memory", measures.costs(comparison)),
        "configs": ("Configs", settings.configs(measured)),
        "commands": ("How to make this again", settings.commands(measured, command)),
    }
    links = "".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in parts.items())
    main = "".join(
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>{content}</section>'
        for name, (title, content) in parts.items()
    )
    return (
        f'<header><h1>{escape(_title(comparison))}</h1><dl class="facts">{listed}</dl>{failed}'
        f'<nav aria-label="Sections">{links}</nav></header>'
        f'<noscript><p class="failed">Videos and curves need JavaScript; the tables do not.</p></noscript>'
        f'<div id="bar" role="group" aria-label="Playback"></div><main>{main}</main>\n'
    )


def _policy(style: str, script: str) -> str:
    """Nothing from elsewhere, and no script but our own, whatever a prompt may hold."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data: blob:; "
        "media-src blob: file: 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"


def _json(data: Any) -> str:
    """JSON in which nothing can end the element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return (files("rollforge.comparison.page") / "assets" / name).read_text("ascii")
