"""``rollforge probe-encoder FILE ...``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rollforge.commands.arguments import Arguments, file, number
from rollforge.commands.output import print_out
from rollforge.errors import UserError
from rollforge.ranges import Count, Range

if TYPE_CHECKING:
    from rollforge_persistence.probe import Embed, Probe

SEEN, HELD_OUT = 101, 102
"""Seeds of the videos that readings are fitted on, and applied to."""
Videos = Annotated[int, Range(2)]
FRAMES = 100_000
"""Of all clips at most."""
DRAWS = 4000
"""Resamples of the held-out videos, for intervals."""


def run(arguments: list[str]) -> None:
    """Reads colour, shape, ground and time of the procedural world off the features of encoders."""
    parser = Arguments(
        prog="rollforge probe-encoder",
        description="Print how often a linear layer and the nearest neighbours read the world's labels off features "
        "of encoders, of an untrained one and of the pixels, on other videos than those they are fitted on.",
    )
    parser.add_argument("weights", type=file, nargs="*", help="encoder.safetensors of rollforge fit")
    parser.add_argument("--videos", type=number(Videos), default=1000, help="to fit the readings on (default: 1000)")
    parser.add_argument("--held_out", type=number(Videos), default=500, help="to apply them to (default: 500)")
    parser.add_argument("--frames", type=number(Count), default=4, help="of a clip (default: 4)")
    parser.add_argument("--save", type=file, help="of one encoder: write it with what the probe found to this file")
    chosen = parser.parse_args(arguments)
    if (chosen.videos + chosen.held_out) * chosen.frames > FRAMES:
        raise UserError(f"All clips are held in memory: at most {FRAMES:,} frames in all; lower --videos or --frames.")
    if chosen.save is not None and len(chosen.weights) != 1:
        raise UserError("--save writes one encoder; name one file of weights.")
    print_out(_probed(chosen.weights, chosen.videos, chosen.held_out, chosen.frames, chosen.save))


def _probed(weights: list[Path], videos: int, held_out: int, frames: int, save_to: Path | None) -> str:
    import torch

    from rollforge_persistence import weights as files
    from rollforge_persistence.encoder import Encoder
    from rollforge_persistence.labels import labelled
    from rollforge_persistence.probe import pixels, probe

    encoders = {str(each): files.load(each)[0] for each in weights}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoders["untrained"] = Encoder().eval().requires_grad_(False)
    seen, held = labelled(videos, SEEN, frames), labelled(held_out, HELD_OUT, frames)
    spaces: dict[str, Embed] = {**encoders, "pixels": pixels}
    found = {name: probe(space, seen, held) for name, space in spaces.items()}
    if save_to is not None:
        name = str(weights[0])
        files.save(save_to, encoders[name], found[name])
    return table(found)


def table(found: dict[str, Probe]) -> str:
    """A Markdown table: right answers in %, with a 95 % interval over the held-out videos."""
    import torch

    from rollforge_persistence.labels import LABELS

    lines = ["| features | reading | " + " | ".join((*LABELS, "mean")) + " |", "|---|---|" + "---|" * (len(LABELS) + 1)]
    for name, each in found.items():
        for reading, right in (("linear", each.linear), ("neighbours", each.neighbours)):
            cells = [_cell(right[label].tolist()) for label in LABELS]
            mean = _cell(torch.stack([*right.values()]).mean(0).tolist())
            lines.append(f"| {name} | {reading} | {' | '.join(cells)} | {mean} |")
    return "\n".join(lines) + "\n"


def _cell(right: list[float]) -> str:
    from rollforge.metrics.interval import interval

    found = interval(right, draws=DRAWS)
    return f"{100 * found.mean:.1f} ({100 * found.low:.0f} to {100 * found.high:.0f})"
