"""The report in a browser, from the disk."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from finished_runs import HOSTILE, finished_runs

from rollforge.comparison.page import build as module
from rollforge.comparison.page.build import build
from rollforge.comparison.run_result import gather
from rollforge.comparison.runs import Run

PROMPTS = ["a red ball over snow at day", HOSTILE, "a blue box over sand at night"]
OPEN_IN = 2000  # milliseconds
TIMES = "return [...document.querySelectorAll('video')].map((video) => video.currentTime)"
READY = """
    const started = [...document.querySelectorAll("video")].filter((video) => video.src);
    return started.map((video) => video.readyState > 1 && !video.seeking);
"""
SCRUB = """
const scrubber = document.getElementById("scrubber");
scrubber.value = arguments[0];
scrubber.dispatchEvent(new Event("input"));
"""


class Reader:
    """Someone who looks at the report."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser, self.url = browser, url

    def open(self, width: int = 1280, dark: bool = False) -> None:
        """Opens the page again, at a width, and waits for its videos."""
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=1000, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.command("Emulation.setEmulatedMedia", features=features)
        self.browser.get_log("browser")
        self.browser.get(self.url)
        self.settle()

    def command(self, name: str, **options: Any) -> Any:
        """A command of the browser's own protocol."""
        return self.browser.execute_cdp_cmd(name, options)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script answers."""
        return self.browser.execute_script(script, *arguments)

    def until(self, script: str, wanted: Callable[[Any], bool]) -> Any:
        """Waits for what a script answers."""
        end = time.monotonic() + 10
        while not wanted(found := self.run(script)):
            assert time.monotonic() < end, f"{script} still answers {found}"
            time.sleep(0.05)
        return found

    def settle(self) -> None:
        """Waits until all videos show what they should."""
        self.until(READY, lambda ready: bool(ready) and all(ready))

    def press(self, key: str) -> None:
        """A key, on the page."""
        event = {"key": key, "bubbles": True}
        self.run("document.body.dispatchEvent(new KeyboardEvent('keydown', arguments[0]))", event)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Four policies under three prompts."""
    return finished_runs(tmp_path_factory.mktemp("compare"), PROMPTS)


@pytest.fixture(scope="module")
def report(runs: list[Run]) -> Path:
    """Their report."""
    folder = runs[0].runs.parent
    page = build(gather(runs), folder, ["rollforge", "compare"], ["model.policy=Window,..."])
    (folder / "report.html").write_bytes(page)
    return folder / "report.html"


@pytest.fixture
def reader(chromium: Any, report: Path) -> Iterator[Reader]:
    """A reader, who hears every complaint of the browser."""
    reader = Reader(chromium, report.as_uri())
    yield reader
    assert chromium.get_log("browser") == []


def test_it_opens_quickly_and_shows_every_curve(reader: Reader) -> None:
    reader.open()
    timing = reader.run("const [entry] = performance.getEntriesByType('navigation'); return entry.loadEventEnd")
    assert 0 < timing < OPEN_IN
    assert reader.run("return document.querySelectorAll('#charts .card').length") == 4
    paths = reader.run("return [...document.querySelectorAll('path.line')].map((path) => path.getTotalLength())")
    assert len(paths) == 16
    assert all(length > 100 for length in paths)
    assert reader.run("return document.querySelectorAll('polygon.band').length") == 16
    assert reader.run("return document.querySelectorAll('svg.plan').length") == 4
    loaded = "return [...document.querySelectorAll('#strips img')].map((image) => image.naturalWidth)"
    assert min(reader.until(loaded, lambda widths: all(widths))) > 1000
    assert (
        reader.run(
            "return performance.getEntriesByType('resource').filter((each) => !each.name.startsWith('blob:')).length"
        )
        == 0
    )


def test_the_scrubber_moves_every_video_and_the_line_in_every_curve(reader: Reader) -> None:
    reader.open()
    lines = "return [...document.querySelectorAll('.cursor')].map((line) => Number(line.getAttribute('x1')))"
    before = reader.run(lines)
    for time_ in (3.0, 0.5, 2.25):
        reader.run(SCRUB, time_)
        reader.until(TIMES, lambda times, time_=time_: len(times) == 4 and all(abs(t - time_) < 0.07 for t in times))
        reader.settle()
    assert all(now > then + 50 for now, then in zip(reader.run(lines), before, strict=True))
    assert "2.25 s" in reader.run("return document.getElementById('clock').textContent")
    colours = reader.run("""
        return [...document.querySelectorAll("video")].map((video) => {
          const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
          canvas.width = canvas.height = 128;
          pen.drawImage(video, 0, 0);
          return [...pen.getImageData(100, 64, 1, 1).data];
        });
    """)
    blues = [blue for _, _, blue, _ in colours]
    assert blues == sorted(blues, reverse=True)  # the first policies brighten most
    assert blues[0] > blues[3] + 20


def test_videos_play_together_and_stop_at_the_end(reader: Reader) -> None:
    reader.open()
    reader.run("document.getElementById('play').click()")
    times = reader.until(TIMES, lambda times: min(times) > 0.5)
    assert max(times) - min(times) < 0.25
    reader.run("document.getElementById('play').click()")
    reader.settle()
    times = reader.run(TIMES)
    assert max(times) - min(times) < 0.07
    assert reader.run("return [...document.querySelectorAll('video')].every((video) => video.paused)")
    reader.run(SCRUB, 3.7)
    reader.settle()
    reader.run("document.getElementById('play').click()")
    reader.until("return document.getElementById('play').getAttribute('aria-label')", lambda label: label == "Play")
    assert min(reader.run(TIMES)) > 3.8


def test_keys_change_prompt_and_time(reader: Reader) -> None:
    reader.open()
    for key, prompt in (("n", 1), ("n", 2), ("n", 0), ("p", 2)):
        reader.press(key)
        assert reader.run("return Number(document.getElementById('prompt').value)") == prompt
    reader.settle()
    for _ in range(4):
        reader.press("ArrowRight")
    reader.until(TIMES, lambda times: all(abs(t - 0.25) < 0.03 for t in times))
    assert reader.run("return document.title") == "Comparison of 4 points over 3 prompts"


def test_a_hostile_prompt_stays_text(reader: Reader) -> None:
    reader.open()
    reader.press("n")
    reader.settle()
    shown = "const select = document.getElementById('prompt'); return select.selectedOptions[0].textContent"
    assert reader.run(shown) == f"2. {HOSTILE}"
    assert reader.run("return document.querySelectorAll('img:not(#strips img)').length") == 0


def test_curves_of_one_prompt_and_of_chosen_points(reader: Reader) -> None:
    reader.open()
    reader.run("document.querySelectorAll('#legend [type=radio]')[1].click()")
    assert reader.run("return document.querySelectorAll('polygon.band').length") == 0
    assert reader.run("return document.querySelectorAll('path.line').length") == 16
    reader.run("document.querySelector('#legend [type=checkbox]').click()")
    assert reader.run("return document.querySelectorAll('path.line').length") == 12


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (390, True)])
def test_nothing_is_wider_than_the_screen(reader: Reader, width: int, dark: bool) -> None:
    reader.open(width, dark)
    wide, inner = reader.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert inner == width
    assert wide <= inner
    reader.run("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    assert reader.run("return document.documentElement.scrollWidth") <= inner
    columns = reader.run(
        "return getComputedStyle(document.getElementById('grid')).gridTemplateColumns.split(' ').length"
    )
    assert columns == (1 if width == 390 else 4)
    ground = reader.run("return getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(19, 21, 25)" if dark else "rgb(255, 255, 255)")


def test_everything_has_a_name_for_those_who_do_not_see_it(reader: Reader) -> None:
    reader.open()
    nameless = """
        return [...document.querySelectorAll("button, select, input, video, img, svg")].filter((each) => !(
          each.getAttribute("aria-label") || each.getAttribute("alt") || each.textContent.trim() || each.labels?.length
        )).map((each) => each.outerHTML);
    """
    assert reader.run(nameless) == []


def test_a_server_that_says_utf_8_does_no_harm(chromium: Any, report: Path) -> None:
    class Utf8(http.server.SimpleHTTPRequestHandler):
        extensions_map = {".html": "text/html; charset=utf-8"}

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Utf8, directory=report.parent)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        reader = Reader(chromium, f"http://127.0.0.1:{server.server_port}/report.html")
        reader.open()
        assert reader.run("return document.characterSet") == "UTF-8"
        assert len(reader.run(TIMES)) == 4
        server.shutdown()
    assert chromium.get_log("browser") == []


def test_linked_videos_play_too(chromium: Any, runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EMBEDDED", 1000)
    folder = runs[0].runs.parent
    (folder / "linked.html").write_bytes(build(gather(runs), folder, ["rollforge"], ["x=1"]))
    reader = Reader(chromium, (folder / "linked.html").as_uri())
    reader.open()
    reader.run(SCRUB, 2.0)
    reader.until(TIMES, lambda times: all(abs(t - 2.0) < 0.07 for t in times))
    assert chromium.get_log("browser") == []
