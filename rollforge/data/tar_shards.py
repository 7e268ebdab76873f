"""WebDataset shards: tar archives of videos and their captions, unpacked once."""

from __future__ import annotations

import logging
import shutil
import tarfile
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from uuid import uuid4

from rollforge.errors import UserError
from rollforge.files.user_cache import user_cache
from rollforge.files.writing import content_id, make_folder

log = logging.getLogger(__name__)

COMPANIONS = (".txt", ".json")
"""Captions of a video of the same name."""


def unpacked(shard: Path, suffixes: tuple[str, ...], folder: Path | None = None) -> Path:
    """The folder that a shard is unpacked in, under its name and content; only the first call unpacks.

    Members that are not files, lead out of the archive or are of other kinds are left out. Of a damaged archive the
    members before the damage are taken, and a warning names it.

    Args:
        shard: an uncompressed tar archive.
        suffixes: of videos.
        folder: for all unpacked shards. Default: ``rollforge/shards`` in the user's cache folder.

    Raises:
        UserError: for what is not a tar archive, or where the disk does not take it.
    """
    identity = blake2b(str(content_id(shard)).encode(), digest_size=8).hexdigest()
    target = (folder or user_cache("shards")) / f"{shard.stem}-{identity}"
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
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                safe = not name.is_absolute() and ".." not in name.parts
                if not member.isfile() or not safe or name.suffix.lower() not in suffixes:
                    continue
                place = target / name
                place.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(member)
                assert source is not None
                with source, place.open("wb") as file:
                    shutil.copyfileobj(source, file)
                done += 1
                if place.stat().st_size != member.size:
                    place.unlink()
                    raise tarfile.ReadError("unexpected end of data")
    except tarfile.TarError as error:
        if not done:
            raise UserError(f"{shard} is not a tar archive that can be read ({error}).") from error
        log.warning("%s is damaged (%s); what follows after %s files is left out.", shard, error, done)
