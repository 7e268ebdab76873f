"""Damaged videos and pictures: an error, or frames of the size and number that the file tells."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from damage import changes, damaged
from hypothesis import strategies as st
from PIL import Image
from watch import STUCK, answered, fuzz

from rollforge.data.opening import opening_frames
from rollforge.video.writer import VideoWriter

COUNT = 12
WORKER = Path(__file__).with_name("decoding.py")


class Worker:
    """A process that reads videos, started again when one of them has killed it."""

    def __init__(self, folder: Path, goods: list[Path]) -> None:
        self.folder, self.goods = folder, [str(good) for good in goods]
        self.process: subprocess.Popen[str] | None = None

    def run(self, case: dict[str, Any]) -> str:
        """What came of a damaged video. Raises ``AssertionError`` for a fault, and for the death of the process."""
        if self.process is None:
            self.start()
        assert self.process
        assert self.process.stdin
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        reply = self.receive()
        assert "outcome" in reply, reply["fault"]
        return str(reply["outcome"])

    def start(self) -> None:
        line = [sys.executable, str(WORKER), str(self.folder), *self.goods]
        self.process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.receive() == "ready"

    def receive(self) -> Any:
        assert self.process
        assert self.process.stdout
        ready = select.select([self.process.stdout], [], [], 4 * STUCK)[0]
        answer = self.process.stdout.readline() if ready else ""
        if not answer:
            code = self.end()
            raise AssertionError(f"the reader died ({code})" if ready else "the reader hangs")
        return json.loads(answer)

    def end(self) -> int | None:
        if self.process is None:
            return None
        process, self.process = self.process, None
        for pipe in (process.stdin, process.stdout):
            assert pipe
            pipe.close()
        try:
            return process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def scene() -> np.ndarray:
    t, y, x = np.mgrid[0:COUNT, 0:48, 0:64]
    return np.round(127 + 60 * np.stack([np.sin(x / 9 + t / 3), np.cos(y / 7 - t), np.sin((x + y) / 9)], -1)).astype(
        np.uint8
    )


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One as rollforge writes it, in pieces, and one as others do, with its frames out of order."""
    folder = tmp_path_factory.mktemp("good")
    own, other = folder / "own.mp4", folder / "other.mp4"
    with VideoWriter(own, (64, 48), 16) as writer:
        writer.write(scene())
    with av.open(str(other), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "2", "g": "6"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in scene():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    return [own, other]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, goods: list[Path]) -> Iterator[Worker]:
    made = Worker(tmp_path_factory.mktemp("damaged"), goods)
    yield made
    made.end()


def test_videos(worker: Worker, goods: list[Path]) -> None:
    contents = [good.read_bytes() for good in goods]
    heads = [(max(0, content.find(b"moov") - 8), content.find(b"moov") + 900) for content in contents]
    cases = [
        st.fixed_dictionaries(
            {
                "good": st.just(n),
                "made": changes(len(content), [(min(a, len(content) - 1), min(b, len(content) - 1))] * 3),
                "start": st.integers(0, COUNT - 1),
                "count": st.integers(1, 4),
            }
        )
        for n, (content, (a, b)) in enumerate(zip(contents, heads, strict=True))
    ]
    fuzz("videos", 150, st.one_of(cases), worker.run, elsewhere=True)


def test_the_good_videos(worker: Worker, goods: list[Path]) -> None:
    for n in range(len(goods)):
        assert worker.run({"good": n, "made": [], "start": 3, "count": 4}) == "results"


def test_pictures(tmp_path: Path) -> None:
    contents = {}
    for form in ("PNG", "JPEG", "WEBP", "BMP"):
        Image.fromarray(scene()[0]).save(held := BytesIO(), form)
        contents[form] = held.getvalue()

    def right(video: Any) -> None:
        assert video.shape == (1, 16, 32, 3)
        assert video.dtype == np.uint8

    def door(case: tuple[str, str, Any]) -> str:
        form, suffix, made = case
        path = tmp_path / f"picture{suffix}"
        path.write_bytes(damaged(contents[form], made))
        return answered(lambda: opening_frames(path, (32, 16), 8.0, 5), right)

    suffix = st.sampled_from([".png", ".jpg", ".webp", ".bmp"])
    cases = [st.tuples(st.just(form), suffix, changes(len(content))) for form, content in contents.items()]
    fuzz("pictures", 150, st.one_of(cases), door)
