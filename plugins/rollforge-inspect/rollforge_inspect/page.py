"""The page of an inspection: what was asked, each look with its frames, and the answer. It needs no network."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape

from rollforge_inspect.pictures import jpeg
from rollforge_inspect.tool import ToolError
from rollforge_inspect.trace import Trace
from rollforge_inspect.video import Look

SHOWN = 24
"""Frames of a look at most, evenly spread."""
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
body { color: #1b1b1b; background: #fff }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
ol { display: flex; flex-wrap: wrap; gap: .5rem; list-style: none; padding: 0 }
figure { margin: 0 } img { display: block; width: 8rem } figcaption { font-size: .8rem }
.answer { border-left: .3rem solid #2563eb; padding-left: .8rem } .error { color: #b91c1c }
"""


def page(trace: Trace) -> str:
    """The page as text. All that comes from files, questions and models is escaped."""
    when = "nothing was found" if trace.interval is None else "{:.2f} s to {:.2f} s".format(*trace.interval)
    lines = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        "'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(trace.question)}</title>",
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(trace.question)}</h1>",
        f"<p>{escape(trace.video)}, {trace.seconds:.1f} s, by {escape(trace.thinker)}</p>",
        f'<p class="answer"><strong>{escape(trace.answer)}</strong><br>{when}</p>',
        "<h2>The complete video</h2>",
        *_frames(trace.looks[0]),
    ]
    for number, (call, seen) in enumerate(trace.moves, 1):
        arguments = ", ".join(f"{name}={value!r:.60}" for name, value in call.arguments.items())
        lines.append(f"<h2>{number}. {escape(call.name)}({escape(arguments)})</h2>\n<p>{escape(call.thought)}</p>")
        if isinstance(seen, ToolError):
            lines.append(f'<p class="error">Refused: {escape(str(seen))}</p>')
        else:
            lines += _frames(seen)
    text = "\n".join([*lines, f"<h2>Answer</h2>\n<p>{escape(trace.ended.thought)}</p>\n</body>\n</html>\n"])
    return text.encode(errors="replace").decode()  # a model may write what UTF-8 cannot hold


def _frames(look: Look) -> Iterator[str]:
    yield "<ol>"
    kept = min(len(look.times), SHOWN)
    for at in (n * len(look.times) // kept for n in range(kept)):
        content = base64.b64encode(jpeg(look.frames[at])).decode()
        time = f"{look.times[at]:.2f} s"
        image = f'<img alt="{time}" src="data:image/jpeg;base64,{content}">'
        yield f"<li><figure>{image}<figcaption>{time}</figcaption></figure></li>"
    yield "</ol>"
