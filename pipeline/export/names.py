"""Names of files, made from keys that are hostile text: none leaves its folder, and no two images share one."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,5}")
_LONGEST = 60
_HIDDEN = re.compile(r"[\x00-\x1f\x7f\\:]")


def stem_of(uri: str) -> str:
    """A file name without its suffix: what is plain in the key's last part, and 64 bits of the URI's SHA-256."""
    last = uri.rstrip("/").rpartition("/")[2]
    plain = _UNSAFE.sub("_", last.rpartition(".")[0] or last)[:_LONGEST].strip("_-")
    return f"{plain or 'image'}-{hashlib.sha256(uri.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def file_of(uri: str) -> str:
    """The name of a copy of the image."""
    suffix = PurePosixPath(uri.rpartition("/")[2]).suffix
    return stem_of(uri) + (suffix.lower() if _SUFFIX.fullmatch(suffix) else "")


def is_plain(path: str) -> bool:
    """Whether a relative path is one on every system, and stays below the folder that it is joined to."""
    parts = path.split("/")
    return not _HIDDEN.search(path) and all(part not in ("", ".", "..") for part in parts)
