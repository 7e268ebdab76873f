"""``rollforge decode``: the latents that ``predict`` has kept, through the codec of a config, once more."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from rollforge import trust
from rollforge.backbones.base import VideoCodec
from rollforge.backbones.wan.sizes import Rate
from rollforge.commands.arguments import Arguments, device, number, path
from rollforge.commands.output import print_out
from rollforge.commands.parsed import ParsedCLI
from rollforge.commands.typed import read
from rollforge.devices import default_device
from rollforge.doctor.parts import build
from rollforge.errors import UserError, attribute_errors
from rollforge.files.reading import MANIFEST, read_json
from rollforge.finish.base import Finish, finished_size
from rollforge.pipeline.finishing import FinishedVideo
from rollforge.pipeline.video_rollout import to_bytes
from rollforge.report.progress import Progress
from rollforge.snapshots.latents import LatentStore
from rollforge.video.writer import VideoWriter, enlargement


def run(arguments: list[str]) -> None:
    """Decodes one video."""
    parser = Arguments(
        prog="rollforge decode",
        description="Decode kept latents (snapshots.latents) with the codec and the finish of a config. Options such "
        "as --model.codec go to the config.",
    )
    parser.add_argument("latents", type=path, help="the folder latents/VIDEO in a run folder")
    parser.add_argument("-c", "--config", type=path, required=True, help="the YAML whose model.codec decodes")
    parser.add_argument("--out", type=path, default=None, help="the video (default: RUN/VIDEO.CODEC.mp4)")
    parser.add_argument(
        "--fps", type=number(Rate), default=None, help="pixel frames per second (default: as in the manifest)"
    )
    parser.add_argument("--device", type=device, default=str(default_device()), help="where to decode")
    chosen, rest = parser.parse_known_args(arguments)
    folder = Path(chosen.latents)
    typed = read([f"--config={chosen.config}", *rest])
    with trust.guarded(typed.modules):
        model = ParsedCLI("predict", typed).chosen.model
        codec: VideoCodec = build("codec", model.codec)
        finish: Finish | None = build("finish", model.finish)
    store = LatentStore(folder)
    if not folder.is_dir() or not store.frames:
        raise UserError(f"{folder} holds no latents; predict keeps them with --snapshots.latents true.")
    fps = chosen.fps or _fps(folder)
    out = Path(chosen.out or folder.parent.parent / f"{folder.name}.{type(codec).__name__}.mp4")
    if out.exists():
        raise UserError(f"{out} exists; give another name with --out.")
    for stage in (codec,) if finish is None else (codec, finish):
        stage.eval().requires_grad_(False).to(chosen.device)
    _decode(store, codec, finish, fps, out, chosen.device)
    print_out(f"\nOpen:\n  {out}\n")


def _decode(store: LatentStore, codec: VideoCodec, finish: Finish | None, fps: float, out: Path, device: str) -> None:
    first = next(store.read())
    if len(first) != 1:
        raise UserError(f"{store.folder} holds {len(first)} videos at once; only one at a time can be decoded.")
    width, height = codec.pixel_size(first.shape[-1], first.shape[-2])
    if finish is not None:
        width, height = finished_size(finish, (width, height))
    total, label = codec.pixel_frames(store.frames), type(codec).__name__
    with (
        VideoWriter(out, (width, height), fps, enlargement((width, height))) as writer,
        Progress(total, fps, label) as bar,
    ):
        for video in _blocks(store, codec, finish, device):
            writer.write(video[0].numpy())
            bar.add(video.shape[1])


@torch.no_grad()
def _blocks(store: LatentStore, codec: VideoCodec, finish: Finish | None, device: str) -> Iterator[Tensor]:
    decoder, finisher = codec.stream(), FinishedVideo(finish)
    for latents in store.read():
        with attribute_errors("codec", codec, "decoding kept latents"):
            video = decoder(latents.to(device))
        finished = finisher(video, "decoding kept latents")
        yield to_bytes(video if finished is None else finished)


def _fps(folder: Path) -> float:
    """Pixel frames per second, as the manifest of the run says."""
    manifest = folder.parent.parent / "manifest.json"
    try:
        videos = read_json(manifest, MANIFEST, "manifest")["videos"]
        fps = float(next(each["fps"] for each in videos if Path(each["file"]).stem == folder.name))
        if not 0 < fps < math.inf:
            raise ValueError(fps)
        return fps
    except (UserError, ValueError, KeyError, TypeError, OverflowError, StopIteration) as error:
        raise UserError(f"{manifest} does not say how fast {folder.name} is; give --fps.") from error
