"""The name of an image in an annotation file, and the names that the image may have in storage.

Tools write paths of Windows (images\a.jpg, C:\\photos\a.jpg), paths from where they ran (./a.jpg, ../images/a.jpg,
/a.jpg), URLs with percent signs and signatures, and names of their own (Label Studio's uploads, local files and presigned
links). macOS decomposes letters (NFD) that others compose (NFC). Everything that looks for an image takes its names here.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from urllib.parse import parse_qs, unquote

_URL = re.compile(r"(?i)https?://")
_STORAGE = re.compile(r"(?i)(s3a?|gs|gcs|az|abfss?|wasbs?|hdfs|file|memory)://")
_DRIVE = re.compile(r"[A-Za-z]:(?=/)")
_UPLOADS = re.compile(r"[/\\](data|media)[/\\]upload[/\\]")
"""Where Label Studio serves what was uploaded, and the folder where it lies, which some of its COCO exports write."""
_UPLOAD = re.compile(r"[0-9a-f]{8}-(.+)", re.DOTALL)
"""Label Studio puts eight hexadecimal digits before what is uploaded."""


def aliases(name: str) -> tuple[str, ...]:
    """Names that an image may have had before a tool took it in, the likeliest last; empty where no tool made `name`."""
    if uri := _behind_link(name):
        return (uri,)
    if "/data/local-files/?d=" in name:
        return (unquote(name.partition("?d=")[2]),)
    url = bool(_URL.match(name))
    if _UPLOADS.search(name):
        path = re.sub(r"[?#].*$", "", name.replace("\\", "/"))
        file = (unquote(path) if url or path.startswith("/data/") else path).rpartition("/")[2]
        uploaded = _UPLOAD.fullmatch(file)
        return (file, uploaded[1]) if uploaded else (file,)
    path = unquote(re.sub(r"^https?://[^/]*|[?#].*$", "", name, flags=re.IGNORECASE)).lstrip("/")
    return (path,) if path and url else ()


def is_location(name: str) -> bool:
    """Whether the name is a location by itself, without a prefix: s3://bucket/key, gs://…"""
    return bool(_STORAGE.match(name))


def relative(name: str) -> list[str]:
    """The names that `name` may mean below a folder, the likeliest first.

    Backslashes separate folders, and `.`, `..` and a drive say nothing below a folder. Only where no image is called so
    is the name taken as it is written, decoded from percent signs, or in the other form of composed letters.
    """
    plain = cleaned(name)
    decoded = cleaned(unquote(name)) if "%" in name else plain
    written = name.lstrip("/")
    forms = [unicodedata.normalize(form, text) for text in (plain, decoded) for form in ("NFC", "NFD")]
    return [text for text in dict.fromkeys([plain, decoded, written, *forms]) if text]


def cleaned(name: str) -> str:
    """A relative path with slashes, without the parts that have no meaning below a folder."""
    parts: list[str] = []
    for part in _DRIVE.sub("", name.replace("\\", "/"), count=1).split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def composed(name: str) -> str:
    """The form in which names are compared."""
    return unicodedata.normalize("NFC", name)


def _behind_link(name: str) -> str | None:
    """The URI in a link of Label Studio's own to an object of a cloud storage (…/presign/?fileuri=<base64>)."""
    if "fileuri=" not in name:
        return None
    # urlsplit would refuse names whose host is none, such as http://[x/?fileuri=…
    [location] = parse_qs(name.partition("#")[0].partition("?")[2]).get("fileuri", [""])[:1]
    if is_location(location):
        return location
    try:
        uri = base64.b64decode(location + "=" * (-len(location) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return uri if is_location(uri) else None
