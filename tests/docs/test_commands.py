"""Code blocks of the README and of docs/*.md run like those of tutorials; the parsers read what is marked as not run.

Videos of `configs/quickstart.yaml` are short here, as if `--data.seconds 0.4 --model.sampler.steps 1` were typed too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forks import Forks
from packages import PACKAGES, importable, installed
from page import Page, Skipped
from page_commands import DryRun, recorded, targets

importable()  # the packages of plugins/, which some pages use
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REASONS = {
    "takes minutes",
    "takes hours",
    "needs published weights",
    "needs a GPU",
    "needs a cluster",
    "installs packages",
    "an excerpt",
}
"""Why a block may be marked as not run; or "run by" and the file of the test that runs it."""
SHORT = """#!/bin/sh
case "$*" in
    *--config*quickstart*) set -- "$@" --data.seconds 0.4 --model.sampler.steps 1 ;;
esac
exec "{python}" -m rollforge "$@"
"""


@pytest.fixture(scope="module")
def programs(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``rollforge`` that makes short videos and need not import everything again."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "rollforge").write_text(SHORT.format(python=f"{forks.folder}/python"))
    (folder / "rollforge").chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DryRun]:
    """The parsers, with every package of plugins/ installed."""
    with installed(PACKAGES, tmp_path_factory.mktemp("site")):
        dry_run = DryRun()
        yield dry_run
        dry_run.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run_or_say_why_not(
    page: Path,
    tmp_path: Path,
    programs: Path,
    dry_run: DryRun,
    record_property: Callable[[str, object], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "plugins"):
        (tmp_path / name).symlink_to(ROOT / name)
    read = Page(page, pictures=False)
    read.run(tmp_path, programs)
    for skipped in read.skipped:
        where = f"{page.relative_to(ROOT)}:{skipped.block.line}"
        record_property("not run", f"{where}  {skipped.reason}")
        check(skipped, tmp_path, dry_run)


def check(skipped: Skipped, folder: Path, dry_run: DryRun) -> None:
    """Raises for a reason that is none, and for code that could not run where the reason does not hold."""
    elsewhere = skipped.reason.removeprefix("run by ")
    assert skipped.reason in REASONS or (ROOT / elsewhere).is_file(), skipped.reason
    if skipped.block.language == "python":
        compile(skipped.block.code, skipped.reason, "exec")
        return
    (stand_ins := folder / "stand-ins").mkdir(exist_ok=True)
    for program, *arguments in recorded(skipped.block.code, folder, stand_ins):
        if program == "rollforge":
            dry_run.read(*arguments)
        elif program == "make":
            assert set(arguments) <= targets(ROOT / "Makefile"), arguments
        elif program == "pytest":
            assert (ROOT / arguments[0]).exists(), arguments


@pytest.mark.parametrize(
    "command",
    [
        "predict --config configs/quickstart.yaml --data.second 3",
        "compare --config configs/quickstart.yaml --vary model.polcy=Window",
        "bench --modl pocket",
        "plugins show RollingSink --plott",
        "test --data.videos videos --metric Seams",
        "predct --config configs/quickstart.yaml",
    ],
)
def test_a_command_that_is_not_run_and_does_not_parse_fails(
    command: str, tmp_path: Path, dry_run: DryRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(BaseException, match=r"There is no|unrecognized|exit code 2|has no|not"):
        dry_run.read(*command.split())
