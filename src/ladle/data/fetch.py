"""Locate the files of a named data set: in ``$LADLE_DATA``, in the cache, or at a public address."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ladle.data.errors import DataError

_CHUNK = 1 << 20
_TIMEOUT_S = 30
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Remote:
    """Files at a public address.

    Args:
        address: the prefix of their URLs, to which the file names are appended.
        sha256: the SHA-256 checksums by file name.
    """

    address: str
    sha256: Mapping[str, str]


def here(folder: str, names: Sequence[str]) -> Path | None:
    """The folder below ``$LADLE_DATA`` if it contains all of ``names``, else ``None``."""
    root = os.environ.get("LADLE_DATA")
    found = Path(root, folder) if root else None
    return found if found and all((found / name).is_file() for name in names) else None


def cache_folder(name: str) -> Path:
    """The folder for recreatable files ``name``: in ``$LADLE_CACHE``, else in ``ladle`` in the user's cache."""
    users = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LADLE_CACHE") or Path(users, "ladle"), name)


def fetch(name: str, remote: Remote) -> Path:
    """The folder with the files of a data set; each file is downloaded once and its checksum is verified.

    Raises:
        OSError: if the address cannot be reached or the file cannot be written.
        DataError: if a file is too large or has the wrong checksum.
    """
    folder = cache_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    for file, sha256 in remote.sha256.items():
        if not (folder / file).is_file():
            _fetch(remote.address + file, folder / file, sha256)
    return folder


def _fetch(address: str, path: Path, sha256: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    digest, size = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as source, part.open("wb") as target:
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > _MOST_BYTES:
                    raise DataError(f"{address} must have at most {_MOST_BYTES} bytes, got more")
                digest.update(chunk)
                target.write(chunk)
        if digest.hexdigest() != sha256:
            raise DataError(f"{address} must have the SHA-256 {sha256}, got {digest.hexdigest()} ({size} bytes)")
        os.replace(part, path)
    except http.client.HTTPException as error:
        raise OSError(f"{address}: {error}") from None
    finally:
        part.unlink(missing_ok=True)
