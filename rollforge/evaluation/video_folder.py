"""Videos of any tool in a folder, and what their prompts are."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollforge.errors import UserError
from rollforge.evaluation.evaluation import Evaluation
from rollforge.evaluation.horizon import Horizon
from rollforge.evaluation.reading import measure_file
from rollforge.evaluation.video_result import VideoResult
from rollforge.files.reading import MANIFEST, bare_name, caption, listed, parse_json, read_text, safe_stem
from rollforge.files.writing import PARTIAL
from rollforge.metrics.base import Metric, directions
from rollforge.video import SIDE_BY_SIDE, SUFFIXES
from rollforge.video.sheet import ContactSheet

OURS = (PARTIAL, SIDE_BY_SIDE, ".beside")  # an incomplete video, and two in one  # codespell:ignore beside


@dataclass
class VideoFolder:
    """A folder of videos.

    The prompt of a video is what ``manifest.json`` says, else the text in the ``.txt`` file of its name, else its name.

    Args:
        folder: the folder; folders in it are not looked into.
        horizon_seconds: the trained horizon, or a value in its place.
        size: width and height of what was generated, where the metrics depend on it and videos may be enlarged.

    Raises:
        UserError: where there is no folder, no video in it, or a manifest that is damaged.
    """

    folder: Path
    horizon_seconds: float = 5.0
    size: tuple[int, int] | None = None
    files: list[Path] = field(init=False)
    sheets: list[ContactSheet] = field(default_factory=list, init=False)
    unreadable: list[str] = field(default_factory=list, init=False)  # a sentence each

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise UserError(f"There is no folder {self.folder}; data.videos names a folder of videos.")
        if not self.horizon_seconds > 0:
            raise UserError(f"The horizon must be above 0 seconds, not {self.horizon_seconds}.")
        found = listed(self.folder, SUFFIXES, "video")
        self.files = [file for file in found if Path(file.stem).suffix not in OURS]
        if not self.files:
            raise UserError(f"{self.folder} holds no video; looked for {', '.join(SUFFIXES)}.")
        self.known = self._manifest()
        self.names = result_names(self.files)

    def score(
        self,
        metrics: Sequence[Metric],
        out: Path,
        warn: Callable[[str], None] = lambda message: None,
        exit_if_requested: Callable[[], None] = lambda: None,
    ) -> Evaluation:
        """Measures all videos and writes their curves to ``out``; ``warn`` is called for each that cannot be measured.

        Raises:
            UserError: where not one of them can, and where ``out`` is the folder of the videos.
        """
        if out.resolve() == self.folder.resolve():
            raise UserError(f"The curves would lie among the videos in {out}; choose another --output_dir.")
        measured, better = [], directions(metrics)
        for sample, file in enumerate(self.files):
            known, curves = self.known.get(file.name, {}), out / f"{self.names[file]}.curves.csv"
            try:
                entry, sheet = measure_file(file, self.prompt(file), metrics, curves, self.size, exit_if_requested)
            except UserError as error:
                self.unreadable.append(str(error))
                if len(self.files) > 1:
                    warn(str(error))
                continue
            kept = {key: known.get(key) for key in ("seed", "sample")} | ({} if known else {"sample": sample})
            video = VideoResult(entry | kept, known.get("policy"), curves)
            video.read(Horizon.of_seconds(self.horizon_seconds, entry["fps"]), better)
            measured.append(video)
            self.sheets.append(sheet)
        if not measured and len(self.files) == 1:
            raise UserError(self.unreadable[0])
        if not measured:
            raise UserError(f"None of the {len(self.files)} videos in {self.folder} could be measured.")
        policies = {video.label for video in measured}
        policy = policies.pop() if len(policies) == 1 else None
        names = [type(metric).__name__ for metric in metrics]
        return Evaluation(measured, self.horizon_seconds, names, policy, source=self.folder, better=better)

    def prompt(self, file: Path) -> str:
        """The prompt of a video."""
        if file.name in self.known:
            return str(self.known[file.name]["prompt"])
        return caption(file, self.folder) or file.stem

    def _manifest(self) -> Mapping[str, Mapping[str, Any]]:
        file = self.folder / "manifest.json"
        if not file.exists():
            return {}
        try:
            videos = parse_json(read_text(file, MANIFEST, "manifest"))["videos"]
            return {bare_name(video["file"], self.folder): video for video in videos if video["prompt"]}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error}); fix it, or move it away.") from error


def result_names(files: Sequence[Path]) -> dict[Path, str]:
    """Unique names for the results of videos: the suffix is kept where names would be equal in lower case."""
    stems = {file: safe_stem(file.stem) for file in files}
    count = Counter(stem.casefold() for stem in stems.values())
    names: dict[Path, str] = {}
    taken = set(count)
    for file in files:
        name = stems[file]
        if count[name.casefold()] > 1:
            full = safe_stem(file.name.replace(".", "-"))
            numbered = (f"{full}-{n}" for n in itertools.count(2))
            name = next(each for each in itertools.chain([full], numbered) if each.casefold() not in taken)
            taken.add(name.casefold())
        names[file] = name
    return names
