"""WebDataset shards: tar archives of videos and their captions, unpacked once."""

from __future__ import annotations

import errno
import logging
import shutil
import tarfile
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from rollforge.errors import UserError
from rollforge.files.reading import safe_stem
from rollforge.files.user_cache import user_cache
from rollforge.files.writing import content_id, make_folder

log = logging.getLogger(__name__)

COMPANIONS = (".txt", ".json")
"""Captions of a video of the same name."""
DEPTH = 64
"""Folders inside each other at most."""
NAMES = (errno.ENAMETOOLONG, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)
"""What the system says of a name that is too long, or that a folder and a file share."""


def unpacked(shard: Path, suffixes: tuple[str, ...], folder: Path | None = None) -> Path:
    """The folder that a shard is unpacked in, under its name and content; only the first call unpacks.

    Members that are not files, lead out of the archive, are sparse or of other kinds are left out. Of a damaged archive
    the members before the damage are taken, and a warning names it.

    Args:
        shard: an uncompressed tar archive.
        suffixes: of videos.
        folder: for all unpacked shards. Default: ``rollforge/shards`` in the user's cache folder.

    Raises:
        UserError: for what is not a tar archive, or where the disk does not take it.
    """
    identity = blake2b(str(content_id(shard)).encode(), digest_size=8).hexdigest()
    target = (folder or user_cache("shards")) / f"{safe_stem(shard.stem)}-{identity}"
    if target.is_dir():
        return target
    partial = target.with_name(f".{target.name}.{uuid4().hex}")
    make_folder(partial)
    try:
        _unpack(shard, partial, (*suffixes, *COMPANIONS))
        if target.is_dir():
            shutil.rmtree(partial)  # another process was faster
        else:
            partial.rename(target)
    except OSError as error:
        raise UserError(f"{shard} cannot be unpacked into {target} ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _unpack(shard: Path, target: Path, suffixes: tuple[str, ...]) -> None:
    done = 0
    try:
        with tarfile.open(shard, "r:", tarinfo=_Member) as archive:
            for member in archive:
                if member.size < 0:
                    raise tarfile.ReadError("a size below 0")
                if _wanted(member, suffixes):
                    done += _written(archive, member, target, shard)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        if not done:
            raise UserError(f"{shard} is not a tar archive that can be read ({error}).") from error
        log.warning("%s is damaged (%s); what follows after %s files is left out.", shard, error, done)


class _Member(tarfile.TarInfo):
    """A member. Maps of sparse files are not read, which may take the square of their size."""

    def _proc_gnusparse_10(self, *arguments: Any) -> None:
        raise tarfile.ReadError("a sparse file")


def _wanted(member: tarfile.TarInfo, suffixes: tuple[str, ...]) -> bool:
    """Whether it is a file of one of these kinds in the archive's folder. A sparse one may be far larger than it is."""
    name = PurePosixPath(member.name)
    inside = not name.is_absolute() and ".." not in name.parts and "\0" not in member.name
    short = len(name.parts) <= DEPTH
    return member.isfile() and not member.issparse() and inside and short and name.suffix.lower() in suffixes


def _written(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, shard: Path) -> bool:
    """Writes a member. False, with a warning, for one whose name no file here can have."""
    place = target / member.name
    source = archive.extractfile(member)
    assert source is not None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with source, place.open("wb") as file:
            shutil.copyfileobj(source, file)
    except OSError as error:
        if error.errno not in NAMES:
            raise
        log.warning("%s in %s is left out (%s).", member.name[:100], shard, error.strerror)
        return False
    if place.stat().st_size != member.size:
        place.unlink()
        raise tarfile.ReadError("unexpected end of data")
    return True
