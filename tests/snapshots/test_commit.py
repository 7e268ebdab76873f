"""The commit of a checkout, as git itself has it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from rollforge.snapshots.commit import of_checkout


def git(folder: Path, *arguments: str) -> str:
    own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", *own, *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_commit_is_that_of_git(tmp_path: Path) -> None:
    assert of_checkout(tmp_path) is None
    first = tmp_path / "first"
    first.mkdir()
    git(first, "init", "-q")
    assert of_checkout(first) is None  # nothing is committed
    git(first, "commit", "-q", "--allow-empty", "-m", "one")
    expected = git(first, "rev-parse", "HEAD")
    assert of_checkout(first) == expected
    git(first, "pack-refs", "--all")
    assert of_checkout(first) == expected
    git(first, "worktree", "add", "-q", "-b", "two", "../second")
    git(tmp_path / "second", "commit", "-q", "--allow-empty", "-m", "two")
    assert of_checkout(tmp_path / "second") == git(tmp_path / "second", "rev-parse", "HEAD") != expected
    git(first, "checkout", "-q", "--detach")
    assert of_checkout(first) == expected
