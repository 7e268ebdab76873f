"""``rollforge inspect VIDEO --question "..."``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from rollforge.commands.arguments import Arguments, file, number
from rollforge.commands.output import print_out
from rollforge.errors import UserError
from rollforge.files.reading import safe_stem
from rollforge.ranges import CountFromZero, Range

Seconds = Annotated[float, Range(above=0, most=86_400)]


def run(arguments: list[str]) -> None:
    """Answers a question about a video by looking closer and closer at it."""
    parser = Arguments(
        prog="rollforge inspect",
        description="Answer a question about when something happens in a video: skim it, look closer, answer. "
        "Writes trace.json and inspect.html.",
    )
    parser.add_argument("video", type=file)
    parser.add_argument("-q", "--question", required=True, help="such as 'when does the subject change?'")
    parser.add_argument("--thinker", choices=("curves", "chat"), default="curves", help="what decides where to look: "
        "change points of drift curves, offline (the default), or a model behind an endpoint")  # fmt: skip
    parser.add_argument(
        "--endpoint", help="of --thinker chat: an OpenAI-compatible address, as http://127.0.0.1:8000/v1"
    )
    parser.add_argument("--model", help="of --thinker chat: the model's name there")
    parser.add_argument("--timeout", type=number(Seconds), default=120.0, help="seconds for an answer (default: 120)")
    parser.add_argument("--calls", type=number(CountFromZero), default=5, help="tool calls at most (default: 5)")
    parser.add_argument("--output_dir", type=file, help="where trace.json goes (default: outputs/inspect-VIDEO)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier trace there")
    chosen = parser.parse_args(arguments)
    out = chosen.output_dir or Path("outputs") / f"inspect-{safe_stem(chosen.video.stem)}"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is not a folder; choose another --output_dir.")
    if (out / TRACE).exists() and not chosen.overwrite:
        raise UserError(f"{out / TRACE} exists; choose another --output_dir, or add --overwrite to replace it.")
    print_out(_inspected(chosen, out))


TRACE, PAGE = "trace.json", "inspect.html"


def _inspected(chosen: Any, out: Path) -> str:
    """Inspects, writes both files at the end, and says what was found."""
    from rollforge.files.writing import make_folder, write, write_json
    from rollforge_inspect.loop import inspect
    from rollforge_inspect.page import page

    trace = inspect(chosen.video, chosen.question, _thinker(chosen), chosen.calls)
    shown = page(trace)
    make_folder(out)
    write(out / PAGE, shown)
    write_json(out / TRACE, trace.as_json())
    when = "" if trace.interval is None else " [{:.2f} s, {:.2f} s]".format(*trace.interval)
    return f"{trace.answer}{when}\n\nOpen:\n  {out / PAGE}\n  {out / TRACE}\n"


def _thinker(chosen: Any) -> Any:
    from rollforge_inspect.endpoint import Endpoint
    from rollforge_inspect.thinkers import ChatThinker, CurveThinker

    given = [name for name in ("endpoint", "model") if getattr(chosen, name) is not None]
    if chosen.thinker == "curves":
        if given:
            raise UserError(f"--{given[0]} belongs to --thinker chat; add that, or leave --{given[0]} out.")
        return CurveThinker()
    if len(given) < 2:
        raise UserError("--thinker chat needs --endpoint and --model.")
    return ChatThinker(Endpoint(chosen.endpoint, chosen.timeout), chosen.model)
